"""A soft top-k operator as a loss: the probability that the label is among the k, which sum to k."""

import math
from functools import partial

import torch
from torch import Tensor

from paperlib.losses._common import LossSpec, Reduction, add_at, check_scale, prepare


def lapsum_topk(logits: Tensor, labels: Tensor, *, k: int = 5, alpha: float = 1.0, weight: Tensor | None = None,
                ignore_index: int = -100, reduction: Reduction = "mean") -> Tensor:
    r"""Negative logarithm of the label's share in a soft top-k whose shares sum to k.

    .. math:: L = -\log F\Bigl(\frac{s_y - b}{\alpha}\Bigr), \qquad
        \sum_j F\Bigl(\frac{s_j - b}{\alpha}\Bigr) = k, \qquad
        F(t) = \begin{cases} \frac12 e^t & t \le 0 \\ 1 - \frac12 e^{-t} & t > 0 \end{cases}

    :math:`F` is the distribution function of the Laplace distribution; the threshold :math:`b` has a closed form once
    the scores are sorted. :math:`\alpha \to 0` gives the hard top k. Not convex, continuously differentiable.
    Source: :cite:t:`struski2025lapsum`.

    Args:
        logits: scores :math:`s`, float, (N, C) or (N, C, d...). ``-inf`` leaves a class out; with no more than k
            classes left the loss is 0.
        labels: class numbers, int64, (N,) or (N, d...).
        k: 1 <= k <= C - 1.
        alpha: width of the threshold, in logits, > 0.
        weight: one factor per class, float, (C,).
        ignore_index: label of samples to leave out.
        reduction: ``mean``, ``sum``, or ``none`` for one value per sample.

    Returns:
        float32 (float64 for float64 logits): 0-d, or the shape of ``labels`` for ``none``.

    Raises:
        ValueError: an argument is off; see :mod:`paperlib.losses` for which checks run where.
    """
    check_scale("alpha", alpha)
    batch = prepare(logits, labels, weight, ignore_index, reduction, k)
    return batch.loss(partial(_lapsum, k=k, alpha=alpha))


def _lapsum(logits: Tensor, labels: Tensor, *, k: int, alpha: float) -> tuple[Tensor, Tensor]:
    limit = torch.finfo(logits.dtype).max
    y = labels.unsqueeze(1)
    origin, offset, safe = _threshold(logits.detach(), k, alpha)
    x = ((logits - origin) / alpha).clamp(-limit, limit) - offset
    absent = logits == -math.inf
    # How the threshold follows the scores: each in proportion to its own dF, which falls off on either side of it.
    share = torch.where(x > 0, -x, x).masked_fill(absent, -math.inf).softmax(dim=1)
    if torch.is_grad_enabled():  # a second derivative also sees the threshold move
        drift = torch.where(absent, 0.0, logits - logits.detach()) / alpha
        x = x - (share.detach() * drift).sum(dim=1, keepdim=True)
        share = torch.where(x > 0, -x, x).masked_fill(absent, -math.inf).softmax(dim=1)
    own = x.gather(1, y)
    below = own <= 0
    missing = torch.where(below, 0.0, -own).exp() / 2  # 1 - F where the label is above the threshold
    values = torch.where(below, math.log(2) - own, -torch.log1p(-missing))
    pull = torch.where(safe, 0.0, torch.where(below, 1.0, missing / (1 - missing)) / alpha)
    return torch.where(safe, 0.0, values).squeeze(1), add_at(pull * share, y, -pull)


def _threshold(logits: Tensor, k: int, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Where the shares sum to k: the k-th largest score, (b minus it) / alpha, and which rows have no threshold.

    With m scores above it, :math:`t = e^{b / \alpha}` solves :math:`P t^2 + 2 (k - m) t = Q` with
    :math:`P = \sum_{i \le m} e^{-s_{[i]} / \alpha}` and :math:`Q = \sum_{i > m} e^{s_{[i]} / \alpha}`.
    """
    lowest = torch.finfo(logits.dtype).min
    ordered = logits.sort(dim=1, descending=True).values
    safe = ordered[:, k : k + 1] == -math.inf  # no more than k classes are left: all are in the top k
    origin = torch.where(safe, 0.0, ordered[:, k - 1 : k])
    u = ((ordered - origin) / alpha).clamp(lowest, -lowest)
    # P and Q for m = 0..C; the sums run towards the threshold, where they must be exact.
    none = u.new_full((len(u), 1), -math.inf)
    log_p = torch.cat([none, (-u).logcumsumexp(dim=1)], dim=1)
    log_q = torch.cat([u.flip(1).logcumsumexp(dim=1).flip(1), none], dim=1)
    ranks = torch.arange(1, u.shape[1] + 1, device=u.device)
    # The sum of the shares if the threshold were at the m-th score: it passes k where m scores are above.
    total = ranks - (log_p[:, 1:] + u).exp() / 2 + (log_q[:, 1:] - u).exp() / 2
    m = (total <= k).long().cumprod(dim=1).sum(dim=1, keepdim=True)
    log_p, log_q = log_p.gather(1, m), log_q.gather(1, m)
    c = (k - m).to(u.dtype)
    root = torch.log1p((1 + (log_p + log_q).exp() / c.square().clamp(min=1)).sqrt()) + c.abs().clamp(min=1).log()
    offset = torch.where(c > 0, log_q - root, torch.where(c < 0, root - log_p, (log_q - log_p) / 2))
    return origin, torch.where(safe, 0.0, offset), safe


SPECS = (LossSpec(lapsum_topk, "LapSum top-k", "struski2025lapsum"),)
