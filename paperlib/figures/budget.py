"""Candidates needed over computing time: what more training, a larger network and another loss buy."""

from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes

from paperlib.figures._style import WIDTH, Labels, Plotted, legend_above, looks, style

#: What takes the time of the standard run within this share is drawn in a row to the right of it,
_NEAR = 0.1
#: each this much further.
_ASIDE = 1.07
_LINES = {"epochs": ("-", "other numbers of epochs"), "width": ("--", "other numbers of channels")}


def budget_curves(points: pd.DataFrame, labels: Labels = None, target: float = 0.99) -> Plotted:
    """Smallest k for a target over core-minutes of training, both logarithmic; one panel a setup.

    Cross entropy is a line over budgets, each other loss a point with its interval. Where it takes about the time of
    the standard run, as most do, it stands in a row to the right of that run.

    Args:
        points: as :func:`paperlib.analysis.budget_points` gives it; what was not timed is left out.
        labels: what to call setups.
        target: which of the frame's targets.

    Raises:
        ValueError: nothing to draw for this target.
    """
    frame = points[(points["target"] == target) & points["minutes"].notna()].reset_index(drop=True)
    if frame.empty:
        known = sorted(map(float, points["target"].unique()))
        raise ValueError(f"target={target!r}: expected one of {known}, with timed runs")
    setups = list(frame["setup"].unique())
    losses = frame.loc[frame["kind"].isin(["loss", "several"]), ["change", "label"]].drop_duplicates("change")
    standard = frame.loc[frame["kind"] == "standard", ["change", "label"]].iloc[0]
    look = looks([standard["change"], *losses["change"]])
    names = dict(zip(losses["change"], losses["label"], strict=True))
    with style():
        figure, grid = plt.subplots(len(setups), 1, figsize=(WIDTH, 0.9 + 3.1 * len(setups)), squeeze=False)
        for axes, setup in zip(grid.flat, setups, strict=True):
            own = frame[frame["setup"] == setup]
            _family(axes, own, look[standard["change"]], standard["label"])
            unit, aside = own.loc[own["kind"] == "standard", "minutes"].item(), 1.0
            for row in own[own["change"].isin(names)].itertuples():
                near = abs(row.minutes / unit - 1) <= _NEAR
                aside *= _ASIDE if near else 1
                _bar(axes, row, look[row.change], unit * aside if near else row.minutes, label=names[row.change])
            axes.set(xscale="log", yscale="log", ylabel=f"candidates for {100 * target:g} %")
            axes.set_title((labels or {}).get(setup, setup), loc="left")
            axes.margins(x=0.14, y=0.16)
            for axis in (axes.xaxis, axes.yaxis):
                low, high = axis.get_view_interval()
                steps = (1, 2, 5) if high > 4 * low else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
                axis.set_major_locator(ticker.LogLocator(subs=steps, numticks=20))
                axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_locator(ticker.NullLocator())
        grid[-1, 0].set_xlabel("core-minutes of training")
        entries: dict[str, Any] = {}
        for axes in grid.flat:
            entries |= {label: entry for entry, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        order = [standard["label"], *(text for _, text in _LINES.values()), *names.values()]
        order = [label for label in order if label in entries]
        legend_above(figure, [entries[label] for label in order], order)
        plt.close(figure)
    return figure, frame


def _family(axes: Axes, own: pd.DataFrame, look: tuple[Any, str], label: str) -> None:
    """The standard run, and from it a line over epochs and one over channels."""
    for kind, (dashes, text) in _LINES.items():
        line = own[own["kind"].isin(["standard", kind])].sort_values("minutes")
        if (line["kind"] == kind).any():
            axes.plot(line["minutes"], line["k"], color=look[0], linestyle=dashes, label=text, zorder=1)
    for row in own[own["kind"].isin(["standard", *_LINES])].itertuples():
        _bar(axes, row, look, row.minutes, label=label if row.kind == "standard" else None, hollow=row.kind == "width")
        if row.kind != "standard":  # names of widths below, since twice the time is both: more epochs, more channels
            above = row.kind == "epochs"
            axes.annotate(str(row.label), (row.minutes, row.high if above else row.low), (0, 4 if above else -4),
                          fontsize=11, ha="center", va="bottom" if above else "top", textcoords="offset points")


def _bar(axes: Axes, row: Any, look: tuple[Any, str], minutes: float, *, label: str | None = None,
         hollow: bool = False) -> None:
    ends = [[max(0.0, row.k - row.low)], [max(0.0, row.high - row.k)]]
    axes.errorbar(minutes, row.k, ends, color=look[0], marker=look[1], linestyle="", capsize=4,
                  elinewidth=2, markersize=8, label=label, markerfacecolor="white" if hollow else look[0])
