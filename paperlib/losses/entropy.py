"""Entropy losses that ask less of the label where a few competitors stand above it."""

import math
from functools import partial

import torch
from torch import Tensor

from paperlib.losses._common import LossSpec, Reduction, competitors, prepare
from paperlib.losses.likelihood import nll


def topk_entropy(logits: Tensor, labels: Tensor, *, k: int = 5, weight: Tensor | None = None,
                 ignore_index: int = -100, reduction: Reduction = "mean") -> Tensor:
    r"""Top-k entropy: the convex loss whose competitors may each hold at most 1/k of what the label does not.

    .. math::

        L = \max_x \Bigl\{ \langle a, x \rangle + H(x) + h\bigl(1 - \textstyle\sum_i x_i\bigr) :
            x \ge 0,\ \textstyle\sum_i x_i \le 1,\ x_j \le \tfrac1k \sum_i x_i \Bigr\}

    over :math:`a_j = s_j - s_y, j \ne y`, with :math:`h(t) = -t \log t` and :math:`H` its sum over the entries.
    Without the last constraint it is cross entropy, which it equals wherever no competitor holds more than 1/k of the
    competitors' probability, and at k = 1. Convex, continuously differentiable. Source: :cite:t:`lapin2016loss`.
    Computed in closed form: with :math:`b` the sorted :math:`a` and :math:`Z_u = \log \sum_{i > u} e^{b_i}`, let
    :math:`u` be the smallest in 0..k-1 with :math:`\log(k - u) + b_{u+1} \le Z_u`; then :math:`L = \log(1 + e^Q)` with
    :math:`Q = \frac1k \sum_{i \le u} b_i + \frac uk \log k + (1 - \frac uk)(Z_u - \log(1 - \frac uk))`.

    Args:
        logits: scores :math:`s`, float, (N, C) or (N, C, d...). ``-inf`` leaves a class out; with fewer than k
            competitors left the loss is 0.
        labels: class numbers, int64, (N,) or (N, d...).
        k: 1 <= k <= C - 1.
        weight: one factor per class, float, (C,).
        ignore_index: label of samples to leave out.
        reduction: ``mean``, ``sum``, or ``none`` for one value per sample.

    Returns:
        float32 (float64 for float64 logits): 0-d, or the shape of ``labels`` for ``none``.

    Raises:
        ValueError: an argument is off; see :mod:`paperlib.losses` for which checks run where.
    """
    batch = prepare(logits, labels, weight, ignore_index, reduction, k)
    return batch.loss(partial(_topk_entropy, k=k))


def _topk_entropy(logits: Tensor, labels: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
    limit = torch.finfo(logits.dtype).max
    y = labels.unsqueeze(1)
    own = logits.gather(1, y)
    best, strongest = competitors(logits, labels, k)
    origin = best[:, :1].detach()
    origin = torch.where(origin == -math.inf, 0.0, origin)
    best = (best - origin).clamp(min=-limit)
    others = logits.scatter(1, y, -math.inf) - origin
    # Z[:, u] for u = 0..k-1, from the tail upwards: no term is ever subtracted.
    above = torch.cat([strongest, y], dim=1)
    parts = [others.scatter(1, above, -limit).logsumexp(dim=1, keepdim=True)]
    for i in reversed(range(k)):
        parts.append(torch.logaddexp(parts[-1], best[:, i : i + 1]))
    z = torch.cat(parts[:0:-1], dim=1)
    ranks = torch.arange(k, device=logits.device, dtype=logits.dtype)
    capped = z - best < (k - ranks).log()  # at u = k - 1 never, but for rounding
    u = capped[:, : k - 1].long().cumprod(dim=1).sum(dim=1, keepdim=True)
    z = z.gather(1, u)
    capped_share = u.to(z.dtype) / k
    rest = 1 - capped_share
    among = ranks < u
    q = torch.where(among, best / k, 0.0).sum(dim=1, keepdim=True) + capped_share * math.log(k)
    q = (q + rest * (z - rest.log()) + (origin - own).clamp(-limit, limit)).clamp(-limit, limit)
    pull = q.sigmoid()
    derivative = pull * rest * (others - z).clamp(max=0.0).exp()  # those above z are replaced below
    derivative = derivative.scatter(1, strongest, torch.where(among, pull / k, derivative.gather(1, strongest)))
    return torch.logaddexp(q, torch.zeros_like(q)).squeeze(1), derivative.scatter(1, y, -pull)


def truncated_topk_entropy(logits: Tensor, labels: Tensor, *, k: int = 5, weight: Tensor | None = None,
                           ignore_index: int = -100, reduction: Reduction = "mean") -> Tensor:
    r"""Cross entropy without the k - 1 strongest competitors of the label.

    .. math:: L = \log\Bigl(1 + \sum_{j=k}^{C-1} e^{s_{\setminus y, [j]} - s_y}\Bigr)

    where :math:`s_{\setminus y, [j]}` is the j-th largest score of the other classes. Not convex for k > 1, no
    gradient to the competitors left out, cross entropy at k = 1. Source: :cite:t:`lapin2016loss`.

    Args:
        logits: scores :math:`s`, float, (N, C) or (N, C, d...). ``-inf`` leaves a class out.
        labels: class numbers, int64, (N,) or (N, d...).
        k: 1 <= k <= C - 1.
        weight: one factor per class, float, (C,).
        ignore_index: label of samples to leave out.
        reduction: ``mean``, ``sum``, or ``none`` for one value per sample.

    Returns:
        float32 (float64 for float64 logits): 0-d, or the shape of ``labels`` for ``none``.

    Raises:
        ValueError: an argument is off; see :mod:`paperlib.losses` for which checks run where.
    """
    batch = prepare(logits, labels, weight, ignore_index, reduction, k)
    return batch.loss(partial(_truncated, k=k))


def _truncated(logits: Tensor, labels: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
    if k == 1:
        return nll(logits, labels)
    _, strongest = competitors(logits, labels, k - 1)
    return nll(logits.scatter(1, strongest, -math.inf), labels)


SPECS = (
    LossSpec(topk_entropy, "top-k entropy", "lapin2016loss"),
    LossSpec(truncated_topk_entropy, "truncated top-k entropy", "lapin2016loss"),
)
