"""Slow, plain references for every loss, each written from its definition and from nothing else.

A reference takes one row of logits `s` (numbers of `mp`, masked classes already taken out), the position `y` of
its label and the loss's options. Numbers have 100 digits and exponents without bounds, so every formula stands
here as it stands in the paper: no shift by a maximum, no rearrangement, at any size of the logits. `at` is the row
at which a quantity that the loss detaches is evaluated: gradients hold it fixed.

Adding a loss is one entry in `REFERENCES`; a loss without one fails `test_losses_contract.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from math import inf, isinf

import mpmath
import torch
from torch import Tensor

mp = mpmath.MPContext()
mp.dps = 100
STEP = mp.mpf("1e-30")  # of the central differences: their error is far below double precision


def softmax(s):
    total = mp.fsum(mp.exp(x) for x in s)
    return [mp.exp(x) / total for x in s]


def by_score(s):
    """Class indices, the highest score first."""
    return sorted(range(len(s)), key=lambda j: s[j], reverse=True)


def after_top(s, k):
    """s_[k+1], the best score outside the k largest; minus infinity where nothing is left."""
    return s[by_score(s)[k]] if k < len(s) else -mp.inf


def cross_entropy(s, y, at, label_smoothing=0.0):
    p, q = softmax(s), [mp.mpf(label_smoothing) / len(s)] * len(s)
    q[y] += 1 - mp.mpf(label_smoothing)
    return -mp.fsum(q_j * mp.log(p_j) for q_j, p_j in zip(q, p, strict=True))


def topk_grouped(s, y, at, k):
    p = softmax(s)
    if s[y] > after_top(s, k):
        return -mp.log(mp.fsum(p[j] for j in by_score(s)[:k]))
    return -mp.log(p[y])


def gate(s, y, k, kind, tau, margin):
    gap = s[y] - after_top(s, k)
    if kind == "none" or gap == mp.inf:
        return mp.mpf(1)
    if kind == "ratio":
        return 1 - mp.exp(-gap / mp.mpf(tau))
    return min(max(gap / mp.mpf(margin), mp.mpf(0)), mp.mpf(1))


def topk_transition(
    s, y, at, k, gate="ratio", tau=1.0, margin=1.0, strength=1.0, detach_gate=True, blend="probability"
):
    p = softmax(s)
    if not s[y] > after_top(s, k):
        return -mp.log(p[y])
    rest = mp.fsum(p[j] for j in by_score(s)[:k] if j != y)
    w = mp.mpf(float(strength)) * GATE(at if detach_gate else s, y, k, gate, tau, margin)
    if blend == "probability":
        return -mp.log(p[y] + w * rest)
    return -(1 - w) * mp.log(p[y]) - w * mp.log(p[y] + rest)


GATE = gate  # `gate` is also an option's name


def truncated_topk_entropy(s, y, at, k):
    competitors = sorted((x - s[y] for j, x in enumerate(s) if j != y), reverse=True)
    return mp.log(1 + mp.fsum(mp.exp(a) for a in competitors[k - 1 :]))


def smooth_topk_svm(s, y, at, k, tau=1.0, margin=1.0):
    """The sum over all k-subsets, as in the paper; none of them (k classes or more are masked): no loss."""
    tau, margin = mp.mpf(tau), mp.mpf(margin)
    everything, right = [], []
    for subset in combinations(range(len(s)), k):
        score = mp.fsum(s[j] for j in subset) / k
        everything.append(mp.exp((score + (0 if y in subset else margin)) / tau))
        if y in subset:
            right.append(mp.exp(score / tau))
    return tau * mp.log(mp.fsum(everything) / mp.fsum(right)) if right else mp.mpf(0)


def smooth_topk_svm_polynomial(s, y, at, k, tau=1.0, margin=1.0):
    """The same with elementary symmetric polynomials: the coefficients of the product of 1 + x_j t over j != y."""
    tau, margin = mp.mpf(tau), mp.mpf(margin)
    e = [mp.mpf(1)] + [mp.mpf(0)] * k
    for j, x in enumerate(s):
        if j != y:
            root = mp.exp(x / (k * tau))
            e = [e[0]] + [e[i] + root * e[i - 1] for i in range(1, k + 1)]
    with_y, without_y = mp.exp(s[y] / (k * tau)) * e[k - 1], mp.exp(margin / tau) * e[k]
    return tau * mp.log((with_y + without_y) / with_y) if with_y else mp.mpf(0)


@dataclass(frozen=True)
class Reference:
    """The definition of one loss and the options under which the contract is checked."""

    value: Callable
    options: list[dict] = field(default_factory=lambda: [{}])
    takes_k: bool = True


REFERENCES = {
    "cross_entropy": Reference(cross_entropy, [{}, {"label_smoothing": 0.1}, {"label_smoothing": 1.0}], takes_k=False),
    "topk_grouped": Reference(topk_grouped),
    "topk_transition": Reference(
        topk_transition,
        [
            {},
            {"tau": 0.2, "strength": 0.7},
            {"detach_gate": False},
            {"detach_gate": False, "tau": 3.0, "blend": "loss"},
            {"blend": "loss", "strength": torch.tensor(0.5)},
            {"gate": "linear", "margin": 2.0},
            {"gate": "linear", "margin": 0.5, "detach_gate": False},
            {"gate": "linear", "detach_gate": False, "blend": "loss", "strength": 0.7},
            {"gate": "none", "strength": 0.3},
            {"gate": "none", "strength": 0.3, "blend": "loss", "detach_gate": False},
        ],
    ),
    "truncated_topk_entropy": Reference(truncated_topk_entropy),
    "smooth_topk_svm": Reference(
        smooth_topk_svm, [{}, {"tau": 0.1}, {"tau": 0.01, "margin": 0.0}, {"tau": 5.0, "margin": 3.0}]
    ),
}


def _without_masked(row, label):
    """The row as numbers of `mp` without its masked classes, the label's new position, the positions kept."""
    kept = [j for j, x in enumerate(row) if x != -inf]
    return [mp.mpf(row[j]) for j in kept], kept.index(label), kept


def values(name: str, logits: Tensor, labels: Tensor, *, value: Callable | None = None, **options) -> Tensor:
    """Losses of the rows of (N, C) logits in float64, shape (N,); masked classes are absent."""
    value = value or REFERENCES[name].value
    result = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if isinf(row[label]):
            result.append(inf)
        else:
            s, y, _ = _without_masked(row, label)
            result.append(float(value(s, y, s, **options)))
    return torch.tensor(result, dtype=torch.float64)


def gradients(name: str, logits: Tensor, labels: Tensor, **options) -> Tensor:
    """Gradients of the rows' losses in float64, shape (N, C), by central differences; 0 at masked classes."""
    value = REFERENCES[name].value
    result = torch.zeros(logits.shape, dtype=torch.float64)
    for i, (row, label) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        if isinf(row[label]):
            continue
        s, y, kept = _without_masked(row, label)
        for position, j in enumerate(kept):
            up, down = s.copy(), s.copy()
            up[position] += STEP
            down[position] -= STEP
            result[i, j] = float((value(up, y, s, **options) - value(down, y, s, **options)) / (2 * STEP))
    return result
