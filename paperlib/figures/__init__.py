"""One function per figure: a tidy frame in, the figure and the frame that it plots out.

The second result is what a chapter prints below the figure, so that a changed number shows in a text comparison.
Accuracies come as fractions and are drawn in percent. Panels are stacked, and letters large, for narrow screens.
"""

import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paperlib.figures._style import WIDTH, Labels, Plotted, legend_above, looks, style
from paperlib.figures.budget import budget_curves
from paperlib.figures.classes import class_gains, reliability_diagram, superclass_forest
from paperlib.figures.map import transition_map
from paperlib.figures.performance import step_parts, training_rates
from paperlib.figures.phase import gains_forest, phase_diagram, tradeoff_regions
from paperlib.figures.synthetic import decision_regions, gap_of_knobs, split_objectives
from paperlib.figures.training import loss_against_topk, robust_curves

__all__ = [
    "WIDTH", "budget_curves", "candidates_forest", "class_gains", "class_regions", "decision_regions",
    "difference_curves", "differences", "gains_forest", "gap_of_knobs", "looks", "loss_against_topk",
    "loss_curves", "phase_diagram", "reliability_diagram", "robust_curves", "split_objectives", "step_parts",
    "strength_curves", "style", "superclass_forest", "topk_curves", "tradeoff", "tradeoff_regions", "training_curves",
    "training_rates", "transition_map",
]

_TARGET_MARKERS = {0.9: "o", 0.95: "s", 0.99: "D"}


def topk_curves(bands: pd.DataFrame, labels: Labels = None, smallest_error: float = 0.002) -> Plotted:
    """Error over k on two logarithmic axes, with simultaneous bands; one panel a setup.

    Args:
        bands: as :func:`paperlib.analysis.curve_bands` gives it.
        labels: what to call setups and variants.
        smallest_error: fraction below which nothing is drawn: a handful of images.
    """
    frame = bands.assign(error=100 * (1 - bands["accuracy"]), error_low=100 * (1 - bands["high"]),
                         error_high=100 * (1 - bands["low"])).drop(columns=["accuracy", "low", "high"])
    frame = frame[frame["error"] >= 100 * smallest_error].reset_index(drop=True)

    def draw(axes: Axes, rows: pd.DataFrame, colour: Any, marker: str, label: str) -> None:
        k, low = rows["k"], rows["error_low"].clip(lower=100 * smallest_error)
        axes.fill_between(k, low, rows["error_high"], color=colour, alpha=0.2, linewidth=0)
        axes.plot(k, rows["error"], color=colour, marker=marker, markersize=5, label=label,
                  markevery=[i for i, value in enumerate(k) if value in (1, 2, 5, 10, 20, 50, 100)])

    def dress(axes: Axes) -> None:
        axes.set(xscale="log", yscale="log", ylabel="error (%)")
        _plain_log(axes.xaxis)
        _plain_log(axes.yaxis)

    return _panels(frame, draw, labels, dress, "candidates k", height=3.6), frame


def differences(intervals: pd.DataFrame, labels: Labels = None, baseline: str = "cross entropy") -> Plotted:
    """Accuracy minus the baseline's with paired intervals at some k; one panel a setup.

    Args:
        intervals: as :func:`paperlib.analysis.differences` gives it. Infinite intervals (one seed) get no bar.
        labels: what to call setups and variants.
        baseline: what was subtracted, for the axis.
    """
    frame = intervals.copy()
    frame[["mean", "sd", "low", "high"]] *= 100
    places = {k: place for place, k in enumerate(sorted(frame["k"].unique()))}
    variants = list(frame["variant"].unique())
    offset = {name: 0.2 * (i - (len(variants) - 1) / 2) for i, name in enumerate(variants)}

    def draw(axes: Axes, rows: pd.DataFrame, colour: Any, marker: str, label: str) -> None:
        x = [places[k] + offset[rows["variant"].iloc[0]] for k in rows["k"]]
        bars = np.abs(rows[["low", "high"]].to_numpy().T - rows["mean"].to_numpy())
        axes.errorbar(x, rows["mean"], np.where(np.isfinite(bars), bars, 0), color=colour, marker=marker,
                      linestyle="", capsize=4, elinewidth=2, label=label)

    def dress(axes: Axes) -> None:
        axes.axhline(0, color=".4", linewidth=1, zorder=0)
        axes.set(ylabel="difference\n(percentage points)")
        axes.set_xticks(list(places.values()), [str(k) for k in places])
        axes.grid(False, axis="x")

    figure = _panels(frame, draw, labels, dress, f"candidates k (above 0: better than {baseline})")
    return figure, frame


def difference_curves(bands: pd.DataFrame, labels: Labels = None, baseline: str = "cross entropy") -> Plotted:
    """Accuracy minus the baseline's at every k, with bands that hold for all k at once; one panel a setup.

    Args:
        bands: as :func:`paperlib.analysis.difference_bands` gives it.
        labels: what to call setups and variants.
        baseline: what was subtracted, for the axis.
    """
    frame = bands.copy()
    frame[["difference", "low", "high"]] *= 100

    def draw(axes: Axes, rows: pd.DataFrame, colour: Any, marker: str, label: str) -> None:
        axes.fill_between(rows["k"], rows["low"], rows["high"], color=colour, alpha=0.2, linewidth=0)
        axes.plot(rows["k"], rows["difference"], color=colour, marker=marker, markersize=5, label=label,
                  markevery=[i for i, value in enumerate(rows["k"]) if value in (1, 2, 5, 10, 20, 50, 100)])

    def dress(axes: Axes) -> None:
        axes.axhline(0, color=".4", linewidth=1, zorder=0)
        axes.set(xscale="log", ylabel="difference\n(percentage points)")
        _plain_log(axes.xaxis)

    figure = _panels(frame, draw, labels, dress, f"candidates k (above 0: better than {baseline})")
    return figure, frame


def tradeoff(runs: pd.DataFrame, y: str = "top5", x: str = "top1", labels: Labels = None) -> Plotted:
    """One accuracy against another: a small point for each run, a large one for each loss's mean; one panel a setup.

    Args:
        runs: as :func:`paperlib.analysis.runs` gives it.
        y: column on the vertical axis.
        x: column on the horizontal axis.
        labels: what to call setups and variants.
    """
    frame = runs[["setup", "variant", "seed", x, y]].copy()
    frame[[x, y]] *= 100

    def draw(axes: Axes, rows: pd.DataFrame, colour: Any, marker: str, label: str) -> None:
        axes.plot(rows[x], rows[y], color=colour, marker=marker, linestyle="", markersize=5, alpha=0.55)
        axes.plot(rows[x].mean(), rows[y].mean(), color=colour, marker=marker, linestyle="", markersize=11,
                  markeredgecolor="black", label=label)

    def dress(axes: Axes) -> None:
        axes.set(ylabel=f"{_accuracy(y)} (%)")
        axes.margins(0.08)

    return _panels(frame, draw, labels, dress, f"{_accuracy(x)} (%)", share_x=False, height=3.2), frame


def candidates_forest(candidates: pd.DataFrame, labels: Labels = None) -> Plotted:
    """How many candidates each loss needs for each target, with intervals; one panel a setup.

    Args:
        candidates: as :func:`paperlib.analysis.candidates` gives it.
        labels: what to call setups and variants.
    """
    frame = candidates.copy()
    variants, targets = list(frame["variant"].unique()), sorted(frame["target"].unique())
    rows_at = {name: len(variants) - 1 - i for i, name in enumerate(variants)}

    def draw(axes: Axes, rows: pd.DataFrame, colour: Any, marker: str, label: str) -> None:
        height = rows_at[rows["variant"].iloc[0]]
        for row in rows.itertuples():
            axes.errorbar(row.k, height, xerr=[[row.k - row.low], [row.high - row.k]], color=colour, capsize=4,
                          marker=_TARGET_MARKERS.get(row.target, "o"), markersize=8, elinewidth=2)
            axes.annotate(f"{row.k:.1f}".removesuffix(".0"), (row.k, height), (0, 8), fontsize=11, ha="center",
                          textcoords="offset points")

    def dress(axes: Axes) -> None:
        axes.set(xscale="log", ylim=(-0.5, len(variants) - 0.3))
        axes.set_yticks(list(rows_at.values()), [_wrap(_name(name, labels)) for name in rows_at])
        axes.grid(False, axis="y")
        _plain_log(axes.xaxis)

    handles = [Line2D([], [], color=".3", linestyle="", markersize=8, marker=_TARGET_MARKERS.get(target, "o"),
                      label=f"{100 * target:g} % accuracy") for target in targets]
    figure = _panels(frame, draw, labels, dress, "smallest k (candidates)", legend=handles,
                     height=0.9 + 0.62 * len(variants))
    return figure, frame


def loss_curves(frame: pd.DataFrame, x_labels: Mapping[str, str], y_labels: Mapping[str, str] | None = None,
                marks: Mapping[str, float] | None = None) -> Plotted:
    """Losses and derivatives along lines through score space: a row of panels a line, a column a quantity.

    Args:
        frame: columns walk (which line), x, curve (which loss), quantity ("loss", "derivative", ...), value.
        x_labels: what x is, for each walk.
        y_labels: axis label of each quantity; its name otherwise.
        marks: x of a dotted line in the panels of a walk.
    """
    walks, quantities, curves = (list(frame[column].unique()) for column in ("walk", "quantity", "curve"))
    look = looks(curves)
    parts = {keys: rows for keys, rows in frame.groupby(["walk", "quantity", "curve"], sort=False)}
    with style():
        figure, grid = plt.subplots(len(walks), len(quantities), squeeze=False,
                                    figsize=(WIDTH, 0.3 + 0.28 * math.ceil(len(curves) / 2) + 2.2 * len(walks)))
        for (walk, quantity), axes in zip(itertools.product(walks, quantities), grid.flat, strict=True):
            for i, curve in enumerate(curves):
                rows = parts[walk, quantity, curve]
                step = max(1, len(rows) // 6)  # markers of curves that coincide stand beside each other
                axes.plot(rows["x"], rows["value"], color=look[curve][0], marker=look[curve][1], label=curve,
                          markersize=5, markevery=(i * step // len(curves), step))
            if walk in (marks or {}):
                axes.axvline((marks or {})[walk], color=".4", linewidth=1.2, linestyle=":", zorder=0)
            axes.set(xlabel=x_labels[walk], ylabel=(y_labels or {}).get(quantity, quantity))
        legend_above(figure, *grid.flat[0].get_legend_handles_labels())
        plt.close(figure)
    return figure, frame.copy()


def training_curves(history: pd.DataFrame, labels: Labels = None, shown_k: int = 5) -> Plotted:
    """Loss, accuracy and strength of the transition over training, means over seeds.

    Each curve of the first panel is in its own loss's unit: compare training with validation there, not losses.

    Args:
        history: rows of one setup as :func:`paperlib.analysis.history` gives them.
        labels: what to call the variants.
        shown_k: the k of the records' top-k accuracy.

    Raises:
        ValueError: rows of several setups, whose epochs are not comparable.
    """
    if history["setup"].nunique() != 1:
        raise ValueError(f"history of setups {', '.join(history['setup'].unique())}: expected rows of one setup")
    values = [name for name in history.columns if name.startswith(("train_", "validation_"))] + ["strength"]
    frame = history.groupby(["variant", "epoch"], sort=False)[values].mean().reset_index()
    accuracies = [name for name in values if "_top" in name]
    frame[accuracies] *= 100
    panels = [("loss", ["train_loss", "validation_loss"]), ("top-1 (%)", ["train_top1", "validation_top1"]),
              (f"top-{shown_k} (%)", ["train_topk", "validation_topk"])]
    if frame["strength"].notna().any():
        panels.append(("strength", ["strength"]))
    look = looks(list(frame["variant"].unique()))
    with style():
        figure, axes = plt.subplots(len(panels), 1, figsize=(WIDTH, 0.6 + 2.1 * len(panels)), sharex=True)
        for panel, (title, columns) in zip(axes, panels, strict=True):
            for variant, column in itertools.product(look, columns):
                rows = frame[frame["variant"] == variant].dropna(subset=[column])
                panel.plot(rows["epoch"], rows[column], color=look[variant][0], marker=look[variant][1],
                           markersize=5, linestyle="--" if column.startswith("validation") else "-")
            panel.set(ylabel=title)
        axes[-1].set(xlabel="epoch")
        axes[-1].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        handles = [Line2D([], [], color=colour, marker=marker, label=_name(variant, labels))
                   for variant, (colour, marker) in look.items()]
        handles += [Line2D([], [], color=".3", linestyle="-", label="training"),
                    Line2D([], [], color=".3", linestyle="--", label="validation")]
        legend_above(figure, handles, [str(handle.get_label()) for handle in handles])
        plt.close(figure)
    return figure, frame


def strength_curves(strengths: pd.DataFrame, labels: Labels = None) -> Plotted:
    """Strength of the transition over training, means over seeds; one panel a setup.

    Args:
        strengths: as :func:`paperlib.analysis.strengths` gives it.
        labels: what to call setups and variants.
    """
    frame = strengths.assign(progress=100 * strengths["progress"], train_top1=100 * strengths["train_top1"])

    def draw(axes: Axes, rows: pd.DataFrame, colour: Any, marker: str, label: str) -> None:
        axes.plot(rows["progress"], rows["strength"], color=colour, label=label)

    def dress(axes: Axes) -> None:
        axes.set(ylabel="strength", xlim=(0, 100), ylim=(0, 1))

    return _panels(frame, draw, labels, dress, "epochs done (%)", height=2.2), frame


def class_regions(frame: pd.DataFrame, panels: Mapping[str, str]) -> Plotted:
    """Which class, or pair of classes, is the right answer where on the square; one panel each.

    Args:
        frame: columns x, y (a full square lattice) and one column of names for each panel; where there is no name (as
            off a disc), nothing is drawn.
        panels: column of names -> title of its panel.
    """
    edge = frame["x"].max() + 0.5 * (frame["x"].max() - frame["x"].min()) / (frame["x"].nunique() - 1)
    with style():
        figure, grid = plt.subplots(1, len(panels), figsize=(WIDTH, 4.1), sharey=True, squeeze=False)
        for axes, (column, title) in zip(grid.flat, panels.items(), strict=True):
            names = sorted(frame[column].dropna().unique())
            colours = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
            table = frame.pivot(index="y", columns="x", values=column)
            axes.imshow([[colours.get(name, (1, 1, 1)) for name in row] for row in table.to_numpy()], origin="lower",
                        alpha=0.75, extent=(-edge, edge, -edge, edge), interpolation="nearest")
            handles = [Line2D([], [], marker="s", linestyle="", markersize=10, color=colour, alpha=0.75, label=name)
                       for name, colour in colours.items()]
            axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, handletextpad=0.1,
                        columnspacing=0.8)
            axes.set(xlabel="$x_1$", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
            axes.set_title(title, loc="left")
            axes.grid(False)
        grid.flat[0].set_ylabel("$x_2$")
        plt.close(figure)
    return figure, frame


Draw = Callable[[Axes, pd.DataFrame, Any, str, str], None]


def _panels(frame: pd.DataFrame, draw: Draw, labels: Labels, dress: Callable[[Axes], None], x_label: str, *,
            share_x: bool = True, height: float = 2.9, legend: Sequence[Line2D] = ()) -> Figure:
    """A panel for each setup, one under the other (two abreast from four setups on), and one legend on top.

    ``legend`` stands in for a legend of the variants.
    """
    setups, variants = list(frame["setup"].unique()), list(frame["variant"].unique())
    look, columns = looks(variants), 1 if len(setups) < 4 else 2
    rows = math.ceil(len(setups) / columns)
    with style():
        figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, 0.7 + height * rows), squeeze=False,
                                    sharex=share_x)
        for axes, setup in zip(grid.flat, setups, strict=False):
            for variant in variants:
                part = frame[(frame["setup"] == setup) & (frame["variant"] == variant)]
                if len(part):
                    draw(axes, part, *look[variant], _name(variant, labels))
            dress(axes)
            title = _name(setup, labels)
            axes.set_title(title if columns == 1 else textwrap.fill(title, 30), loc="left")
        for axes in grid[:, 1:].flat:
            axes.set_ylabel("")
        for axes in grid.flat[len(setups):]:
            axes.set_visible(False)
        for axes in grid[-1]:
            axes.set_xlabel(x_label)
        entries = {str(entry.get_label()): entry for entry in legend}
        for axes in grid.flat if not legend else ():
            entries |= {label: entry for entry, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        legend_above(figure, entries.values(), entries.keys(), len(legend) or 2)
        plt.close(figure)  # else a notebook shows it twice
    return figure


def _plain_log(axis: Any) -> None:
    """Ticks at 1, 2, 5, 10, ... written as numbers."""
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=20))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())
    axis.set_minor_locator(ticker.NullLocator())


def _name(name: str, labels: Labels) -> str:
    return (labels or {}).get(name, name)


def _wrap(text: str) -> str:
    """Break a long label at its comma."""
    return text.replace(", ", ",\n", 1) if len(text) > 14 else text


def _accuracy(column: str) -> str:
    """top5 -> top-5 accuracy."""
    return f"top-{column.removeprefix('top')} accuracy" if column.startswith("top") else column
