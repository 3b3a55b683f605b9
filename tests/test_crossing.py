"""Where two curves cross, against curves whose crossing is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from paperlib import stats
from paperlib.metrics import topk_curve

COUNTS = some.lists(some.integers(-9, 9), min_size=1, max_size=12)


@pytest.mark.parametrize("difference, k", [
    ([-1, -1, 2, 3, 0], 3), ([-1, 0, 0, 2, 0], 2), ([2, 1, 0], 1), ([-2, -1, 0], math.inf), ([0, 0, 0], math.inf),
    ([0, 0, 1], 1), ([-5, 1, -2, 4, 4, 0], 4),  # the tremor at 2 does not outweigh the one at 3
    ([-5, 3, -1, 4, 4, 0], 2),  # and here it does
    ([3, -1, -1, -1, 0], math.inf), ([3, -5, -5, 0], math.inf),  # ahead at first only
])
def test_known_crossings(difference, k):
    assert stats.crossing_k(difference) == k
    assert stats.crossing_k(np.array(difference) / 1000) == k


@settings(deadline=None, max_examples=200, derandomize=True)
@given(COUNTS)
def test_the_crossing_leaves_the_least_area_of_the_wrong_sign(difference):
    d, found = np.array(difference), stats.crossing_k(difference)
    areas = [np.maximum(d[:k], 0).sum() + np.maximum(-d[k:], 0).sum() for k in range(len(d) + 1)]
    if math.isinf(found):
        best = int(np.argmin(areas))
        assert d[best:].sum() <= 0
    else:
        assert int(found) - 1 == int(np.argmin(areas)) and d[int(found) - 1:].sum() > 0


def ranks_of(counts: list[int], rng: np.random.Generator, seeds: int) -> np.ndarray:
    """Ranks (seeds, n) with these expected shares of rank 1, 2, ..."""
    shares = np.array(counts) / sum(counts)
    return rng.choice(np.arange(1, len(counts) + 1), size=(seeds, 4000), p=shares)


def test_the_interval_covers_a_known_crossing_and_is_that_of_the_mean_curve():
    # At k = 1 B is ahead by 10 points, from 3 on A by 10.
    a, b = [30, 30, 30, 5, 5], [40, 30, 10, 10, 10]
    rng = np.random.default_rng(0)
    own, other = ranks_of(a, rng, 3), ranks_of(b, rng, 3)
    band = stats.crossing_interval(own, other, draws=300)
    curves = [np.mean([topk_curve(row, 5) for row in rows], axis=0) for rows in (own, other)]
    assert band.estimate == stats.crossing_k(curves[0] - curves[1]) == 3 and band.low <= 3 <= band.high
    assert band == stats.crossing_interval(own, other, draws=300)


def test_curves_that_are_one_another_need_not_cross():
    own = ranks_of([30, 30, 30, 5, 5], np.random.default_rng(1), 2)
    assert stats.crossing_interval(own, own, draws=50) == (math.inf, math.inf, math.inf)
    noisy = stats.crossing_interval(own, ranks_of([30, 30, 30, 5, 5], np.random.default_rng(2), 2), draws=300)
    assert noisy.high == math.inf, "equal losses: it may be that none gets ahead"


@pytest.mark.parametrize("arguments", [([[1, 2]], [[1, 2, 3]]), ([1, 2], [1, 2]), ([[0, 1]], [[1, 1]])])
def test_unpaired_ranks_are_refused(arguments):
    with pytest.raises(ValueError, match="ranks"):
        stats.crossing_interval(*arguments)
    with pytest.raises(ValueError, match="difference"):
        stats.crossing_k([[1.0]])
