"""The contract must notice: losses broken on purpose, one bug each, against the checks that have to catch it.

Two kinds of mutants: a plain copy of the transition loss with a bug inside, and a real loss wrapped in a bug.
The plain copy without a bug passes the same checks, so it is the bug that fails them; no check goes without a
mutant.
"""

import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from reference import REFERENCES
from test_losses_contract import CHECKS, Case
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from paperlib import losses

CAUGHT = {  # how a check complains, where it is not by an assertion
    "compile": RuntimeError,
    "vmap": RuntimeError,
    "gradcheck": GradcheckError,
    "double_backward": GradcheckError,
    "pickle": (AttributeError, pickle.PicklingError),
}


def plain_transition(
    logits: Tensor,
    labels: Tensor,
    *,
    bug: str | None = None,
    k: int = 5,
    gate: str = "ratio",
    tau: float = 1.0,
    margin: float = 1.0,
    strength: float = 1.0,
    detach_gate: bool = True,
    blend: str = "probability",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """The transition loss straight from its definition, for logits of ordinary size; `bug` names what is broken."""
    k += {"k + 1": 1, "k - 1": -1}.get(bug, 0)
    k = min(max(k, 1), logits.shape[1] - 1)
    keep = labels != ignore_index
    y = torch.where(keep, labels, 0)[:, None]
    p = logits.softmax(dim=1)
    p_y, s_y = p.gather(1, y)[:, 0], logits.gather(1, y)[:, 0]
    best = logits.topk(k + 1, dim=1)
    in_group = torch.zeros_like(p).scatter(1, best.indices[:, :k], 1.0)
    gap = s_y - best.values[:, k]
    inside = gap > 0
    if bug == "a tie counts as inside":
        inside = gap >= 0
    if bug == "inside by index":
        inside = in_group.gather(1, y)[:, 0] > 0
    if bug != "the label counts twice":
        in_group = in_group.scatter(1, y, 0.0)
    rest = (p * in_group).sum(dim=1)
    depth = gap.detach() if detach_gate != (bug == "detached the wrong way round") else gap
    if bug == "tau in the numerator":
        tau = 1 / tau
    if gate == "ratio":
        g = 1 - (-depth / tau).exp()
    else:
        g = (depth / margin).clamp(0, 1) if gate == "linear" else torch.ones_like(depth)
    if bug == "the gate of the batch":
        g = g.mean().expand_as(g)
    w = g if bug == "strength forgotten" else strength * g
    if bug == "no group":
        w = torch.zeros_like(w)
    if (blend == "probability") != (bug == "blends swapped"):
        value = -(p_y + w * rest).log()
    else:
        value = -(1 - w) * p_y.log() - w * (p_y + rest).log()
    value = torch.where(inside, value, -p_y.log())
    shares = torch.ones_like(value) if weight is None or bug == "weight forgotten" else weight[y[:, 0]]
    if bug != "ignored samples count":
        shares = shares * keep
    value = value * shares
    if reduction == "none":
        return value
    divisor = len(labels) if bug == "mean over all samples" else shares.sum()
    return value.sum() if reduction == "sum" or bug == "mean is a sum" else value.sum() / divisor


DEFAULT, EXACT_GATE = {}, {"detach_gate": False}
COPIES = [  # bug, options, the checks that have to catch it
    ("k + 1", DEFAULT, ["values", "gradients", "boundary"]),
    ("k - 1", DEFAULT, ["values", "gradients", "boundary"]),
    ("a tie counts as inside", {"gate": "none", "strength": 0.3}, ["boundary"]),
    ("inside by index", {"gate": "none", "strength": 0.3}, ["boundary", "class_order"]),
    ("the label counts twice", DEFAULT, ["values", "boundary"]),
    ("detached the wrong way round", DEFAULT, ["gradients"]),
    ("detached the wrong way round", EXACT_GATE, ["gradients", "gradcheck"]),
    ("tau in the numerator", {"tau": 0.2, "strength": 0.7}, ["values"]),
    ("the gate of the batch", DEFAULT, ["values", "rows_are_independent"]),
    ("strength forgotten", {"gate": "linear", "strength": 0.7, **EXACT_GATE}, ["values"]),
    ("no group", DEFAULT, ["values", "reductions"]),
    ("blends swapped", {"blend": "loss", "strength": 0.5}, ["values", "gradients"]),
    ("weight forgotten", DEFAULT, ["weight"]),
    ("ignored samples count", DEFAULT, ["weight"]),
    ("mean over all samples", DEFAULT, ["weight"]),
    ("mean is a sum", DEFAULT, ["reductions", "weight"]),
]


@pytest.mark.parametrize(("bug", "options", "checks"), COPIES, ids=[bug for bug, *_ in COPIES])
def test_a_broken_copy_is_caught(bug: str, options: dict, checks: list[str]) -> None:
    case = Case("topk_transition", options)
    for check in checks:
        CHECKS[check](partial(plain_transition, **options), case)
        with pytest.raises(CAUGHT.get(check, AssertionError)):
            CHECKS[check](partial(plain_transition, bug=bug, **options), case)


def grouped(logits: Tensor, labels: Tensor, **options) -> Tensor:
    return losses.topk_grouped(logits, labels, **options)


def without_gradient_to_the_best(logits: Tensor, labels: Tensor, **options) -> Tensor:
    """Right values, and a gradient that forgets the largest score."""
    best = torch.zeros_like(logits, dtype=torch.bool).scatter(1, logits.argmax(dim=1, keepdim=True), True)
    return grouped(torch.where(best, logits.detach(), logits), labels, **options)


def overflowing(logits: Tensor, labels: Tensor, reduction: str = "mean", **options) -> Tensor:
    value = logits.exp().sum(dim=1).log() - logits.gather(1, labels[:, None])[:, 0]
    return value if reduction == "none" else getattr(value, reduction)()


def reduced_carelessly(logits: Tensor, labels: Tensor, reduction: str = "mean", **options) -> Tensor:
    value = grouped(logits, labels, reduction="none", **options)
    return value if reduction == "none" else getattr(value, reduction)()


def branching(logits: Tensor, labels: Tensor, **options) -> Tensor:
    return grouped(logits, labels, **options) * (1.0 if logits.sum() > 0 else 1.0)


def last_dimension(logits: Tensor, labels: Tensor, **options) -> Tensor:
    """Takes (N, C, d...) for (N, d..., C)."""
    return grouped(logits.reshape(len(logits), *logits.shape[2:], -1).movedim(-1, 1), labels, **options)


def without_second_derivative(logits: Tensor, labels: Tensor, **options) -> Tensor:
    """Right values and a right gradient that claims to be constant."""
    leaf = logits.detach().requires_grad_()
    value = grouped(leaf, labels, **options)
    (slope,) = torch.autograd.grad(value, leaf)
    return value.detach() + ((logits - logits.detach()) * slope).sum()


SMOOTH = {"label_smoothing": 0.1}
WRAPPED = {  # what is broken: the loss, its case, the checks that have to catch it
    "gradient lost at the top": (
        without_gradient_to_the_best,
        Case("topk_grouped"),
        ["gradients", "gradcheck", "shift", "boundary", "masked_classes"],
    ),
    "its gradient has no gradient": (without_second_derivative, Case("topk_grouped"), ["double_backward"]),
    "exp overflows": (overflowing, Case("cross_entropy"), ["shift", "extreme_logits"]),
    "sum overflows": (reduced_carelessly, Case("topk_grouped"), ["extreme_reductions", "weight"]),
    "logits are not free of a shift": (
        lambda logits, labels, **o: grouped(logits, labels, **o) + 1e-6 * logits.sum(),
        Case("topk_grouped"),
        ["shift", "values"],
    ),
    "depends on class numbers": (
        lambda logits, labels, **o: grouped(logits + 1e-6 * torch.arange(logits.shape[1]), labels, **o),
        Case("topk_grouped"),
        ["class_order", "boundary"],
    ),
    "changes its input": (
        lambda logits, labels, **o: grouped(logits.sub_(1.0), labels, **o),
        Case("topk_grouped"),
        ["values"],
    ),
    "returns the precision it came in": (
        lambda logits, labels, **o: grouped(logits, labels, **o).to(logits.dtype),
        Case("topk_grouped"),
        ["half_precision"],
    ),
    "computes in half precision": (
        lambda logits, labels, **o: grouped(logits.bfloat16().to(logits.dtype), labels, **o),
        Case("topk_grouped"),
        ["float32", "values"],
    ),
    "autocast reaches its products": (
        lambda logits, labels, **o: grouped(logits @ torch.eye(logits.shape[1], dtype=logits.dtype), labels, **o),
        Case("topk_grouped"),
        ["autocast"],
    ),
    "masks are large numbers": (
        lambda logits, labels, **o: grouped(logits.clamp(min=-10.0), labels, **o),
        Case("topk_grouped"),
        ["masked_classes", "masked_label"],
    ),
    "a masked class takes its share of the smoothing": (
        lambda logits, labels, **o: torch.nn.functional.cross_entropy(logits.clamp(min=-1e4), labels, **SMOOTH, **o),
        Case("cross_entropy", SMOOTH),
        ["masked_classes", "masked_label"],
    ),
    "a masked label costs nothing": (
        lambda logits, labels, **o: grouped(logits, labels, **o).nan_to_num(posinf=0.0),
        Case("topk_grouped"),
        ["masked_label"],
    ),
    "an empty mean is zero": (
        lambda logits, labels, **o: grouped(logits, labels, **o).nan_to_num(nan=0.0),
        Case("topk_grouped"),
        ["ignored"],
    ),
    "ignored samples are class 0": (
        lambda logits, labels, ignore_index=-100, **o: grouped(logits, labels.clamp(0, 5), **o),
        Case("topk_grouped"),
        ["ignored"],
    ),
    "k of the call is forgotten": (
        lambda logits, labels, k=5, **o: grouped(logits, labels, k=2, **o),
        Case("topk_grouped"),
        ["overrides", "values"],
    ),
    "a closure": (lambda logits, labels, **o: grouped(logits, labels, **o), Case("topk_grouped"), ["pickle"]),
    "a branch on values": (branching, Case("topk_grouped"), ["compile", "vmap"]),
    "classes in the last dimension": (last_dimension, Case("topk_grouped"), ["more_dimensions"]),
}


@pytest.mark.parametrize(("loss", "case", "checks"), WRAPPED.values(), ids=WRAPPED)
def test_a_broken_wrapper_is_caught(loss: Callable, case: Case, checks: list[str]) -> None:
    for check in checks:
        with pytest.raises(CAUGHT.get(check, AssertionError)):
            CHECKS[check](loss, case)


OFFICIAL = [Case(name, entry.options[0]) for name, entry in REFERENCES.items()]


def off_by_one(loss: Callable, logits: Tensor, labels: Tensor, k: int = 5, **options) -> Tensor:
    return loss(logits, labels, k=min(k + 1, logits.shape[1] - 1), **options)


def summed(loss: Callable, logits: Tensor, labels: Tensor, reduction: str = "mean", **options) -> Tensor:
    return loss(logits, labels, reduction="sum" if reduction == "mean" else reduction, **options)


def without_a_class(loss: Callable, logits: Tensor, labels: Tensor, **options) -> Tensor:
    """Drops every subset, comparator or competitor that holds the weakest class, unless that is the label."""
    lowest = logits.argmin(dim=1, keepdim=True)
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(1, lowest, True)
    return loss(logits.masked_fill(dropped & (lowest != labels[:, None]), -torch.inf), labels, **options)


def steeper(loss: Callable, logits: Tensor, labels: Tensor, **options) -> Tensor:
    """Right values, and a gradient that is a thousandth too large."""
    return loss(1.001 * logits - 0.001 * logits.detach(), labels, **options)


@pytest.mark.parametrize("case", OFFICIAL, ids=lambda case: case.name)
@pytest.mark.parametrize(
    ("bug", "check"),
    [(off_by_one, "values"), (summed, "reductions"), (without_a_class, "values"), (steeper, "gradients")],
    ids=lambda x: x if isinstance(x, str) else x.__name__,
)
def test_every_loss_is_seen_to_break(bug: Callable, check: str, case: Case) -> None:
    if bug is off_by_one and not REFERENCES[case.name].takes_k:
        pytest.skip("takes no k")
    with pytest.raises(AssertionError):
        CHECKS[check](partial(bug, losses.get(case.name, **case.options)), case)


def test_every_check_has_caught_something() -> None:
    assert {check for *_, checks in [*COPIES, *WRAPPED.values()] for check in checks} == set(CHECKS)
