"""Figures of what training to convergence finds, and of how robust the boundaries are that it draws."""

from collections.abc import Mapping

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from paperlib.figures._style import WIDTH, Labels, Plotted, legend_above, looks, style

_COLUMNS = 2


def loss_against_topk(networks: pd.DataFrame, ways: Mapping[str, str], labels: Labels = None,
                      reference: tuple[str, str] = ("topk_transition", "recipe"), k: int = 2) -> Plotted:
    """Top-k accuracy of networks over the cross entropy that they reached; a panel a cell, a marker a way of training.

    A dashed line is the mean top-k of the transition loss; the network with the lowest cross entropy is ringed.

    Args:
        networks: as :func:`paperlib.analysis.convergence` gives it.
        ways: what to call the ways of training with cross entropy that are drawn, in this order.
        labels: what to call the cells.
        reference: loss and way of the dashed line.
        k: of the column ``topk``.
    """
    ce = networks[(networks["loss"] == "cross_entropy") & networks["way"].isin(list(ways))]
    frame = ce[["cell", "way", "restart", "cross_entropy", "topk"]].assign(topk=100 * ce["topk"])
    frame = frame.reset_index(drop=True)
    other = networks[(networks["loss"] == reference[0]) & (networks["way"] == reference[1])]
    lines = 100 * other.groupby("cell")["topk"].mean()
    cells, look = list(frame["cell"].unique()), looks(list(ways))
    rows = -(-len(cells) // _COLUMNS)
    with style():
        figure, grid = plt.subplots(rows, _COLUMNS, figsize=(WIDTH, 1.3 + 2.3 * rows), squeeze=False)
        for axes, cell in zip(grid.flat, cells, strict=False):
            own = frame[frame["cell"] == cell]
            for way, (colour, marker) in look.items():
                part = own[own["way"] == way]
                axes.plot(part["cross_entropy"], part["topk"], color=colour, marker=marker, linestyle="",
                          markersize=5, alpha=0.6)
            best = own.loc[own["cross_entropy"].idxmin()]
            axes.plot(best["cross_entropy"], best["topk"], marker="o", markersize=13, markerfacecolor="none",
                      markeredgecolor="black", markeredgewidth=1.5, linestyle="")
            axes.axhline(lines[cell], color=".3", linestyle="--", linewidth=1.5, zorder=0)
            axes.set_title((labels or {}).get(cell, cell), loc="left")
            axes.margins(0.1)
            axes.locator_params(nbins=4)
        for axes in grid.flat[len(cells):]:
            axes.set_visible(False)
        for row in grid:
            row[0].set_ylabel(f"top-{k} (%)")
        for column in range(_COLUMNS):
            below = [axes for axes in grid[:, column] if axes.get_visible()]
            if below:
                below[-1].set_xlabel("cross entropy (nats)")
        handles = [Line2D([], [], color=colour, marker=marker, linestyle="", label=ways[way])
                   for way, (colour, marker) in look.items()]
        handles += [Line2D([], [], marker="o", markersize=11, markerfacecolor="none", markeredgecolor="black",
                           linestyle="", label="lowest cross entropy"),
                    Line2D([], [], color=".3", linestyle="--", linewidth=1.5, label="transition loss")]
        legend_above(figure, handles, [str(handle.get_label()) for handle in handles])
        plt.close(figure)
    return figure, frame


def robust_curves(means: pd.DataFrame, quantity: str = "noise", cells: Labels = None, losses: Labels = None,
                  best: str = "best") -> Plotted:
    """Top-1 and top-k accuracy as points are moved: a row of panels a cell, a line a loss.

    Args:
        means: as :func:`paperlib.analysis.robust_means` gives it.
        quantity: "noise", Gaussian noise, or "certain", the worst move within a radius.
        cells: what to call the cells.
        losses: what to call the losses.
        best: the name among the losses that is drawn as the dotted line of the best possible sets.
    """
    frame = means[means["quantity"] == quantity].assign(accuracy=100 * means["value"])
    frame = frame[["cell", "loss", "k", "at", "accuracy"]].reset_index(drop=True)
    look = looks([name for name in frame["loss"].unique() if name != best])
    names, ks = list(frame["cell"].unique()), sorted(frame["k"].unique())
    with style():
        figure, grid = plt.subplots(len(names), len(ks), figsize=(WIDTH, 1.3 + 2.4 * len(names)), squeeze=False,
                                    sharex=True)
        for row, cell in zip(grid, names, strict=True):
            for axes, k in zip(row, ks, strict=True):
                own = frame[(frame["cell"] == cell) & (frame["k"] == k)]
                line = own[own["loss"] == best]
                axes.plot(line["at"], line["accuracy"], color="black", linestyle=":", label="best sets")
                for loss, (colour, marker) in look.items():
                    line = own[own["loss"] == loss]
                    axes.plot(line["at"], line["accuracy"], color=colour, marker=marker, markersize=5,
                              label=(losses or {}).get(loss, loss))
                axes.set_title(f"{(cells or {}).get(cell, cell)}: top-{k}" if k == ks[0] else f"top-{k}", loc="left")
            row[0].set_ylabel("accuracy (%)")
        for axes in grid[-1]:
            axes.locator_params(axis="x", nbins=4)
            axes.set_xlabel("standard deviation of the noise" if quantity == "noise" else "radius")
        handles, texts = grid[0, 0].get_legend_handles_labels()
        legend_above(figure, handles, texts)
        sns.despine(figure)
        plt.close(figure)
    return figure, frame
