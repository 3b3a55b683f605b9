"""What theory states of the losses: special cases, limits, bounds, monotonicity, and values done by hand."""

from itertools import combinations, product
from math import comb, log

import pytest
import reference
import torch
import torch.nn.functional as F
from test_losses_contract import EXACT, SAME, C, FixedNoise, gradient, rows, spaced_rows
from torch import Tensor
from torch.testing import assert_close

from paperlib.losses import (
    consistent_topk_hinge,
    cross_entropy,
    difftopk_cross_entropy,
    imbalanced_margins,
    lapsum_topk,
    ldr_kl,
    noised_topk_hinge,
    smooth_topk_svm,
    topk_entropy,
    topk_grouped,
    topk_hinge_alpha,
    topk_hinge_beta,
    topk_transition,
    truncated_topk_entropy,
)

KS = range(1, C)
GATES = ("ratio", "linear", "none")
BLENDS = ("probability", "loss")
METHODS = ("odd_even", "bitonic", "neuralsort", "softsort")


def batch(seed: int = 100, n: int = 60, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """Random rows with random labels, so that some are inside the top k and some are not, for every k."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, C, dtype=torch.float64, generator=generator) * scale
    return logits, torch.randint(C, (n,), generator=generator)


def each(loss, logits: Tensor, labels: Tensor, **options) -> Tensor:
    return loss(logits, labels, reduction="none", **options)


def is_inside(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    own = logits.gather(1, labels[:, None])
    return (logits >= own).sum(dim=1) <= k


def same_values_and_gradients(loss, options: dict, other, other_options: dict, **tolerance) -> None:
    for logits, labels in (rows(101), batch()):
        expected = each(other, logits, labels, **other_options)
        assert_close(each(loss, logits, labels, **options), expected, **tolerance)
        expected = gradient(other, logits, labels, **other_options)
        assert_close(gradient(loss, logits, labels, **options), expected, **tolerance)


# ------------------------------------------------------------------------------------------ cross entropy


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weight"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0], ids=lambda s: f"smoothing={s}")
def test_cross_entropy_is_that_of_torch(label_smoothing: float, weighted: bool, reduction: str) -> None:
    weight = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 0.25], dtype=torch.float64) if weighted else None
    flat = batch(102, 2 * 3 * 4)
    deep = flat[0].reshape(2, 3, 4, C).movedim(-1, 1), flat[1].reshape(2, 3, 4)
    for ignore_index, (logits, labels) in product((-100, 2), (flat, deep)):
        options = {
            "weight": weight,
            "label_smoothing": label_smoothing,
            "ignore_index": ignore_index,
            "reduction": reduction,
        }
        expected = F.cross_entropy(logits, labels, **options)
        assert_close(cross_entropy(logits, labels, **options), expected, **SAME)
        expected = gradient(F.cross_entropy, logits, labels, **options)
        assert_close(gradient(cross_entropy, logits, labels, **options), expected, **SAME)


def test_smoothing_weighs_what_masking_leaves() -> None:
    """Class weights, smoothing and a masked class together: torch on the classes that are left."""
    weight = torch.tensor([0.5, 2.0, 9.0, 1.0, 3.0, 0.25], dtype=torch.float64)
    logits, labels = batch(103)
    left = torch.tensor([0, 1, 3, 4, 5])
    masked = logits.clone()
    masked[:, 2] = -torch.inf
    position = torch.tensor([0, 1, -100, 2, 3, 4])[labels]  # label 2 is left out of both
    expected = F.cross_entropy(logits[:, left], position, weight=weight[left], label_smoothing=0.2)
    actual = cross_entropy(masked, labels, weight=weight, label_smoothing=0.2, ignore_index=2)
    assert_close(actual, expected, **SAME)


# ------------------------------------------------------------------------------- grouped and transition


def test_grouped_and_transition_by_hand() -> None:
    """Probabilities .4, .3, .2, .1 and k = 2."""
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log().expand(4, 4)
    labels = torch.arange(4)
    outside = [-log(0.2), -log(0.1)]
    top, second = 1 - 0.2 / 0.4, 1 - 0.2 / 0.3  # the ratio gate at tau = 1
    for actual, expected in (
        (each(topk_grouped, logits, labels, k=2), [-log(0.7), -log(0.7)]),
        (each(topk_transition, logits, labels, k=2), [-log(0.4 + top * 0.3), -log(0.3 + second * 0.4)]),
        (
            each(topk_transition, logits, labels, k=2, blend="loss", strength=0.5),
            [
                -(1 - top / 2) * log(0.4) - top / 2 * log(0.7),
                -(1 - second / 2) * log(0.3) - second / 2 * log(0.7),
            ],
        ),
        (
            each(topk_transition, logits, labels, k=2, gate="linear", margin=log(3)),
            [-log(0.4 + log(2) / log(3) * 0.3), -log(0.3 + log(1.5) / log(3) * 0.4)],
        ),
        (
            each(topk_transition, logits, labels, k=2, tau=0.5, strength=0.5),
            [-log(0.4 + 0.5 * (1 - 1 / 4) * 0.3), -log(0.3 + 0.5 * (1 - 4 / 9) * 0.4)],
        ),
    ):
        assert_close(actual, torch.tensor(expected + outside, dtype=torch.float64), **SAME)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("gate", GATES)
def test_transition_at_k_1_is_cross_entropy(gate: str, blend: str) -> None:
    for detach_gate in (True, False):
        options = {"k": 1, "gate": gate, "blend": blend, "detach_gate": detach_gate}
        same_values_and_gradients(topk_transition, options, cross_entropy, {}, **SAME)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("gate", GATES)
def test_transition_at_strength_0_is_cross_entropy(gate: str, blend: str) -> None:
    for k, detach_gate in product(KS, (True, False)):
        options = {"k": k, "gate": gate, "blend": blend, "detach_gate": detach_gate, "strength": 0.0}
        same_values_and_gradients(topk_transition, options, cross_entropy, {}, **SAME)


@pytest.mark.parametrize("blend", BLENDS)
def test_transition_at_full_weight_is_grouped(blend: str) -> None:
    for k in KS:
        options = {"k": k, "gate": "none", "blend": blend, "strength": 1.0}
        same_values_and_gradients(topk_transition, options, topk_grouped, {"k": k}, **SAME)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("sharp", [{"tau": 1e-3}, {"gate": "linear", "margin": 1e-3}], ids=["ratio", "linear"])
def test_a_sharp_gate_is_grouped(sharp: dict, blend: str) -> None:
    logits, labels = spaced_rows(104)
    for k, detach_gate in product(KS, (True, False)):
        options = {"k": k, "blend": blend, "detach_gate": detach_gate, **sharp}
        expected = each(topk_grouped, logits, labels, k=k)
        assert_close(each(topk_transition, logits, labels, **options), expected, **EXACT)
        expected = gradient(topk_grouped, logits, labels, k=k)
        assert_close(gradient(topk_transition, logits, labels, **options), expected, **EXACT)


@pytest.mark.parametrize("wide", [{"tau": 1e14}, {"gate": "linear", "margin": 1e14}], ids=["ratio", "linear"])
def test_a_gate_without_end_is_cross_entropy(wide: dict) -> None:
    for k, blend in product(KS, BLENDS):
        options = {"k": k, "blend": blend, **wide}
        same_values_and_gradients(topk_transition, options, cross_entropy, {}, **EXACT)


@pytest.mark.parametrize("blend", BLENDS)
def test_linear_gate_is_full_from_its_margin_on(blend: str) -> None:
    logits, labels = spaced_rows(105)  # all gaps are 0.5 or more
    options = {"k": 3, "blend": blend, "strength": 0.6}
    linear = each(topk_transition, logits, labels, gate="linear", margin=0.4999, **options)
    assert_close(linear, each(topk_transition, logits, labels, gate="none", **options), **SAME)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("gate", GATES)
def test_with_nothing_left_outside_the_gate_is_open(gate: str, blend: str) -> None:
    """s_[k+1] = -inf gives g = 1: the weight is the strength whatever the gate."""
    logits, labels = batch(106)
    masked = logits.clone()
    masked[:, 4:] = -torch.inf
    labels = labels % 4
    for k, detach_gate in product((4, 5), (True, False)):
        options = {"k": k, "gate": gate, "blend": blend, "detach_gate": detach_gate}
        p = logits[:, :4].softmax(dim=1).gather(1, labels[:, None])[:, 0]
        expected = -(p + 0.3 * (1 - p)).log() if blend == "probability" else -0.7 * p.log()
        assert_close(each(topk_transition, masked, labels, strength=0.3, **options), expected, **EXACT)
        certain = each(topk_transition, masked, labels, strength=1.0, **options)
        assert_close(certain, torch.zeros_like(certain), **EXACT)


def at_boundary(k: int, gap: float) -> tuple[Tensor, Tensor]:
    """Scores 8, 7, ..., and a label that is `gap` above s_[k+1] = 0."""
    scores = [8.0 - i for i in range(k - 1)] + [gap, 0.0] + [-1.0 - i for i in range(C - k - 1)]
    return torch.tensor([scores], dtype=torch.float64), torch.tensor([k - 1])


@pytest.mark.parametrize("blend", BLENDS)
def test_only_a_gate_makes_the_loss_continuous_at_the_boundary(blend: str) -> None:
    for k in KS[1:]:
        inside, outside = at_boundary(k, 1e-12), at_boundary(k, 0.0)
        expected = each(cross_entropy, *outside)
        assert_close(each(topk_grouped, *outside, k=k), expected, **SAME)
        assert expected - each(topk_grouped, *inside, k=k) > 5, "grouped must jump"
        for options in ({"gate": "none"}, {"gate": "ratio"}, {"gate": "linear"}):
            assert_close(each(topk_transition, *outside, k=k, blend=blend, **options), expected, **SAME)
            jump = expected - each(topk_transition, *inside, k=k, blend=blend, **options)
            assert jump > 5 if options["gate"] == "none" else 0 <= jump < 1e-7


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("gate", ["ratio", "linear"])
@pytest.mark.parametrize("gap", [1e-3, 1e-9, 1e-15, 1e-200], ids=lambda gap: f"gap={gap}")
def test_a_hair_inside_the_boundary(gap: float, gate: str, blend: str) -> None:
    """1 - exp(-gap) must not cancel: also the gradient through the gate is exact."""
    logits, labels = at_boundary(3, gap)
    options = {"k": 3, "gate": gate, "blend": blend, "detach_gate": False}
    expected = reference.values("topk_transition", logits, labels, **options)
    assert_close(each(topk_transition, logits, labels, **options), expected, **SAME)
    if gap > 1e-20:  # the reference differentiates with steps of 1e-30
        expected = reference.gradients("topk_transition", logits, labels, **options)
        assert_close(gradient(topk_transition, logits, labels, **options), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("blend", BLENDS)
def test_gradient_through_the_gate_saturates(blend: str) -> None:
    """Label far below the top and just inside: the exact gradient may exceed float32; the computed one is finite."""
    logits = torch.tensor([[200.0, 1e-38, 0.0], [100.0, 1e-30, 0.0], [3e38, 5e-4, 0.0]])
    labels = torch.ones(3, dtype=torch.int64)
    for gate, tau in product(("ratio", "linear"), (1.0, 1e-3)):
        options = {"k": 2, "gate": gate, "tau": tau, "margin": tau, "detach_gate": False, "blend": blend}
        assert each(topk_transition, logits, labels, **options).isfinite().all()
        slope = gradient(topk_transition, logits, labels, **options)
        assert slope.isfinite().all() and (slope[:, 1] < 0).all()


def test_transition_lies_between_grouped_and_cross_entropy() -> None:
    """Blending losses is never below blending probabilities: -log is convex."""
    logits, labels = batch()
    for k, gate, strength in product(KS, GATES, (0.3, 1.0)):
        options = {"k": k, "gate": gate, "strength": strength}
        steps = [
            each(topk_grouped, logits, labels, k=k),
            each(topk_transition, logits, labels, blend="probability", **options),
            each(topk_transition, logits, labels, blend="loss", **options),
            each(cross_entropy, logits, labels),
        ]
        assert all((low <= high + 1e-12).all() for low, high in zip(steps, steps[1:], strict=False))


@pytest.mark.parametrize("blend", BLENDS)
def test_loss_falls_as_the_strength_grows(blend: str) -> None:
    logits, labels = batch()
    for k, gate in product(KS, GATES):
        path = [each(topk_transition, logits, labels, k=k, gate=gate, blend=blend, strength=w / 8) for w in range(9)]
        assert all((high >= low - 1e-12).all() for high, low in zip(path, path[1:], strict=False))


def test_outside_the_top_k_the_group_losses_are_cross_entropy() -> None:
    logits, labels = batch()
    for k in KS:
        out = ~is_inside(logits, labels, k)
        expected = each(cross_entropy, logits, labels)[out]
        assert (expected >= log(k + 1)).all(), "k + 1 classes share the mass"
        for loss in (topk_grouped, topk_transition):
            assert_close(each(loss, logits, labels, k=k)[out], expected, **SAME)


# -------------------------------------------------------------------------------- truncated entropy


def test_truncated_entropy_at_k_1_is_cross_entropy() -> None:
    same_values_and_gradients(truncated_topk_entropy, {"k": 1}, cross_entropy, {}, **SAME)


def test_truncated_entropy_at_the_largest_k_sees_only_the_weakest_competitor() -> None:
    logits, labels = batch()
    own = logits.gather(1, labels[:, None])[:, 0]
    weakest = logits.scatter(1, labels[:, None], torch.inf).amin(dim=1)
    expected = F.softplus(weakest - own, threshold=100)
    assert_close(each(truncated_topk_entropy, logits, labels, k=C - 1), expected, **SAME)


def test_truncated_entropy_gives_no_gradient_to_the_strongest_competitors() -> None:
    logits, labels = batch()
    for k in KS:
        slope = gradient(truncated_topk_entropy, logits, labels, k=k)
        others = logits.scatter(1, labels[:, None], -torch.inf)
        strongest = others.topk(k - 1, dim=1).indices
        dropped = torch.zeros_like(slope, dtype=torch.bool).scatter(1, strongest, True)
        assert (slope[dropped] == 0).all() and (slope[~dropped] != 0).all()


def test_a_larger_k_asks_less() -> None:
    """Truncated entropy and the grouped loss fall as k grows; at k = 1 both are cross entropy."""
    logits, labels = batch()
    for loss in (truncated_topk_entropy, topk_grouped):
        path = [each(loss, logits, labels, k=k) for k in KS]
        assert all((high >= low - 1e-12).all() for high, low in zip(path, path[1:], strict=False))


# ---------------------------------------------------------------------------------- smooth top-k SVM


def test_the_two_references_of_the_smooth_svm_agree() -> None:
    logits, labels = batch(107, 8)
    for k, tau, margin in product(KS, (0.01, 1.0), (0.0, 1.5)):
        options = {"k": k, "tau": tau, "margin": margin}
        subsets = reference.values("smooth_topk_svm", logits, labels, **options)
        other = reference.smooth_topk_svm_polynomial
        assert_close(reference.values("smooth_topk_svm", logits, labels, value=other, **options), subsets, **SAME)


def test_smooth_svm_by_hand() -> None:
    """exp(s) = 1, 2, 3 with k tau = 1: the polynomials of the other two are their sum and their product."""
    logits = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).log().expand(3, 3)
    expected = [0.5 * log(1 + 4 * 6 / (5 * 1)), 0.5 * log(1 + 4 * 3 / (4 * 2)), 0.5 * log(1 + 4 * 2 / (3 * 3))]
    actual = each(smooth_topk_svm, logits, torch.arange(3), k=2, tau=0.5, margin=0.5 * log(4))
    assert_close(actual, torch.tensor(expected, dtype=torch.float64), **SAME)


def test_smooth_svm_without_margin_at_k_1_is_cross_entropy() -> None:
    same_values_and_gradients(smooth_topk_svm, {"k": 1, "margin": 0.0}, cross_entropy, {}, **EXACT)


@pytest.mark.parametrize("tau", [0.1, 1.0, 4.0], ids=lambda tau: f"tau={tau}")
def test_smooth_svm_at_k_1_is_a_soft_hinge(tau: float) -> None:
    logits, labels = batch()
    excess = (logits - logits.gather(1, labels[:, None]) + 0.7 * (1 - F.one_hot(labels, C).double())) / tau
    expected = tau * excess.logsumexp(dim=1)
    assert_close(each(smooth_topk_svm, logits, labels, k=1, tau=tau, margin=0.7), expected, **EXACT)


@pytest.mark.parametrize("tau", [1e-1, 1e-2, 1e-4], ids=lambda tau: f"tau={tau}")
def test_smooth_svm_tends_to_the_hard_loss(tau: float) -> None:
    """Within tau log binom(C, k) of (margin + (k-th best competitor - s_y) / k)_+."""
    logits, labels = batch()
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).sort(dim=1, descending=True).values
    for k, margin in product(KS, (0.0, 1.0)):
        hard = (margin + (others[:, k - 1] - own) / k).clamp(min=0)
        soft = each(smooth_topk_svm, logits, labels, k=k, tau=tau, margin=margin)
        assert ((soft - hard).abs() <= tau * log(comb(C, k)) + 1e-12).all()


# ---------------------------------------------------------------------------------------------- LDR-KL


def raised(logits: Tensor, labels: Tensor, c: float) -> Tensor:
    """c [j != y] + s_j - s_y."""
    return logits - logits.gather(1, labels[:, None]) + c * (1 - F.one_hot(labels, C).to(logits.dtype))


def test_ldr_kl_without_margin_is_cross_entropy_less_log_c() -> None:
    logits, labels = batch()
    expected = each(cross_entropy, logits, labels) - log(C)
    assert_close(each(ldr_kl, logits, labels, lam=1.0, c=0.0), expected, **SAME)
    expected = gradient(cross_entropy, logits, labels)
    assert_close(gradient(ldr_kl, logits, labels, lam=1.0, c=0.0), expected, **SAME)


@pytest.mark.parametrize("lam", [1e-1, 1e-3, 1e-20], ids=lambda lam: f"lam={lam}")
def test_ldr_kl_tends_to_the_multiclass_hinge(lam: float) -> None:
    logits, labels = batch()
    gap = raised(logits, labels, 2.0).amax(dim=1) - each(ldr_kl, logits, labels, lam=lam)
    assert (gap >= -1e-12).all() and (gap <= lam * log(C) + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ldr_kl_tends_to_the_mean_violation(dtype: torch.dtype) -> None:
    """The logarithm of a number next to 1, times lam, must not cancel."""
    logits, labels = batch()
    expected = raised(logits, labels, 2.0).mean(dim=1).to(dtype)
    for lam in (1e9, 1e15, 1e20):
        assert_close(each(ldr_kl, logits.to(dtype), labels, lam=lam), expected, rtol=1e-5, atol=1e-5)
    assert (expected < 0).any(), "it may be negative"


# ---------------------------------------------------------------------------------------------- hinges


def test_hinges_by_hand() -> None:
    """Violations .5 and -2 beside the label's own 0: the case in which leaving that out would give 0."""
    logits, label = torch.tensor([[0.0, -0.5, -3.0]], dtype=torch.float64), torch.tensor([0])
    for loss, expected in ((topk_hinge_alpha, 0.25), (topk_hinge_beta, 0.25), (consistent_topk_hinge, 0.0)):
        assert loss(logits, label, k=2) == expected
    logits = torch.tensor([[1.0, 3.0, 0.5, 2.0]], dtype=torch.float64)  # violations 0, 3, .5, 2
    for k, alpha, beta, consistent in ((1, 3.0, 3.0, 2.0), (2, 2.5, 2.5, 1.0), (3, 5.5 / 3, 5.5 / 3, 0.5)):
        assert_close(topk_hinge_alpha(logits, label, k=k).item(), alpha)
        assert_close(topk_hinge_beta(logits, label, k=k).item(), beta)
        assert_close(consistent_topk_hinge(logits, label, k=k).item(), consistent)


def test_hinges_at_k_1_are_the_multiclass_hinge() -> None:
    logits, labels = batch()
    expected = raised(logits, labels, 1.0).amax(dim=1)
    for loss in (topk_hinge_alpha, topk_hinge_beta):
        assert_close(each(loss, logits, labels, k=1), expected, **SAME)
    same_values_and_gradients(topk_hinge_alpha, {"k": 1}, topk_hinge_beta, {"k": 1}, **SAME)


def test_alpha_is_never_above_beta() -> None:
    logits, labels = batch()
    for k in KS:
        gap = each(topk_hinge_beta, logits, labels, k=k) - each(topk_hinge_alpha, logits, labels, k=k)
        assert (gap >= -1e-12).all()
        assert (gap > 0.01).any() == (k > 2), "up to k = 2 the label's own 0 makes them equal"


def test_consistent_hinge_is_flat_where_the_label_is_the_next() -> None:
    logits, labels = batch()
    for k in KS:
        rank = (logits >= logits.gather(1, labels[:, None])).sum(dim=1)
        value = each(consistent_topk_hinge, logits, labels, k=k)
        slope = gradient(consistent_topk_hinge, logits, labels, k=k)
        assert (value[rank == k + 1] == 1).all() and (slope[rank == k + 1] == 0).all()
        assert (slope[rank > k + 1].gather(1, labels[rank > k + 1][:, None]) == -1).all()


BOUNDS = {  # what a loss is at least where the label is outside the top k
    "cross_entropy": (lambda logits, labels, k, **o: cross_entropy(logits, labels, **o), lambda k: log(k + 1)),
    "grouped": (topk_grouped, lambda k: log(k + 1)),
    "transition": (topk_transition, lambda k: log(k + 1)),
    "topk_entropy": (topk_entropy, lambda k: log(k + 1)),
    "truncated": (truncated_topk_entropy, lambda k: log(2)),
    "hinge_alpha": (topk_hinge_alpha, lambda k: 1.0),
    "hinge_beta": (topk_hinge_beta, lambda k: 1.0),
    "consistent": (consistent_topk_hinge, lambda k: 1.0),
    "lapsum": (lapsum_topk, lambda k: log((k + 1) / k)),
}


@pytest.mark.parametrize(("loss", "bound"), BOUNDS.values(), ids=BOUNDS)
def test_loss_bounds_the_topk_error(loss, bound) -> None:
    """Divided by that bound, the loss is at least 1 wherever the label is outside, ties included, and at least 0."""
    logits, labels = batch(108, 2000, 0.5)
    for rounded, k in product((logits, logits.round(decimals=1), logits.round()), KS):
        values = each(loss, rounded, labels, k=k)
        assert (values >= 0).all()
        assert (values[~is_inside(rounded, labels, k)] >= bound(k) - 1e-12).all(), k


# -------------------------------------------------------------------------------------- noised hinge


def noise(seed: int, copies: int, n: int) -> Tensor:
    return torch.randn(copies, n, C, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_noised_hinge_without_noise_is_the_consistent_hinge() -> None:
    for k in KS:
        same_values_and_gradients(noised_topk_hinge, {"k": k, "eps": 0.0}, consistent_topk_hinge, {"k": k}, **SAME)
    logits, labels = batch()
    silent = each(noised_topk_hinge, logits, labels, k=2, noise=torch.zeros(3, *logits.shape))
    assert_close(silent, each(consistent_topk_hinge, logits, labels, k=2), **SAME)


def test_noised_hinge_moves_with_the_order_of_the_classes() -> None:
    logits, labels = batch()
    draws, order = noise(109, 4, len(logits)), torch.tensor([3, 0, 5, 1, 4, 2])
    for k in KS:
        expected = each(noised_topk_hinge, logits, labels, k=k, noise=draws)
        moved = {"k": k, "noise": draws[..., order]}
        assert_close(each(noised_topk_hinge, logits[:, order], order.argsort()[labels], **moved), expected, **SAME)


def test_noised_hinge_is_a_mean_over_copies() -> None:
    """Where no copy reaches the margin, values and gradients of single copies average."""
    logits, labels = batch()
    draws, wide = noise(110, 5, len(logits)), {"k": 2, "eps": 0.7, "margins": [50.0] * C}
    for of in (each, gradient):
        single = [of(noised_topk_hinge, logits, labels, noise=draws[b : b + 1], **wide) for b in range(5)]
        together = of(noised_topk_hinge, logits, labels, noise=draws, **wide)
        assert_close(together, torch.stack(single).mean(dim=0), **SAME)


def test_noise_scales_with_eps() -> None:
    logits, labels = batch()
    draws = noise(111, 3, len(logits))
    expected = each(noised_topk_hinge, logits, labels, k=3, eps=0.5, noise=draws)
    assert_close(each(noised_topk_hinge, logits, labels, k=3, eps=0.25, noise=2 * draws), expected, **SAME)


def test_noise_is_drawn_as_asked() -> None:
    """From the generator given, else from torch's own, `num_samples` copies; none where eps is 0 or noise is given."""
    logits, labels = batch()
    with torch.random.fork_rng():
        torch.manual_seed(112)
        drawn = torch.randn(7, *logits.shape, dtype=torch.float64)
        expected = noised_topk_hinge(logits, labels, k=2, noise=drawn)
        torch.manual_seed(112)
        assert noised_topk_hinge(logits, labels, k=2, num_samples=7) == expected
        assert noised_topk_hinge(logits, labels, k=2, num_samples=7) != expected
        state = torch.get_rng_state()
        generator = torch.Generator().manual_seed(112)
        assert noised_topk_hinge(logits, labels, k=2, num_samples=7, generator=generator) == expected
        assert noised_topk_hinge(logits, labels, k=2, num_samples=7, generator=generator) != expected
        noised_topk_hinge(logits, labels, k=2, noise=drawn)
        noised_topk_hinge(logits, labels, k=2, eps=0.0)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_evaluation_repeats_itself_and_leaves_the_random_numbers_alone(off) -> None:
    logits, labels = batch()
    state = torch.get_rng_state()
    with off():
        first, again = (noised_topk_hinge(logits, labels, k=2) for _ in range(2))
        generator = torch.Generator().manual_seed(113)
        given, other = (noised_topk_hinge(logits, labels, k=2, generator=generator) for _ in range(2))
    assert first == again and given != other and torch.equal(torch.get_rng_state(), state)


def test_margins_of_rare_classes_are_wider() -> None:
    assert_close(imbalanced_margins([16, 1, 81], max_margin=0.6), torch.tensor([0.3, 0.6, 0.2]))
    assert_close(imbalanced_margins(torch.full((C,), 40)), torch.full((C,), 0.2))
    logits, labels = batch()
    margins = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    threshold = logits.topk(3, dim=1).values[:, 2] - logits.gather(1, labels[:, None])[:, 0]
    expected = (torch.tensor(margins, dtype=torch.float64)[labels] + threshold).clamp(min=0)
    assert_close(each(noised_topk_hinge, logits, labels, k=2, eps=0.0, margins=margins), expected, **SAME)
    same_values_and_gradients(
        noised_topk_hinge, {"k": 2, "eps": 0.0, "margins": [1.0] * C}, consistent_topk_hinge, {"k": 2}, **SAME
    )


# ------------------------------------------------------------------------------------ top-k entropy


def test_topk_entropy_at_k_1_is_cross_entropy() -> None:
    same_values_and_gradients(topk_entropy, {"k": 1}, cross_entropy, {}, **EXACT)


def test_topk_entropy_is_cross_entropy_where_no_competitor_holds_more_than_its_share() -> None:
    logits, labels = batch(114, 200, 0.7)
    expected, slope = each(cross_entropy, logits, labels), gradient(cross_entropy, logits, labels)
    p = logits.scatter(1, labels[:, None], -torch.inf).softmax(dim=1)
    for k in KS[1:3]:
        even = p.amax(dim=1) <= 1 / k
        values = each(topk_entropy, logits, labels, k=k)
        assert_close(values[even], expected[even], **EXACT)
        assert_close(gradient(topk_entropy, logits, labels, k=k)[even], slope[even], **EXACT)
        assert even.any() and (values[~even] < expected[~even]).all()


def test_topk_entropy_is_the_maximum_of_its_program() -> None:
    """Its gradient is the maximiser: allowed and worth the loss, and no other allowed point is worth more."""
    logits, labels = batch()[0], torch.zeros(60, dtype=torch.int64)
    a = (logits - logits[:, :1])[:, 1:]

    def worth(x: Tensor) -> Tensor:
        left = 1 - x.sum(dim=-1)
        return (a * x).sum(dim=-1) + torch.special.entr(x).sum(dim=-1) + torch.special.entr(left.clamp(min=0))

    generator = torch.Generator().manual_seed(119)
    for k in KS:
        value = each(topk_entropy, logits, labels, k=k)
        best = gradient(topk_entropy, logits, labels, k=k)[:, 1:]
        total = best.sum(dim=1, keepdim=True)
        assert (best >= 0).all() and (total <= 1).all() and (best <= total / k + 1e-12).all()
        assert_close(worth(best), value, **EXACT)
        # Every allowed point is a mixture of even shares on k competitors, times a sum of at most 1.
        even = torch.tensor(
            [[float(j in chosen) / k for j in range(C - 1)] for chosen in combinations(range(C - 1), k)]
        )
        mixture = torch.rand(300, 60, len(even), dtype=torch.float64, generator=generator) ** 8
        other = mixture / mixture.sum(dim=-1, keepdim=True) @ even.double()
        other = other * torch.rand(300, 60, 1, dtype=torch.float64, generator=generator)
        for step in (0.01, 0.1, 1.0):
            assert (worth(best + step * (other - best)) <= value + 1e-12).all(), (k, step)


def test_topk_entropy_asks_less_of_a_larger_k() -> None:
    logits, labels = batch()
    path = [each(topk_entropy, logits, labels, k=k) for k in KS]
    assert all((high >= low - 1e-12).all() for high, low in zip(path, path[1:], strict=False))


# -------------------------------------------------------------------------------------------- LapSum


def shares(loss, logits: Tensor, **options) -> Tensor:
    """exp(-L) for every class as the label, (rows, C)."""
    labels = torch.arange(C).repeat(len(logits))
    return (-each(loss, logits.repeat_interleave(C, dim=0), labels, **options)).exp().reshape(-1, C)


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 30.0], ids=lambda alpha: f"alpha={alpha}")
def test_lapsum_shares_sum_to_k(alpha: float) -> None:
    logits, _ = batch()
    for k in KS:
        p = shares(lapsum_topk, logits, k=k, alpha=alpha)
        assert_close(p.sum(dim=1), torch.full((len(p),), float(k), dtype=torch.float64), **EXACT)
        assert (p.gather(1, logits.argsort(dim=1)).diff(dim=1) >= 0).all() and (p <= 1).all()


def test_lapsum_tends_to_the_hard_top_k_and_to_equal_shares() -> None:
    logits, _ = spaced_rows(115)
    for k in KS:
        hard = torch.zeros_like(logits).scatter(1, logits.topk(k, dim=1).indices, 1.0)
        assert_close(shares(lapsum_topk, logits, k=k, alpha=1e-3), hard, **EXACT)
        equal = torch.full_like(logits, k / C)
        assert_close(shares(lapsum_topk, logits, k=k, alpha=1e15), equal, **EXACT)


# ---------------------------------------------------------------- differentiable top-k cross entropy


@pytest.mark.parametrize("method", METHODS)
def test_lists_of_length_1_are_cross_entropy(method: str) -> None:
    for options in ({"k": 1}, {"p_k": [1.0]}, {"p_k": [1.0, 0.0, 0.0]}):
        same_values_and_gradients(difftopk_cross_entropy, {"method": method, **options}, cross_entropy, {}, **SAME)


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_of_ranks_sum_to_the_length_of_the_list(method: str) -> None:
    logits, _ = batch()
    for k, steepness in product(KS[1:], (0.1, 2.0)):
        p = shares(difftopk_cross_entropy, logits, k=k, method=method, steepness=steepness)
        assert_close(p.sum(dim=1), torch.full((len(p),), float(k), dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("method", METHODS)
def test_steep_relaxations_are_the_hard_top_k(method: str) -> None:
    logits, _ = spaced_rows(116)
    for k in KS[1:]:
        hard = torch.zeros_like(logits).scatter(1, logits.topk(k, dim=1).indices, 1.0)
        p = shares(difftopk_cross_entropy, logits, k=k, method=method, steepness=1e10)
        assert_close(p, hard, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_list_lengths_mix_as_probabilities(method: str) -> None:
    """p_k is a distribution of lengths: the lists' probabilities add up with it, and a longer list holds more."""
    logits, labels = batch()
    single = [(-each(difftopk_cross_entropy, logits, labels, k=k, method=method)).exp() for k in KS]
    mixed = each(difftopk_cross_entropy, logits, labels, p_k=[0.2, 0.0, 0.5, 0.3], method=method)
    assert_close((-mixed).exp(), 0.2 * single[0] + 0.5 * single[2] + 0.3 * single[3], **EXACT)
    assert all((long >= short - 1e-12).all() for short, long in zip(single[1:], single[2:], strict=False))


@pytest.mark.parametrize("method", METHODS)
def test_classes_beyond_the_m_strongest_take_no_part(method: str) -> None:
    logits, labels = batch()
    others = logits.scatter(1, labels[:, None], -torch.inf)
    weakest = others.topk(C - 1, dim=1).indices[:, 3:]
    weaker = logits.scatter_add(1, weakest, torch.full_like(logits, -5.0))
    options = {"k": 2, "m": 4, "method": method}
    expected = each(difftopk_cross_entropy, logits, labels, **options)
    assert_close(each(difftopk_cross_entropy, weaker, labels, **options), expected, **SAME)
    slope = gradient(difftopk_cross_entropy, logits, labels, **options)
    assert (slope.gather(1, weakest) == 0).all()
    everyone = each(difftopk_cross_entropy, logits, labels, k=2, m=C, method=method)
    assert_close(everyone, each(difftopk_cross_entropy, logits, labels, k=2, method=method), **SAME)


@pytest.mark.parametrize("method", METHODS)
def test_only_networks_give_probabilities(method: str) -> None:
    """A label's ranks may sum to more than 1 in NeuralSort and SoftSort, a loss below 0; never in a network."""
    logits, labels = batch()
    values = torch.stack([each(difftopk_cross_entropy, logits, labels, k=k, method=method) for k in KS])
    assert (values < -1e-6).any() == (method in ("neuralsort", "softsort"))


# ----------------------------------------------------------------------------------------- convexity

CONVEX = {
    "cross_entropy": (cross_entropy, {}),
    "ldr_kl": (ldr_kl, {"lam": 0.5}),
    "hinge_alpha": (topk_hinge_alpha, {"k": 3}),
    "hinge_beta": (topk_hinge_beta, {"k": 3}),
    "topk_entropy": (topk_entropy, {"k": 3}),
    "svm at k = 1": (smooth_topk_svm, {"k": 1, "tau": 0.5}),
}
NOT_CONVEX = {
    "truncated": (truncated_topk_entropy, {"k": 3}),
    "consistent": (consistent_topk_hinge, {"k": 3}),
    "noised": (FixedNoise(noised_topk_hinge), {"k": 3}),
    "svm": (smooth_topk_svm, {"k": 3, "tau": 0.1}),
    "grouped": (topk_grouped, {"k": 3}),
    "transition": (topk_transition, {"k": 3}),
    "lapsum": (lapsum_topk, {"k": 3}),
    "difftopk": (difftopk_cross_entropy, {"k": 3}),
}


@pytest.mark.parametrize(("loss", "options"), (CONVEX | NOT_CONVEX).values(), ids=CONVEX | NOT_CONVEX)
def test_convexity_is_as_the_docstrings_say(request: pytest.FixtureRequest, loss, options: dict) -> None:
    left, labels = batch(117, 2000, 4.0)
    right = batch(118, 2000, 4.0)[0]
    ends = (each(loss, left, labels, **options) + each(loss, right, labels, **options)) / 2
    excess = each(loss, (left + right) / 2, labels, **options) - ends
    convex = request.node.callspec.id in CONVEX
    assert (excess <= 1e-10).all() if convex else (excess > 0.1).any()


# -------------------------------------------------------------------------------------- monotonicity

FALLING = {
    "cross_entropy": (cross_entropy, {}),
    "grouped": (topk_grouped, {"k": 3}),
    "truncated": (truncated_topk_entropy, {"k": 3}),
    "svm": (smooth_topk_svm, {"k": 3}),
    "svm-sharp": (smooth_topk_svm, {"k": 3, "tau": 0.05}),
    "ldr_kl": (ldr_kl, {}),
    "hinge_alpha": (topk_hinge_alpha, {"k": 3}),
    "hinge_beta": (topk_hinge_beta, {"k": 3}),
    "consistent": (consistent_topk_hinge, {"k": 3}),
    "noised": (FixedNoise(noised_topk_hinge), {"k": 3}),
    "topk_entropy": (topk_entropy, {"k": 3}),
    "lapsum": (lapsum_topk, {"k": 3}),
    "lapsum-sharp": (lapsum_topk, {"k": 3, "alpha": 0.1}),
} | {
    f"transition-{gate}-{blend}": (topk_transition, {"k": 3, "gate": gate, "blend": blend, "strength": 0.8})
    for gate, blend in product(GATES, BLENDS)
}


@pytest.mark.parametrize(("loss", "options"), FALLING.values(), ids=FALLING)
def test_loss_never_rises_with_the_label_score(loss, options: dict) -> None:
    """Over a path of the label's score through every rank, jumps and ties included."""
    for row in batch(108, 8)[0]:
        path = torch.cat([torch.linspace(-8, 8, 400, dtype=torch.float64), row[1:]]).sort().values
        logits = row.repeat(len(path), 1)
        logits[:, 0] = path
        values = each(loss, logits, torch.zeros(len(path), dtype=torch.int64), **options)
        assert (values.diff() <= 1e-12).all() and values[0] > values[-1]


def test_smoothing_lets_the_loss_rise_with_the_label_score() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    low, high = each(cross_entropy, logits, torch.zeros(2, dtype=torch.int64), label_smoothing=0.2)
    assert low < high


@pytest.mark.parametrize(
    ("loss", "options"),
    [(cross_entropy, {}), (truncated_topk_entropy, {}), (smooth_topk_svm, {}), (smooth_topk_svm, {"tau": 0.1})],
    ids=["cross_entropy", "truncated", "svm", "svm-sharp"],
)
def test_competitors_never_lower_the_loss(loss, options: dict) -> None:
    logits, labels = batch()
    for k in [{"k": k} for k in KS] if loss is not cross_entropy else [{}]:
        slope = gradient(loss, logits, labels, **options, **k)
        assert (slope.scatter(1, labels[:, None], 0.0) >= 0).all() and (slope.gather(1, labels[:, None]) < 0).all()


def test_members_of_the_group_may_lower_the_loss() -> None:
    """What grouping buys: probability that moves to another candidate costs a safe label nothing."""
    logits = torch.tensor([[1.0, 1.5, 0.0, 0.0]])
    label = torch.zeros(1, dtype=torch.int64)
    for loss in (topk_grouped, topk_transition):
        assert gradient(loss, logits, label, k=2)[0, 1] < 0
    assert gradient(cross_entropy, logits, label)[0, 1] > 0
