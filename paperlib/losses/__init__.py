"""Losses for top-k classification behind one signature.

Every loss is a function ``loss(logits, labels, *, k=5, <options>, weight=None, ignore_index=-100,
reduction="mean")``: logits float (N, C) or (N, C, d...), labels int64 (N,) or (N, d...). Shapes, dtypes and options
are always checked. Label range and NaN logits are checked in eager mode on CPU (``ValueError``), asserted without
waiting for the device on CUDA, and skipped under ``torch.compile`` and ``torch.func`` transforms.
"""

import difflib
import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from paperlib.losses import entropy, grouped, hinge, likelihood, smooth_svm, soft_topk, sorting
from paperlib.losses._common import LossSpec
from paperlib.losses.entropy import topk_entropy, truncated_topk_entropy
from paperlib.losses.grouped import topk_grouped, topk_transition
from paperlib.losses.hinge import (
    consistent_topk_hinge,
    imbalanced_margins,
    noised_topk_hinge,
    topk_hinge_alpha,
    topk_hinge_beta,
)
from paperlib.losses.likelihood import cross_entropy, ldr_kl
from paperlib.losses.mixture import expected_loss
from paperlib.losses.smooth_svm import smooth_topk_svm
from paperlib.losses.soft_topk import lapsum_topk
from paperlib.losses.sorting import difftopk_cross_entropy

__all__ = ["BoundLoss", "LossSpec", "SPECS", "consistent_topk_hinge", "cross_entropy", "difftopk_cross_entropy",
           "expected_loss", "get", "imbalanced_margins", "lapsum_topk", "ldr_kl", "names", "noised_topk_hinge",
           "options", "smooth_topk_svm", "topk_entropy", "topk_grouped", "topk_hinge_alpha", "topk_hinge_beta",
           "topk_transition", "truncated_topk_entropy"]

_FAMILIES = (likelihood, grouped, hinge, entropy, smooth_svm, sorting, soft_topk)

#: Every loss by name.
SPECS: dict[str, LossSpec] = {spec.name: spec for family in _FAMILIES
                              for spec in family.SPECS}

_SHARED = ("weight", "ignore_index", "reduction")


def names() -> list[str]:
    """The losses that :func:`get` knows."""
    return list(SPECS)


def options(name: str) -> dict[str, Any]:
    """A loss's own options with their defaults, ``k`` among them where it takes one."""
    parameters = inspect.signature(_find(name).function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _SHARED}


@dataclass(frozen=True)
class BoundLoss:
    """A loss with its options chosen: ``loss(logits, labels, **overrides)``. Picklable and stateless."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, logits: Tensor, labels: Tensor, **overrides: Any) -> Tensor:
        """The loss; ``overrides`` replace single options for this call."""
        if overrides:
            _check_names(self.name, overrides)
        return SPECS[self.name].function(logits, labels, **{**self.options, **overrides})


def get(name: str, **chosen: Any) -> BoundLoss:
    """The named loss with options chosen.

    Raises:
        ValueError: unknown name or option; the message names the nearest and all valid ones.
    """
    _find(name)
    _check_names(name, chosen)
    return BoundLoss(name, chosen)


def _find(name: str) -> LossSpec:
    if not isinstance(name, str) or name not in SPECS:
        raise ValueError(f"unknown loss {name!r}{_nearest(name, names())} Valid losses: {', '.join(names())}")
    return SPECS[name]


def _check_names(name: str, chosen: dict[str, Any]) -> None:
    valid = [*options(name), *_SHARED]
    for key in chosen:
        if key not in valid:
            raise ValueError(f"unknown option {key!r} of loss {name!r}{_nearest(key, valid)} "
                             f"Valid options: {', '.join(valid)}")


def _nearest(word: object, words: list[str]) -> str:
    near = difflib.get_close_matches(str(word).lower(), words, n=1, cutoff=0.5)
    return f": did you mean {near[0]!r}?" if near else "."
