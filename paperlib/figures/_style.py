"""The one look of all figures."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

Plotted = tuple[Figure, pd.DataFrame]
Labels = Mapping[str, str] | None

#: Inches. At this width letters of 12 points stay readable on a screen of 390 pixels.
WIDTH = 6.4
_COLOURS = sns.color_palette("colorblind")
_MARKERS = "osD^vPX*<>", "hpd8H1234|"  # the second ten for a grid of so many losses that colours repeat
#: A loss keeps its colour and marker in every figure; names not listed take the places that are left.
_PLACES = {"ce": 0, "ramp": 1, "transition": 1, "constant": 2, "grouped": 3}


@contextmanager
def style() -> Iterator[None]:
    """The one look of all figures."""
    theme = sns.axes_style("whitegrid") | sns.plotting_context("notebook", font_scale=1.1)
    with plt.rc_context(theme | {
            "figure.dpi": 150, "savefig.dpi": 150, "legend.frameon": False,
            "figure.constrained_layout.use": True, "figure.constrained_layout.hspace": 0.06,
            "axes.titlesize": 13, "axes.labelsize": 12, "xtick.labelsize": 12, "ytick.labelsize": 12,
            "legend.fontsize": 12, "axes.edgecolor": ".4", "grid.color": ".88", "lines.linewidth": 2,
            "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "paperlib"}):
        yield


def legend_above(figure: Figure, handles: Iterable[Any], labels: Iterable[str], most: int = 2) -> None:
    """A legend on top of a figure, in as many columns as its width holds, ``most`` at the most."""
    handles, labels = list(handles), list(labels)
    for columns in range(most, 0, -1):
        legend = figure.legend(handles, labels, loc="outside upper center", columnspacing=1, handletextpad=0.4,
                               ncols=columns)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def looks(variants: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """Colour and marker of each variant: fixed for the losses of the report, the next free ones for others.

    Of two that have the same fixed place, as two forms of the transition, the second counts as another.
    """
    places = range(len(_COLOURS) * len(_MARKERS))
    free = iter([place for place in places if place not in {_PLACES.get(name) for name in variants}])
    found: dict[str, tuple[Any, str]] = {}
    for name in variants:
        place = _PLACES.get(name)
        if place is None or _look(place) in found.values():
            place = next(free, None)
        if place is None:
            raise ValueError(f"{len(variants)} variants: expected at most {len(places)}, more cannot be told apart")
        found[name] = _look(place)
    return found


def _look(place: int) -> tuple[Any, str]:
    """The colours go round once for each row of markers."""
    row, column = divmod(place, len(_COLOURS))
    return _COLOURS[column], _MARKERS[row][column]
