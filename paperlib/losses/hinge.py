"""Hinge losses: the label's score against a few competitors, with a margin, and no gradient beyond it."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from paperlib.losses._common import (
    Batch,
    LossSpec,
    Reduction,
    add_at,
    check_number,
    competitors,
    is_plain,
    largest,
    prepare,
)


def topk_hinge_alpha(logits: Tensor, labels: Tensor, *, k: int = 5, weight: Tensor | None = None,
                     ignore_index: int = -100, reduction: Reduction = "mean") -> Tensor:
    r"""Top-k hinge "alpha": the mean of the k largest margin violations, the label's own 0 among them.

    .. math:: L = \Bigl(\frac1k \sum_{i=1}^k z_{[i]}\Bigr)_+, \qquad z_j = [j \ne y] + s_j - s_y

    Convex, piecewise linear, an upper bound of the top-k error, not calibrated for the top k
    (:cite:t:`yang2020consistency`); the multiclass hinge at k = 1. :math:`z_y = 0` takes part, as in the definition;
    the authors' solver leaves it out. Source: :cite:t:`lapin2015topk`.

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
    return batch.loss(partial(_alpha, k=k))


def _alpha(logits: Tensor, labels: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
    violation, classes = _violations(logits, labels, k)
    # The k largest with the label's 0 among them: the last competitor stands there only if it is above 0.
    part = torch.cat([violation[:, : k - 1], violation[:, k - 1 :].clamp(min=0.0)], dim=1)
    value = part.sum(dim=1)
    counted = torch.cat([torch.ones_like(violation[:, : k - 1]), (violation[:, k - 1 :] > 0).to(value.dtype)], dim=1)
    pull = (value > 0).unsqueeze(1) * counted / k
    return value.clamp(min=0.0), _pulls(logits, labels, classes, pull)


def topk_hinge_beta(logits: Tensor, labels: Tensor, *, k: int = 5, weight: Tensor | None = None,
                    ignore_index: int = -100, reduction: Reduction = "mean") -> Tensor:
    r"""Top-k hinge "beta": the mean over the k strongest competitors of their margin violations.

    .. math:: L = \frac1k \sum_{i=1}^k (z_{[i]})_+, \qquad z_j = [j \ne y] + s_j - s_y

    Never below :func:`topk_hinge_alpha`, with which it shares convexity, the bound, the case k = 1 and that it is not
    calibrated (:cite:t:`yang2020consistency`). Source: :cite:t:`lapin2015topk`.

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
    return batch.loss(partial(_beta, k=k))


def _beta(logits: Tensor, labels: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
    violation, classes = _violations(logits, labels, k)
    pull = (violation > 0).to(violation.dtype) / k
    return violation.clamp(min=0.0).sum(dim=1), _pulls(logits, labels, classes, pull)


def consistent_topk_hinge(logits: Tensor, labels: Tensor, *, k: int = 5, weight: Tensor | None = None,
                          ignore_index: int = -100, reduction: Reduction = "mean") -> Tensor:
    r"""Top-k hinge of the label against the (k + 1)-th largest score of all classes.

    .. math:: L = (1 + s_{[k+1]} - s_y)_+

    Calibrated for the top k, not convex. A label that stands (k + 1)-th is compared with itself: the loss is 1 and has
    no gradient. Source: :cite:t:`yang2020consistency`.

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
    return batch.loss(partial(_against_next, k=k))


def _against_next(logits: Tensor, labels: Tensor, noise: Tensor | None = None, margins: Tensor | None = None, *,
                  k: int, eps: float = 0.0) -> tuple[Tensor, Tensor]:
    """The hinge against s_[k+1], or against the mean of that over perturbed copies, noise (samples, rows, C)."""
    y = labels.unsqueeze(1)
    if noise is None:
        rivals, classes = (part[:, k:] for part in largest(logits, k + 1))
    else:
        perturbed = logits + eps * noise
        rivals, classes = (part[:, k:].reshape(len(noise), len(logits)).t()
                           for part in largest(perturbed.flatten(0, 1), k + 1))
    limit = torch.finfo(logits.dtype).max
    rival = (rivals / rivals.shape[1]).sum(dim=1, keepdim=True)
    margin = 1.0 if margins is None else margins[y]
    value = margin + (rival - logits.gather(1, y)).clamp(-limit, limit)
    value = torch.where(rival == -math.inf, 0.0, value)  # nobody is left outside the top k
    pull = (value > 0).to(value.dtype) / rivals.shape[1]
    return value.squeeze(1).clamp(min=0.0), _pulls(logits, labels, classes, pull.expand_as(rivals))


def noised_topk_hinge(logits: Tensor, labels: Tensor, *, k: int = 5, eps: float = 1.0, num_samples: int = 5,
                      noise: Tensor | None = None, generator: torch.Generator | None = None,
                      margins: Tensor | Sequence[float] | None = None, weight: Tensor | None = None,
                      ignore_index: int = -100, reduction: Reduction = "mean") -> Tensor:
    r"""Top-k hinge against the (k + 1)-th largest score, smoothed by the mean over perturbed scores.

    .. math:: L = \Bigl(m_y + \frac1B \sum_{b=1}^B (s + \varepsilon Z_b)_{[k+1]} - s_y\Bigr)_+,
        \qquad Z_b \sim \mathcal N(0, I)

    with B = ``num_samples`` and margins :math:`m_y = 1` (the balanced form). :func:`imbalanced_margins` gives rare
    classes wider ones (the imbalanced form; its authors also scale the logits of a normalised last layer by a
    constant). At :math:`\varepsilon = 0` it is :func:`consistent_topk_hinge`. Not convex.
    Source: :cite:t:`garcin2022stochastic`.

    Where nothing else is given, the noise comes from torch's default generator, as in dropout. While gradients are off
    (``torch.no_grad``), as in evaluation, it comes from a generator of constant seed instead: the same input gives the
    same loss, and evaluating does not move the random numbers of training.

    Args:
        logits: scores :math:`s`, float, (N, C) or (N, C, d...). ``-inf`` leaves a class out; with fewer than k
            competitors left the loss is 0.
        labels: class numbers, int64, (N,) or (N, d...).
        k: 1 <= k <= C - 1.
        eps: standard deviation of the noise, in logits, >= 0.
        num_samples: perturbed copies of each row, >= 1; unused where ``noise`` is given.
        noise: draws of the standard normal distribution to use, float, (B, N, C) or (B, N, C, d...). Under
            ``torch.compile`` and ``torch.func.vmap`` give it: neither draws as eager code does.
        generator: to draw the noise from, on the device of the logits.
        margins: :math:`m_y` >= 0 for each class, in logits, (C,).
        weight: one factor per class, float, (C,).
        ignore_index: label of samples to leave out.
        reduction: ``mean``, ``sum``, or ``none`` for one value per sample.

    Returns:
        float32 (float64 for float64 logits): 0-d, or the shape of ``labels`` for ``none``.

    Raises:
        ValueError: an argument is off; see :mod:`paperlib.losses` for which checks run where.
    """
    check_number("eps", eps, 0, 1e20)
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"num_samples={num_samples!r}: expected a whole number of at least 1")
    batch = prepare(logits, labels, weight, ignore_index, reduction, k)
    margins = None if margins is None else _check_margins(margins, batch.logits)
    if noise is not None:
        noise = _check_noise(noise, logits).to(batch.logits.dtype)
        noise = noise.movedim(2, -1).reshape(len(noise), *batch.logits.shape)
    elif eps > 0:
        if generator is None and not torch.is_grad_enabled():
            generator = torch.Generator(logits.device).manual_seed(0)
        noise = torch.randn(num_samples, *batch.logits.shape, generator=generator, dtype=batch.logits.dtype,
                            device=logits.device)
    return _noised(batch, noise if eps > 0 else None, margins, k, eps)


def imbalanced_margins(class_counts: Tensor | Sequence[int], max_margin: float = 0.2) -> Tensor:
    r"""Margins of :func:`noised_topk_hinge` for classes of different sizes, float32 (C,).

    .. math:: m_c = m_{\max}\, n_c^{-1/4} / \max_j n_j^{-1/4}

    Args:
        class_counts: training samples :math:`n_c` of each class, >= 1, (C,).
        max_margin: of the smallest class, in logits, > 0. Source: :cite:t:`garcin2022stochastic`.
    """
    check_number("max_margin", max_margin, 0, open_low=True)
    counts = torch.as_tensor(class_counts, dtype=torch.float32)
    if counts.dim() != 1 or not len(counts) or not bool((counts >= 1).all()):
        raise ValueError(f"class_counts={class_counts!r}: expected at least 1 sample for each of the C classes")
    return max_margin * (counts.min() / counts) ** 0.25


def _check_margins(margins: Tensor | Sequence[float], logits: Tensor) -> Tensor:
    values = torch.as_tensor(margins, dtype=logits.dtype, device=logits.device)
    if tuple(values.shape) != (logits.shape[1],):
        raise ValueError(f"margins have shape {tuple(values.shape)}: expected ({logits.shape[1]},), one a class")
    if is_plain(values) and values.device.type == "cpu" and not bool(((values >= 0) & (values < math.inf)).all()):
        raise ValueError(f"margins={margins!r}: expected finite numbers of at least 0")
    return values


def _check_noise(noise: Tensor, logits: Tensor) -> Tensor:
    got = f"shape {tuple(noise.shape)}, {noise.dtype}" if isinstance(noise, Tensor) else repr(noise)
    if not isinstance(noise, Tensor) or not noise.is_floating_point() or noise.dim() < 1 or not len(noise) \
            or noise.shape[1:] != logits.shape:
        raise ValueError(f"noise: got {got}, expected a floating-point Tensor of shape (B, *{tuple(logits.shape)})")
    return noise


def _noised(batch: Batch, noise: Tensor | None, margins: Tensor | None, k: int, eps: float) -> Tensor:
    return batch.loss(partial(_against_next, k=k, eps=eps), noise, margins)


def _violations(logits: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(1 + s_j - s_y) / k of the k strongest competitors, -inf where there is none, and their classes."""
    limit = torch.finfo(logits.dtype).max / k
    best, classes = competitors(logits, labels, k)
    own = logits.gather(1, labels.unsqueeze(1))
    violation = ((best / k - own / k) + 1 / k).clamp(-limit, limit)
    return torch.where(best == -math.inf, -math.inf, violation), classes


def _pulls(logits: Tensor, labels: Tensor, classes: Tensor, pull: Tensor) -> Tensor:
    """The derivative that has ``pull`` at ``classes`` and its opposite at the label, (rows, C)."""
    both = torch.cat([pull, -pull.sum(dim=1, keepdim=True)], dim=1)
    return add_at(torch.zeros_like(logits), torch.cat([classes, labels.unsqueeze(1)], dim=1), both)


SPECS = (
    LossSpec(topk_hinge_alpha, "top-k hinge alpha", "lapin2015topk"),
    LossSpec(topk_hinge_beta, "top-k hinge beta", "lapin2015topk"),
    LossSpec(consistent_topk_hinge, "consistent top-k hinge", "yang2020consistency"),
    LossSpec(noised_topk_hinge, "noised top-k hinge", "garcin2022stochastic"),
)
