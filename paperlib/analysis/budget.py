"""What a change of training saves in candidates, and what it costs in computing time.

A *change* is another loss or learning rate, another number of epochs or another width, everything else being as in the
standard run: cross entropy with the budget that the first grid names first for a training set. Differences are paired
by seed.

Time is CPU time of the training steps on one thread, in core-minutes, from machines that did other work as well. Work
beside a run slows it down through caches and memory, and one day differs from another. So a change is timed by what
an image costs it, as the ratio to a run of the standard loss and network with the same seed, on the same kind of
machine and within half a day. Learning rate and number of epochs change nothing in what an image costs: such a run may
have others, and a change of these alone is timed by itself, so that twice the epochs take twice as long. That ratio,
times the ratio of images trained on, is the time as a multiple of the standard run's. An extra time is that multiple,
less 1, times the median time of the standard runs.
"""

import dataclasses
import datetime
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from paperlib import grids, stats
from paperlib.analysis import frames
from paperlib.grids import Cell, GridLike
from paperlib.records import Record

BUDGET_GRIDS = ("cifar-budget", "cifar-main")
#: A change whose extra time is within this share of a standard run, either way, costs nothing worth counting.
FREE = 0.1
#: Runs that finished further apart are not timed against each other.
APART = datetime.timedelta(hours=12)

#: Columns of :func:`budget_trades`.
TRADES = ["setup", "change", "kind", "label", "target", "n", "saved", "low", "high", "counted", "timed", "time",
          "extra", "extra_low", "extra_high", "price", "rate", "rate_low", "rate_high"]

_LOSS_KEYS = ("loss", "k", "loss_options", "strength_schedule", "ramp_start", "ramp_end", "lr")
_BUDGET_KEYS = ("epochs", "width", "evaluate_every")

Price = Literal["free", "dearer", "cheaper", "open"]


@dataclasses.dataclass
class _Change:
    """One way of training on one training set, with its runs by seed."""

    setup: str  #: of the standard run
    name: str
    kind: str  #: "standard", "loss" (also its rate), "epochs", "width" or "several"
    label: str
    runs: dict[Any, Record] = dataclasses.field(default_factory=dict)
    same_work: bool = False  #: an image costs it what it costs the standard run
    #: The standard's: itself and the changes of the same work.
    timed_by: list["_Change"] = dataclasses.field(default_factory=list)

    def ranks(self, seeds: Sequence[Any], split: str) -> NDArray[np.int64]:
        return np.stack([self.runs[seed].ranks(split) for seed in seeds])


def core_minutes(record: Record) -> float:
    """CPU minutes of all training steps of a run, on all its threads, without validation, loading and saving.

    A record's ``train_cpu_seconds`` leave out the first steps and the one after each pause; they are scaled to all
    images trained on. Meant for runs on a CPU: with a GPU it is the time of the host. NaN where nothing was timed.
    """
    timing = record.timing
    minutes = timing["train_cpu_seconds"] / 60 * _images(record)
    return minutes / timing["timed_images"] if timing["timed_images"] else math.nan


def _images(record: Record) -> int:
    """How many images a run was trained on, each counted as often as it was shown."""
    train = record.data["train"]
    batch = min(record.config["batch_size"], train)
    images: int = record.config["epochs"] * (train // batch * batch)
    return images


def _changes(grid_names: Sequence[GridLike], baseline: str) -> dict[str, list[_Change]]:
    """By setup of the standard run: the standard first, then the changes in the order of the grids."""
    standards: dict[str, Cell] = {}
    found: dict[tuple[str, str], _Change] = {}
    pairs: list[tuple[Cell, Record]] = []
    loaded = [grid for name in grid_names if (grid := grids.load_filled(name))]
    for grid in loaded:
        for cell in grid.cells:
            if cell.variant == baseline:
                standards.setdefault(_training_set(cell), cell)
    for grid in loaded:
        for cell, record in frames.present(grid):
            if (standard := standards.get(_training_set(cell))) is None:
                continue
            parts = _parts(cell, standard, grid.variants[cell.variant]["label"])
            name = "-".join(part for part, _, _ in parts) or baseline
            kind = "standard" if not parts else parts[0][1] if len(parts) == 1 else "several"
            label = ", ".join(text for _, _, text in parts) or grid.variants[cell.variant]["label"]
            own = found.setdefault((standard.setup, name), _Change(standard.setup, name, kind, label,
                                                                   same_work=_work(cell) == _work(standard)))
            own.runs[cell.seed] = record
            # Under the standard's setup the whole training set is held to one checksum and one set of test images.
            pairs.append((dataclasses.replace(cell, setup=standard.setup, variant=name), record))
    frames.require_comparable(pairs)
    by_setup: dict[str, list[_Change]] = {cell.setup: [] for cell in standards.values()}
    for change in sorted(found.values(), key=lambda change: change.kind != "standard"):
        by_setup[change.setup].append(change)
    by_setup = {setup: own for setup, own in by_setup.items() if own and own[0].kind == "standard"}
    for own_changes in by_setup.values():
        own_changes[0].timed_by = [change for change in own_changes if change.same_work]
    return by_setup


def _training_set(cell: Cell) -> str:
    """What two runs share that differ in loss, budget and seed alone, in text."""
    return _all_but(cell, *_LOSS_KEYS, *_BUDGET_KEYS, "seed")


def _work(cell: Cell) -> str:
    """What decides what an image costs, in text: all but seed, learning rate, epochs and what is evaluated."""
    return _all_but(cell, "seed", "lr", "epochs", "evaluate_every", "evaluate_test")


def _all_but(cell: Cell, *ignored: str) -> str:
    return repr(sorted((key, value) for key, value in cell.config.to_dict().items() if key not in ignored))


def _parts(cell: Cell, standard: Cell, variant_label: str) -> list[tuple[str, str, str]]:
    """Name, kind and label of each part of the change from the standard run to a cell."""
    own, other = cell.config.to_dict(), standard.config.to_dict()
    parts = []
    if any(own[key] != other[key] for key in _LOSS_KEYS):
        parts.append((cell.variant, "loss", variant_label))
    if own["epochs"] != other["epochs"]:
        parts.append((f"epochs{own['epochs']}", "epochs", f"{own['epochs']} epochs"))
    if own["width"] != other["width"]:
        parts.append((f"width{own['width']}", "width", f"{own['width']} channels"))
    return parts


def budget_points(grid_names: Sequence[GridLike] = BUDGET_GRIDS, baseline: str = "ce",
                  targets: Sequence[float] = frames.TARGETS, level: Any = 0.95, draws: int = 1000, seed: int = 0,
                  split: str = "test") -> pd.DataFrame:
    """Candidates needed and core-minutes of training of every way of training, from the runs that there are.

    Args:
        grid_names: the first one names the standard runs; a grid that waits for a preset is left out.
        baseline: variant of the standard runs.
        targets: accuracies to reach.
        level: confidence of the intervals.
        draws: bootstrap replicates.
        seed: of the resampling.
        split: "test" or "validation".

    Returns:
        One row a setup, change and target. Columns: setup (of the standard run), change, kind ("standard", "loss",
        also for another rate, "epochs", "width", "several"), label, epochs, target, minutes (the median multiple of a
        standard run's time, times the standard runs' median; NaN without a pair that can be timed),
        k (mean of the smallest k over seeds), low, high (two-way bootstrap), n (seeds).

    Raises:
        ValueError: records that must not be compared.
    """
    rows: list[dict[str, Any]] = []
    statistic = stats.smallest_k_statistic(targets)
    for setup, changes in _changes(grid_names, baseline).items():
        for change in changes:
            unit, ratios = _times(change, changes[0])
            minutes = unit * float(np.median(list(ratios.values()))) if ratios else math.nan
            ranks = change.ranks(sorted(change.runs), split)
            band = stats.mean_interval(statistic, ranks, level=level, draws=draws, seed=seed)
            epochs = next(iter(change.runs.values())).config["epochs"]
            rows += [{"setup": setup, "change": change.name, "kind": change.kind, "label": change.label,
                      "epochs": epochs, "target": target, "minutes": minutes, "k": band.estimate[i],
                      "low": band.low[i], "high": band.high[i], "n": len(ranks)} for i, target in enumerate(targets)]
    return pd.DataFrame(rows, columns=["setup", "change", "kind", "label", "epochs", "target", "minutes", "k", "low",
                                       "high", "n"])


def budget_trades(grid_names: Sequence[GridLike] = BUDGET_GRIDS, baseline: str = "ce",
                  targets: Sequence[float] = frames.TARGETS, level: Any = 0.95, draws: int = 1000, seed: int = 0,
                  split: str = "test") -> pd.DataFrame:
    """What each change saves in candidates against the standard run, what it costs, and the one for the other.

    The cost has a *price*: "free" where the whole interval of the extra time lies within a tenth of a standard run
    (``budget.FREE``), else "dearer" where it lies above 0, "cheaper" where it lies below, and "open" where it does
    not tell. Only what is dearer or cheaper has a rate: the others would be divided by noise. The interval of a rate
    is Fieller's over seeds, so it speaks of these test images; that of the candidates saved is of the two-way
    bootstrap.

    Args:
        grid_names: as :func:`budget_points`, as all other arguments.
        baseline: variant of the standard runs.
        targets: accuracies to reach.
        level: confidence of the intervals.
        draws: bootstrap replicates.
        seed: of the resampling.
        split: "test" or "validation".

    Returns:
        One row a setup, change and target, from the seeds that have both runs. Columns: setup, change, kind, label,
        target, n (seeds), saved (candidates fewer than the standard run, mean), low, high, counted (an image costs
        what it costs the standard run: the time is counted, not measured), timed (seeds that have a run to be timed
        by; the columns that follow are of these), time (median multiple), extra (core-minutes more, mean), extra_low,
        extra_high (t interval), price, rate (candidates saved for each core-minute more; of what is cheaper, lost for
        each core-minute less), rate_low, rate_high.

    Raises:
        ValueError: records that must not be compared.
    """
    rows: list[dict[str, Any]] = []
    smallest = stats.smallest_k_statistic(targets)

    def saving(own: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.subtract(smallest(other), smallest(own))

    for setup, (standard, *changes) in _changes(grid_names, baseline).items():
        for change in changes:
            seeds = sorted(set(change.runs) & set(standard.runs))
            if not seeds:
                continue
            own, other = change.ranks(seeds, split), standard.ranks(seeds, split)
            band = stats.mean_interval(saving, own, other, level=level, draws=draws, seed=seed)
            each = dict(zip(seeds, map(saving, own, other), strict=True))
            cost = _cost(change, standard, level)
            rows += [{"setup": setup, "change": change.name, "kind": change.kind, "label": change.label,
                      "target": target, "n": len(seeds), "saved": band.estimate[i], "low": band.low[i],
                      "high": band.high[i], "counted": change.same_work, **cost,
                      **_rate([each[s][i] for s in _times(change, standard)[1]], change, standard, cost, level)}
                     for i, target in enumerate(targets)]
    return pd.DataFrame(rows, columns=TRADES)


def _times(change: _Change, standard: _Change) -> tuple[float, dict[Any, float]]:
    """Median core-minutes of the standard runs, and the change's time by seed as a multiple of the standard run's.

    It is timed by the nearest run of the same work, which may be longer or shorter than the standard run. The median
    is over the kind of machine that has most of the standard runs: another kind may take several times as long.
    """
    timed = {seed: core_minutes(run) for seed, run in standard.runs.items()}
    timed = {seed: minutes for seed, minutes in timed.items() if minutes > 0}
    ratios = {}
    for seed, run in sorted(change.runs.items()):
        beside = [other for twin in standard.timed_by if (other := twin.runs.get(seed))
                  and _machine(other) == _machine(run) and _apart(run, other) <= APART and core_minutes(other) > 0]
        if beside and seed in standard.runs:
            nearest = min(beside, key=lambda other: _apart(run, other))
            share = _images(nearest) / _images(standard.runs[seed])
            ratios[seed] = core_minutes(run) / core_minutes(nearest) * share
    ratios = {seed: ratio for seed, ratio in ratios.items() if math.isfinite(ratio)}
    by_kind: dict[tuple[str, str], list[float]] = {}
    for seed, minutes in timed.items():
        by_kind.setdefault(_machine(standard.runs[seed]), []).append(minutes)
    return float(np.median(max(by_kind.values(), key=len))) if timed else math.nan, ratios


def _machine(record: Record) -> tuple[str, str]:
    """The kind of machine: its processors and their instructions, which a processor's name does not always tell."""
    return record.environment["device"], record.environment["cpu_capability"]


def _apart(run: Record, other: Record) -> datetime.timedelta:
    """How far apart two runs finished."""
    ends = [datetime.datetime.fromisoformat(record.timing["finished"]) for record in (run, other)]
    return abs(ends[0] - ends[1])


def _extra(change: _Change, standard: _Change) -> list[float]:
    """Core-minutes more than the standard run, one a timed seed."""
    unit, ratios = _times(change, standard)
    return [unit * (ratio - 1) for ratio in ratios.values()]


def _cost(change: _Change, standard: _Change, level: Any) -> dict[str, Any]:
    unit, ratios = _times(change, standard)
    if not ratios:
        return {"timed": 0, "time": math.nan, "extra": math.nan, "extra_low": -math.inf, "extra_high": math.inf,
                "price": "open"}
    extra = stats.paired_t_interval(_extra(change, standard), level)
    if change.same_work:  # counted, not timed: one seed says as much as ten
        extra = extra._replace(low=extra.mean, high=extra.mean)
    return {"timed": len(ratios), "time": float(np.median(list(ratios.values()))), "extra": extra.mean,
            "extra_low": extra.low, "extra_high": extra.high, "price": _price(extra, unit)}


def _price(extra: stats.Interval, standard: float) -> Price:
    if max(-extra.low, extra.high) <= FREE * standard:
        return "free"
    return "dearer" if extra.low > 0 else "cheaper" if extra.high < 0 else "open"


def _rate(saved: Sequence[Any], change: _Change, standard: _Change, cost: dict[str, Any],
          level: Any) -> dict[str, float]:
    band = stats.Band(math.nan, math.nan, math.nan)
    if cost["price"] in ("dearer", "cheaper"):
        band = stats.ratio_interval(saved, _extra(change, standard), level)
    return {"rate": band.estimate, "rate_low": band.low, "rate_high": band.high}


def budget_order(trades: pd.DataFrame, target: float = 0.99) -> pd.DataFrame:
    """What to change first: the changes whose interval of candidates saved lies above 0, in order.

    What is free or cheaper goes first, the largest saving at its head; then what is dearer, the largest rate at its
    head; then what has no price yet. One seed is one network, and orders nothing.

    Args:
        trades: as :func:`budget_trades` gives it.
        target: accuracy to reach.

    Returns:
        The rows of the frame with a column step, 1 for the first of a setup.
    """
    own = trades[(trades["target"] == target) & (trades["low"] > 0) & (trades["n"] > 1)]
    place = {"free": 0, "cheaper": 0, "dearer": 1, "open": 2}
    key = [(list(trades["setup"].unique()).index(row.setup), place[row.price],
            -(row.rate if row.price == "dearer" else row.saved)) for row in own.itertuples()]
    own = own.iloc[sorted(range(len(own)), key=key.__getitem__)].reset_index(drop=True)
    return own.assign(step=own.groupby("setup", sort=False).cumcount() + 1)
