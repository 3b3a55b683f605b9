"""The contract that every loss keeps.

Each `check_*` takes a loss, called as `loss(logits, labels, **overrides)`, and its `Case`, and compares it with
the plain reference of that name. `test_contract` runs every check on every case; `test_mutations.py` hands the same
checks losses that are broken on purpose. Constant seeds throughout; float64 unless a check is about another dtype.
"""

import copy
import inspect
import itertools
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import reference
import torch
import torch._dynamo.testing
from reference import REFERENCES
from torch import Tensor
from torch.testing import assert_close

from paperlib import losses

C = 6
SCALES = (1e-2, 1.0, 1e2)
EXACT = {"rtol": 1e-10, "atol": 1e-10}
SAME = {"rtol": 1e-12, "atol": 1e-12}
SINGLE = {"rtol": 1e-5, "atol": 1e-5}


@dataclass(frozen=True)
class Case:
    """A loss under one set of options; `k` is varied by the checks."""

    name: str
    options: dict = field(default_factory=dict)

    @property
    def id(self) -> str:
        shown = (f"{key}={v.item() if isinstance(v, Tensor) else v}" for key, v in self.options.items())
        return f"{self.name}({','.join(shown)})"

    def ks(self, *chosen: int) -> list[dict]:
        """The arguments that set k: all of 1..C-1 or those chosen; one empty dict for a loss without k."""
        return [{"k": k} for k in chosen or range(1, C)] if REFERENCES[self.name].takes_k else [{}]

    def values(self, logits: Tensor, labels: Tensor, **k) -> Tensor:
        return reference.values(self.name, logits, labels, **self.options, **k)

    def gradients(self, logits: Tensor, labels: Tensor, **k) -> Tensor:
        return reference.gradients(self.name, logits, labels, **self.options, **k)


@dataclass(frozen=True)
class FixedNoise:
    """A loss that is given the same draws for every row, those of its reference."""

    loss: Callable

    def __call__(self, logits: Tensor, labels: Tensor, **options) -> Tensor:
        draws = reference.DRAWS[:, : logits.shape[1]].reshape(-1, 1, logits.shape[1], *[1] * (logits.dim() - 2))
        return self.loss(logits, labels, noise=draws.expand(-1, *logits.shape), **options)


# --------------------------------------------------------------------------------------------------- inputs


def rows(seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """C random rows; the label of row i has rank i + 1, so each check meets y at rank 1, k and k + 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(C, C, dtype=torch.float64, generator=generator) * scale).to(dtype)
    return logits, logits.argsort(dim=1, descending=True).diagonal().clone()


def spaced_rows(seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """As `rows`, no two logits of a row closer than half of `scale`: far from ties for finite differences."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(C, generator=generator) for _ in range(C)])
    logits = (order + 0.5 * torch.rand(C, C, dtype=torch.float64, generator=generator)) * scale
    return logits, logits.argsort(dim=1, descending=True).diagonal().clone()


def boundary_rows(k: int) -> tuple[Tensor, Tensor]:
    """Rows in descending order, each class once as the label: no tie, s_[k] = s_[k+1], wider ties, all equal."""
    plain = torch.arange(C, 0, -1, dtype=torch.float64)
    at_boundary, wide, flat = plain.clone(), plain.clone(), torch.zeros(C, dtype=torch.float64)
    at_boundary[k] = at_boundary[k - 1]
    wide[max(k - 2, 0) : k + 2] = wide[k]
    logits = torch.stack([plain, at_boundary, wide, flat]).repeat_interleave(C, dim=0)
    return logits, torch.arange(C).repeat(4)


def masked_rows(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Random rows in which 1..C-1 classes other than the label are masked."""
    logits, labels = (t.repeat_interleave(C - 1, dim=0) for t in rows(1, 2.0, dtype))
    generator = torch.Generator().manual_seed(2)
    for i, label in enumerate(labels.tolist()):
        others = [j for j in torch.randperm(C, generator=generator).tolist() if j != label]
        logits[i, others[: 1 + i % (C - 1)]] = -torch.inf
    return logits, labels


def gradient(loss: Callable, logits: Tensor, labels: Tensor, **options) -> Tensor:
    """Gradient of each row's own loss, or of the batch's with `reduction`; shape of `logits`."""
    leaf = logits.detach().clone().requires_grad_()
    loss(leaf, labels, **{"reduction": "none", **options}).sum().backward()
    return leaf.grad


# --------------------------------------------------------------------------------------------------- checks


def check_values(loss: Callable, case: Case) -> None:
    for k, scale in itertools.product(case.ks(), SCALES):
        logits, labels = rows(3, scale)
        before = logits.clone()
        actual = loss(logits, labels, reduction="none", **k)
        assert_close(actual, case.values(logits, labels, **k), **EXACT, msg=about(k, scale))
        assert torch.equal(logits, before), "the loss changed its input"


def check_gradients(loss: Callable, case: Case) -> None:
    for k, scale in itertools.product(case.ks(), SCALES):
        logits, labels = rows(4, scale)
        expected = case.gradients(logits, labels, **k)
        assert_close(gradient(loss, logits, labels, **k), expected, rtol=1e-9, atol=1e-9, msg=about(k, scale))


def check_gradcheck(loss: Callable, case: Case) -> None:
    for k, scale in itertools.product(case.ks(1, 3, C - 1), (0.1, 1.0, 10.0)):
        logits, labels = spaced_rows(5, scale)

        def rowwise(x: Tensor, labels: Tensor = labels, k: dict = k) -> Tensor:
            return loss(x, labels, reduction="none", **k)

        assert torch.autograd.gradcheck(rowwise, logits.requires_grad_(), rtol=1e-6, atol=1e-6)


def check_double_backward(loss: Callable, case: Case) -> None:
    """The gradient has a gradient: its product with a vector, against finite differences of the gradient."""
    for k, scale in itertools.product(case.ks(1, 3, C - 1), (0.1, 1.0)):
        logits, labels = spaced_rows(24, scale)

        def total(x: Tensor, labels: Tensor = labels, k: dict = k) -> Tensor:
            return loss(x, labels, reduction="sum", **k)

        assert torch.autograd.gradgradcheck(total, logits.requires_grad_(), rtol=1e-5, atol=1e-6)


def check_boundary(loss: Callable, case: Case) -> None:
    """Ranks 1, k and k + 1, and ties; a label tied with s_[k+1] counts as outside the top k."""
    for k in case.ks():
        logits, labels = boundary_rows(k.get("k", 2))
        actual = loss(logits, labels, reduction="none", **k)
        assert_close(actual, case.values(logits, labels, **k), **EXACT, msg=about(k))
        slope = gradient(loss, logits, labels, **k)
        assert_close(slope.sum(dim=1), torch.zeros(len(slope), dtype=slope.dtype), **EXACT, msg=about(k))


def check_class_order(loss: Callable, case: Case) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for k in case.ks():
        tied = boundary_rows(k.get("k", 2))
        for logits, labels in (rows(6), tied):
            expected = loss(logits, labels, reduction="none", **k)
            actual = loss(logits[:, order], order.argsort()[labels], reduction="none", **k)
            assert_close(actual, expected, **SAME, msg=about(k))


def check_rows_are_independent(loss: Callable, case: Case) -> None:
    for k in case.ks(1, 2, C - 1):
        logits, labels = rows(7, 3.0)
        alone = [loss(logits[i : i + 1], labels[i : i + 1], **k) for i in range(C)]
        assert_close(loss(logits, labels, reduction="none", **k), torch.stack(alone), **SAME, msg=about(k))


def check_shift(loss: Callable, case: Case) -> None:
    """Adding a constant to a row changes nothing, so the rows of the gradient sum to zero."""
    for k, shift in itertools.product(case.ks(1, 2, C - 1), (-1e4, 1e4)):
        logits, labels = rows(8)
        actual = loss(logits + shift, labels, reduction="none", **k)
        assert_close(actual, loss(logits, labels, reduction="none", **k), rtol=1e-9, atol=1e-9, msg=about(k))
        total = gradient(loss, logits, labels, **k).sum(dim=1)
        assert_close(total, torch.zeros_like(total), **EXACT, msg=about(k))


def check_float32(loss: Callable, case: Case) -> None:
    for k, scale in itertools.product(case.ks(1, 3, C - 1), SCALES):
        logits, labels = rows(9, scale, torch.float32)
        actual = loss(logits, labels, reduction="none", **k)
        assert actual.dtype == torch.float32
        # Rounding is relative to the logits: a cross entropy of 100 leaves its mark on a blend that is near 0.
        close = {"rtol": 1e-5, "atol": 1e-6 * max(scale, 1.0)}
        assert_close(actual.double(), case.values(logits, labels, **k), **close, msg=about(k, scale))
        slope = gradient(loss, logits, labels, **k).double()
        assert_close(slope, case.gradients(logits, labels, **k), rtol=1e-4, atol=1e-5, msg=about(k, scale))


def check_half_precision(loss: Callable, case: Case) -> None:
    """Half-precision logits are computed in float32: the loss is that of their float32 copy."""
    for k, dtype in itertools.product(case.ks(1, 3), (torch.float16, torch.bfloat16)):
        logits, labels = rows(10, 5.0, dtype)
        for reduction in ("none", "mean"):
            actual = loss(logits, labels, reduction=reduction, **k)
            expected = loss(logits.float(), labels, reduction=reduction, **k)
            assert_close(actual, expected, rtol=1e-6, atol=1e-6, msg=about(k, dtype))
        slope = gradient(loss, logits, labels, **k)
        assert slope.dtype == dtype
        expected = gradient(loss, logits.float(), labels, **k)
        assert_close(slope.float(), expected, rtol=1e-2, atol=1e-3, msg=about(k, dtype))


def check_autocast(loss: Callable, case: Case) -> None:
    for k, dtype in itertools.product(case.ks(3), (torch.float32, torch.bfloat16)):
        logits, labels = rows(11, 5.0, dtype)
        expected, slope = loss(logits, labels, **k), gradient(loss, logits, labels, **k)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_close(loss(logits, labels, **k), expected, rtol=1e-6, atol=1e-6)
            assert_close(gradient(loss, logits, labels, **k), slope, rtol=1e-5, atol=1e-6)


def extreme_rows(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """All rows of four logits out of six sizes up to the dtype's largest, with every label."""
    largest = torch.finfo(dtype).max
    large = min(1e30, largest / 4)
    sizes = [-largest, -large, 0.0, 0.75, large, largest]
    logits = torch.tensor(list(itertools.product(sizes, repeat=4)), dtype=dtype)
    return logits.repeat_interleave(4, dim=0), torch.arange(4).repeat(len(logits))


def check_extreme_logits(loss: Callable, case: Case) -> None:
    """Finite loss and gradient at any finite logits, and right ones unless a difference exceeds the dtype."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        logits, labels = extreme_rows(dtype)
        distinct = torch.tensor([len(set(row)) == 4 for row in logits.tolist()])
        fits = (logits.amax(dim=1) - logits.amin(dim=1)).isfinite() & (logits.abs().amax(dim=1) < 1e40)
        chosen = (distinct & fits).nonzero()[::11, 0]  # 1e40: where 100 digits still tell all logits apart
        for k in case.ks(1, 2, 3):
            actual = loss(logits, labels, reduction="none", **k)
            slope = gradient(loss, logits, labels, **k)
            assert actual.isfinite().all() and slope.isfinite().all(), (k, dtype)
            expected = case.values(logits[chosen], labels[chosen], **k)
            limit = torch.finfo(actual.dtype).max
            exact = case.name not in ROUNDED and case.options.get("method") not in ROUNDED
            if not exact:  # within rounding of the row's largest logit, or beyond the dtype as the exact one
                off = (actual[chosen].double() - expected).abs() / logits[chosen].double().abs().amax(dim=1)
                assert ((off < 1e-5) | (actual[chosen] > limit / 100) & (expected > limit)).all(), (k, dtype)
                continue
            assert_close(actual[chosen].double(), expected.clamp(max=limit), **SINGLE, msg=about(k, dtype))
            if dtype in (torch.float32, torch.float64):
                limit = torch.finfo(dtype).max
                expected = case.gradients(logits[chosen], labels[chosen], **k).clamp(-limit, limit)
                assert_close(slope[chosen].double(), expected, rtol=1e-4, atol=1e-5, msg=about(k, dtype))


def check_extreme_reductions(loss: Callable, case: Case) -> None:
    """A weighted loss, sum or mean beyond the dtype is its largest number; its gradient is still that of the rows."""
    logits, labels = extreme_rows(torch.float32)
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0])
    for k, options in itertools.product(case.ks(1, 2), ({}, {"weight": weight})):
        shares = options["weight"][labels].double() if options else torch.ones(len(labels), dtype=torch.float64)
        slope = gradient(loss, logits, labels, **k).double()
        for reduction, total in (("none", 1.0), ("sum", 1.0), ("mean", shares.sum())):
            kept = {"reduction": reduction, **options, **k}
            assert loss(logits, labels, **kept).isfinite().all(), kept
            reduced = gradient(loss, logits, labels, **kept).double()
            assert reduced.isfinite().all(), kept
            if not case.options.get("label_smoothing"):  # whose smoothed part has weights of its own
                expected = torch.where(slope.abs() <= 2, slope * shares[:, None] / total, reduced)
                assert_close(reduced, expected, rtol=1e-4, atol=1e-6, msg=about(kept))


def check_masked_classes(loss: Callable, case: Case) -> None:
    """A class at minus infinity is absent; with no more than k left, every class left is in the top k."""
    for k, dtype in itertools.product(case.ks(), (torch.float64, torch.float32)):
        tolerance = EXACT if dtype == torch.float64 else SINGLE
        logits, labels = masked_rows(dtype)
        actual = loss(logits, labels, reduction="none", **k)
        assert_close(actual.double(), case.values(logits, labels, **k), **tolerance, msg=about(k, dtype))
        slope = gradient(loss, logits, labels, **k)
        assert (slope[logits == -torch.inf] == 0).all(), (k, dtype)
        assert_close(slope.double(), case.gradients(logits, labels, **k), **tolerance, msg=about(k, dtype))


def check_masked_label(loss: Callable, case: Case) -> None:
    """Infinite loss, zero gradient; the other rows of the batch do not notice."""
    for k in case.ks():
        logits, labels = rows(12)
        expected, slope = loss(logits, labels, reduction="none", **k), gradient(loss, logits, labels, **k)
        logits[1, labels[1]] = logits[4, labels[4]] = -torch.inf
        logits[4] = -torch.inf
        expected[[1, 4]], slope[[1, 4]] = torch.inf, 0.0
        assert_close(loss(logits, labels, reduction="none", **k), expected, **SAME, msg=about(k))
        assert loss(logits, labels, **k) == torch.inf, k
        assert_close(gradient(loss, logits, labels, **k), slope, **SAME, msg=about(k))
        assert_close(gradient(loss, logits, labels, reduction="mean", **k), slope / C, **SAME, msg=about(k))


def check_reductions(loss: Callable, case: Case) -> None:
    for k in case.ks(2):
        logits, labels = rows(13)
        expected = case.values(logits, labels, **k)
        assert loss(logits, labels, reduction="none", **k).shape == (C,)
        assert_close(loss(logits, labels, reduction="sum", **k), expected.sum(), **EXACT)
        assert_close(loss(logits, labels, reduction="mean", **k), expected.mean(), **EXACT)
        assert_close(loss(logits, labels, **k), expected.mean(), **EXACT)


def check_weight(loss: Callable, case: Case) -> None:
    """Each sample counts by the weight of its label; the mean divides by the weights of the kept samples."""
    weight = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 0.25], dtype=torch.float64)
    for k in case.ks(2):
        logits, labels = rows(14)
        expected = case.values(logits, labels, **k) * weight[labels]
        labels[[0, 3]], expected[[0, 3]] = -100, 0.0
        kept = weight[labels[labels != -100]].sum()
        reductions = {"none": expected, "sum": expected.sum(), "mean": expected.sum() / kept}
        for reduction, value in reductions.items():
            assert_close(loss(logits, labels, weight=weight, reduction=reduction, **k), value, **EXACT)
        half = loss(logits.bfloat16(), labels, weight=weight.float(), **k)
        assert half.dtype == torch.float32
        assert_close(half.double(), expected.sum() / kept, rtol=0.05, atol=0.05)


def check_ignored(loss: Callable, case: Case) -> None:
    """Ignored samples add nothing, whatever their logits; as in torch a mean over none is NaN and a sum is 0."""
    for k, ignored in itertools.product(case.ks(1, 3), (-100, -1, 2, 255)):
        logits, labels = rows(15)
        labels = torch.where(labels == ignored, 0, labels)
        expected, slope = loss(logits, labels, reduction="none", **k), gradient(loss, logits, labels, **k)
        logits[1], logits[4] = -torch.inf, torch.finfo(torch.float64).max
        labels[[1, 4]], expected[[1, 4]], slope[[1, 4]] = ignored, 0.0, 0.0
        kept = {"ignore_index": ignored, **k}
        assert_close(loss(logits, labels, reduction="none", **kept), expected, **SAME, msg=about(kept))
        assert_close(loss(logits, labels, **kept), expected.sum() / (C - 2), **SAME, msg=about(kept))
        assert_close(gradient(loss, logits, labels, **kept), slope, **SAME, msg=about(kept))

        nothing = torch.full((C,), ignored)
        for batch in ((logits, nothing), (logits[:0], labels[:0])):
            none = loss(*batch, reduction="none", **kept)
            assert none.shape == batch[1].shape and (none == 0).all(), kept
            assert loss(*batch, reduction="sum", **kept) == 0, kept
            assert loss(*batch, **kept).isnan(), kept
            assert (gradient(loss, *batch, **kept) == 0).all(), kept


def check_more_dimensions(loss: Callable, case: Case) -> None:
    """Logits (N, C, d, ...) with labels (N, d, ...): each position is a sample."""
    generator = torch.Generator().manual_seed(16)
    logits = torch.randn(2, C, 3, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(C, (2, 3, 4), generator=generator)
    labels[0, 1, 2] = -100
    weight = torch.rand(C, dtype=torch.float64, generator=generator)
    flat = logits.permute(0, 2, 3, 1).reshape(-1, C), labels.reshape(-1)
    for k, reduction in itertools.product(case.ks(2), ("none", "sum", "mean")):
        for options in ({}, {"weight": weight}):
            expected = loss(*flat, reduction=reduction, **options, **k)
            expected = expected.reshape(labels.shape) if reduction == "none" else expected
            assert_close(loss(logits, labels, reduction=reduction, **options, **k), expected, **SAME)


def check_pickle(loss: Callable, case: Case) -> None:
    for k in case.ks(2):
        for clone in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
            assert torch.equal(clone(*rows(17), **k), loss(*rows(17), **k))


def check_overrides(loss: Callable, case: Case) -> None:
    """Options given to `get` hold until the call says otherwise."""
    logits, labels = rows(18)
    bound = losses.get(case.name, **case.options, **case.ks(4)[0], reduction="sum")
    assert torch.equal(bound(logits, labels), loss(logits, labels, reduction="sum", **case.ks(4)[0]))
    assert torch.equal(
        bound(logits, labels, reduction="none", **case.ks(2)[0]),
        getattr(losses, case.name)(logits, labels, reduction="none", **case.options, **case.ks(2)[0]),
    )


def check_vmap(loss: Callable, case: Case) -> None:
    """An extra leading dimension: a batch of models. Checks that read values are off there."""
    batches = [rows(seed, 2.0) for seed in (19, 20, 21)]
    logits, labels = (torch.stack(t) for t in zip(*batches, strict=True))
    for k in case.ks(1, 3):
        values = torch.func.vmap(lambda x, y, k=k: loss(x, y, reduction="none", **k))(logits, labels)
        assert_close(values, torch.stack([loss(*b, reduction="none", **k) for b in batches]), **SAME)
        slope = torch.func.grad(lambda x, y, k=k: loss(x, y, reduction="sum", **k))
        slopes = torch.func.vmap(slope)(logits, labels)
        assert_close(slopes, torch.stack([gradient(loss, *b, **k) for b in batches]), **SAME)


def check_compile(loss: Callable, case: Case) -> None:
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    logits, labels = rows(22)
    weight = torch.arange(1, C + 1, dtype=torch.float64)
    for k, options in itertools.product(case.ks(3), ({}, {"weight": weight, "ignore_index": int(labels[0])})):
        outcomes = []
        for version in (loss, compiled):
            leaf = logits.clone().requires_grad_()
            value = version(leaf, labels, **options, **k)
            value.backward()
            outcomes.append((value.detach(), leaf.grad))
            if not options:  # as in evaluation, where nothing asks for a gradient
                with torch.no_grad():
                    assert_close(version(logits, labels, **k), value.detach(), **SAME)
        assert_close(outcomes[1], outcomes[0], **SAME)


def about(*circumstances) -> Callable[[str], str]:
    """For `assert_close`: the message that also names k, scale or dtype."""
    return lambda message="": f"{circumstances}: {message}"


# ---------------------------------------------------------------------------------------------------- tests

CASES = [Case(name, options) for name, entry in REFERENCES.items() for options in entry.options]
CHECKS = {name.removeprefix("check_"): f for name, f in list(globals().items()) if name.startswith("check_")}


#: Losses and methods that add scores up, with why they know them only to the rounding of the largest among them.
ROUNDED = {
    "topk_hinge_alpha": "a mean of k scores: 1e30 - 1e30 + 1 is 0",
    "topk_entropy": "a mean of up to k scores",
    "noised_topk_hinge": "noise is lost beside a score of 1e30",
    "lapsum_topk": "the threshold lies in the middle of a gap and shifts with both of its ends",
    "neuralsort": "compares each score with the sum of its distances to all",
    "softsort": "compares distances between scores, which coincide once the scores differ by 1e30",
}


def exemption(check: str, case: Case) -> str | None:
    """Why a check does not apply to a case: the only place for exceptions."""
    moving_gate = case.name == "topk_transition" and case.options.get("gate") != "none"
    if check in ("gradcheck", "double_backward") and moving_gate and case.options.get("detach_gate", True):
        return "the gate is a constant to the gradient: `gradients` compares with a reference that fixes it"
    if check == "class_order" and case.options.get("eps"):
        return "the test's noise belongs to the classes: test_losses_identities.py moves both"
    if check == "overrides" and case.options.get("eps"):
        return "draws its own noise: test_losses_identities.py holds it to the options"
    if check == "weight" and case.options.get("label_smoothing"):
        return "torch weighs the smoothed part class by class: test_losses_identities.py compares with torch"
    return None


FLAGS = ("label_smoothing", "eps", "p_k")


def branches(case: Case) -> tuple:
    """The options that choose between code paths: one compilation of each combination is enough."""
    return case.name, *(case.options.get(o) for o in ("gate", "blend", "method")), *(o in case.options for o in FLAGS)


COMPILED = list({branches(case): case for case in reversed(CASES)}.values())
PAIRS = [(check, case) for check in CHECKS for case in (COMPILED if check == "compile" else CASES)]


@pytest.mark.parametrize(("check", "case"), PAIRS, ids=lambda x: x if isinstance(x, str) else x.id)
def test_contract(check: str, case: Case) -> None:
    if reason := exemption(check, case):
        pytest.skip(reason)
    loss = losses.get(case.name, **case.options)
    CHECKS[check](FixedNoise(loss) if case.options.get("eps") else loss, case)


def test_every_loss_has_a_reference() -> None:
    assert set(losses.names()) == set(REFERENCES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_single_precision_holds_with_many_classes(case: Case) -> None:
    """In rows long enough for every short cut; double precision itself is held to the references above."""
    generator = torch.Generator().manual_seed(27)
    logits = torch.randn(12, 1500, generator=generator) * 3
    labels = logits.argsort(dim=1, descending=True)[torch.arange(12), torch.arange(12) * 3]
    loss = losses.get(case.name, **case.options)
    draws = torch.randn(3, 12, 1500, generator=generator)
    noise = {"noise": draws} if case.options.get("eps") else {}
    for k in case.ks(1, 5, 40):
        single, double = loss(logits, labels, reduction="none", **noise, **k), loss(
            logits.double(), labels, reduction="none", **noise, **k
        )
        assert_close(single.double(), double, rtol=1e-4, atol=1e-5, msg=about(k))
        slope = gradient(loss, logits, labels, **noise, **k).double()
        assert_close(slope, gradient(loss, logits.double(), labels, **noise, **k), rtol=1e-3, atol=1e-5, msg=about(k))


TOPK = {"k": 5}
SIGNATURES = {  # the public interface that stays put
    "cross_entropy": {"label_smoothing": 0.0},
    "topk_grouped": TOPK,
    "topk_hinge_alpha": TOPK,
    "topk_hinge_beta": TOPK,
    "topk_entropy": TOPK,
    "truncated_topk_entropy": TOPK,
    "consistent_topk_hinge": TOPK,
    "topk_transition": {
        "k": 5, "gate": "ratio", "tau": 1.0, "margin": 1.0, "strength": 1.0, "detach_gate": True,
        "blend": "probability",
    },
    "smooth_topk_svm": {**TOPK, "tau": 1.0, "margin": 1.0},
    "noised_topk_hinge": {**TOPK, "eps": 1.0, "num_samples": 5, "noise": None, "generator": None, "margins": None},
    "difftopk_cross_entropy": {**TOPK, "p_k": None, "method": "odd_even", "steepness": 2.0, "m": None},
    "lapsum_topk": {**TOPK, "alpha": 1.0},
    "ldr_kl": {"lam": 1.0, "c": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_signature(name: str) -> None:
    logits, labels, *rest = inspect.signature(getattr(losses, name)).parameters.values()
    assert (logits.name, labels.name) == ("logits", "labels")
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in rest)
    shared = {"weight": None, "ignore_index": -100, "reduction": "mean"}
    assert {parameter.name: parameter.default for parameter in rest} == SIGNATURES[name] | shared


def test_one_graph_serves_every_strength() -> None:
    """A 0-d tensor is how a schedule changes the strength without compiling anew at each step."""
    torch.compiler.reset()
    graphs = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(losses.topk_transition, fullgraph=True, backend=graphs)
    for strength in (0.0, 0.25, 1.0):
        expected = losses.topk_transition(*rows(), k=2, strength=strength)
        assert_close(compiled(*rows(), k=2, strength=torch.tensor(strength)), expected, **SAME)
    assert graphs.frame_count == 1


def test_other_values_of_an_option_compile_as_well() -> None:
    """The second value of a number becomes a symbol to the compiler, which the checks must take for a number."""
    torch.compiler.reset()
    compiled = torch.compile(losses.topk_transition, fullgraph=True, backend="eager")
    for k, tau in ((1, 0.5), (2, 1.5), (3, 2.5)):
        assert_close(compiled(*rows(), k=k, tau=tau), losses.topk_transition(*rows(), k=k, tau=tau), **SAME)


def test_a_schedule_may_move_on_before_the_backward_pass() -> None:
    strength, (logits, labels) = torch.tensor(0.5), rows()
    leaf = logits.clone().requires_grad_()
    value = losses.topk_transition(leaf, labels, k=3, strength=strength, reduction="sum")
    strength.fill_(0.9)
    value.backward()
    assert torch.equal(leaf.grad, gradient(losses.topk_transition, logits, labels, k=3, strength=0.5))


@pytest.mark.parametrize("per_model", [0.0, 0.5, 1.0], ids=lambda s: f"strength={s}")
def test_models_trained_together_have_their_own_strength(per_model: float) -> None:
    logits, labels = rows()
    strengths = torch.tensor([per_model, 0.3], dtype=torch.float64)
    together = torch.func.vmap(lambda w: losses.topk_transition(logits, labels, k=2, strength=w))(strengths)
    alone = [losses.topk_transition(logits, labels, k=2, strength=w) for w in strengths]
    assert_close(together, torch.stack(alone), **SAME)


@pytest.mark.parametrize("shape", [(), (2,)], ids=["rows", "trailing dimension"])
@pytest.mark.parametrize("blend", ["probability", "loss"])
def test_every_sample_may_have_its_own_strength(blend: str, shape: tuple[int, ...]) -> None:
    draws = torch.Generator().manual_seed(5)
    logits = torch.randn(8, 5, *shape, generator=draws, dtype=torch.float64)
    labels = torch.randint(5, (8, *shape), generator=draws)
    strengths = torch.rand(8, *shape, generator=draws, dtype=torch.float64)
    options = {"k": 3, "gate": "linear", "blend": blend, "detach_gate": False}
    leaf = logits.clone().requires_grad_()
    together = losses.topk_transition(leaf, labels, strength=strengths, reduction="none", **options)
    assert together.shape == labels.shape
    together.sum().backward()
    for place in itertools.product(*map(range, labels.shape)):
        row, *rest = place
        own = logits[(row, slice(None), *rest)].clone().requires_grad_()
        alone = losses.topk_transition(own[None], labels[place][None], strength=float(strengths[place]), **options)
        alone.backward()
        assert_close(together[place], alone, **SAME)
        assert_close(leaf.grad[(row, slice(None), *rest)], own.grad, **SAME)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["topk_transition", "topk_entropy"])
def test_generated_code_agrees(name: str) -> None:
    """Under inductor, which fuses and reorders; `compile` checks that every loss can be captured."""
    torch.compiler.reset()
    compiled = torch.compile(getattr(losses, name), fullgraph=True)
    logits, labels = rows(25, 3.0)
    leaf = logits.clone().requires_grad_()
    compiled(leaf, labels, k=3, reduction="sum").backward()
    assert_close(leaf.grad, gradient(getattr(losses, name), logits, labels, k=3), **EXACT)
    assert_close(compiled(logits, labels, k=3), getattr(losses, name)(logits, labels, k=3), **EXACT)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_and_never_waits() -> None:
    for case in CASES:
        loss, k = losses.get(case.name, **case.options), case.ks(2)[0]
        on_device = [tensor.cuda() for tensor in rows(23)]
        torch.cuda.set_sync_debug_mode("error")
        try:
            value, slope = loss(*on_device, **k), gradient(loss, *on_device, **k)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert_close(value.cpu(), loss(*rows(23), **k), **SAME, msg=about(case.id))
        assert_close(slope.cpu(), gradient(loss, *rows(23), **k), **SAME, msg=about(case.id))
