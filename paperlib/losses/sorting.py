"""Cross entropy of a relaxed ranking: sorting networks, NeuralSort and SoftSort."""

import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from paperlib.losses._common import LossSpec, Reduction, Saturate, check_choice, check_scale, competitors, prepare
from paperlib.losses.likelihood import nll

Method = Literal["odd_even", "bitonic", "neuralsort", "softsort"]
#: Stands for log 0 on the wires of a network that the label has not reached: finite, so that it has a derivative.
_NEVER = -1e30


def difftopk_cross_entropy(logits: Tensor, labels: Tensor, *, k: int = 5, p_k: Sequence[float] | None = None,
                           method: Method = "odd_even", steepness: float = 2.0, m: int | None = None,
                           weight: Tensor | None = None, ignore_index: int = -100,
                           reduction: Reduction = "mean") -> Tensor:
    r"""Differentiable top-k cross entropy: the log-probability that a relaxed ranking puts the label among the first.

    .. math:: L = -\log\Bigl(p_1 \operatorname{softmax}(s)_y
        + \sum_{\kappa > 1} p_\kappa \sum_{i \le \kappa} P_{y,i}\Bigr)

    :math:`P_{y,i}` is the relaxed probability that the label has rank i among the m classes that take part, and
    ``p_k`` weighs the list lengths :math:`\kappa`. The share of :math:`\kappa = 1` is the plain softmax over all
    classes, so k = 1 is cross entropy. :math:`\beta` is ``steepness``:

    - ``"odd_even"``, ``"bitonic"``: sorting networks whose comparators swap two scores at distance d, and with them
      their probabilities, with probability :math:`\frac12 - \frac1\pi \arctan(\beta d)` (Cauchy);
    - ``"neuralsort"``: row i of P is
      :math:`\operatorname{softmax}_j \beta\bigl((m + 1 - 2i) s_j - \sum_l |s_j - s_l|\bigr)`;
    - ``"softsort"``: row i of P is :math:`\operatorname{softmax}_j(-\beta |s_{[i]} - s_j|)`.

    The rows of the last two sum to 1, but not their columns: there the sum over i may pass 1, and the loss fall below
    0. Scores are put in order before they enter a network, the label behind its equals, so the order of the classes
    does not matter; the loss jumps where the label passes a competitor that the first layer leaves alone. Computed in
    logarithms, without the constant that other code adds to the probability and that takes the gradient away from
    labels far down. Not convex. Source: :cite:t:`petersen2022differentiable`.

    Args:
        logits: scores :math:`s`, float, (N, C) or (N, C, d...). ``-inf`` leaves a class out; a class that is
            not there has no rank.
        labels: class numbers, int64, (N,) or (N, d...).
        k: 1 <= k <= C - 1.
        p_k: weights of the list lengths 1, 2, ..., >= 0, sum 1; its length replaces k. None: all weight on k.
        method: the relaxation.
        steepness: :math:`\beta` > 0, per logit.
        m: classes that take part: the label and its m - 1 strongest competitors, k < m <= C. None: the larger of 16
            and k + 1, or all if there are fewer.
        weight: one factor per class, float, (C,).
        ignore_index: label of samples to leave out.
        reduction: ``mean``, ``sum``, or ``none`` for one value per sample.

    Returns:
        float32 (float64 for float64 logits): 0-d, or the shape of ``labels`` for ``none``.

    Raises:
        ValueError: an argument is off; see :mod:`paperlib.losses` for which checks run where.
    """
    check_choice("method", method, ("odd_even", "bitonic", "neuralsort", "softsort"))
    check_scale("steepness", steepness)
    given = None if p_k is None else _check_p_k(p_k)
    k = k if given is None else len(given)
    batch = prepare(logits, labels, weight, ignore_index, reduction, k)
    shares = given or [0.0] * (k - 1) + [1.0]
    count = _check_m(m, k, logits.shape[1])
    first = batch.each(nll).unsqueeze(1)
    if shares[0] == 1:
        return batch.reduce(first.squeeze(1))
    parts = [math.log(shares[0]) - first] if shares[0] > 0 else []
    own = batch.logits.gather(1, batch.labels.unsqueeze(1))
    best = competitors(batch.logits, batch.labels, count - 1)[0]
    if method in ("odd_even", "bitonic"):
        log_p = _network(own, best, method, steepness)[:, :k]
    else:
        log_p = _sorted_rows(own, best, method, steepness, k)
    # Rank i belongs to every list of length i or more; the list of length 1 has its own term.
    weights = [sum(shares[max(i, 1):]) for i in range(k)]
    parts += [log_p[:, i : i + 1] + math.log(w) for i, w in enumerate(weights) if w > 0]
    return batch.reduce(-torch.cat(parts, dim=1).logsumexp(dim=1))


def _check_p_k(p_k: Any) -> list[float]:
    shares = [] if isinstance(p_k, str) or not isinstance(p_k, Sequence) else list(p_k)
    numbers = all(isinstance(share, Real) and 0 <= float(share) < math.inf for share in shares)
    if not numbers or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"p_k={p_k!r}: expected numbers >= 0 that sum to 1, one for each list length 1, 2, ...")
    return shares


def _check_m(m: int | None, k: int, num_classes: int) -> int:
    if m is None:
        return min(max(16, k + 1), num_classes)
    if isinstance(m, bool) or not isinstance(m, int) or not k < m <= num_classes:
        raise ValueError(f"m={m!r}: expected a whole number with k={k} < m <= {num_classes}, the number of classes")
    return m


def _sorted_rows(own: Tensor, best: Tensor, method: str, steepness: float, k: int) -> Tensor:
    """Log-probabilities of the label at ranks 1..k, (rows, k), by NeuralSort or SoftSort."""
    scores = torch.cat([own, best], dim=1)
    absent = scores == -math.inf
    size = (~absent).sum(dim=1, keepdim=True)
    ranks = torch.arange(1, k + 1, device=own.device)
    # Relative to the label, which changes no row, and 2^20 times smaller, which is exact: nothing overflows.
    small = torch.where(absent, 0.0, scores * 2.0**-20 - own * 2.0**-20)
    if method == "neuralsort":
        apart = (small.unsqueeze(1) - small.unsqueeze(2)).abs().masked_fill(absent.unsqueeze(1), 0.0).sum(dim=2)
        rows = (size + 1 - 2 * ranks).unsqueeze(2) * small.unsqueeze(1) - apart.unsqueeze(1)
    else:
        ranked = torch.gather(small, 1, scores.argsort(dim=1, descending=True)[:, :k])
        rows = -(ranked.unsqueeze(2) - small.unsqueeze(1)).abs()
    rows = rows.masked_fill(absent.unsqueeze(1), -math.inf)
    rows = Saturate.apply((rows - rows.detach().amax(dim=2, keepdim=True)) * (steepness * 2.0**20))
    return (rows[:, :, 0] - rows.logsumexp(dim=2)).masked_fill(ranks > size, -math.inf)


def _network(own: Tensor, best: Tensor, method: str, steepness: float) -> Tensor:
    """Log-probabilities of the label on the wires of a sorting network, (rows, wires), the largest score first."""
    position = (best >= own).sum(dim=1, keepdim=True)
    size = best.shape[1] + 1
    wires = size if method == "odd_even" else 2 ** (size - 1).bit_length()
    place = torch.arange(wires, device=own.device)
    scores = torch.cat([best, own, best.new_full((len(best), wires - size), -math.inf)], dim=1)
    source = torch.where(place < position, place, (place - 1).clamp(min=0))
    source = torch.where(place >= size, place, torch.where(place == position, size - 1, source))
    scores = scores.gather(1, source)
    absent = scores == -math.inf  # these stand at the end and stay there: no comparator exchanges them
    present = (~absent).sum(dim=1).unflatten(0, (-1, 1, 1))
    scores = scores.masked_fill(absent, 0.0)
    log_p = torch.where(place == position, 0.0, torch.full_like(scores, _NEVER))
    for least, start, stop, stride, mirrored in _comparators(method, wires):
        upper, lower = _wires(scores, start, stop, stride, mirrored)
        log_upper, log_lower = _wires(log_p, start, stop, stride, mirrored)
        fixed = _wires(absent, start, stop, stride, mirrored)[1] | (present < least)
        apart = Saturate.apply(torch.where(fixed, 0.0, upper - lower))
        stay, swap, exchanged = _comparator(apart, steepness)
        new_scores = upper - exchanged, lower + exchanged
        new_log_p = (torch.stack([log_upper + stay, log_lower + swap]).logsumexp(dim=0),
                     torch.stack([log_upper + swap, log_lower + stay]).logsumexp(dim=0))
        scores = _joined(scores, (upper, lower), new_scores, fixed, start, stop, mirrored)
        log_p = _joined(log_p, (log_upper, log_lower), new_log_p, fixed, start, stop, mirrored)
    return log_p


def _comparators(method: str, wires: int) -> Iterator[tuple[int, int, int, int, bool]]:
    """Layers as (least, first wire, end, distance, mirrored): each compares wires at that distance, or mirror images.

    A network for fewer than ``least`` classes does not have the layer.

    The larger score goes to the wire that comes first, everywhere: Batcher's bitonic sorter in that form begins each
    merge by comparing the mirror images of a block.
    """
    if method == "odd_even":
        for layer in range(wires):
            start = layer % 2
            if wires - start > 1:
                yield layer + 1, start, wires - (wires - start) % 2, 1, False
        return
    block = 2
    while block <= wires:
        yield block // 2 + 1, 0, wires, block // 2, True
        stride = block // 4
        while stride:
            yield block // 2 + 1, 0, wires, stride, False
            stride //= 2
        block *= 2


def _wires(values: Tensor, start: int, stop: int, stride: int, mirrored: bool) -> tuple[Tensor, Tensor]:
    """The upper and the lower wires that one layer compares, both (rows, blocks, stride)."""
    pairs = values[:, start:stop].unflatten(1, (-1, 2, stride))
    return pairs[:, :, 0], pairs[:, :, 1].flip(2) if mirrored else pairs[:, :, 1]


def _joined(values: Tensor, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], fixed: Tensor, start: int,
            stop: int, mirrored: bool) -> Tensor:
    """``values`` with the wires of one layer replaced; what is fixed stays."""
    upper, lower = (torch.where(fixed, old, new) for old, new in zip(before, after, strict=True))
    middle = torch.stack([upper, lower.flip(2) if mirrored else lower], dim=2).flatten(1)
    return torch.cat([values[:, :start], middle, values[:, stop:]], dim=1)


def _comparator(d: Tensor, steepness: float) -> tuple[Tensor, Tensor, Tensor]:
    """For scores at distance ``d``: log-probability that they stay, that they are swapped, and d times the latter.

    All follow from a = abs(d) and the probability of the less likely, 1/2 - atan(x) / pi with x = steepness * a, which
    far out is atan(1 / x) / pi: a times it tends to a constant, where either factor would overflow.
    """
    turned = d < 0
    distance = torch.where(turned, -d, d)
    far = distance > 1 / steepness
    size = torch.where(far, distance, 1.0)
    inverse = 1 / (steepness * size.clamp(max=1e15 / steepness))  # held to where atan(1 / x) x is 1 in any precision
    ratio = inverse.atan() / inverse
    near = torch.where(far, 0.0, distance)
    close = 0.5 - (steepness * near).atan() / math.pi
    scale = math.pi * steepness
    moved = torch.where(far, ratio / scale, near * close)
    log_less = torch.where(far, ratio.log() - size.log() - math.log(scale), close.log())
    log_more = (-torch.where(far, ratio / scale / size, close)).log1p()
    return (torch.where(turned, log_less, log_more), torch.where(turned, log_more, log_less),
            torch.where(turned, d + moved, moved))


SPECS = (LossSpec(difftopk_cross_entropy, "differentiable top-k CE", "petersen2022differentiable"),)
