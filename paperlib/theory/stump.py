"""One threshold on an interval: cross entropy and top-k accuracy of every split in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paperlib.bayes import bayes_topk

Array = NDArray[np.float64]

_TIE = 1e-12


@dataclass(frozen=True, eq=False)
class Segments:
    """Data on [0, 1]: x is uniform, and the class probabilities are constant on each of S segments.

    Attributes:
        masses: lengths of the segments from left to right, float64 (S,), above 0 with sum 1.
        probabilities: class probabilities on each, float64 (S, C).

    Raises:
        ValueError: masses or probabilities are none.
    """

    masses: Array
    probabilities: Array

    def __post_init__(self) -> None:
        masses, probabilities = (np.asarray(values, dtype=np.float64) for values in (self.masses, self.probabilities))
        if masses.ndim != 1 or not ((masses > 0).all() and np.isclose(masses.sum(), 1, atol=1e-12)):
            raise ValueError(f"masses={masses.tolist()}: expected numbers above 0 that sum to 1")
        if probabilities.shape[:1] != masses.shape:
            raise ValueError(f"probabilities have shape {probabilities.shape}: expected ({len(masses)}, C)")
        bayes_topk(probabilities)  # refuses what is no table of probabilities
        object.__setattr__(self, "masses", masses)
        object.__setattr__(self, "probabilities", probabilities)

    @property
    def boundaries(self) -> Array:
        """Ends of the segments, (S + 1,), from 0 to 1."""
        return np.concatenate([[0.0], np.cumsum(self.masses[:-1]), [1.0]])

    @property
    def conditional_entropy(self) -> float:
        """H(Y | X) in nats: what no model's cross entropy falls below."""
        return float(mass_entropy(self.masses[:, None] * self.probabilities).sum())

    def below(self, threshold: Any) -> Array:
        """Mass of each class at x < threshold, (T, C), for thresholds (T,) in [0, 1]."""
        t = np.atleast_1d(np.asarray(threshold, dtype=np.float64))
        if not ((t >= 0) & (t <= 1)).all():
            raise ValueError(f"thresholds lie in {t.min()}..{t.max()}: expected [0, 1]")
        covered = np.clip(t[:, None] - self.boundaries[:-1], 0, self.masses)
        return covered @ self.probabilities


def mass_entropy(masses: Array) -> Array:
    r""":math:`G(m) = -\sum_j m_j \log (m_j / \sum_i m_i)` over the last axis, in nats; 0 log 0 is 0.

    It is the smallest cross entropy that one set of class probabilities can have on samples with these class masses.
    G is concave, G(tm) = t G(m), and so G(m + n) >= G(m) + G(n), with equality where m and n are proportional alone.
    """
    share = np.divide(masses, masses.sum(axis=-1, keepdims=True), out=np.ones_like(masses), where=masses > 0)
    return -(masses * np.log(share)).sum(axis=-1)


def cross_entropy_at(data: Segments, threshold: Any) -> Array:
    """Cross entropy (T,), in nats, of the best class probabilities on either side of each threshold.

    It is H(Y) less the information gain of the split. On each segment it is concave in the threshold, so that it is
    smallest at a boundary between two segments (:cite:t:`elomaa2000generalizing` prove the same of many criteria).
    """
    left = data.below(threshold)
    return mass_entropy(left) + mass_entropy(np.maximum(data.below(1.0) - left, 0))


def topk_at(data: Segments, threshold: Any, k: int) -> Array:
    """Top-k accuracy (T,) of the best k classes on either side of each threshold: the likeliest k of each side.

    On each segment it is convex in the threshold, so that it is largest at a boundary. The class probabilities that
    minimise cross entropy at a threshold have the same top k: cross entropy can only choose a wrong threshold.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= data.probabilities.shape[1]:
        raise ValueError(f"k={k!r}: expected a whole number in 1..{data.probabilities.shape[1]}")
    left = data.below(threshold)
    return sum((-np.sort(-side, axis=1)[:, :k].sum(axis=1) for side in (left, data.below(1.0) - left)), np.zeros(1))


def three_segments(first: float, second: float, rest: Sequence[float]) -> Segments:
    """The family of the theorem, with k = len(rest) and C = k + 1 classes.

    The first segment is class 0 and the second one class 1, both without noise. The third, of mass
    1 - first - second, has class 0 with probability ``rest[0]`` and classes 2 to k with the others; class 1 never.

    Args:
        first: mass a of the first segment, above 0.
        second: mass b of the second one, above 0, with a + b < 1.
        rest: class probabilities r on the third segment, at least two, with sum 1.

    Raises:
        ValueError: the masses or the probabilities are off.
    """
    if len(rest) < 2:
        raise ValueError(f"rest={list(rest)!r}: expected the probabilities of at least two classes")
    k = len(rest)
    table = np.zeros((3, k + 1))
    table[0, 0] = table[1, 1] = 1
    table[2, [0, *range(2, k + 1)]] = rest
    return Segments(np.array([first, second, 1 - first - second]), table)


@dataclass(frozen=True)
class Predicted:
    """What the theorem says of :func:`three_segments`.

    Attributes:
        thresholds: all minimisers of cross entropy: one, or two where they tie.
        cross_entropy: the minimum, nats.
        best_topk: the largest top-k accuracy of any stump.
        gap: ``best_topk`` less the top-k accuracy at the minimiser; at a tie, at the worse one.
        top1_optimal: whether no stump has a better top-1 accuracy than the (worse) minimiser is known to have.
    """

    thresholds: tuple[float, ...]
    cross_entropy: float
    best_topk: float
    gap: float
    top1_optimal: bool


def predicted(first: float, second: float, rest: Sequence[float]) -> Predicted:
    r"""What the theorem states, in numbers, for k = len(rest).

    With masses a, b, c = 1 - a - b, and :math:`\rho = \min_j r_j`, cross entropy is smallest at the threshold

    .. math::
        t = a \text{ where } c < a, \qquad t = a + b \text{ where } c > a, \qquad \text{at both where } c = a,

    with the value :math:`G(b, \min(a, c)) + c H(r)`, where G is :func:`mass_entropy` and H the entropy. The best stump
    has top-k accuracy 1. Cross entropy's threshold misses :math:`\min(b, c \rho)` of it where c < a, and nothing where
    c > a. Masses nearer than 1e-12 count as equal. The report proves it.

    Args:
        first: a.
        second: b.
        rest: r.
    """
    data = three_segments(first, second, rest)
    a, b, c = data.masses
    ambiguity = c * mass_entropy(np.asarray(rest, dtype=np.float64))
    tie = abs(c - a) < _TIE
    thresholds = [float(t) for t, is_minimum in ((a, c < a or tie), (a + b, c > a or tie)) if is_minimum]
    gap = float(min(b, c * min(rest))) if c < a or tie else 0.0
    return Predicted(tuple(thresholds), float(mass_entropy(np.array([b, min(a, c)])) + ambiguity), 1.0, gap,
                     top1_optimal=bool(c < a and not tie))
