"""Where training to convergence ends: the document of ``experiments/convergence.py``."""

from typing import Any

import pandas as pd

from paperlib import documents, paths
from paperlib.stats import paired_t_interval

_SCRIPT = "experiments/convergence.py"
_LISTS = ["cross_entropy", "own_loss", "gradient", "expected_cross_entropy", "top1", "topk"]
CE, TRANSITION = "cross_entropy", "topk_transition"


def convergence_document() -> dict[str, Any]:
    """The document: ``settings``, ``code``, ``environment``, ``core_seconds``, ``cells``.

    Raises:
        FileNotFoundError: it is not there; says how to make it.
        ValueError: it is no such document, or not complete.
    """
    return documents.read(paths.CONVERGENCE, _SCRIPT)


def convergence() -> pd.DataFrame:
    """One row for each trained network.

    Columns: cell, stripes, model, size (units of the hidden layer, or the polynomial's degree), loss, way, restart;
    cross_entropy and own_loss (on the training set, nats), gradient (norm of the own loss's), expected_cross_entropy
    (under the class probabilities, at test points), top1 and topk (likewise).
    """
    parts = []
    for cell, found in convergence_document()["cells"].items():
        what = found["what"]
        size = what["width"] if what["model"] == "mlp" else what["depth"]
        for row in found["rows"]:
            part = pd.DataFrame({key: row[key] for key in _LISTS})
            part.insert(0, "restart", range(len(part)))
            for column, value in (("way", row["way"]), ("loss", row["loss"]), ("size", size),
                                  ("model", what["model"]), ("stripes", what["stripes"]), ("cell", cell)):
                part.insert(0, column, value)
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def convergence_ways(near: float = 0.005) -> pd.DataFrame:
    """One row for each cell, loss and way of training it.

    Columns: cell, loss, way, n (restarts), cross_entropy (mean) and own_loss (mean), lowest (own loss of the best
    restart), gradient (median), top1 and topk (means), top1_lowest and topk_lowest (of the restart with the lowest
    own loss), near (restarts whose own loss is within so many nats of the lowest of all ways).
    """
    frame = convergence()
    floor = frame.groupby(["cell", "loss"])["own_loss"].transform("min")
    rows = []
    for (cell, loss, way), own in frame.assign(near=frame["own_loss"] <= floor + near).groupby(
            ["cell", "loss", "way"], sort=False):
        best = own.loc[own["own_loss"].idxmin()]
        rows.append({"cell": cell, "loss": loss, "way": way, "n": len(own),
                     "cross_entropy": own["cross_entropy"].mean(), "own_loss": own["own_loss"].mean(),
                     "lowest": best["own_loss"], "gradient": own["gradient"].median(), "top1": own["top1"].mean(),
                     "topk": own["topk"].mean(), "top1_lowest": best["top1"], "topk_lowest": best["topk"],
                     "near": int(own["near"].sum())})
    return pd.DataFrame(rows)


def convergence_gaps(reference: str = "recipe", level: float = 0.95) -> pd.DataFrame:
    """Top-k of the transition loss less cross entropy's, restart by restart, for each way of training the latter.

    The interval is over random initialisations, on one training set.

    Args:
        reference: how the transition loss was trained.
        level: of the paired t intervals.

    Returns:
        Columns: cell, way (of cross entropy), mean, low, high, n.
    """
    frame = convergence()
    rows = []
    for cell, own in frame.groupby("cell", sort=False):
        towards = own[(own["loss"] == TRANSITION) & (own["way"] == reference)].set_index("restart")["topk"]
        for way, ce in own[own["loss"] == CE].groupby("way", sort=False):
            found = paired_t_interval(towards - ce.set_index("restart")["topk"], level)
            rows.append({"cell": cell, "way": way, "mean": found.mean, "low": found.low, "high": found.high,
                         "n": found.n})
    return pd.DataFrame(rows)


def lowest_losses(near: float = 0.005) -> pd.DataFrame:
    """What is left at the lowest losses that any way of training found, one row a cell.

    Columns: cell, stripes, model, size; of cross entropy's lowest: way, cross_entropy, gradient, top1, topk, near
    (networks within so many nats of it) and near_low, near_high (their least and largest topk); of the lowest
    transition loss: transition_way, transition_top1, transition_topk; reachable (the largest topk of any network of
    the cell, whatever it was trained by) and reachable_ce (that network's cross entropy); gap (transition_topk less
    topk) and capacity_gap (reachable less topk: what minimising cross entropy leaves although the model could).
    """
    rows = []
    for cell, own in convergence().groupby("cell", sort=False):
        ce = own[own["loss"] == CE]
        best = ce.loc[ce["cross_entropy"].idxmin()]
        others = ce[ce["cross_entropy"] <= best["cross_entropy"] + near]
        transition = own[own["loss"] == TRANSITION]
        other = transition.loc[transition["own_loss"].idxmin()]
        top = own.loc[own["topk"].idxmax()]
        rows.append({
            "cell": cell, **{key: best[key] for key in ("stripes", "model", "size", "way", "cross_entropy", "gradient",
                                                        "top1", "topk")},
            "near": len(others), "near_low": others["topk"].min(), "near_high": others["topk"].max(),
            "transition_way": other["way"], "transition_top1": other["top1"], "transition_topk": other["topk"],
            "reachable": top["topk"], "reachable_ce": top["cross_entropy"], "gap": other["topk"] - best["topk"],
            "capacity_gap": top["topk"] - best["topk"]})
    return pd.DataFrame(rows)
