"""Losses that ask for the whole distribution: cross entropy, which all others are compared with, and LDR-KL."""

import math
from functools import partial

import torch
from torch import Tensor

from paperlib.losses._common import LossSpec, Reduction, add_at, check_number, check_scale, prepare, softmax


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, weight: Tensor | None = None,
                  ignore_index: int = -100, reduction: Reduction = "mean") -> Tensor:
    r"""Cross entropy of softmax probabilities, with label smoothing as torch defines it.

    .. math:: L = -(1 - \varepsilon) \log p_y - \frac{\varepsilon}{C} \sum_j \log p_j, \qquad p = \mathrm{softmax}(s)

    Convex, smooth, and calibrated for the top k at every k. With class weights the smoothed part carries
    :math:`w_j`, and ``mean`` divides by the sum of :math:`w_y`. Source: :cite:t:`szegedy2016rethinking` for smoothing.

    Args:
        logits: scores :math:`s`, float, (N, C) or (N, C, d...). ``-inf`` leaves a class out, also of :math:`C`.
        labels: class numbers, int64, (N,) or (N, d...).
        label_smoothing: :math:`\varepsilon` in [0, 1].
        weight: one factor per class, float, (C,).
        ignore_index: label of samples to leave out.
        reduction: ``mean``, ``sum``, or ``none`` for one value per sample.

    Returns:
        float32 (float64 for float64 logits): 0-d, or the shape of ``labels`` for ``none``.

    Raises:
        ValueError: an argument is off; see :mod:`paperlib.losses` for which checks run where.
    """
    check_number("label_smoothing", label_smoothing, 0, 1)
    batch = prepare(logits, labels, weight, ignore_index, reduction)
    if label_smoothing == 0:
        return batch.loss(nll)
    classes = batch.logits.new_ones(batch.logits.shape[1]) if batch.weight is None else batch.weight
    return batch.loss(partial(_smoothed, smoothing=label_smoothing), classes, weighted=True)


def nll(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of the label under the softmax, (rows,), and its derivative, (rows, C)."""
    y = labels.unsqueeze(1)
    p, log_p = softmax_and_log_at(logits, y)
    return -log_p.squeeze(1), add_at(p, y, torch.full_like(log_p, -1.0))


def softmax_and_log_at(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (rows, C) and, to full precision where they underflow, their logarithms at ``classes``."""
    p = softmax(logits)
    # exp(0) / sum is the largest probability, so its logarithm is the normaliser's.
    log_z = -p.amax(dim=1, keepdim=True).log()
    distance = logits.gather(1, classes) - logits.amax(dim=1, keepdim=True)
    return p, (distance - log_z).clamp(min=torch.finfo(p.dtype).min)


def _smoothed(logits: Tensor, labels: Tensor, classes: Tensor, *, smoothing: float) -> tuple[Tensor, Tensor]:
    """As torch: the label's share carries the label's weight, the uniform share of a class its own."""
    present = logits != -math.inf
    share = classes * present * (smoothing / present.sum(dim=1, keepdim=True, dtype=logits.dtype))
    y = labels.unsqueeze(1)
    share = share.scatter_add(1, y, (1 - smoothing) * classes[y])
    p = softmax(logits)
    log_z = -p.amax(dim=1, keepdim=True).log()
    distance = (logits - logits.amax(dim=1, keepdim=True)).clamp(min=torch.finfo(p.dtype).min)
    # Weighing before summing keeps C huge terms from overflowing together.
    values = ((log_z - distance) * share).sum(dim=1)
    return values, p * share.sum(dim=1, keepdim=True) - share


def ldr_kl(logits: Tensor, labels: Tensor, *, lam: float = 1.0, c: float = 2.0, weight: Tensor | None = None,
           ignore_index: int = -100, reduction: Reduction = "mean") -> Tensor:
    r"""Label-distributionally robust loss with a KL regulariser.

    .. math:: L = \lambda \log \frac1C \sum_j \exp \frac{c\,[j \ne y] + s_j - s_y}{\lambda}

    A cross entropy with margin :math:`c` and temperature :math:`\lambda`: at :math:`\lambda = 1, c = 0` it is cross
    entropy minus :math:`\log C`, for :math:`\lambda \to 0` the multiclass hinge
    :math:`\max_j (c\,[j \ne y] + s_j - s_y)`, for :math:`\lambda \to \infty` their mean. It can be negative. Convex,
    smooth. Scores enter as they are: the authors' code first normalises them. Source: :cite:t:`zhu2023label`.

    Args:
        logits: scores :math:`s`, float, (N, C) or (N, C, d...). ``-inf`` leaves a class out, also of :math:`C`.
        labels: class numbers, int64, (N,) or (N, d...).
        lam: temperature :math:`\lambda` > 0, in logits.
        c: margin >= 0, in logits.
        weight: one factor per class, float, (C,).
        ignore_index: label of samples to leave out.
        reduction: ``mean``, ``sum``, or ``none`` for one value per sample.

    Returns:
        float32 (float64 for float64 logits): 0-d, or the shape of ``labels`` for ``none``.

    Raises:
        ValueError: an argument is off; see :mod:`paperlib.losses` for which checks run where.
    """
    check_scale("lam", lam)
    check_number("c", c, 0, 1e20)
    batch = prepare(logits, labels, weight, ignore_index, reduction)
    return batch.loss(partial(_ldr_kl, lam=lam, c=c))


def _ldr_kl(logits: Tensor, labels: Tensor, *, lam: float, c: float) -> tuple[Tensor, Tensor]:
    limit = torch.finfo(logits.dtype).max
    y = labels.unsqueeze(1)
    own = logits.gather(1, y)
    top = logits.amax(dim=1, keepdim=True)
    raised = ((logits - top).clamp(min=-limit) + c).scatter(1, y, (own - top).clamp(min=-limit))
    highest = raised.amax(dim=1, keepdim=True)
    p = softmax(((raised - highest) / lam).clamp(min=-limit).masked_fill(logits == -math.inf, -math.inf))
    # The log of a mean of exponentials, from its largest term or, at a large lam, where all are near 1, from what they
    # fall short of it.
    rise = ((raised - highest) / lam).clamp(min=-limit).expm1().masked_fill(logits == -math.inf, 0.0)
    present = (logits != -math.inf).sum(dim=1, keepdim=True, dtype=logits.dtype)
    fall = (rise / present).sum(dim=1, keepdim=True)
    log_mean = torch.where(fall > -0.5, fall.log1p(), -(p.amax(dim=1, keepdim=True) * present).log())
    values = (lam * log_mean + highest + (top - own)).squeeze(1)
    return values, add_at(p, y, torch.full_like(own, -1.0))


SPECS = (
    LossSpec(cross_entropy, "cross entropy", "szegedy2016rethinking"),
    LossSpec(ldr_kl, "LDR-KL", "zhu2023label"),
)
