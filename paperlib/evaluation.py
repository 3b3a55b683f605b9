"""What a record keeps of a split for models that were trained at once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from paperlib import bayes, metrics
from paperlib.config import RunConfig
from paperlib.counts import encode_counts
from paperlib.data import Arrays
from paperlib.data.synthetic import FAMILIES
from paperlib.models import Stack

Loss = Callable[..., Tensor]


def evaluate(stacks: Sequence[Stack], loss: Loss, arrays: Arrays, config: RunConfig) -> dict[str, Any]:
    """What a record keeps of a split: of every model losses, calibration, and how often the label had each rank.

    Where the class probabilities are known also ``expected``, the accuracy at every k that the model has under them
    at these points, whatever labels were drawn, and ``bayes``, the best possible. Label noise is no part of either. A
    model that diverged has None, and no counts.
    """
    exact = _class_probabilities(config, arrays.inputs)
    found = [_results(logits, arrays.labels, loss, exact)
             for stack in stacks for logits in stack.predict(arrays.inputs)]
    num_classes = stacks[0].sizes[-1]
    gone = {"counts": [0] * num_classes}
    lists = {key: [(row or gone).get(key) for row in found]
             for key in ("loss", "nll", "ece", "counts", *(["expected"] if exact is not None else []))}
    result = {"n": len(arrays), "num_classes": num_classes} | lists | {"counts": encode_counts(lists["counts"])}
    if exact is not None:
        result["bayes"] = [digits(value) for value in bayes.bayes_topk(exact).tolist()]
    return result


@torch.no_grad()
def _results(logits: Tensor, labels: Tensor, loss: Loss, exact: Tensor | None) -> dict[str, Any] | None:
    """Of one model, with logits (n, C)."""
    if not bool(logits.isfinite().all()):
        return None
    counts = torch.bincount(metrics.label_ranks(logits, labels), minlength=logits.shape[1] + 1)[1:]
    found: dict[str, Any] = {
        "loss": digits(float(loss(logits, labels))), "nll": digits(metrics.negative_log_likelihood(logits, labels)),
        "ece": digits(metrics.expected_calibration_error(logits, labels)), "counts": counts.tolist()}
    if exact is not None:
        found["expected"] = [digits(value) for value in bayes.expected_topk(logits, exact).tolist()]
    return found


def _class_probabilities(config: RunConfig, inputs: Tensor) -> Tensor | None:
    """Of each class at each point, (n, C), where they are known."""
    if config.dataset != "synthetic" or config.family is None:
        return None
    options = {name: value for name, value in config.family_options.items() if name != "n"}
    return FAMILIES[config.family](inputs.float(), **options)


def digits(value: float) -> float:
    """Seven digits, all that single precision has: records of many models stay small."""
    return float(f"{value:.7g}")
