"""Tables and sentences of what a loss does to classes, to likelihood and to scores."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from paperlib import analysis
from paperlib.grids import GridLike
from paperlib.tables._text import named, rows, sign, signed

_ALPHA = 0.05
_QUANTITIES = {"nll": ("negative log-likelihood (nats)", 1, 2), "ece": ("calibration error (%)", 100, 1),
               "first": ("right class first in its five (%)", 100, 1)}
_SCORES = {"error1": ("error of the first score (%)", 100, 1), "error5": ("error of the mass of five (%)", 100, 1),
           "within": ("mistakes in the superclass (%)", 100, 1), "different": ("superclasses in five", 1, 2)}


def class_effects(grid_name: GridLike, differences: pd.DataFrame | None = None, spread: pd.DataFrame | None = None,
                  ks: Sequence[int] = (1, 5)) -> pd.DataFrame:
    """How many classes gain or lose, how much true effects differ, and whether hard classes gain, by loss and k.

    The lowest of many noisy differences lies below its class's true effect.

    Points throughout. "Hard classes" is the change of the gain for each 10 points that cross entropy is worse on a
    class.
    """
    found = analysis.class_differences(grid_name) if differences is None else differences
    moments = analysis.class_spread(grid_name) if spread is None else spread
    table = []
    for row in rows(moments[moments["k"].isin(list(ks))]):
        own = found[(found["setup"] == row.setup) & (found["variant"] == row.variant) & (found["k"] == row.k)]
        told, lowest = own[own["p"] < _ALPHA], own.loc[own["mean"].idxmin()]
        table.append({
            "setup": row.setup, "variant": row.variant, "k": row.k, "mean": sign(100 * row.mean, 1),
            "told to gain, to lose": f"{(told['mean'] > 0).sum()}, {(told['mean'] < 0).sum()}",
            "lowest class": f"{sign(100 * lowest['mean'], 0)} ({lowest['name'].replace('_', ' ')})",
            "spread": f"{100 * row.spread:.1f} [{100 * row.spread_low:.1f}, {100 * row.spread_high:.1f}]",
            "hard classes": _slope(row), "n": row.n})
    return named(pd.DataFrame(table), grid_name)


def probabilities(grid_name: GridLike, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Likelihood, calibration and the order inside the list: means, and differences to cross entropy."""
    return _beside(analysis.probabilities(grid_name) if frame is None else frame, _QUANTITIES, grid_name)


def scores(grid_name: GridLike, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Calibration of the first score and of the mass of five, how close mistakes are, and how diverse lists are."""
    return _beside(analysis.score_differences(grid_name) if frame is None else frame, _SCORES, grid_name)


def _slope(row: Any) -> str:
    """The slope per 10 points that a class is harder."""
    return signed(-10 * row.slope, -10 * row.slope_high, -10 * row.slope_low, 2)


def _beside(found: pd.DataFrame, quantities: dict[str, tuple[str, int, int]], grid_name: GridLike) -> pd.DataFrame:
    """A row a loss, a column a quantity: its mean, and the difference to the baseline with its interval."""
    table: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows(found[found["quantity"].isin(list(quantities))]):
        title, unit, digits = quantities[row.quantity]
        text = f"{unit * row.mean:.{digits}f}"
        if not pd.isna(row.difference):
            text += f"; {signed(unit * row.difference, unit * row.low, unit * row.high, digits)}"
        cells = table.setdefault((row.setup, row.variant), {"setup": row.setup, "variant": row.variant})
        cells |= {title: text, "n": str(row.n)}
    frame = pd.DataFrame(table.values())
    return named(frame[[*(name for name in frame if name != "n"), "n"]], grid_name)


def class_sentence(spread: pd.DataFrame, differences: pd.DataFrame, setup: str, variant: str, k: int) -> str:
    """What a loss does to the classes of a setup at k, in words that the intervals allow."""
    row = next(rows(spread[(spread["setup"] == setup) & (spread["variant"] == variant) & (spread["k"] == k)]))
    own = differences[differences["setup"].eq(setup) & differences["variant"].eq(variant) & differences["k"].eq(k)]
    told = own[own["p"] < _ALPHA]
    up, down = int((told["mean"] > 0).sum()), int((told["mean"] < 0).sum())
    text = (f"At k = {k} the mean over classes changes by {sign(100 * row.mean, 1)} points; of {len(own)} classes "
            f"{up} can be told to gain and {down} to lose on these test images. ")
    if pd.isna(row.spread):
        return text + "One seed does not tell how much true effects differ."
    interval = f"[{100 * row.spread_low:.1f}, {100 * row.spread_high:.1f}]"
    if row.spread_low > 0:
        text += ("True effects differ from class to class, with a standard deviation of "
                 f"{100 * row.spread:.1f} {interval} points. ")
    else:
        text += ("Whether effects on new images would differ from class to class is not shown: their spread is "
                 f"{100 * row.spread:.1f} {interval} points, and noise makes it look like {100 * row.observed:.1f}. ")
    per = f"{_slope(row)} points for each 10 points that cross entropy is worse on a class"
    if row.slope_high < 0:
        return text + f"Hard classes come out better than easy ones: {per}."
    if row.slope_low > 0:
        return text + f"Hard classes come out worse than easy ones: {per}."
    return text + f"Hard classes cannot be told to come out better or worse than easy ones: {per}."


def probability_sentence(frame: pd.DataFrame, setup: str, variant: str) -> str:
    """What a loss does to likelihood, calibration and order in a setup, in words that the intervals allow."""
    own = frame[frame["setup"].eq(setup) & frame["variant"].eq(variant)].set_index("quantity")
    words = {"nll": ("gives the right class less probability", "gives the right class more probability",
                     "cannot be told to change the likelihood"),
             "ece": ("is calibrated worse", "is calibrated better", "cannot be told to change the calibration"),
             "first": ("has the right class first in a larger share of the images that have it in the five",
                       "has the right class first in a smaller share of the images that have it in the five",
                       "cannot be told to change the order inside the list")}
    parts = []
    for quantity, (above, below, open_) in words.items():
        row, (_, unit, digits) = own.loc[quantity], _QUANTITIES[quantity]
        word = above if row["low"] > 0 else below if row["high"] < 0 else open_
        units = "nats" if quantity == "nll" else "points"
        interval = signed(unit * row["difference"], unit * row["low"], unit * row["high"], digits)
        parts.append(f"{word} ({interval} {units})")
    return f"It {parts[0]}, {parts[1]}, and {parts[2]}."
