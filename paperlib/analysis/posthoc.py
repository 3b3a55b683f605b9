"""What changing the scores after training is worth: the document of ``experiments/posthoc.py`` beside the records.

A setup counts as soon as its first four seeds are there, and with all of them when they are, as in
:mod:`paperlib.analysis.study`.
"""

import hashlib
from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from paperlib import documents, grids, paths, records, stats
from paperlib.analysis import frames, study
from paperlib.analysis.budget import TRADES
from paperlib.analysis.comparisons import PRIMARY_GRID, PRIMARY_KS
from paperlib.grids import Grid, GridLike

SCRIPT = "experiments/posthoc.py --predictions FOLDER"
#: The scores as they came out of the network, and the method that a run's left-out validation images chose.
PLAIN, CHOSEN = "none", "chosen"

Key = tuple[str, str, str]


def posthoc_document() -> dict[str, Any]:
    """The document: ``settings``, ``code``, ``environment``, ``core_seconds``, ``cells`` by run id.

    Raises:
        FileNotFoundError: it is not there; says how to make it.
        ValueError: it is no such document.
    """
    return documents.load(paths.POSTHOC, SCRIPT, {"settings", "code", "environment", "core_seconds", "cells"})


def posthoc_part(grid_name: GridLike = PRIMARY_GRID, baseline: str = "ce") -> Grid | None:
    """The part of a grid that the document covers: whole blocks of first seeds, in setups that have the baseline.

    None: there is no document yet, the grid waits for a preset, or no block is complete.

    Raises:
        ValueError: a run of the document is not the recorded one.
    """
    try:
        document = posthoc_document()
    except FileNotFoundError:
        return None
    for cell, record in frames.present(grid_name):
        if record.run_id in document["cells"] and (
                document["settings"]["cells"][record.run_id]["results"] != digest(record)):
            raise ValueError(f"{paths.POSTHOC}: run {record.run_id}, {cell.place}, was recorded again since: "
                             f"expected results of the recorded one. Run python {SCRIPT} again")
    return study.finished(grid_name, baseline=baseline, held=document["cells"], alone=True)


def digest(record: records.Record) -> str:
    """Names the results that the logits must reproduce: those of a run that was made again are others."""
    text = "".join(record.evaluation(split)["ranks"] for split in ("validation", "test"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def posthoc_ranks(grid_name: GridLike = PRIMARY_GRID) -> dict[Key, NDArray[np.int64]]:
    """Test ranks (S, n) by setup, variant (what was trained) and method, "none" and "chosen" among them.

    Seeds stand in the grid's order. Empty where :func:`posthoc_part` is None.
    """
    part = posthoc_part(grid_name)
    if part is None:
        return {}
    cells = posthoc_document()["cells"]
    rows: dict[Key, list[NDArray[np.int64]]] = {}
    for cell, record in frames.joined(part)[1]:
        found = cells[record.run_id]
        plain = record.ranks()
        own = {PLAIN: plain} | {name: plain if method["ranks"] is None else records.decode_ranks(method["ranks"])
                                for name, method in found["methods"].items()}
        for name, ranks in (own | {CHOSEN: own[found["chosen"]]}).items():
            rows.setdefault((cell.setup, cell.variant, name), []).append(ranks)
    return {key: np.stack(value) for key, value in rows.items()}


def posthoc_differences(grid_name: GridLike = PRIMARY_GRID, baseline: str = "ce", ks: tuple[int, ...] = PRIMARY_KS,
                        level: float = 0.95, scores: str = PLAIN, comparisons: int | None = None) -> pd.DataFrame:
    """Accuracy of networks with changed scores, and without, minus that of a loss with its own scores or changed ones.

    Args:
        grid_name: the grid.
        baseline: variant to subtract.
        ks: values of k.
        scores: the method that changed the baseline's scores; "none" leaves them as they are.
        level: joint confidence of the t intervals of one network and method (Bonferroni).
        comparisons: how many are read together; None: all setups of the grid with all k; 1: each stands alone.

    Returns:
        Columns: setup, variant, method, k, mean, sd, n (seeds), low, high. Empty while nothing is complete; a setup
        without the baseline, or with fewer seeds of it, is left out.
    """
    ranks = posthoc_ranks(grid_name)
    together = comparisons or (len(grids.load(grid_name).setups) * len(ks) if ranks else 1)
    rows: list[dict[str, Any]] = []
    for setup, variant, method, own, other in _pairs(ranks, baseline, scores):
        for k in ks:
            gaps = (own <= k).mean(axis=1) - (other <= k).mean(axis=1)
            rows.append({"setup": setup, "variant": variant, "method": method, "k": k,
                         **stats.paired_t_interval(gaps, level, together)._asdict()})
    return pd.DataFrame(rows, columns=["setup", "variant", "method", "k", "mean", "sd", "n", "low", "high"])


def posthoc_lists(grid_name: GridLike = PRIMARY_GRID, target: float = 0.99, variant: str = "ce",
                  method: str = CHOSEN, level: float = 0.95, draws: int = 1000) -> pd.DataFrame:
    """How many candidates networks with changed scores need, and what is certified for each of them.

    Columns: setup, variant, k (smallest for the target, mean over seeds), low, high (two-way bootstrap), certified (a
    list, a seed each, None: none), top5 (mean accuracy), n (seeds).
    """
    statistic, rows = stats.smallest_k_statistic([target]), []
    for (setup, trained, how), ranks in posthoc_ranks(grid_name).items():
        if (trained, how) == (variant, method):
            band = stats.mean_interval(statistic, ranks, level=level, draws=draws)
            rows.append({"setup": setup, "variant": variant, "k": band.estimate[0], "low": band.low[0],
                         "high": band.high[0], "certified": [stats.certified_k(own, target, level) for own in ranks],
                         "top5": (ranks <= 5).mean(), "n": len(ranks)})
    return pd.DataFrame(rows, columns=["setup", "variant", "k", "low", "high", "certified", "top5", "n"])


def posthoc_trades(targets: Sequence[float] = frames.TARGETS, level: float = 0.95, draws: int = 1000) -> pd.DataFrame:
    """What changing the scores of cross entropy saves, as rows of :func:`paperlib.analysis.budget_trades`.

    Against cross entropy as the main comparison trains it, with its own scores; also with scores changed at the
    searched rate. It takes no training, so its price is "free": the labelled images that it takes are not counted.
    """
    standard, rows = posthoc_ranks(), []
    for name, home, what in ((PRIMARY_GRID, {}, ""), (study.SEARCHED_GRID, {"searched": "fifth"}, "searched rate, ")):
        for (setup, variant, method), own in posthoc_ranks(name).items():
            other = standard.get((home.get(setup, setup), "ce", PLAIN))
            if (variant, method) != ("ce", CHOSEN) or other is None or len(other) != len(own):
                continue
            band = stats.smallest_k_differences(own, other, targets, level, draws)
            free = {"counted": True, "timed": 0, "time": 1.0, "extra": 0.0, "extra_low": 0.0, "extra_high": 0.0,
                    "price": "free", "rate": np.nan, "rate_low": np.nan, "rate_high": np.nan}
            rows += [{"setup": home.get(setup, setup), "change": f"{name}-scores", "kind": "scores",
                      "label": f"cross entropy, {what}scores changed", "target": target, "n": len(own),
                      "saved": -band.estimate[i], "low": -band.high[i], "high": -band.low[i], **free}
                     for i, target in enumerate(targets)]
    return pd.DataFrame(rows, columns=TRADES)


def posthoc_candidates(grid_name: GridLike = PRIMARY_GRID, baseline: str = "ce",
                       targets: tuple[float, ...] = (0.95, 0.99), level: float = 0.95, draws: int = 1000,
                       methods: tuple[str, ...] = (PLAIN, CHOSEN),
                       variants: Container[str] | None = None) -> pd.DataFrame:
    """How many candidates more than the baseline with plain scores; negative is fewer. Paired two-way bootstrap.

    Of all variants, or of some. Columns: setup, variant, method, target, difference, low, high, n (seeds).
    """
    rows: list[dict[str, Any]] = []
    for setup, variant, method, own, other in _pairs(posthoc_ranks(grid_name), baseline):
        if method not in methods or (variants is not None and variant not in variants):
            continue
        band = stats.smallest_k_differences(own, other, targets, level, draws)
        rows += [{"setup": setup, "variant": variant, "method": method, "target": target,
                  "difference": band.estimate[i], "low": band.low[i], "high": band.high[i], "n": len(own)}
                 for i, target in enumerate(targets)]
    return pd.DataFrame(rows, columns=["setup", "variant", "method", "target", "difference", "low", "high", "n"])


def _pairs(ranks: dict[Key, NDArray[np.int64]], baseline: str,
           scores: str = PLAIN) -> list[tuple[str, str, str, NDArray[np.int64], NDArray[np.int64]]]:
    """What is compared: of common first seeds, but not the baseline with itself."""
    found = []
    for (setup, variant, method), own in ranks.items():
        other = ranks.get((setup, baseline, scores))
        if other is not None and len(other) == len(own) and (variant, method) != (baseline, scores):
            found.append((setup, variant, method, own, other))
    return found


def posthoc_scores(grid_name: GridLike = PRIMARY_GRID) -> pd.DataFrame:
    """What the methods do to probabilities, and how they were fitted.

    Columns: setup, variant, method, nll (nats), ece (means over seeds, test images), temperature (mean), penalty
    (median; inf: ranks left alone), chosen (share of the runs that chose it), n (seeds).
    """
    columns = ["setup", "variant", "method", "nll", "ece", "temperature", "penalty", "chosen", "n"]
    part = posthoc_part(grid_name)
    if part is None:
        return pd.DataFrame(columns=columns)
    cells, rows = posthoc_document()["cells"], []
    for cell, record in frames.joined(part)[1]:
        plain = record.evaluation("test")
        place = {"setup": cell.setup, "variant": cell.variant}
        rows.append({**place, "method": PLAIN, "nll": plain["nll"], "ece": plain["ece"], "temperature": 1.0,
                     "penalty": np.inf, "chosen": 0.0})
        found = cells[record.run_id]
        rows += [{**place, "method": name, "nll": method["nll"], "ece": method["ece"],
                  "temperature": method["temperature"], "penalty": float(method["penalty"]),
                  "chosen": float(name == found["chosen"])} for name, method in found["methods"].items()]
    grouped = pd.DataFrame(rows).groupby(["setup", "variant", "method"], sort=False)
    middle = grouped["penalty"].agg(lambda values: sorted(values)[(len(values) - 1) // 2])  # a mean of inf is none
    table = grouped.agg(nll=("nll", "mean"), ece=("ece", "mean"), temperature=("temperature", "mean"),
                        chosen=("chosen", "mean"), n=("nll", "size"))
    return table.assign(penalty=middle).reset_index()[columns]
