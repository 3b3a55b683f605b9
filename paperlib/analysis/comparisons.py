"""Comparisons of a loss with the baseline beyond accuracy at single k, and the primary tests of the CIFAR-100 study.

What is primary, the margin and what counts as memorising were written down before the runs, in the chapter "The plan".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from paperlib import stats
from paperlib.analysis import frames
from paperlib.analysis.frames import differences
from paperlib.grids import GridLike

PRIMARY_GRID, PRIMARY_SETUPS, PRIMARY_KS = "cifar-main", ("all", "fifth"), (1, 5, 10, 25)
#: A change of top-1 within this is no loss (accuracy).
MARGIN = 0.005
#: A setup memorises where cross entropy's top-1 on training images is ahead of validation by at least this (accuracy).
MEMORISES = 0.2


def primary(grid_name: GridLike = PRIMARY_GRID, variant: str = "transition", setups: Sequence[str] = PRIMARY_SETUPS,
            ks: Sequence[int] = PRIMARY_KS, baseline: str = "ce", level: Any = 0.95,
            split: str = "test") -> pd.DataFrame:
    """One family of tests of a loss against the baseline: every setup with every k, read together.

    Args:
        grid_name: the grid; its seeds are the same in all setups.
        variant: the loss that is tested.
        setups: of the family.
        ks: of the family.
        baseline: variant to subtract.
        level: joint confidence of all intervals (Bonferroni).
        split: "test" or "validation".

    Returns:
        Columns: setup, k, mean (difference of accuracies), sd, n (seeds), low, high, p (sign flips of whole seeds,
        adjusted by the largest absolute t over the family).

    Raises:
        ValueError: unknown setup, variant or k, or setups with different numbers of seeds.
    """
    gaps = frames.paired_differences(frames.curve_arrays(grid_name, split), baseline)
    for setup in setups:
        if (setup, variant) not in gaps:
            raise ValueError(f"grid {grid_name!r} has no {setup}/{variant} beside {baseline!r}: expected one of "
                             f"{', '.join('/'.join(key) for key in gaps)}")
    if len({len(gaps[setup, variant]) for setup in setups}) > 1:
        raise ValueError(f"setups {', '.join(setups)}: expected the same seeds in each")
    if not all(1 <= k <= gaps[setup, variant].shape[1] for setup in setups for k in ks):
        raise ValueError(f"ks={tuple(ks)}: expected values in 1..number of classes")
    members = [(setup, k, gaps[setup, variant][:, k - 1]) for setup in setups for k in ks]
    chances = stats.max_t_sign_flips(np.column_stack([gap for _, _, gap in members]))
    intervals = [stats.paired_t_interval(gap, level, len(members)) for _, _, gap in members]
    return pd.DataFrame([{"setup": setup, "k": k, **interval._asdict(), "p": p}
                         for (setup, k, _), interval, p in zip(members, intervals, chances, strict=True)])


def equivalences(grid_name: GridLike, baseline: str = "ce", k: int = 1, margin: float = MARGIN, level: Any = 0.95,
                 split: str = "test") -> pd.DataFrame:
    """Does a loss leave the accuracy at k where it was, but for a margin?

    Columns: setup, variant, k, mean (difference to the baseline), low, high (of the 1 - 2 alpha interval), p (the
    larger one of the two one-sided tests), equivalent (inside the margin on both sides), no_loss (the lower side
    alone), n (seeds).
    """
    rows = []
    for (setup, variant), gap in frames.paired_differences(frames.curve_arrays(grid_name, split), baseline).items():
        found = stats.equivalence_test(gap[:, k - 1], margin, level)
        rows.append({"setup": setup, "variant": variant, "k": k, **found._asdict(), "no_loss": found.low > -margin,
                     "n": len(gap)})
    columns = ["setup", "variant", "k", "mean", "low", "high", "p", "equivalent", "no_loss", "n"]
    return pd.DataFrame(rows)[columns]


def aim(grid_name: GridLike, variant: str = "transition", baseline: str = "ce", level: Any = 0.95,
        split: str = "test") -> pd.DataFrame:
    """The aim for practice: a gain in top-5 of at least the margin where the baseline memorises, no loss in top-1.

    Columns: setup, memorises, top5, top5_low, top5_high (gain and its t interval), top1, top1_low, top1_high
    (difference, 1 - 2 alpha interval), strength (of the transition after the last epoch), started (whether that ever
    left 0), n (seeds), aim: "met" (no loss in top-1 by the equivalence test and, where it is asked for, a mean gain of
    the margin with an interval above 0); "missed" (top-1 is lower by more than the margin for certain, or the mean
    gain is too small); "open" (the seeds do not settle it).
    """
    gains = differences(grid_name, baseline, (5,), level, split=split)
    costs = equivalences(grid_name, baseline, 1, MARGIN, level, split)
    memorises = memorisation(grid_name, baseline).set_index("setup")["memorises"]
    epochs = frames.history(grid_name).query("variant == @variant").groupby(["setup", "seed"])["strength"]
    strength, started = (own.groupby("setup") for own in (epochs.last(), epochs.max() > 0))
    rows = []
    for gain, cost in zip(_of(gains, variant), _of(costs, variant), strict=True):
        asked = bool(memorises[gain.setup])
        missed = cost.high < -MARGIN or (asked and gain.mean < MARGIN)
        sure = cost.no_loss and (not asked or gain.low > 0)
        rows.append({"setup": gain.setup, "memorises": asked, "top5": gain.mean, "top5_low": gain.low,
                     "top5_high": gain.high, "top1": cost.mean, "top1_low": cost.low, "top1_high": cost.high,
                     "strength": strength.mean()[gain.setup], "started": started.any()[gain.setup], "n": gain.n,
                     "aim": "missed" if missed else "met" if sure else "open"})
    return pd.DataFrame(rows)


def _of(frame: pd.DataFrame, variant: str) -> list[Any]:
    return list(frame[frame["variant"] == variant].itertuples(index=False))


def crossings(grid_name: GridLike, baseline: str = "ce", level: Any = 0.95, draws: int = 1000, seed: int = 0,
              split: str = "test") -> pd.DataFrame:
    """From which k on each loss is ahead of the baseline, with intervals over seeds and images.

    Columns: setup, variant, k, low, high (inf: not ahead at any length), n (seeds). See
    :func:`paperlib.stats.crossing_k`.
    """
    ranks, _ = frames.rank_arrays(grid_name, split)
    frames.require_variant(ranks, baseline)
    return pd.DataFrame([
        {"setup": setup, "variant": variant,
         **dict(zip(("k", "low", "high"), stats.crossing_interval(own, ranks[setup, baseline], level, draws, seed),
                    strict=True)), "n": len(own)}
        for (setup, variant), own in ranks.items() if variant != baseline])


def memorisation(grid_name: GridLike, baseline: str = "ce", threshold: float = MEMORISES) -> pd.DataFrame:
    """In which setups the baseline memorises: how far training runs ahead of validation at the end.

    Both are judged by the labels as trained on: with label noise, by the noisy ones. Training images are augmented,
    and their accuracy is the running one of the last epoch.

    Columns: setup, train_top1, validation_top1, gap (means over seeds), memorises, n (seeds).
    """
    found = frames.runs(grid_name, "validation")
    own = found[found["variant"] == baseline].groupby("setup", sort=False)
    table = own.agg(train_top1=("train_top1", "mean"), validation_top1=("top1", "mean"),
                    n=("seed", "nunique")).reset_index()
    table["gap"] = table["train_top1"] - table["validation_top1"]
    table["memorises"] = table["gap"] >= threshold
    return table[["setup", "train_top1", "validation_top1", "gap", "memorises", "n"]]


def probabilities(grid_name: GridLike, baseline: str = "ce", k: int = 5, level: Any = 0.95,
                  split: str = "test") -> pd.DataFrame:
    """What each loss does to the probabilities of the softmax, and to the order inside the list.

    Quantities: nll (nats an image), ece (expected calibration error), first (share of the images with the right class
    among the first k that have it first: the order inside the list).

    Columns: setup, variant, quantity, mean, sd, n (seeds), difference (to the baseline, paired; NaN for itself), low,
    high.
    """
    if k not in frames.KS:
        raise ValueError(f"k={k!r}: expected one of {', '.join(map(str, frames.KS))}")
    found = frames.runs(grid_name, split)
    found["first"] = found["top1"] / found[f"top{k}"]
    rows = []
    for (setup, variant), own in found.groupby(["setup", "variant"], sort=False):
        other = found[(found["setup"] == setup) & (found["variant"] == baseline)]
        if list(other["seed"]) != list(own["seed"]):
            raise ValueError(f"baseline={baseline!r}: expected a variant of setup {setup!r} with the seeds of "
                             f"{variant!r}")
        for quantity in ("nll", "ece", "first"):
            values = own[quantity].to_numpy()
            paired = (stats.paired_t_interval(values - other[quantity].to_numpy(), level) if variant != baseline
                      else stats.Interval(np.nan, np.nan, len(values), np.nan, np.nan))
            rows.append({"setup": setup, "variant": variant, "quantity": quantity, "mean": values.mean(),
                         "sd": values.std(ddof=1) if len(values) > 1 else np.nan, "n": len(values),
                         "difference": paired.mean, "low": paired.low, "high": paired.high})
    return pd.DataFrame(rows)
