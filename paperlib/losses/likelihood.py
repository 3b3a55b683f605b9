"""Cross entropy, the loss that everything here is compared with."""

import math

import torch
from torch import Tensor

from paperlib.losses._common import LossSpec, Reduction, Saturate, check_number, prepare


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
    log_z = batch.scores.logsumexp(dim=1)
    values = log_z - batch.label_scores()
    if label_smoothing == 0:
        return batch.reduce(values)
    absent = batch.scores == -math.inf
    share = torch.ones_like(batch.scores) if batch.weight is None else batch.weight.expand_as(batch.scores)
    share = share.masked_fill(absent, 0.0)
    share = share * (label_smoothing / (~absent).sum(dim=1, keepdim=True).to(share.dtype))
    # Weighing before summing keeps C huge terms from overflowing together.
    smooth = ((log_z.unsqueeze(1) - batch.scores.masked_fill(absent, 0.0)) * share).sum(dim=1)
    if batch.weight is not None:
        values = Saturate.apply(values * batch.weight[batch.labels])
    return batch.reduce_weighted((1 - label_smoothing) * values + smooth)


SPECS = (LossSpec(cross_entropy, "cross entropy", "szegedy2016rethinking"),)
