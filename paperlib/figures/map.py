"""The map of the transition: what each strength and start changes, and whether the network has memorised."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from paperlib.figures._style import WIDTH, Labels, Plotted, style

_PANELS = {"top1": "top-1", "top5": "top-5", "top10": "top-10", "train_top1": "top-1 on training images"}


def transition_map(table: pd.DataFrame, labels: Labels = None, baseline: str = "ce") -> Plotted:
    """Difference to the baseline by strength and start of the ramp, and the training accuracy; four panels a setup.

    Settings with a gate have rows of their own, and so have fitted ones, which start at an accuracy. What has not
    run yet is hatched.

    Args:
        table: as :func:`paperlib.analysis.transition_map` gives it.
        labels: what to call setups.
        baseline: variant that was subtracted.
    """
    frame = table.copy()
    frame[list(_PANELS)] *= 100
    frame.insert(2, "row", [_row(setting) for setting in frame.to_dict("records")])
    shown = frame[frame["variant"] != baseline]
    plain = (shown["gate"] == "none") & (shown["schedule"] != "fitted")
    strengths = sorted(shown.loc[plain, "strength"].unique(), reverse=True)
    rows = [*shown.loc[~plain, "row"].unique(), *(f"{strength:g}" for strength in strengths)]
    starts, setups = sorted(shown["start"].unique()), list(frame["setup"].unique())
    missing = bool(shown["top1"].isna().any())
    with style():
        figure = plt.figure(figsize=(WIDTH, len(setups) * (1.7 + 0.64 * len(rows))))
        parts = figure.subfigures(len(setups), 1, squeeze=False)[:, 0]
        for part, setup in zip(parts, setups, strict=True):
            own = shown[shown["setup"] == setup]
            largest = np.nanmax([0.1, *own[["top1", "top5", "top10"]].abs().to_numpy().ravel()])
            for axes, (column, title) in zip(part.subplots(2, 2, sharex=True, sharey=True).flat, _PANELS.items(),
                                             strict=True):
                trained = column == "train_top1"
                scale = {"cmap": "Greys", "vmin": 0, "vmax": 200} if trained else {
                    "cmap": "PuOr_r", "vmin": -1.6 * largest, "vmax": 1.6 * largest}
                _cells(axes, own, column, rows, starts, "{:.1f}" if trained else "{:+.2f}", scale)
                axes.set_title(title, loc="left")
            for axes in part.axes[::2]:
                axes.set_ylabel("strength or gate")
            for axes in part.axes[2:]:
                axes.set_xlabel("start (progress, accuracy)")
            reference = frame.loc[(frame["setup"] == setup) & (frame["variant"] == baseline), "train_top1"].item()
            known = f": trains to {reference:.1f} %" if np.isfinite(reference) else ": not yet run"
            part.suptitle(f"{(labels or {}).get(setup, setup)}\n({(labels or {}).get(baseline, baseline)}{known})",
                          fontsize=13, x=0.02, ha="left")
        if missing:
            parts[0].legend(handles=[Patch(facecolor="white", edgecolor=".6", hatch="///", label="not yet run")],
                            loc="upper right")
        plt.close(figure)
    return figure, frame


def _row(setting: dict[Any, Any]) -> str:
    """Label of the row of a setting: its strength, or its gate. Other losses have none."""
    if setting["gate"] in ("none", ""):
        fitted = ", fitted" if setting["schedule"] == "fitted" else ""
        return f"{setting['strength']:g}{fitted}" if setting["gate"] else ""
    return ", ".join([setting["gate"], *([setting["blend"]] if setting["blend"] != "probability" else []),
                      *([f"τ {setting['tau']:g}"] if setting["tau"] != 1 else [])])


def _cells(axes: Axes, own: pd.DataFrame, column: str, rows: list[str], starts: list[float], text: str,
           scale: dict[str, Any]) -> None:
    values = np.full((len(rows), len(starts)), np.nan)
    for setting in own.to_dict("records"):
        y, x = rows.index(setting["row"]), starts.index(setting["start"])
        values[y, x] = setting[column]
        if np.isnan(setting[column]):
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor="white", edgecolor=".6", hatch="///",
                                     linewidth=1))
        else:
            value = round(setting[column], 2) + 0.0  # no minus before a zero
            axes.annotate(text.format(value).replace("-", "\N{MINUS SIGN}"), (x, y), ha="center",
                          va="center", fontsize=11)
    axes.imshow(np.ma.masked_invalid(values), aspect="auto", zorder=0.5, **scale)
    axes.set_xticks(range(len(starts)), [f"{start:g}" for start in starts])
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlim(-0.5, len(starts) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(False)
