"""Proportions and order statistics: how many candidates k a model must show.

The accuracy at k is the share of images whose label has rank at most k, so the smallest k that reaches a
target is a quantile of the ranks, and everything here follows from the binomial distribution, without
assumptions about the ranks. Targets and levels are read as the decimals they were written as, because
``0.99 * 10000`` must be 9900 and not the double below it.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as distributions

from paperlib.stats._check import as_array, as_count, as_fraction, as_ranks

Floats = NDArray[np.float64]

#: Beyond this many images a tie between two exact tails is settled in float64: the sum would take minutes.
_EXACT_LIMIT = 100_000


def smallest_k_interval(ranks: ArrayLike, target: Any, level: Any = 0.95) -> tuple[int, int | None]:
    r"""Distribution-free interval for the smallest k that reaches a target accuracy on new images.

    The interval is :math:`[r_{(l)}, r_{(u)}]`, where l and u - 1 are the :math:`\alpha/2` and :math:`1 -
    \alpha/2` quantiles of Binomial(n, target) and :math:`\alpha` is 1 - level. It covers with at least the
    level whatever the distribution of the ranks (:cite:t:`david2003order`; more, as ranks are discrete).

    Args:
        ranks: integer label ranks of independent images, shape (n,), 1 = top.
        target: accuracy in (0, 1].
        level: confidence in (0, 1), two-sided.

    Returns:
        ``(low, high)``. ``low`` is 1 where l = 0; ``high`` is None where n images cannot bound k (u > n).

    Raises:
        ValueError: empty, non-integer or non-positive ranks; target or level out of range.
    """
    ordered, fraction = np.sort(as_ranks(ranks)), as_fraction(target, "target", closed=True)
    alpha = 1 - as_fraction(level, "level")
    n = len(ordered)
    lower = _binomial_quantile(alpha / 2, n, fraction)
    upper = _binomial_quantile(1 - alpha / 2, n, fraction) + 1
    return (int(ordered[lower - 1]) if lower else 1, int(ordered[upper - 1]) if upper <= n else None)


def certified_k(ranks: ArrayLike, target: Any, level: Any = 0.95) -> int | None:
    r"""The smallest k whose accuracy on new images is at least the target, with confidence ``level``.

    The smallest k whose one-sided lower bound (:cite:t:`clopper1934use`) reaches the target t: with c images
    of rank at most k, :math:`P(\text{Binomial}(n, t) \ge c) \le 1 - \text{level}`. With n = 10,000 a target
    of .99 leaves room for 83 errors and not 100. Testing k from the number of classes downwards is one fixed
    sequence of tests, so the choice of k needs no further correction.

    Args:
        ranks: integer label ranks of independent images, shape (n,), 1 = top.
        target: accuracy in (0, 1].
        level: confidence in (0, 1), one-sided.

    Returns:
        k, or None where n images cannot certify the target even without an error.

    Raises:
        ValueError: empty, non-integer or non-positive ranks; target or level out of range.
    """
    ordered, fraction = np.sort(as_ranks(ranks)), as_fraction(target, "target", closed=True)
    needed = _binomial_quantile(as_fraction(level, "level"), len(ordered), fraction) + 1
    return int(ordered[needed - 1]) if needed <= len(ordered) else None


def _binomial_quantile(level: Fraction, n: int, p: Fraction) -> int:
    """The smallest x with P(Binomial(n, p) <= x) >= level, exact where float64 cannot tell."""
    def reached(x: int) -> bool:
        below = float(distributions.binom.cdf(x, n, float(p)))
        if n > _EXACT_LIMIT or abs(below - float(level)) > 1e-9 * float(min(level, 1 - level)):
            return below >= float(level)
        a, b = p.numerator, p.denominator - p.numerator
        return sum(math.comb(n, i) * a**i * b ** (n - i) for i in range(x + 1)) >= level * p.denominator**n

    x = int(distributions.binom.ppf(float(level), n, float(p)))
    while x > 0 and reached(x - 1):
        x -= 1
    while not reached(x):
        x += 1
    return x


def clopper_pearson(successes: ArrayLike, n: int, level: Any = 0.95) -> tuple[Floats, Floats]:
    """Exact two-sided interval of a proportion; conservative.

    Args:
        successes: whole numbers in 0..n, a scalar or an array of any shape.
        n: how many were tried.
        level: confidence in (0, 1).

    Returns:
        ``(low, high)``, float64 of the shape of ``successes``.

    Raises:
        ValueError: counts that are no whole numbers in 0..n; a level out of range.
    """
    count, n, alpha = *_counts(successes, n), float(1 - as_fraction(level, "level"))
    # The Beta quantiles do not exist at 0 and n, where the interval ends at 0 and 1.
    low = distributions.beta.ppf(alpha / 2, np.maximum(count, 1), n - count + 1)
    high = distributions.beta.ppf(1 - alpha / 2, count + 1, np.maximum(n - count, 1))
    return np.where(count == 0, 0.0, low)[()], np.where(count == n, 1.0, high)[()]


def wilson(successes: ArrayLike, n: int, level: Any = 0.95) -> tuple[Floats, Floats]:
    """Score interval of a proportion: shorter than :func:`clopper_pearson`, at the level on average only.

    Arguments, result and errors as there.
    """
    count, n, alpha = *_counts(successes, n), float(1 - as_fraction(level, "level"))
    z = float(distributions.norm.ppf(1 - alpha / 2))
    share = count / n
    centre, spread = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    # At 0 and n the end is exactly 0 and 1; rounding must not leave it a hair away.
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return np.where(count == 0, 0.0, low)[()], np.where(count == n, 1.0, high)[()]


def _counts(successes: ArrayLike, n: int) -> tuple[NDArray[np.int64], int]:
    count, n = as_array(successes, "successes"), as_count(n, "n")
    if count.dtype.kind not in "iu" or count.size == 0 or count.min() < 0 or count.max() > n:
        raise ValueError(f"successes={successes!r}: expected whole numbers in 0..{n}")
    return count.astype(np.int64), n
