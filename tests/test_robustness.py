"""Robustness on a lattice against hand-made boundaries, whose distances and noise have a closed form."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from paperlib import robustness
from paperlib.metrics import label_ranks

HALF = 0.25  # where the boundary of the hand-made data lies


def halves(points: np.ndarray) -> np.ndarray:
    """Three classes: left of the boundary class 0, right of it class 1 or 2."""
    right = (points[:, 0] > HALF).astype(float)
    return np.column_stack([1 - right, 0.7 * right, 0.3 * right])


@pytest.fixture(scope="module")
def plane() -> robustness.Plane:
    return robustness.plane(halves, side=300)


def first(population: robustness.Plane) -> np.ndarray:
    """What a predictor answers that knows the boundary: class 0 or class 1."""
    table = halves(population.points).reshape(population.joint.shape)
    return np.stack([table[..., 0] > 0, table[..., 1] > 0, np.zeros(table.shape[:2], bool)], axis=2)


def test_the_lattice_holds_the_population(plane):
    assert plane.joint.sum() == pytest.approx(1) and plane.side == 300 and plane.step == pytest.approx(0.01)
    assert plane.joint[..., 0].sum() == pytest.approx((1 + HALF) / 2)
    assert plane.joint[:49].sum() == 0 and plane.joint[50, 50, 0] > 0
    disc = robustness.plane(halves, disc=True, side=100)
    assert (disc.joint.sum(axis=2) > 0).mean() == pytest.approx(np.pi / 9, rel=0.01)
    assert disc.joint.sum() == pytest.approx(1)
    for wrong in ({"reach": 1.0}, {"side": 5}, {"side": 30.0}):
        with pytest.raises(ValueError, match="expected a reach above 1"):
            robustness.plane(halves, **wrong)


def test_margins_are_positive_exactly_where_the_rank_is_at_most_k():
    scores = np.random.default_rng(0).integers(0, 4, (200, 5)).astype(float)  # with many ties
    for k in range(1, 5):
        found = robustness.margins(scores, k)
        ranks = np.stack([label_ranks(torch.from_numpy(scores), torch.full((200,), y)).numpy() for y in range(5)], 1)
        np.testing.assert_array_equal(found > 0, ranks <= k)
        for row in range(20):
            for y in range(5):
                assert found[row, y] == scores[row, y] - np.sort(np.delete(scores[row], y))[-k]
    for wrong, k in ((scores, 5), (scores, True), (scores[0], 1), (scores * np.nan, 1)):
        with pytest.raises(ValueError, match="expected"):
            robustness.margins(wrong, k)


def test_accuracy_under_noise_is_that_of_a_normal_distribution(plane):
    """A point at x crosses the boundary with probability Phi(-|x - b| / s); beyond the square nothing changes."""
    deviations = [0.0, 0.05, 0.1]
    found = robustness.noisy_topk(first(plane), robustness.smeared(plane, deviations))
    assert list(found) == deviations
    x = np.linspace(-1, 1, 20001)
    worth = np.where(x < HALF, 1.0, 0.7)
    assert found[0.0] == pytest.approx(worth.mean(), abs=1e-3)
    for deviation in deviations[1:]:
        assert found[deviation] == pytest.approx((worth * norm.cdf(np.abs(x - HALF) / deviation)).mean(), abs=1e-3)


def test_noise_is_refused_where_the_window_ends(plane):
    for wrong in (0.126, -0.1):
        with pytest.raises(ValueError, match="expected 0 to 0.125"):
            robustness.smeared(plane, [wrong])


def test_distances_are_those_to_the_boundary(plane):
    far = robustness.distances(first(plane), plane)
    x = plane.points[:, 0].reshape(300, 300)
    rows, left = slice(100, 200), (x > -0.5) & (x < HALF)
    np.testing.assert_allclose(far[rows, :, 0][left[rows]], (HALF - x)[rows][left[rows]], atol=plane.step)
    assert (far[..., 0][x > HALF] == 0).all() and (far[..., 2] == 0).all()
    found = robustness.certain_topk(far, plane, [0.0, 0.2])
    assert found[0.0] == pytest.approx((1 + HALF) / 2 + 0.7 * (1 - HALF) / 2, abs=2e-3)
    assert found[0.2] == pytest.approx((1.25 - 0.2) / 2 + 0.7 * (0.75 - 0.2) / 2, abs=1e-2)
    with pytest.raises(ValueError, match="expected 0 to 0.5"):
        robustness.certain_topk(far, plane, [0.6])


def test_without_a_boundary_the_window_is_the_limit(plane):
    everywhere = np.ones(plane.joint.shape, dtype=bool)
    far = robustness.distances(everywhere, plane)
    assert far[150, 150, 0] == pytest.approx(1.5, abs=2 * plane.step)
    assert robustness.certain_topk(far, plane, [0.45])[0.45] == pytest.approx(1)


def test_the_best_sets_go_on_beyond_the_population(plane):
    members = robustness.best_members(plane, 1)
    np.testing.assert_array_equal(members, first(plane))
    two = robustness.best_members(plane, 2)
    assert (two.sum(axis=2) == 2).all() and plane.joint[two].sum() == pytest.approx(1)


def test_weighted_quantiles():
    values, weights = np.array([3.0, 1.0, 2.0, -5.0]), np.array([1.0, 2.0, 1.0, 0.0])
    assert robustness.weighted_quantiles(values, weights, [0, 0.5, 0.51, 0.75, 1]) == [1, 1, 2, 2, 3]
    for wrong in (np.zeros(4), np.ones(3)):
        with pytest.raises(ValueError, match="expected one shape"):
            robustness.weighted_quantiles(values, wrong, [0.5])
