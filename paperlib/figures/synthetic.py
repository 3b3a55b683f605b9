"""Figures of the synthetic study: what the theorem says of every split, and where trained models decide what."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from paperlib.figures._style import WIDTH, Plotted, looks, style
from paperlib.theory import Segments, cross_entropy_at, fitted, predicted, three_segments, topk_at


def split_objectives(data: Segments, k: int = 2, points: int = 401) -> Plotted:
    """Cross entropy and top-k accuracy of the best stump at every threshold, each with its optimum marked.

    Args:
        data: the population.
        k: of the accuracy.
        points: thresholds on an even grid, beside the data's own boundaries.
    """
    thresholds = np.unique(np.concatenate([np.linspace(0, 1, points), data.boundaries]))
    frame = pd.DataFrame({"threshold": thresholds, "cross_entropy": cross_entropy_at(data, thresholds),
                          f"top{k}": 100 * topk_at(data, thresholds, k)})
    optima = {"cross_entropy": int(frame["cross_entropy"].argmin()), f"top{k}": int(frame[f"top{k}"].argmax())}
    look = looks(["ce", "grouped"])
    with style():
        figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 4.8), sharex=True)
        for axes, column, name in zip(panels, optima, look, strict=True):
            colour, marker = look[name]
            axes.plot(frame["threshold"], frame[column], color=colour)
            for other, (line_colour, _) in zip(optima.values(), look.values(), strict=True):
                axes.axvline(frame["threshold"][other], color=line_colour, linestyle=":", linewidth=1.5, zorder=0)
            best = optima[column]
            axes.plot(frame["threshold"][best], frame[column][best], color=colour, marker=marker, markersize=10,
                      markeredgecolor="black", linestyle="")
        panels[0].set(ylabel="cross entropy (nats)")
        panels[1].set(ylabel=f"top-{k} (%)", xlabel="threshold t")
        figure.legend(handles=[
            Line2D([], [], color=look["ce"][0], marker=look["ce"][1], markersize=9, label="least cross entropy"),
            Line2D([], [], color=look["grouped"][0], marker=look["grouped"][1], markersize=9,
                   label=f"best top-{k} accuracy")], loc="outside upper center", ncols=2)
        plt.close(figure)
    return figure, frame


def gap_of_knobs(ambiguities: Sequence[float] = (0.5, 0.3, 0.1), points: int = 99, solved: int = 8) -> Plotted:
    """The theorem's gap in top-2, over the mass of the ambiguous segment and over the masses of the other two.

    Above the first two segments have equal mass; lines are the closed form, markers what the solvers find. Below the
    ambiguous segment's two classes are equally likely.

    Args:
        ambiguities: probabilities q of class 0 on the third segment, for the lines.
        points: knob settings along each axis.
        solved: how many settings of each line are solved without the closed form.
    """
    masses = np.linspace(0, 1, points + 2)[1:-1]
    rows = [{"q": q, "first": (1 - c) / 2, "second": (1 - c) / 2, "third": c, "how": how, "gap": 100 * gap}
            for q in ambiguities
            for how, settings in (("closed form", masses), ("solvers", masses[::points // solved]))
            for c in settings for gap in [_gap((1 - c) / 2, (1 - c) / 2, q, how)]]
    plane = [{"q": 0.5, "first": a, "second": b, "third": 1 - a - b, "how": "plane", "gap": 100 * _gap(a, b, 0.5)}
             for a in masses for b in masses if a + b < 1 - 1e-9]
    frame = pd.DataFrame(rows + plane)
    with style():
        figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 7.2), height_ratios=(1, 1.35))
        look = looks([f"q = {q:g}" for q in ambiguities])
        for (name, (colour, marker)), q in zip(look.items(), ambiguities, strict=True):
            own = frame[(frame["q"] == q) & (frame["how"] != "plane")]
            line, dots = (own[own["how"] == how] for how in ("closed form", "solvers"))
            above.plot(line["third"], line["gap"], color=colour)
            above.plot(dots["third"], dots["gap"], color=colour, marker=marker, linestyle="", markersize=6)
            above.plot([], [], color=colour, marker=marker, label=name)
        above.set(xlabel="mass c of the third segment", ylabel="gap in top-2 (points)")
        above.legend(loc="upper right", handlelength=1.2)
        table = frame[frame["how"] == "plane"].pivot(index="second", columns="first", values="gap")
        image = below.pcolormesh(table.columns, table.index, table.to_numpy(), cmap="viridis", shading="nearest",
                                 rasterized=True)
        edge = np.linspace(0, 0.5, 2)
        below.plot(edge, 1 - 2 * edge, color="white", linestyle=":", linewidth=1.5)
        below.set(xlabel="mass a of the first segment", ylabel="mass b of the second", xlim=(0, 1), ylim=(0, 1))
        below.set_aspect("equal")
        below.grid(False)
        figure.colorbar(image, ax=below, label="gap in top-2 (points)")
        plt.close(figure)
    return figure, frame


def decision_regions(models: Mapping[str, Callable[[Any], Any]], k: int = 2, points: int = 160,
                     bounds: tuple[float, float] = (-1.0, 1.0), disc: bool = False) -> Plotted:
    """What models answer where in the plane: first candidates above, sets of the first k below, a column a model.

    A class, or set, has the same colour in every column.

    Args:
        models: scores (N, C) at points (N, 2), by the name to print; arrays of float32 go in, anything that numpy
            takes comes out. For a torch module: ``lambda x: module(torch.from_numpy(x)).detach()``.
        k: size of the sets.
        points: of the lattice, along each axis.
        bounds: of both coordinates.
        disc: whether the data lie on the disc within the bounds; nothing is drawn off it.

    Raises:
        ValueError: no models, or scores of a shape that does not belong to the points or to k.
    """
    if not models:
        raise ValueError("models={}: expected at least one")
    low, high = bounds
    step = (high - low) / points
    axis = low + step * (np.arange(points) + 0.5)
    x, y = (values.ravel() for values in np.meshgrid(axis, axis))
    inside = np.hypot(x - (low + high) / 2, y - (low + high) / 2) <= (high - low) / 2
    parts = []
    for name, model in models.items():
        scores = np.asarray(model(np.column_stack([x, y]).astype(np.float32)), dtype=np.float64)
        if scores.ndim != 2 or len(scores) != len(x) or not 1 <= k < scores.shape[1]:
            raise ValueError(f"model {name!r} gave scores of shape {scores.shape}: expected ({len(x)}, C), C > k={k}")
        order = np.argsort(-scores, axis=1, kind="stable")
        sets = [f"{{{', '.join(map(str, row))}}}" for row in np.sort(order[:, :k], axis=1).tolist()]
        part = pd.DataFrame({"model": name, "x": x, "y": y, "first": [f"class {c}" for c in order[:, 0]], "set": sets})
        parts.append(part[inside] if disc else part)
    frame = pd.concat(parts, ignore_index=True)
    titles = {"first": "first candidate", "set": f"first {k} candidates"}
    with style():
        side = (WIDTH - 0.8) / len(models)
        figure = plt.figure(figsize=(WIDTH, 2 * (side + 1.7)))
        places = figure.add_gridspec(4, len(models), height_ratios=(side + 0.8, 0.9) * 2)  # panels, and their legend
        for half, (column, title) in enumerate(titles.items()):
            names = sorted(frame[column].unique())
            palette = sns.color_palette("colorblind" if len(names) <= 10 else "husl", len(names))
            colours = dict(zip(names, palette, strict=True))
            for place, name in enumerate(models):
                axes = figure.add_subplot(places[2 * half, place])
                _regions(axes, frame[frame["model"] == name], column, colours, (low, high))
                axes.set_title(f"{name}:\n{title}", loc="left")
                axes.set(xlabel="$x_1$", ylabel="" if place else "$x_2$")
            strip = figure.add_subplot(places[2 * half + 1, :])
            strip.set_axis_off()
            strip.legend(handles=[Line2D([], [], marker="s", linestyle="", markersize=9, color=colour, alpha=0.75,
                                         label=name) for name, colour in colours.items()],
                         loc="upper center", ncols=5, handletextpad=0.1, columnspacing=0.8)
        plt.close(figure)
    return figure, frame


def _gap(first: float, second: float, q: float, how: str = "closed form") -> float:
    """Gap of one setting, by the closed form or by the solvers."""
    rest = (q, 1 - q)
    if how == "closed form":
        return predicted(first, second, rest).gap
    data = three_segments(first, second, rest)
    return float(topk_at(data, data.boundaries, 2).max()) - fitted(data).topk(data, 2)


def _regions(axes: Axes, frame: pd.DataFrame, column: str, colours: Mapping[str, Any],
             bounds: tuple[float, float]) -> None:
    """Colours of the names in one panel; white where the frame has no point."""
    table = frame.pivot(index="y", columns="x", values=column)
    axes.imshow([[colours.get(name, (1, 1, 1)) for name in row] for row in table.to_numpy()], origin="lower",
                alpha=0.75, extent=(*bounds, *bounds), interpolation="nearest")
    axes.grid(False)
    axes.set(xticks=(bounds[0], sum(bounds) / 2, bounds[1]), yticks=(bounds[0], sum(bounds) / 2, bounds[1]))
