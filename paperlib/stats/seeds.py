"""Comparisons over training seeds.

Losses are trained with common seeds, so the differences within a seed are the data, and one seed is one
observation. With S seeds the sign-flip tests cannot give a two-sided p below 2 / 2**S: .25 for 3 seeds, .0625
for 5. Five seeds never reach .05; the paired t interval can, at the price of a normal model.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as distributions

from paperlib.stats._check import as_array, as_count, as_differences, as_fraction

#: Sign flips are enumerated up to this many seeds and drawn at random beyond.
EXACT_SEEDS = 15


class Interval(NamedTuple):
    """Mean, sample standard deviation and confidence interval of ``n`` paired differences."""

    mean: float
    sd: float
    n: int
    low: float
    high: float


def paired_t_interval(differences: ArrayLike, level: Any = 0.95, comparisons: int = 1) -> Interval:
    r"""Two-sided t interval for the mean of paired differences, Bonferroni-corrected.

    :math:`\bar d \pm t_{S-1,\,1-\alpha/2m}\, s/\sqrt S` with :math:`\alpha` = 1 - level: m such intervals
    cover all together with at least the level.

    Args:
        differences: one number a seed, shape (S,).
        level: joint confidence in (0, 1).
        comparisons: m, how many intervals are read together.

    Returns:
        :class:`Interval`. One seed has no spread: ``sd`` is NaN and the interval (-inf, inf).

    Raises:
        ValueError: no differences, NaN or inf among them; level or comparisons out of range.
    """
    d = as_differences(differences, "differences", 1)
    alpha = float(1 - as_fraction(level, "level")) / as_count(comparisons, "comparisons")
    mean, n = float(d.mean()), len(d)
    if n == 1:
        return Interval(mean, math.nan, 1, -math.inf, math.inf)
    sd = _sd(d)
    half = float(distributions.t.isf(alpha / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, sd, n, mean - half, mean + half)


def prediction_interval(values: ArrayLike, new: int = 1, level: Any = 0.95,
                        comparisons: int = 1) -> tuple[float, float]:
    r"""Where the mean of ``new`` further seeds lies, if they are drawn as those before were and normal.

    :math:`\bar x \pm t_{S-1,\,1-\alpha/2m}\, s \sqrt{1/S + 1/S'}` with :math:`\alpha` = 1 - level and :math:`S'`
    new seeds: m such intervals hold all together with at least the level.

    Args:
        values: one number a seed, shape (S,).
        new: how many further seeds are averaged.
        level: joint probability in (0, 1).
        comparisons: m, how many intervals are read together.

    Returns:
        ``(low, high)``, (-inf, inf) for one seed, which has no spread.

    Raises:
        ValueError: no values, NaN or inf among them; level, new or comparisons out of range.
    """
    mean, _, n, _, high = paired_t_interval(as_differences(values, "values", 1), level, comparisons)
    half = (high - mean) * math.sqrt(1 + n / as_count(new, "new"))
    return mean - half, mean + half


def _sd(d: NDArray[np.float64]) -> float:
    """Sample standard deviation; exactly 0 where all are equal (the mean of equal doubles may round)."""
    return 0.0 if np.ptp(d) == 0 else float(d.std(ddof=1))


def max_t_sign_flips(differences: ArrayLike, draws: int = 100_000, seed: int = 0) -> NDArray[np.float64]:
    r"""Sign-flip test of several paired comparisons at once, adjusted by the largest absolute t.

    If a comparison has no effect, each seed's difference is as likely with the opposite sign. A seed's whole
    row is flipped at once, which keeps the dependence between columns; a column's p is the share of flips
    whose largest absolute t over all columns is at least the column's own (single step,
    :cite:t:`westfall1993resampling`). It controls the family-wise error without a normal model. The statistic is
    :math:`|\sum d| / \sqrt{\sum d^2}`, the same increasing function of the absolute t in every column,
    which is also defined where a column does not vary; a column of zeros has 0.

    Args:
        differences: shape (S, K): S seeds, K comparisons (losses, values of k).
        draws: random flips where S > 15; up to 15 seeds all 2**S flips are enumerated.
        seed: of the random flips.

    Returns:
        Adjusted two-sided p of each column, float64, shape (K,). Never below 2 / 2**S
        (above 15 seeds: 1 / (draws + 1)).

    Raises:
        ValueError: not a finite (S, K) array; draws below 1.
    """
    statistic, flipped = _sign_flips(differences, draws, seed)
    return _chance(flipped, lambda chunk: chunk.max(1)[:, None] >= statistic)


def sign_flips(differences: ArrayLike, draws: int = 100_000, seed: int = 0) -> NDArray[np.float64]:
    r"""Sign-flip test of several paired comparisons, each on its own.

    As :func:`max_t_sign_flips`, but a column's p is the share of flips whose own absolute t reaches the observed one:
    not adjusted, as :func:`holm` wants it. With random flips p is never below 1 / (draws + 1), so a family of m
    comparisons needs draws well above m / alpha.

    Args:
        differences: shape (S, K): S seeds, K comparisons.
        draws: random flips where S > 15; up to 15 seeds all 2**S flips are enumerated.
        seed: of the random flips.

    Returns:
        Two-sided p of each column, float64, shape (K,).

    Raises:
        ValueError: not a finite (S, K) array; draws below 1.
    """
    statistic, flipped = _sign_flips(differences, draws, seed)
    return _chance(flipped, lambda chunk: chunk >= statistic)


def _sign_flips(differences: ArrayLike, draws: int,
                seed: int) -> tuple[NDArray[np.float64], tuple[bool, int, Iterator[NDArray[np.float64]]]]:
    """The absolute statistics observed, and those after flips: whether all flips, how many, in chunks (flips, K)."""
    d = as_differences(differences, "differences", 2)
    seeds, draws = len(d), as_count(draws, "draws")
    norms = np.sqrt((d**2).sum(0))
    scaled = np.divide(d, norms, out=np.zeros_like(d), where=norms > 0)
    observed = np.abs(scaled.sum(0)) - 1e-12  # equal sums in another order must count as equal
    exact = seeds <= EXACT_SEEDS
    total = 2 ** (seeds - 1) if exact else draws  # flipping all signs changes no |t|: half the flips suffice

    def chunks() -> Iterator[NDArray[np.float64]]:
        rng = np.random.default_rng(seed)
        for start in range(0, total, 4096):
            numbers = np.arange(start, min(start + 4096, total))
            signs = (1 - 2 * (numbers[:, None] >> np.arange(seeds) & 1) if exact
                     else rng.choice([-1, 1], (len(numbers), seeds)))
            yield np.abs(signs @ scaled)

    return observed, (exact, total, chunks())


def _chance(flipped: tuple[bool, int, Iterator[NDArray[np.float64]]],
            reaches: Callable[[NDArray[np.float64]], NDArray[np.bool_]]) -> NDArray[np.float64]:
    exact, total, chunks = flipped
    reached: NDArray[np.float64] = sum((reaches(chunk).sum(0) for chunk in chunks), np.zeros(()))
    return reached / total if exact else (1 + reached) / (1 + total)


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjustment: p values that may be compared with one alpha for the whole family.

    Args:
        p: p values in [0, 1], shape (m,).

    Returns:
        Adjusted p values in the order given, float64, shape (m,).

    Raises:
        ValueError: not a non-empty list of numbers in [0, 1].
    """
    values = as_array(p, "p")
    numbers = values.ndim == 1 and values.size > 0 and values.dtype.kind in "iuf"
    if not (numbers and values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"p={p!r}: expected a non-empty list of numbers in [0, 1]")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted


def hotelling_radius(seeds: Any, level: Any = 0.95) -> float:
    r"""Radius of the joint confidence ellipse of two means, in units of the sample covariance's own ellipse.

    :math:`\sqrt{\frac{2 (S - 1)}{S (S - 2)} F_{2, S - 2}}`, from Hotelling's :math:`T^2`
    (:cite:t:`hotelling1931generalization`).

    Args:
        seeds: S, how many pairs the means are of, at least 3.
        level: confidence in (0, 1).
    """
    n, alpha = as_count(seeds, "seeds", 3), float(1 - as_fraction(level, "level"))
    return math.sqrt(2 * (n - 1) / (n * (n - 2)) * float(distributions.f.isf(alpha, 2, n - 2)))


class Equivalence(NamedTuple):
    """Outcome of two one-sided tests: the mean, the larger p, and the (1 - 2 alpha) interval of the mean."""

    mean: float
    p: float
    low: float
    high: float
    equivalent: bool


def equivalence_test(differences: ArrayLike, margin: float, level: Any = 0.95) -> Equivalence:
    r"""Two one-sided paired t tests: is the mean difference inside :math:`(-\text{margin}, \text{margin})`?

    The way to say 'no loss in top-1': a difference that is not significant shows nothing, an interval inside
    a margin stated beforehand does.

    Args:
        differences: one number a seed, shape (S,).
        margin: positive, in the unit of the differences.
        level: 1 - alpha of each one-sided test.

    Returns:
        :class:`Equivalence`; ``equivalent`` is ``p <= alpha``. One seed shows nothing: p is 1.

    Raises:
        ValueError: no differences, NaN or inf among them; margin not positive; level out of range.
    """
    d, alpha = as_differences(differences, "differences", 1), float(1 - as_fraction(level, "level"))
    if not margin > 0 or not math.isfinite(margin):
        raise ValueError(f"margin={margin!r}: expected a positive number in the unit of the differences")
    mean, n = float(d.mean()), len(d)
    if n == 1:
        return Equivalence(mean, 1.0, -math.inf, math.inf, False)
    error = _sd(d) / math.sqrt(n)
    gap = margin - abs(mean)  # to the nearer end of the margin, whose test has the larger p
    p = float(distributions.t.sf(gap / error, n - 1)) if error > 0 else float(gap <= 0)
    half = float(distributions.t.isf(alpha, n - 1)) * error
    return Equivalence(mean, p, mean - half, mean + half, p <= alpha)
