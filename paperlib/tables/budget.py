"""How long a list has to be, what shortens it, and whether a promised length holds."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from paperlib import analysis
from paperlib.grids import GridLike
from paperlib.tables._text import list_rows, or_else, rows, signed


def lists(grid_name: GridLike, target: float = 0.99, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """How long a list for one target is: smallest k over seeds, and the k certified for the networks."""
    found = analysis.candidates(grid_name, [target]) if frame is None else frame[frame["target"] == target]
    promised = analysis.certificates(grid_name, [target]).groupby(["setup", "variant"], sort=False)["certified"]
    top5 = analysis.runs(grid_name).groupby(["setup", "variant"])["top5"].mean()
    return list_rows(found.assign(top5=[top5[row.setup, row.variant] for row in rows(found)]),
                     promised.agg(list).to_dict(), target, analysis.labels(grid_name))


def budget_trades(trades: pd.DataFrame, labels: Mapping[str, str], target: float = 0.99) -> pd.DataFrame:
    """What each change of training saves in candidates for one target, its time, and what a core-minute buys."""
    found = trades[trades["target"] == target]
    return pd.DataFrame({
        "setup": found["setup"].map(lambda name: labels.get(name, name)), "change": found["label"],
        "saved": [signed(row.saved, row.low, row.high) for row in rows(found)],
        "time": ["–" if math.isnan(row.time) else f"{row.time:.2f}" for row in rows(found)],
        "core-minutes more": ["–" if math.isnan(row.extra) else signed(row.extra, row.extra_low, row.extra_high)
                              for row in rows(found)],
        "a core-minute buys": [price(row) for row in rows(found)], "n": found["n"]})


def price(row: Any) -> str:
    """What one change costs, in words: a row of :func:`paperlib.analysis.budget_trades`."""
    rate = signed(row.rate, row.rate_low, row.rate_high, 2)
    cheaper = "saves both" if row.rate_high < 0 else f"{rate} lost"
    return {"free": "free", "open": "not known yet", "dearer": rate, "cheaper": cheaper}[row.price]


def budget_order(trades: pd.DataFrame, labels: Mapping[str, str], target: float = 0.99) -> str:
    """What to change first in each setup, as a list in MyST: :func:`paperlib.analysis.budget_order` in words."""
    order, lines = analysis.budget_order(trades, target), []
    for setup in trades["setup"].unique():
        steps = [f"{row.label} ({row.saved:.1f} candidates; {_cost(row)})"
                 for row in rows(order[order["setup"] == setup])]
        saving = trades[(trades["setup"] == setup) & (trades["target"] == target) & (trades["low"] > 0)]
        alone = saving.loc[saving["n"] == 1, "label"]
        parts = [", then ".join(steps)] if steps else []
        if len(alone):
            parts.append(f"one seed so far, which orders nothing: {', '.join(alone)}")
        lines.append(f"- {labels.get(setup, setup)}: "
                     + ("; ".join(parts) or "nothing here saves candidates with an interval that leaves out 0") + ".")
    return "\n".join(lines)


def other_budgets(trades: pd.DataFrame, target: float = 0.99) -> pd.DataFrame:
    """Of the changes those of epochs or channels alone that have more than one seed, which would be one network."""
    return trades[(trades["target"] == target) & trades["kind"].isin(["epochs", "width"]) & (trades["n"] > 1)]


def budget_bought(trades: pd.DataFrame, labels: Mapping[str, str], target: float = 0.99) -> str:
    """What the standard run's epochs and channels bought over fewer of them, as a list in MyST.

    It is what a smaller budget loses, read the other way round: of budgets that clearly take less time and have more
    than one seed. Empty where there is none.
    """
    own = other_budgets(trades, target).query("price == 'cheaper'")
    return "\n".join(f"- {labels.get(setup, setup)}: " + "; ".join(map(_bought, rows(found))) + "."
                     for setup, found in own.groupby("setup", sort=False))


def _bought(row: Any) -> str:
    saved = f"over {row.label}, {signed(-row.saved, -row.high, -row.low)} candidates saved"
    if row.high < 0:
        return f"{saved}, {signed(row.rate, row.rate_low, row.rate_high, 2)} for each core-minute"
    return saved + (": more are needed" if row.low > 0 else " (not for certain)")


def _cost(row: Any) -> str:
    return {"free": "free", "cheaper": f"{-row.extra:.1f} core-minutes less", "open": "its price is not known yet",
            "dearer": f"{row.extra:.1f} core-minutes more, {row.rate:.2f} candidates for each"}[row.price]


def promises(grid_name: GridLike, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """How often a k chosen on validation images reached its target on test: a row for each rule that chooses."""
    found = analysis.promises(grid_name) if frame is None else frame
    return pd.DataFrame({
        "setup": found["setup"].map(analysis.labels(grid_name)),
        "target": [f"{100 * target:g} %" for target in found["target"]], "chosen k": found["rule"],
        "mean": [or_else(row.k, "none", ".1f") for row in rows(found)],
        "held": [f"{row.held} of {row.networks}" for row in rows(found)],
        "worst (%)": [or_else(100 * row.worst, "–", ".2f") for row in rows(found)]})
