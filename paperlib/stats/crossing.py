"""Where two accuracy curves cross: from which length of the list on one loss is ahead of the other."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paperlib.stats._check import as_count, as_differences, as_fraction, as_ranks
from paperlib.stats.bootstrap import Band, two_way_bootstrap


def crossing_k(difference: ArrayLike) -> float:
    r"""The k from which on A is ahead of B, where it is behind for shorter lists.

    The k that splits the curve best into "behind" and "ahead": it leaves the smallest area of the wrong sign,
    :math:`\sum_{j<k} \max(d_j, 0) + \sum_{j \ge k} \max(-d_j, 0)`, which is a constant plus :math:`\sum_{j<k} d_j`.
    For a curve that changes its sign once, upwards, that is the change. Where a curve trembles about 0, no single
    tremor decides. Of a curve that is ahead first and behind later this number says only which of the two areas is
    larger.

    Args:
        difference: accuracy of A minus that of B at k = 1..C, shape (C,).

    Returns:
        k, the smallest where several are as good; 1: A is ahead from the start; inf: it does not get ahead, as the
        differences from k on do not sum to more than 0.

    Raises:
        ValueError: not finite numbers of shape (C,).
    """
    d = as_differences(difference, "difference", 1)
    below = np.concatenate([[0.0], np.cumsum(d)])  # the sum before k, for k = 1..C + 1
    place = int(np.flatnonzero(below <= below.min() + 1e-12)[0])
    return place + 1.0 if below[-1] - below[place] > 1e-12 else math.inf


def crossing_interval(ranks_a: ArrayLike, ranks_b: ArrayLike, level: Any = 0.95, draws: int = 2000,
                      seed: int = 0) -> Band:
    """:func:`crossing_k` of the mean difference over seeds, with a percentile interval of the two-way bootstrap.

    Args:
        ranks_a: integer label ranks, shape (S, n).
        ranks_b: the same seeds and images under the other loss.
        level: confidence in (0, 1).
        draws: bootstrap replicates.
        seed: of the resampling.

    Returns:
        :class:`Band` of floats, each a k or inf. An end at inf: A may not get ahead at all.

    Raises:
        ValueError: ranks that are not integers (S, n) of one shape; level or draws out of range.
    """
    a, b, tail = as_ranks(ranks_a, ndim=2), as_ranks(ranks_b, ndim=2), float(1 - as_fraction(level, "level")) / 2
    classes = int(max(a.max(), b.max())) + 1  # one beyond the worst rank: both curves are 1 there

    def curve(own: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
        gap = np.bincount(own, minlength=classes) - np.bincount(other, minlength=classes)
        return np.cumsum(gap[1:]) / len(own)

    replicates = two_way_bootstrap(curve, a, b, draws=as_count(draws, "draws"), seed=seed)
    found = np.array([crossing_k(row) for row in replicates])
    estimate = crossing_k(np.mean([curve(*rows) for rows in zip(a, b, strict=True)], axis=0))
    # No interpolation: between a k and inf there is nothing.
    return Band(estimate, float(np.quantile(found, tail, method="lower")),
                float(np.quantile(found, 1 - tail, method="higher")))
