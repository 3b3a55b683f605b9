"""Maps over complexity and capacity, and what losses trade: figures of the synthetic study."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from paperlib.figures._style import WIDTH, Labels, Plotted, looks, style


def phase_diagram(gains: pd.DataFrame, richness: pd.DataFrame, labels: Labels = None,
                  axes: tuple[str, str] = ("complexity", "capacity")) -> Plotted:
    """What each loss gains over cross entropy in every cell of a map, and below what cross entropy falls short.

    A row a loss, a column a k. Dots mark cells that are significant after correction. The line parts the cells in
    which some network represents the best top-1 prediction (above it, or right) from those in which none does. The
    last row is cross entropy's regret to the best possible prediction.

    Args:
        gains: as :func:`paperlib.analysis.gains` gives them.
        richness: as :func:`paperlib.analysis.richness` gives it.
        labels: names of the variants.
        axes: what the two axes are.

    Returns:
        The figure, and the gains in percentage points.
    """
    ks, variants = sorted(gains["k"].unique()), list(gains["variant"].unique())
    frame = gains.assign(gain=100 * gains["gain"], regret=100 * gains["regret"], baseline=100 * gains["baseline"])
    # A few extreme cells must not make all others pale: colours end at the 95th percentile.
    limits = {k: max(0.1, frame.loc[frame["k"] == k, "gain"].abs().quantile(0.95)) for k in ks}
    poor = richness.assign(poor=richness["kind"] == "poor").pivot(index="capacity", columns="complexity",
                                                                 values="poor").to_numpy()
    with style():
        rows = len(variants) + 1
        figure, grid = plt.subplots(rows, len(ks), figsize=(WIDTH, 2.55 * rows + 0.4), squeeze=False, sharex=True,
                                    sharey=True)
        for row, variant in enumerate(variants):
            for column, k in enumerate(ks):
                part = frame[(frame["variant"] == variant) & (frame["k"] == k)]
                image = _map(grid[row, column], part, "gain", "RdBu", (-limits[k], limits[k]), poor,
                             part[part["significant"]])
                figure.colorbar(image, ax=grid[row, column], shrink=0.9, extend="both")
                grid[row, column].set_title(f"{(labels or {}).get(variant, variant)}:\ntop-{k} gain (points)",
                                            loc="left", fontsize=11)
        for column, k in enumerate(ks):
            part = frame[(frame["variant"] == variants[0]) & (frame["k"] == k)]
            image = _map(grid[-1, column], part, "baseline", "viridis", (0, None), poor)
            figure.colorbar(image, ax=grid[-1, column], shrink=0.9)
            grid[-1, column].set_title(f"cross entropy:\ntop-{k} regret (points)", loc="left", fontsize=11)
            grid[-1, column].set_xlabel(axes[0])
        for row in grid:
            row[0].set_ylabel(axes[1])
        plt.close(figure)
    return figure, frame


def tradeoff_regions(regions: pd.DataFrame, trades: pd.DataFrame, labels: Labels = None, k: int = 2) -> Plotted:
    """Top-k over top-1 of every loss: the mean with its joint confidence ellipse, single networks, the Pareto front.

    Top-k is drawn by its error on a logarithmic scale, since most losses lie close to 100 %, as far as the ellipses
    go: single networks may lie outside.

    Args:
        regions: as :func:`paperlib.analysis.joint_regions` gives them.
        trades: as :func:`paperlib.analysis.trade` gives them.
        labels: names of the variants.
        k: of the second accuracy.
    """
    found, look = regions.reset_index(drop=True), _many_looks(list(regions["variant"]))
    front = found[found["pareto"]].sort_values("top1")
    with style():
        figure, axes = plt.subplots(figsize=(WIDTH, 5.4))
        axes.plot(100 * front["top1"], _error(front["topk"]), color=".5", linestyle="--", linewidth=1.2, zorder=1)
        handles = [Line2D([], [], color=".5", linestyle="--", linewidth=1.2, label="Pareto front of the means")]
        seen: list[tuple[float, float, float, float]] = []
        for row in found.to_dict("records"):
            colour, marker = look[row["variant"]]
            own = trades[trades["variant"] == row["variant"]]
            axes.plot(100 * own["top1"], _error(own["topk"]), color=colour, marker=marker, linestyle="", markersize=3,
                      alpha=0.3, zorder=2)
            x, y = _ellipse(row)
            axes.fill(100 * x, _error(y), facecolor=colour, alpha=0.25, edgecolor=colour)
            axes.plot(100 * row["top1"], _error(row["topk"]), color=colour, marker=marker, markersize=9,
                      markeredgecolor="black", linestyle="", zorder=3)
            seen.append((x.min(), x.max(), y.min(), y.max()))
            handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=8,
                                  label=(labels or {}).get(row["variant"], row["variant"])))
        left, _, low, _ = np.min(seen, axis=0)
        _, right, _, high = np.max(seen, axis=0)
        axes.set(xlabel="top-1 accuracy (%)", ylabel=f"top-{k} accuracy (%), by its error", yscale="log",
                 xlim=(100 * left - 1, 100 * right + 1),
                 ylim=(1.15 * _error(low), max(0.87 * _error(high), 0.4 * _error(found["topk"].max()))))
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=20))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda error, _: f"{100 - error:g}"))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        figure.legend(handles=handles, loc="outside lower center", ncols=2, columnspacing=1, handletextpad=0.4)
        plt.close(figure)
    return figure, found.assign(top1=100 * found["top1"], topk=100 * found["topk"])


def gains_forest(gains: pd.DataFrame, labels: Labels = None, ks: Sequence[int] = (1, 2),
                 rows: str = "variant") -> Plotted:
    """Gains over cross entropy with intervals: a column a k; a row a loss and a colour a setup, or vice versa.

    Args:
        gains: columns setup, variant, k, gain, low, high, fractions, as :func:`paperlib.analysis.gains` gives them.
        labels: names of setups and variants.
        ks: of the columns.
        rows: "variant" or "setup".
    """
    colours = "setup" if rows == "variant" else "variant"
    names, groups = list(gains[rows].unique()), list(gains[colours].unique())
    look = looks(groups)
    frame = gains.assign(**{name: 100 * gains[name] for name in ("gain", "low", "high")})
    with style():
        figure, grid = plt.subplots(1, len(ks), figsize=(WIDTH, 1.5 + 0.36 * len(names)), sharey=True, squeeze=False)
        for axes, k in zip(grid[0], ks, strict=True):
            for shift, group in zip(np.linspace(-0.25, 0.25, len(groups)) * (len(groups) > 1), groups, strict=True):
                part = frame[(frame[colours] == group) & (frame["k"] == k)].set_index(rows).loc[names]
                axes.errorbar(part["gain"], np.arange(len(names)) + shift,
                              xerr=[part["gain"] - part["low"], part["high"] - part["gain"]], color=look[group][0],
                              marker=look[group][1], markersize=5, linestyle="", elinewidth=1.5)
            axes.axvline(0, color=".4", linewidth=1)
            axes.set_title(f"top-{k}", loc="left")
            axes.set_xlabel("gain (points)")
        grid[0, 0].set_yticks(range(len(names)), [(labels or {}).get(name, name) for name in names], fontsize=11)
        grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
        figure.legend(handles=[Line2D([], [], color=look[group][0], marker=look[group][1], linestyle="",
                                      label=(labels or {}).get(group, group)) for group in groups],
                      loc="outside upper center", ncols=2, handletextpad=0.4)
        plt.close(figure)
    return figure, frame


def _error(accuracy: Any) -> Any:
    """Error in percent of accuracies as fractions, kept above 0 for a logarithmic scale."""
    return np.maximum(100 - 100 * np.asarray(accuracy), 0.01)


def _ellipse(row: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points on the confidence ellipse of a row of :func:`paperlib.analysis.joint_regions`."""
    turn = np.linspace(0, 2 * np.pi, 100)
    along, across = row["a"] * np.cos(turn), row["b"] * np.sin(turn)
    cosine, sine = np.cos(row["angle"]), np.sin(row["angle"])
    return row["top1"] + along * cosine - across * sine, row["topk"] + along * sine + across * cosine


def _map(axes: Axes, frame: pd.DataFrame, column: str, colours: str, limits: tuple[float, float | None],
         poor: Any, marked: pd.DataFrame | None = None) -> Any:
    """One map, a cell of equal size for each setup, and the border of the cells that are poor."""
    table = frame.pivot(index="capacity", columns="complexity", values=column)
    image = axes.imshow(table.to_numpy(), origin="lower", cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto",
                        interpolation="nearest")
    x, y = list(table.columns), list(table.index)
    if marked is not None and len(marked):
        axes.plot([x.index(value) for value in marked["complexity"]], [y.index(value) for value in marked["capacity"]],
                  marker="o", markersize=2.5, color="black", linestyle="")
    for row, column_ in np.argwhere(poor[:, :-1] != poor[:, 1:]):
        axes.plot([column_ + 0.5] * 2, [row - 0.5, row + 0.5], color="black", linewidth=1.8)
    for row, column_ in np.argwhere(poor[:-1] != poor[1:]):
        axes.plot([column_ - 0.5, column_ + 0.5], [row + 0.5] * 2, color="black", linewidth=1.8)
    axes.set_xticks(range(len(x)), [f"{value:g}" for value in x])
    axes.set_yticks(range(len(y)), [f"{value:g}" for value in y])
    axes.grid(False)
    return image


def _many_looks(variants: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """Colour and marker of more variants than there are colours: the colours come again with other markers."""
    first, rest = list(variants[:10]), list(variants[10:])
    found = looks(first)
    again = list(looks([f"{place}" for place in range(10)]).values())
    for place, name in enumerate(rest):
        found[name] = (again[place % 10][0], again[(place + 5) % 10][1])
    return found
