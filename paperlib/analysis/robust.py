"""How robust the boundaries of trained networks are: the document of ``experiments/robust_boundary.py``."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from paperlib import documents, paths
from paperlib.stats import paired_t_interval

_SCRIPT = "experiments/robust_boundary.py"
BEST = "best"  #: stands for the best possible sets among the losses


def robust_document() -> dict[str, Any]:
    """The document: ``settings``, ``code``, ``environment``, ``core_seconds``, ``cells``.

    Raises:
        FileNotFoundError: it is not there; says how to make it.
        ValueError: it is no such document, or not complete.
    """
    return documents.read(paths.ROBUST_BOUNDARY, _SCRIPT)


def robustness() -> pd.DataFrame:
    """One row for each number.

    Columns: cell, loss ("best": the best possible sets, whose seed is -1), seed, k, quantity, at, value. Quantities
    are "noise" (expected top-k accuracy where the point is moved by Gaussian noise; at: standard deviation), "certain"
    (probability that the label is among the first k everywhere within a radius; at: the radius), "radius" (median over
    labels that are inside of the least move that puts them out) and "margin" (score of the label less the k-th best of
    the others, nats; at: share of labels with at most this).
    """
    document = robust_document()
    places = {"noise": document["settings"]["noise"], "certain": document["settings"]["radii"],
              "margin": document["settings"]["margin_shares"], "radius": [np.nan]}
    return pd.DataFrame([row for name, cell in document["cells"].items() for row in _rows(name, cell, places)])


def robust_means() -> pd.DataFrame:
    """Means over seeds: cell, loss, k, quantity, at, n, value."""
    keys = ["cell", "loss", "k", "quantity", "at"]
    found = robustness().groupby(keys, sort=False, dropna=False)["value"]
    return found.agg(n="size", value="mean").reset_index()


def robust_differences(baseline: str = "ce", level: float = 0.95) -> pd.DataFrame:
    """Every quantity less that of another loss, seed by seed, with paired t intervals.

    Args:
        baseline: the loss that is subtracted.
        level: of the intervals.

    Returns:
        Columns: cell, loss, k, quantity, at, mean, low, high, n.

    Raises:
        ValueError: no such loss.
    """
    frame = robustness()
    frame = frame[frame["loss"] != BEST]
    if baseline not in set(frame["loss"]):
        raise ValueError(f"baseline={baseline!r}: expected one of {', '.join(frame['loss'].unique())}")
    keys = ["cell", "k", "quantity", "at", "seed"]
    both = frame.merge(frame[frame["loss"] == baseline][[*keys, "value"]], on=keys, suffixes=("", "_other"))
    rows = []
    for (cell, loss, k, quantity, at), own in both[both["loss"] != baseline].groupby(
            ["cell", "loss", "k", "quantity", "at"], sort=False, dropna=False):
        found = paired_t_interval(own["value"] - own["value_other"], level)
        rows.append({"cell": cell, "loss": loss, "k": k, "quantity": quantity, "at": at, "mean": found.mean,
                     "low": found.low, "high": found.high, "n": found.n})
    return pd.DataFrame(rows)


def _rows(name: str, cell: dict[str, Any], places: dict[str, list[float]]) -> Iterator[dict[str, Any]]:
    """The numbers of one cell; the best sets, which are no network's, have one number where losses have one a seed."""
    measured = {BEST: {k: {key: [value] for key, value in found.items()} for k, found in cell["best"].items()},
                **cell["losses"]}
    for loss, by_k in measured.items():
        for k, quantities in by_k.items():
            for quantity, values in quantities.items():
                for seed, own in enumerate(values):
                    for at, value in zip(places[quantity], own if isinstance(own, list) else [own], strict=True):
                        yield {"cell": name, "loss": loss, "seed": -1 if loss == BEST else seed, "k": int(k),
                               "quantity": quantity, "at": at, "value": value}
