"""Entropy losses that do not ask the label to beat its strongest competitors."""

import math

from torch import Tensor

from paperlib.losses._common import LossSpec, Reduction, Shift, prepare


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
    label = batch.labels.unsqueeze(1)
    strongest = batch.logits.detach().scatter(1, label, -math.inf).topk(k - 1, dim=1).indices
    # Masked classes may leave fewer than k - 1 competitors; the label's own score is put back in any case.
    kept = batch.logits.scatter(1, strongest, -math.inf).scatter(1, label, batch.logits.gather(1, label))
    kept = Shift.apply(kept)
    return batch.reduce(kept.logsumexp(dim=1) - batch.at_label(kept).masked_fill(batch.masked, 0.0))


SPECS = (LossSpec(truncated_topk_entropy, "truncated top-k entropy", "lapin2016loss"),)
