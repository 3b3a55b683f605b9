"""Two-way bootstrap: both the training seeds and the test images are a sample.

Seeds and images are crossed (every seed is tested on every image), so both are resampled, images jointly for
all seeds and for both losses of a comparison. The variance that belongs to a pair of seed and image enters
twice, which makes intervals a little wide (:cite:t:`owen2007pigeonhole`). Few seeds make them narrow: the
variance of S resampled seeds is too small by (S - 1) / S, which is corrected here, but no resampling of 3
seeds reaches the width of a t quantile with 2 degrees of freedom. So paired t intervals over seeds stay
primary; this is for curves and for quantities whose spread the images decide.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paperlib.stats._check import as_array, as_count, as_fraction, as_ranks


class Band(NamedTuple):
    """An estimate with its ends; arrays of one shape, or floats."""

    estimate: Any
    low: Any
    high: Any


def two_way_bootstrap(statistic: Callable[..., Any], *ranks: ArrayLike, draws: int = 2000,
                      seed: int = 0) -> NDArray[np.float64]:
    r"""Replicates of the mean over seeds of a statistic, resampling seeds and images.

    For one draw of images let :math:`f_s` be the statistic of seed s, :math:`\bar f` its mean over the seeds
    and :math:`f^*` its mean over resampled seeds. The replicate is
    :math:`\bar f + \sqrt{S/(S-1)}\,(f^* - \bar f)`: the factor gives the seed part its unbiased variance.
    With one seed only the images vary: the result then speaks about that trained network, not its loss.

    Args:
        statistic: takes one seed's ranks, an int64 array (n,) for each array given, and returns a number or
            an array (K,). It must not depend on the order of the images.
        *ranks: one array (S, n) for a mean, two for a paired comparison; same seeds and images in each.
        draws: how many replicates.
        seed: of the resampling.

    Returns:
        float64, shape (draws,) or (draws, K).

    Raises:
        ValueError: ranks that are not integers (S, n) of one shape; draws below 1.
    """
    arrays = [as_ranks(array, ndim=2) for array in ranks]
    if not arrays or any(array.shape != arrays[0].shape for array in arrays):
        raise ValueError("ranks: expected one or more arrays of one shape (seeds, n), "
                         f"got {[array.shape for array in arrays]}")
    seeds, n = arrays[0].shape
    each_seed = list(zip(*arrays, strict=True))
    rng = np.random.default_rng(seed)
    scale = math.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
    replicates = []
    for _ in range(as_count(draws, "draws")):
        images = rng.integers(n, size=n)
        # Of a row at a time, take is twice as fast as an index.
        values = np.array([statistic(*(row.take(images) for row in rows)) for rows in each_seed], float)
        mean = values.mean(0)
        replicates.append(mean + scale * (values[rng.integers(seeds, size=seeds)].mean(0) - mean))
    return np.array(replicates)


def sup_t_band(estimate: ArrayLike, replicates: ArrayLike, level: Any = 0.95) -> Band:
    r"""Simultaneous band of a curve, from the largest standardised deviation of its replicates.

    :math:`\hat\theta_k \pm c\,\text{sd}_k` with c the level quantile of
    :math:`\max_k |\theta^*_k - \hat\theta_k| / \text{sd}_k`.
    The whole curve lies inside with the stated confidence, so any k may be read off it. Points that do not
    vary (accuracy at k = C) get no width.

    Args:
        estimate: the curve, shape (K,).
        replicates: its bootstrap replicates, shape (draws, K).
        level: joint confidence in (0, 1).

    Raises:
        ValueError: shapes that do not fit; fewer than two replicates; level out of range.
    """
    centre, sample = as_array(estimate, "estimate"), as_array(replicates, "replicates")
    if centre.ndim != 1 or sample.ndim != 2 or sample.shape[1:] != centre.shape or len(sample) < 2:
        raise ValueError("expected an estimate of shape (K,) and at least two replicates (draws, K), "
                         f"got {centre.shape} and {sample.shape}")
    deviation = np.abs(sample - centre)
    sd = sample.std(0, ddof=1)
    sd = np.where(sd > 1e-12 * (1 + np.abs(centre)), sd, 0.0)  # a constant column's sd is rounding
    largest = np.divide(deviation, sd, out=np.zeros_like(deviation), where=sd > 0).max(1)
    half = float(np.quantile(largest, float(as_fraction(level, "level")))) * sd
    return Band(centre, centre - half, centre + half)


def mean_interval(statistic: Callable[..., Any], *ranks: ArrayLike, level: Any = 0.95, draws: int = 2000,
                  seed: int = 0) -> Band:
    """The mean over seeds of a statistic with its pointwise percentile interval.

    Arguments as :func:`two_way_bootstrap`, with ``level`` the confidence of each interval.
    """
    tail = float(1 - as_fraction(level, "level")) / 2
    replicates = two_way_bootstrap(statistic, *ranks, draws=draws, seed=seed)
    values = [statistic(*rows) for rows in zip(*(as_ranks(array, ndim=2) for array in ranks), strict=True)]
    low, high = np.quantile(replicates, [tail, 1 - tail], axis=0)
    return Band(np.mean(values, axis=0), low, high)


def smallest_k_statistic(targets: Sequence[Any]) -> Callable[[NDArray[np.int64]], list[int]]:
    """A statistic for :func:`two_way_bootstrap`: the smallest k of each target, exact in target times n."""
    fractions: list[Fraction] = [as_fraction(target, "target", closed=True) for target in targets]

    @cache
    def needed(n: int) -> list[int]:
        return [math.ceil(fraction * n) for fraction in fractions]

    def statistic(ranks: NDArray[np.int64]) -> list[int]:
        found: list[int] = np.bincount(ranks).cumsum().searchsorted(needed(len(ranks))).tolist()
        return found

    return statistic


def smallest_k_differences(ranks_a: ArrayLike, ranks_b: ArrayLike, targets: Sequence[Any], level: Any = 0.95,
                           draws: int = 2000, seed: int = 0) -> Band:
    """How many candidates more A needs than B for each target accuracy, with intervals.

    The mean over seeds of the difference of smallest k paired by seed and image, with a percentile interval
    from the two-way bootstrap. At a target of .99 one image in a hundred decides: expect it to be wide.

    Args:
        ranks_a: integer label ranks, shape (S, n).
        ranks_b: the same seeds and images under the other loss.
        targets: accuracies in (0, 1].
        level: confidence of each interval, in (0, 1).
        draws: bootstrap replicates.
        seed: of the resampling.

    Returns:
        :class:`Band` of float64 arrays, an entry a target; below 0 where A needs fewer candidates.

    Raises:
        ValueError: ranks that are not integers (S, n) of one shape; a target or level out of range.
    """
    smallest = smallest_k_statistic(targets)
    return mean_interval(lambda a, b: [k - other for k, other in zip(smallest(a), smallest(b), strict=True)],
                         ranks_a, ranks_b, level=level, draws=draws, seed=seed)


def smallest_k_difference(ranks_a: ArrayLike, ranks_b: ArrayLike, target: Any, level: Any = 0.95,
                          draws: int = 2000, seed: int = 0) -> Band:
    """:func:`smallest_k_differences` for one target: a :class:`Band` of floats."""
    band = smallest_k_differences(ranks_a, ranks_b, (target,), level, draws, seed)
    return Band(*(float(value[0]) for value in band))
