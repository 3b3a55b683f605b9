"""The smooth top-k SVM: a soft maximum over all sets of k classes, by elementary symmetric polynomials."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from paperlib.losses._common import LossSpec, Reduction, Saturate, check_number, prepare


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
    symmetric polynomials :math:`e_i` of :math:`\exp(s_j/(k\tau))` over the other classes, by a scaled tree of
    polynomial products that never subtracts.

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
    check_number("tau", tau, 0, open_low=True)
    check_number("margin", margin, 0)
    batch = prepare(logits, labels, weight, ignore_index, reduction, k)
    label_score = batch.at_label(batch.logits).masked_fill(batch.masked, 0.0)
    others = batch.logits.scatter(1, batch.labels.unsqueeze(1), -math.inf)
    # The k-th best competitor is the natural origin: above it exactly k - 1 factors, so e_k and e_(k-1) are near 1.
    # The loss does not depend on the origin, which therefore counts as a constant in the gradient.
    origin = others.detach().topk(k, dim=1).values[:, -1]
    safe = origin == -math.inf  # fewer than k competitors are left: the label is in the top k, the loss is 0
    origin = origin.masked_fill(safe, 0.0)
    log_ratio = _log_ratio((others - origin.unsqueeze(1)) / (k * tau), k)
    excess = Saturate.apply(margin + tau * log_ratio + Saturate.apply(origin - label_score) / k)
    # Beyond 100 tau the soft plus is its argument to the last bit, and excess / tau might not fit the dtype.
    linear = excess > 100 * tau
    soft = tau * torch.logaddexp(torch.where(linear, 0.0, excess / tau), excess.new_zeros(()))
    return batch.reduce(torch.where(linear, excess, soft).masked_fill(safe, 0.0))


def _log_ratio(d: Tensor, k: int) -> Tensor:
    """log(e_k / e_(k-1)) of exp(d), (rows,), for d of shape (rows, C) whose k-th largest entry is 0.

    Each class is the polynomial 1 + exp(d) u, scaled so that its larger coefficient is 1; pairs are multiplied
    up a tree that keeps degrees up to k. All terms are positive, so nothing cancels.
    """
    # where, not abs: at d = 0, which is the k-th competitor itself, abs would lose its whole gradient.
    small = torch.where(d > 0, -d, d).exp()
    one = torch.ones_like(small)
    nodes = torch.stack([torch.where(d > 0, small, one), torch.where(d > 0, one, small)], dim=-1)
    while nodes.shape[1] > 1:
        if nodes.shape[1] % 2:
            unit = torch.zeros_like(nodes[:, :1])
            unit[..., 0] = 1.0
            nodes = torch.cat([nodes, unit], dim=1)
        nodes = _multiply(nodes[:, 0::2], nodes[:, 1::2], k)
        nodes = nodes / nodes.detach().amax(dim=-1, keepdim=True)
    root = nodes[:, 0]
    if root.shape[-1] <= k:  # as many classes as k: no subset of k competitors
        return torch.full_like(root[:, 0], 0.0)
    # Fewer than k competitors make both 0; the caller replaces that row, so keep its arithmetic finite.
    tiny = torch.finfo(root.dtype).tiny
    return root[:, k].clamp(min=tiny).log() - root[:, k - 1].clamp(min=tiny).log()


def _multiply(left: Tensor, right: Tensor, k: int) -> Tensor:
    """Products of polynomials whose coefficients stand in the last dimension, up to degree k."""
    size = min(left.shape[-1] + right.shape[-1] - 1, k + 1)
    product = left.new_zeros((*left.shape[:-1], size))
    for degree in range(min(right.shape[-1], size)):
        term = left[..., : size - degree] * right[..., degree : degree + 1]
        product = product + F.pad(term, (degree, size - degree - term.shape[-1]))
    return product


SPECS = (LossSpec(smooth_topk_svm, "smooth top-k SVM", "berrada2018smooth"),)
