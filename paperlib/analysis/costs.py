"""What each loss costs: the document of ``experiments/benchmark_losses.py``."""

from typing import Any

import pandas as pd

from paperlib import documents, paths

_KEYS = {"speed", "accuracy", "memory", "code", "environment"}


def cost_document() -> dict[str, Any]:
    """The document: ``speed``, ``accuracy`` and ``memory`` row by row, ``code``, ``environment``, ``k``, ``finished``.

    Raises:
        FileNotFoundError: it is not there; says how to make it.
        ValueError: it is no such document.
    """
    return documents.load(paths.LOSS_COSTS, "experiments/benchmark_losses.py", _KEYS)


def loss_costs() -> pd.DataFrame:
    """Time of one forward and backward pass, one row for each condition, loss, size and code.

    Columns: condition (loop: passes one after the other; step: one pass after other work that filled the caches),
    side (paperlib, rival, torch), loss, code, n, num_classes, seconds (median), ratio to torch's cross entropy in the
    same round (median; ratio_low and ratio_high are the quartiles), and for a rival times_ours, how many times the
    time of the same loss here (times_ours_low, times_ours_high).
    """
    return pd.DataFrame(cost_document()["speed"])


def loss_memory() -> pd.DataFrame:
    """Peak memory of one forward and backward pass, one row for each loss and size.

    Columns: loss, n, num_classes, logits (beyond the logits, in multiples of them), ratio (to torch's cross entropy).
    """
    frame = pd.DataFrame(cost_document()["memory"])
    base = frame[frame["loss"] == "F.cross_entropy"].set_index(["n", "num_classes"])["logits"]
    sizes = pd.MultiIndex.from_frame(frame[["n", "num_classes"]])
    return frame.assign(ratio=frame["logits"].to_numpy() / base.loc[sizes].to_numpy())
