"""Figures of what a loss does to single classes, to superclasses and to the scores of lists."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from paperlib.figures._style import WIDTH, Labels, Plotted, legend_above, looks, style
from paperlib.figures.phase import gains_forest

_ALPHA = 0.05  # of the p values adjusted over all classes
_NAMED = 2  # at most so many names a panel and direction: more would lie on each other


def class_gains(differences: pd.DataFrame, spread: pd.DataFrame, variant: str, labels: Labels = None,
                ks: Sequence[int] = (1, 5), baseline: str = "cross entropy") -> Plotted:
    """Gain of every class over the baseline's accuracy on it: a row of panels a setup, a column a k.

    Classes whose gain is told from 0 among all of them are filled. The dashed line has the slope that is free of
    regression to the mean.

    Args:
        differences: as :func:`paperlib.analysis.class_differences` gives them.
        spread: as :func:`paperlib.analysis.class_spread` gives it, for the slopes.
        variant: the loss that is drawn.
        labels: what to call setups and variants.
        ks: of the columns.
        baseline: what was subtracted, for the axis.
    """
    own = differences[(differences["variant"] == variant) & differences["k"].isin(list(ks))]
    frame = own[["setup", "k", "name", "group", "baseline", "mean", "p"]].reset_index(drop=True)
    frame[["baseline", "mean"]] *= 100
    slopes = spread[spread["variant"] == variant].set_index(["setup", "k"])["slope"]
    setups, (colour, marker) = list(frame["setup"].unique()), looks([variant])[variant]
    with style():
        figure = plt.figure(figsize=(WIDTH, 0.7 + 3.0 * len(setups)))
        head, *parts = figure.subfigures(1 + len(setups), 1, squeeze=False,
                                         height_ratios=[0.7, *[3.0] * len(setups)])[:, 0]
        for part, setup in zip(parts, setups, strict=True):
            grid = part.subplots(1, len(ks), sharey=True, squeeze=False)[0]
            for axes, k in zip(grid, ks, strict=True):
                rows = frame[(frame["setup"] == setup) & (frame["k"] == k)]
                told = rows["p"] < _ALPHA
                axes.axhline(0, color=".4", linewidth=1, zorder=0.8)  # above the grid
                for chosen, face in ((~told, "none"), (told, colour)):
                    axes.plot(rows["baseline"][chosen], rows["mean"][chosen], color=colour, marker=marker,
                              linestyle="", markersize=5, markerfacecolor=face, alpha=0.8)
                if np.isfinite(slopes[setup, k]):
                    ends = np.array([rows["baseline"].min(), rows["baseline"].max()])
                    axes.plot(ends, rows["mean"].mean() + slopes[setup, k] * (ends - rows["baseline"].mean()),
                              color="black", linestyle="--", linewidth=1.5)
                ordered = rows[told].sort_values("mean")
                extreme = pd.concat([ordered[ordered["mean"] < 0].head(_NAMED),
                                     ordered[ordered["mean"] > 0].tail(_NAMED)])
                for row in extreme.to_dict("records"):
                    left = row["baseline"] > (rows["baseline"].min() + rows["baseline"].max()) / 2  # stay in the panel
                    axes.annotate(row["name"].replace("_", " "), (row["baseline"], row["mean"]),
                                  (-6 if left else 6, 0), fontsize=11, textcoords="offset points", va="center",
                                  ha="right" if left else "left",
                                  path_effects=[withStroke(linewidth=3, foreground="white")])
                axes.set_title(f"top-{k}", loc="left")
                axes.set_xlabel(f"{baseline},\ntop-{k} of the class (%)")
                axes.margins(0.06)
            grid[0].set_ylabel("gain of the class\n(points)")
            part.suptitle((labels or {}).get(setup, setup), fontsize=13, x=0.02, ha="left")
        name = (labels or {}).get(variant, variant)
        handles = [Line2D([], [], color=colour, marker=marker, linestyle="", markerfacecolor="none",
                          label=f"{name}: a class"),
                   Line2D([], [], color="black", linestyle="--", linewidth=1.5, label="slope, chance removed")]
        if (frame["p"] < _ALPHA).any():
            handles.insert(1, Line2D([], [], color=colour, marker=marker, linestyle="", label="told from 0"))
        head.legend(handles=handles, loc="center", ncols=2, handletextpad=0.4)
        plt.close(figure)
    return figure, frame


def superclass_forest(differences: pd.DataFrame, variant: str, labels: Labels = None,
                      ks: Sequence[int] = (1, 5)) -> Plotted:
    """Gains of the superclasses over the baseline with intervals: a column a k, a row a superclass, a colour a setup.

    Args:
        differences: as :func:`paperlib.analysis.class_differences` gives them with ``by="superclass"``.
        variant: the loss that is drawn.
        labels: what to call setups.
        ks: of the columns.
    """
    own = differences[(differences["variant"] == variant) & differences["k"].isin(list(ks))].reset_index(drop=True)
    # As gains_forest wants them; the losses of its rows are the superclasses here.
    gains = own.assign(gain=own["mean"], variant=own["name"])[["setup", "variant", "k", "gain", "low", "high", "p"]]
    names = {name: _two_lines(name.replace("_", " ")) for name in own["name"].unique()}
    figure, frame = gains_forest(gains, {**(labels or {}), **names}, ks)
    figure.set_figheight(1.5 + 0.46 * len(names))  # room for names of two lines
    return figure, frame.rename(columns={"variant": "superclass"})


def reliability_diagram(reliability: pd.DataFrame, labels: Labels = None) -> Plotted:
    """How often the label is in the list over how sure the network was: a row of panels a setup, a column a k.

    On the diagonal scores mean what they say; below it the network is too sure of itself.

    Args:
        reliability: as :func:`paperlib.analysis.reliability` gives it.
        labels: what to call setups and variants.
    """
    frame = reliability.copy()
    frame[["predicted", "right"]] *= 100
    setups, ks = list(frame["setup"].unique()), sorted(frame["k"].unique())
    look = looks(list(frame["variant"].unique()))
    with style():
        figure, grid = plt.subplots(len(setups), len(ks), figsize=(WIDTH, 1.0 + 3.0 * len(setups)), squeeze=False)
        for row, setup in zip(grid, setups, strict=True):
            for axes, k in zip(row, ks, strict=True):
                axes.axline((0, 0), slope=1, color=".4", linewidth=1, zorder=0.8)
                for variant, (colour, marker) in look.items():
                    own = frame[(frame["setup"] == setup) & (frame["variant"] == variant) & (frame["k"] == k)]
                    axes.plot(own["predicted"], own["right"], color=colour, marker=marker, markersize=5, linewidth=1.2,
                              label=(labels or {}).get(variant, variant))
                low = frame.loc[(frame["setup"] == setup) & (frame["k"] == k), ["predicted", "right"]].min().min()
                axes.set(xlim=(low - 2, 102), ylim=(low - 2, 102), xlabel=f"mass of the first {k} (%)" if k > 1 else
                         "score of the first (%)")
            row[0].set_ylabel(f"{_two_lines((labels or {}).get(setup, setup))}\nright (%)")
        legend_above(figure, *grid[0, 0].get_legend_handles_labels())
        plt.close(figure)
    return figure, frame


def _two_lines(text: str) -> str:
    """A long text broken at the space nearest to its middle."""
    breaks = [place for place, letter in enumerate(text) if letter == " "]
    if len(text) < 18 or not breaks:
        return text
    place = min(breaks, key=lambda place: abs(place - len(text) / 2))
    return f"{text[:place]}\n{text[place + 1:]}"
