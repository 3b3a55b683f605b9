"""The smooth top-k SVM: a soft maximum over all sets of k classes, by elementary symmetric polynomials."""

import math
from functools import partial

import torch
from torch import Tensor

from paperlib.losses._common import (
    LossSpec,
    Reduction,
    check_number,
    check_scale,
    competitors,
    is_transformed,
    prepare,
)


def smooth_topk_svm(logits: Tensor, labels: Tensor, *, k: int = 5, tau: float = 1.0, margin: float = 1.0,
                    weight: Tensor | None = None, ignore_index: int = -100, reduction: Reduction = "mean") -> Tensor:
    r"""Smooth top-k SVM loss over all sets of k classes.

    .. math::

        L = \tau \log \sum_{|A| = k} \exp\frac{\alpha [y \notin A] + \frac1k \sum_{j \in A} s_j}{\tau}
          - \tau \log \sum_{|A| = k,\, y \in A} \exp\frac{\frac1k \sum_{j \in A} s_j}{\tau}

    with :math:`\alpha` = ``margin``. As :math:`\tau \to 0` it tends to
    :math:`(\alpha + (s_{\setminus y,[k]} - s_y) / k)_+`: scores are divided by k, so the margin is worth
    :math:`k \alpha` in logits. Smooth, convex only for k = 1, and every class receives gradient.
    Source: :cite:t:`berrada2018smooth`. Computed as
    :math:`\tau\,\mathrm{softplus}(\alpha/\tau + \log e_k - \log e_{k-1} - s_y/(k\tau))` with the elementary
    symmetric polynomials :math:`e_i` of :math:`\exp(s_j/(k\tau))` over the other classes, by a tree of polynomial
    products that never subtracts.

    Args:
        logits: scores :math:`s`, float, (N, C) or (N, C, d...). ``-inf`` leaves a class out.
        labels: class numbers, int64, (N,) or (N, d...).
        k: 1 <= k <= C - 1.
        tau: temperature, > 0.
        margin: :math:`\alpha` >= 0.
        weight: one factor per class, float, (C,).
        ignore_index: label of samples to leave out.
        reduction: ``mean``, ``sum``, or ``none`` for one value per sample.

    Returns:
        float32 (float64 for float64 logits): 0-d, or the shape of ``labels`` for ``none``.

    Raises:
        ValueError: an argument is off; see :mod:`paperlib.losses` for which checks run where.
    """
    check_scale("tau", tau)
    check_number("margin", margin, 0, 1e20)
    batch = prepare(logits, labels, weight, ignore_index, reduction, k)
    return batch.loss(partial(_smooth_svm, k=k, tau=tau, margin=margin))


def _smooth_svm(logits: Tensor, labels: Tensor, *, k: int, tau: float, margin: float) -> tuple[Tensor, Tensor]:
    limit = torch.finfo(logits.dtype).max
    y = labels.unsqueeze(1)
    own = logits.gather(1, y)
    # The k-th best competitor is the natural origin: above it exactly k - 1 factors, so e_k and e_(k-1) are near 1.
    # The loss does not depend on the origin, which therefore counts as a constant in the derivative.
    origin = competitors(logits, labels, k)[0][:, k - 1 :].detach()
    safe = origin == -math.inf  # fewer than k competitors are left: the label is in the top k, the loss is 0
    origin = torch.where(safe, 0.0, origin)
    relative = torch.where(safe, 0.0, logits.scatter(1, y, -math.inf) - origin)
    log_ratio, share = _log_ratio(relative / (k * tau), k)
    excess = (margin + tau * log_ratio + (origin - own).clamp(-limit, limit) / k).clamp(-limit, limit)
    # Beyond 100 tau the soft plus is its argument to the last bit, and excess / tau might not fit the dtype.
    linear = excess > 100 * tau
    scaled = torch.where(linear, 100.0, excess / tau)
    values = torch.where(linear, excess, tau * torch.logaddexp(scaled, torch.zeros_like(scaled)))
    pull = torch.where(safe, 0.0, scaled.sigmoid() / k)
    return torch.where(safe, 0.0, values).squeeze(1), (pull * share).scatter(1, y, -pull)


def _log_ratio(d: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """log(e_k / e_(k-1)) of exp(d), (rows, 1), and its derivative by d, for d (rows, C) whose k-th largest entry is 0.

    Let each class take part by chance, with odds exp(d - t): then e_k / e_(k-1) is exp(t) times the probability of k
    classes over that of k - 1, for any t, and neither is small if about k - 1/2 are expected. The distribution of
    their number is a product of polynomials, multiplied up a tree that keeps degrees up to k: all terms are positive,
    so nothing cancels, and none exceeds 1. The derivative goes down the same tree. Coefficients come first and rows
    last, (degree + 1, nodes, rows): every operation runs along memory.
    """
    t = _balance(d.detach(), k)
    odds = (d - t).t().contiguous()
    nodes = torch.stack([(-odds).sigmoid(), odds.sigmoid()])
    likely, (absent, present) = odds > 0, nodes
    levels = []
    while nodes.shape[1] > 1:
        levels.append(nodes)
        left, right, odd = _pairs(nodes)
        pairs = left.shape[1]
        nodes = odd.new_zeros(min(2 * len(nodes) - 1, k + 1), pairs + odd.shape[1], odd.shape[2])
        _add_products(nodes[:, :pairs], left, right)
        nodes[: len(odd), pairs:] = odd
    less, more = nodes[k - 1, 0], nodes[k, 0]

    slope = torch.cat([torch.zeros_like(nodes[: k - 1, 0]), -1 / less[None], 1 / more[None]]).unsqueeze(1)
    for nodes in reversed(levels):
        left, right, odd = _pairs(nodes)
        pairs = left.shape[1]
        down = slope.new_zeros(nodes.shape)
        for part, other in zip(_pairs(down), (right, left), strict=False):
            _add_quotients(part, slope[:, :pairs], other)
        down[:, 2 * pairs :] = slope[: len(odd), pairs:]
        slope = down
    # Scaling a class's polynomial changes nothing, so either coefficient tells the derivative: the smaller, exactly.
    slope = torch.where(likely, -absent * slope[0], present * slope[1])
    return (more.log() - less.log()).unsqueeze(1) + t, slope.t()


def _balance(d: Tensor, k: int) -> Tensor:
    """The t at which about k - 1/2 classes are expected, (rows, 1); bisection between bounds that hold for any d.

    Any t gives the same result: this one keeps the probabilities of k and of k - 1 classes away from 0, for which
    half a unit is near enough.
    """
    low, high = d.new_full((len(d), 1), -math.log(2 * k + 1)), d.new_full((len(d), 1), math.log(2 * d.shape[1]))
    for _ in range(4):
        middle = (low + high) / 2
        many = (d - middle).sigmoid_().sum(dim=1, keepdim=True) > k - 0.5
        low, high = torch.where(many, middle, low), torch.where(many, high, middle)
    return (low + high) / 2


def _pairs(nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left and right partners, and the node without one, if any; (coefficients, pairs or 0..1, rows)."""
    paired = nodes.shape[1] // 2 * 2
    return nodes[:, 0:paired:2], nodes[:, 1:paired:2], nodes[:, paired:]


def _add_products(target: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the products of two polynomials, as many coefficients as ``target`` has."""
    for degree, coefficient in enumerate(right[: len(target)]):
        count = min(len(left), len(target) - degree)
        _add_product(target[degree : degree + count], left[:count], coefficient)


def _add_quotients(target: Tensor, slope: Tensor, factor: Tensor) -> None:
    """Add the derivative by one factor's coefficients, from that by the product's and the other factor."""
    for degree, coefficient in enumerate(factor[: len(slope)]):
        count = min(len(target), len(slope) - degree)
        _add_product(target[:count], slope[degree : degree + count], coefficient)


def _add_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    """Add in place; ``torch.func.vmap`` has no rule for the operation that does it at once."""
    if is_transformed():
        target += left * right
    else:
        target.addcmul_(left, right)


SPECS = (LossSpec(smooth_topk_svm, "smooth top-k SVM", "berrada2018smooth"),)
