"""Figures of how fast training is: rates beside their ceiling, and what a step spends beside its network."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt

from paperlib.figures._style import WIDTH, Plotted, style


def training_rates(rates: pd.DataFrame) -> Plotted:
    """Arithmetic rate of the training loop and of its ceiling for each network; one panel a precision.

    Args:
        rates: rows of one device as :func:`paperlib.analysis.training_rates` gives them.
    """
    frame = rates[["precision", "network", "gflops", "best", "ratio"]].reset_index(drop=True)
    frame.insert(3, "ceiling", frame["gflops"] / frame["ratio"])
    precisions = list(frame["precision"].unique())
    blue, orange = sns.color_palette("colorblind", 2)
    with style():
        figure, grid = plt.subplots(len(precisions), 1, squeeze=False, sharex=True,
                                    figsize=(WIDTH, 1.3 + 0.26 * len(frame) + 0.4 * len(precisions)))
        for axes, precision in zip(grid.flat, precisions, strict=True):
            rows = frame[frame["precision"] == precision]
            axes.barh(rows["network"], rows["gflops"], color=blue, height=0.6, label="training loop")
            axes.plot(rows["ceiling"], rows["network"], color="black", marker="|", markersize=13, markeredgewidth=2.5,
                      linestyle="", label="bare steps")
            axes.axvline(rows["best"].iloc[0], color=orange, linestyle="--", label="fastest convolution")
            axes.set_title(precision, loc="left")
            axes.invert_yaxis()
            axes.grid(False, axis="y")
        grid[-1, 0].set_xlabel("GFLOP/s")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, columnspacing=1,
                      handletextpad=0.4)
        plt.close(figure)
    return figure, frame


def step_parts(parts: pd.DataFrame) -> Plotted:
    """What a training step spends beside its forward and backward pass, in percent of the step, by network.

    Args:
        parts: rows of one device as :func:`paperlib.analysis.step_parts` gives them.
    """
    frame = parts.assign(share=100 * parts["share"])
    frame = frame.pivot(index="network", columns="part", values="share").loc[
        frame["network"].unique(), frame["part"].unique()].rename_axis(columns=None)
    shown = [part for part in frame if part not in ("forward", "backward")]
    with style():
        figure, axes = plt.subplots(figsize=(WIDTH, 1.6 + 0.36 * len(frame)))
        start = np.zeros(len(frame))
        for part, colour, hatch in zip(shown, sns.color_palette("colorblind"), ("", "//", "", ".."), strict=False):
            axes.barh(frame.index, frame[part], left=start, height=0.6, color=colour, label=part,
                      hatch=hatch, edgecolor="white", linewidth=0)
            start += frame[part].to_numpy()
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_xlabel("share of a training step (%)")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, columnspacing=1,
                      handletextpad=0.4)
        plt.close(figure)
    return figure, frame.reset_index()
