"""The theorem on stumps against optimisation and exhaustive search, its proof's steps, and the linear examples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp, minimize

from paperlib import losses
from paperlib.bayes import regret
from paperlib.theory import (
    LinearModel,
    Segments,
    Support,
    best_linear_topk,
    best_topk,
    cross_entropy_at,
    fit_at,
    fit_linear,
    fitted,
    mass_entropy,
    predicted,
    three_points,
    three_segments,
    topk_at,
)

MASSES = [(0.25, 0.25), (0.4, 0.4), (0.45, 0.35), (0.6, 0.1), (0.35, 0.6), (0.1, 0.45), (0.05, 0.05), (0.34, 0.33),
          (0.32, 0.35), (0.7, 0.01), (0.02, 0.97), (0.3981, 0.204)]
REST = [(0.5, 0.5), (0.7, 0.3), (0.05, 0.95), (0.0, 1.0), (1.0, 0.0), (0.2, 0.3, 0.5), (0.25, 0.25, 0.25, 0.25)]
KNOBS = [(*masses, rest) for masses in MASSES for rest in REST]


def random_segments(seed: int, segments: int = 5, classes: int = 4) -> Segments:
    draws = np.random.default_rng(seed)
    return Segments(draws.dirichlet(np.ones(segments)), draws.dirichlet(np.full(classes, 0.5), size=segments))


# The theorem.


def test_there_are_many_settings_on_both_sides():
    gaps = [predicted(*knobs).gap > 0 for knobs in KNOBS]
    assert len(KNOBS) >= 50 and sum(gaps) >= 20 and len(gaps) - sum(gaps) >= 20


@pytest.mark.parametrize(("first", "second", "rest"), KNOBS, ids=str)
def test_the_closed_form_is_what_the_solvers_find(first, second, rest):
    k, data, formula = len(rest), three_segments(first, second, rest), predicted(first, second, rest)
    found = fitted(data)
    assert formula.thresholds == pytest.approx((found.threshold,), abs=1e-9)
    assert found.cross_entropy == pytest.approx(formula.cross_entropy, abs=1e-9)
    best, at = best_topk(data, k)
    assert best == pytest.approx(formula.best_topk, abs=1e-12)
    if min(rest) > 0:
        assert at == pytest.approx(first + second, abs=1e-12), "only this threshold has it"
    gap = best - found.topk(data, k)
    assert gap == pytest.approx(formula.gap, abs=1e-9)
    # The region that the theorem claims: strict exactly where c < a and no class of the third segment is impossible.
    assert (gap > 1e-9) == (1 - first - second < first and min(rest) > 0)
    assert gap < 1 / (2 * k + 1)


@pytest.mark.parametrize("rest", [rest for rest in REST if min(rest) > 0], ids=str)
def test_at_the_tie_both_thresholds_minimise(rest):
    data, formula = three_segments(0.25, 0.5, rest), predicted(0.25, 0.5, rest)
    assert formula.thresholds == (0.25, 0.75)
    values, _ = fit_at(data, [0.25, 0.75])
    assert values == pytest.approx([formula.cross_entropy] * 2, abs=1e-9)
    assert fitted(data).cross_entropy == pytest.approx(formula.cross_entropy, abs=1e-9)
    assert formula.gap == pytest.approx(1 - topk_at(data, 0.25, len(rest))[0], abs=1e-12) and formula.gap > 0


@pytest.mark.parametrize("k", [2, 3, 5, 10])
def test_the_gap_comes_as_near_to_its_bound_as_one_likes(k):
    c = k / (2 * k + 1) - 1e-6
    b = c / k
    formula = predicted(1 - b - c, b, [1 / k] * k)
    assert 1 / (2 * k + 1) - 2e-6 < formula.gap < 1 / (2 * k + 1)
    draws = np.random.default_rng(k)
    for _ in range(300):
        (a, b, _), rest = draws.dirichlet([1, 1, 1]), draws.dirichlet(np.ones(k))
        assert predicted(a, b, rest).gap < 1 / (2 * k + 1)


@pytest.mark.parametrize(("first", "second", "rest"), [knobs for knobs in KNOBS if predicted(*knobs).top1_optimal],
                         ids=str)
def test_where_cross_entropy_loses_top_k_no_stump_has_a_better_top1(first, second, rest):
    data = three_segments(first, second, rest)
    assert fitted(data).topk(data, 1) == pytest.approx(best_topk(data, 1)[0], abs=1e-12)


def test_cross_entropy_does_not_optimise_top1_either():
    """Where c > a > c max(r) and b >= a, as the page remarks."""
    for first, second, rest in [(0.3, 0.36, (0.5, 0.5)), (0.28, 0.4, (0.4, 0.6)), (0.2, 0.5, (0.3, 0.3, 0.4))]:
        data, third = three_segments(first, second, rest), 1 - first - second
        assert third > first > third * max(rest) and second >= first
        assert fitted(data).topk(data, 1) == pytest.approx(second + third * max(rest))
        assert best_topk(data, 1)[0] == pytest.approx(first + second)


# The steps of the proof, on data of any kind.


@pytest.mark.parametrize("seed", range(6))
def test_entropy_of_masses_is_concave_homogeneous_and_never_smaller_than_of_its_parts(seed):
    m, n = np.random.default_rng(seed).dirichlet(np.full(4, 0.4), size=2) * [[0.3], [2.0]]
    assert mass_entropy(m + n) > mass_entropy(m) + mass_entropy(n)
    assert mass_entropy(3 * m) == pytest.approx(3 * mass_entropy(m)) == mass_entropy(m) + mass_entropy(2 * m)
    assert mass_entropy(np.array([0.0, 0.4])) == 0 and mass_entropy(np.zeros(3)) == 0
    assert mass_entropy(np.array([0.2, 0.2])) == pytest.approx(0.4 * np.log(2))


@pytest.mark.parametrize("seed", range(6))
def test_optima_are_at_boundaries(seed):
    data = random_segments(seed)
    fine = np.linspace(0, 1, 2_001)
    ends = data.boundaries
    assert cross_entropy_at(data, fine).min() >= cross_entropy_at(data, ends).min() - 1e-12
    for k in (1, 2, 3):
        assert topk_at(data, fine, k).max() <= topk_at(data, ends, k).max() + 1e-12
        assert best_topk(data, k)[0] == pytest.approx(topk_at(data, ends, k).max(), abs=1e-12)
    for low, high in itertools.pairwise(ends):
        middle, between = (low + high) / 2, np.array([low, high])
        assert cross_entropy_at(data, middle)[0] >= cross_entropy_at(data, between).mean() - 1e-12
        assert topk_at(data, middle, 2)[0] <= topk_at(data, between, 2).mean() + 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_fitted_probabilities_are_shares_and_their_top_k_is_the_best_at_that_threshold(seed):
    data = random_segments(seed)
    found = fitted(data)
    assert found.cross_entropy == pytest.approx(cross_entropy_at(data, data.boundaries).min(), abs=1e-9)
    left = data.below(found.threshold)[0]
    shares = np.stack([left, data.below(1.0)[0] - left])
    assert found.probabilities == pytest.approx(shares / shares.sum(axis=1, keepdims=True), abs=1e-9)
    for k in (1, 2, 3):
        assert found.topk(data, k) == pytest.approx(topk_at(data, found.threshold, k)[0], abs=1e-12)


def test_the_optimum_agrees_with_a_solver_of_scipy():
    data = random_segments(9, classes=3)
    for t in (0.2, 0.5, 0.9):
        left = data.below(t)[0]
        masses = np.stack([left, data.below(1.0)[0] - left])
        found = minimize(lambda p, m=masses: -(m * np.log(p.reshape(2, 3))).sum(), np.full(6, 1 / 3), method="SLSQP",
                         bounds=[(1e-12, 1)] * 6, options={"ftol": 1e-14, "maxiter": 500},
                         constraints={"type": "eq", "fun": lambda p: p.reshape(2, 3).sum(axis=1) - 1})
        assert fit_at(data, t)[0][0] == pytest.approx(found.fun, abs=1e-7)


def test_an_empty_side_costs_nothing():
    data = random_segments(0)
    values, probabilities = fit_at(data, [0.0, 1.0])
    assert values == pytest.approx([mass_entropy(data.below(1.0)[0])] * 2, abs=1e-9)
    assert probabilities[0, 0] == pytest.approx([0.25] * 4)


# What the other losses of the library prefer: the corollary.


def leaf_risk(loss, scores: np.ndarray, share: np.ndarray) -> float:
    logits = torch.from_numpy(np.tile(scores, (len(share), 1)))
    return float((loss(logits, torch.arange(len(share)), reduction="none") * torch.from_numpy(share)).sum())


@pytest.mark.parametrize("name", ["topk_grouped", "topk_transition"])
@pytest.mark.parametrize("rest", [(0.5, 0.5), (0.2, 0.3, 0.5)], ids=str)
def test_grouped_losses_reach_zero_at_the_best_threshold_and_nowhere_else(name, rest):
    k, a, b = len(rest), 0.45, 0.35
    data, loss = three_segments(a, b, rest), losses.get(name, k=k)
    draws = np.random.default_rng(0)
    for t in (0.0, 0.3, a, 0.6, a + b, 0.9):
        left = data.below(t)[0]
        sides = [side for side in (left, data.below(1.0)[0] - left) if side.sum() > 1e-12]
        possible = [(side > 1e-12).sum() for side in sides]
        at_zero = sum(side.sum() * leaf_risk(loss, np.where(side > 1e-12, 0.0, -60.0), side / side.sum())
                      for side, number in zip(sides, possible, strict=True) if number <= k)
        assert at_zero < 1e-9
        assert (max(possible) <= k) == (t == a + b)
        for side, number in zip(sides, possible, strict=True):
            if number > k:  # k + 1 classes: no k of them hold every label
                share = side / side.sum()
                least = float(mass_entropy(np.array([share.min(), 1 - share.min()])))
                scores = [4 * draws.normal(size=k + 1) for _ in range(300)]
                scores.append(np.where(share == share.min(), np.log(share.min()), np.log((1 - share.min()) / k)))
                risks = [leaf_risk(loss, row, share) for row in scores]
                assert min(risks) >= least - 1e-9 > 0
                if name == "topk_grouped":
                    assert risks[-1] == pytest.approx(least, abs=1e-9), "and the bound is attained"


# The other side: when cross entropy is optimal.


@pytest.mark.parametrize("seed", range(5))
def test_a_well_specified_stump_is_optimal_for_every_k(seed):
    data = random_segments(seed, segments=2, classes=5)
    found = fitted(data)
    assert found.threshold == pytest.approx(data.masses[0], abs=1e-9)
    assert found.cross_entropy == pytest.approx(data.conditional_entropy, abs=1e-9)
    for k in range(1, 6):
        assert found.topk(data, k) == pytest.approx(best_topk(data, k)[0], abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_well_specified_linear_model_is_optimal_for_every_k(seed):
    draws = np.random.default_rng(seed)
    truth = LinearModel(draws.normal(size=(4, 3)))
    points = draws.normal(size=(7, 2))
    scores = np.column_stack([points, np.ones(7)]) @ truth.weights.T
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    data = Support(points, draws.dirichlet(np.ones(7)), p)
    found = fit_linear(data)
    assert found.weights == pytest.approx(truth.weights - truth.weights[-1], abs=1e-8)
    for k in range(1, 4):
        assert found.topk(data, k) == pytest.approx(data.masses @ np.sort(p, axis=1)[:, ::-1][:, :k].sum(axis=1))


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_regret_at_every_k_is_bounded_by_the_excess_cross_entropy(classes):
    draws = np.random.default_rng(classes)
    for spread in (0.1, 1.0, 4.0):
        eta = draws.dirichlet(np.ones(classes), size=50)
        scores = np.log(eta) + spread * draws.normal(size=eta.shape)
        p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        excess = (eta * np.log(eta / p)).sum(axis=1).mean()
        assert (regret(scores, eta) <= np.abs(eta - p).sum(axis=1).mean() + 1e-12).all()
        assert (regret(scores, eta) <= np.sqrt(2 * excess) + 1e-12).all()


def test_the_gap_obeys_that_bound():
    for first, second, rest in KNOBS:
        formula = predicted(first, second, rest)
        excess = formula.cross_entropy - three_segments(first, second, rest).conditional_entropy
        assert formula.gap <= np.sqrt(2 * excess) + 1e-12


def test_with_two_classes_left_there_is_nothing_to_lose():
    data = random_segments(3, classes=2)
    assert fitted(data).topk(data, 2) == pytest.approx(best_topk(data, 2)[0]) == pytest.approx(1)
    data = random_segments(3, classes=3)
    assert fitted(data).topk(data, 3) == pytest.approx(best_topk(data, 3)[0]) == pytest.approx(1)


# A linear softmax model.

EXAMPLES = [(0.4, 0.4, (0.5, 0.5), 0.03), (0.4, 0.4, (0.3, 0.7), 0.03), (0.3, 0.5, (0.5, 0.5), 0.03),
            (0.5, 0.3, (0.3, 0.7), 0.1), (0.2, 0.6, (0.4, 0.6), 0.1)]


@pytest.mark.parametrize(("first", "second", "rest", "noise"), EXAMPLES, ids=str)
def test_the_minimum_of_cross_entropy_over_linear_models_is_worse_in_top2_than_another_linear_model(
        first, second, rest, noise):
    data = three_points(first, second, rest, noise)
    found, (best, other) = fit_linear(data), best_linear_topk(data, 2)
    assert best == pytest.approx(1 - noise / 3) == other.topk(data, 2), "nothing but noise is lost"
    third = 1 - first - second
    assert best - found.topk(data, 2) == pytest.approx((1 - noise) * third * min(rest)), "as with a stump"
    assert found.margin(data, 2) > 0.5 and other.margin(data, 2) > 0.99, "no near tie decides this"
    assert found.topk(data, 1) == pytest.approx(best_linear_topk(data, 1)[0]), "it has the best top-1 instead"
    assert found.cross_entropy(data) < other.cross_entropy(data)


def test_with_a_heavy_third_point_nothing_is_lost():
    data = three_points(0.25, 0.25, (0.5, 0.5), 0.03)
    assert fit_linear(data).topk(data, 2) == pytest.approx(best_linear_topk(data, 2)[0])


@pytest.mark.parametrize(("first", "second", "rest", "noise"), EXAMPLES, ids=str)
def test_the_minimum_is_a_minimum(first, second, rest, noise):
    data = three_points(first, second, rest, noise)
    found = fit_linear(data)
    scores = found.scores(data)
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert np.abs((data.masses[:, None] * (p - data.probabilities)).T @ data.design).max() < 1e-10
    by_scipy = minimize(lambda w: LinearModel(w.reshape(3, 2)).cross_entropy(data), np.zeros(6), method="L-BFGS-B",
                        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2_000})
    assert found.cross_entropy(data) == pytest.approx(by_scipy.fun, abs=1e-8)
    draws = np.random.default_rng(0)
    for _ in range(200):
        near = LinearModel(found.weights + 0.3 * draws.normal(size=(3, 2)))
        assert near.cross_entropy(data) > found.cross_entropy(data)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 2])
def test_the_search_over_linear_models_agrees_with_a_mixed_integer_program(seed, k):
    """Weights in a box and one binary variable for each point and class; the box is wide beside the margin of 1."""
    draws = np.random.default_rng(seed)
    num_points, num_classes, inputs = 5, 3, 2
    data = Support(draws.uniform(-1, 1, (num_points, 1)), draws.dirichlet(np.ones(num_points)),
                   draws.dirichlet(np.ones(num_classes), num_points))
    box = 1_000.0
    number, weights = num_points * num_classes, num_classes * inputs
    rows, low = [], []
    for i, (inside, outside) in itertools.product(range(num_points), itertools.permutations(range(num_classes), 2)):
        row = np.zeros(weights + number)  # s_inside - s_outside >= 1 where one is in the set and the other is not
        row[inside * inputs:][:inputs], row[outside * inputs:][:inputs] = data.design[i], -data.design[i]
        row[weights + i * num_classes + inside] = -(4 * box + 1)
        row[weights + i * num_classes + outside] = 4 * box + 1
        rows.append(row)
        low.append(1 - (4 * box + 1))
    exact = np.zeros((num_points, weights + number))
    for i in range(num_points):
        exact[i, weights + i * num_classes:][:num_classes] = 1
    worth = np.concatenate([np.zeros(weights), -(data.masses[:, None] * data.probabilities).ravel()])
    found = milp(worth, integrality=np.concatenate([np.zeros(weights), np.ones(number)]),
                 bounds=Bounds(np.r_[np.full(weights, -box), np.zeros(number)],
                               np.r_[np.full(weights, box), np.ones(number)]),
                 constraints=[LinearConstraint(np.array(rows), low, np.inf), LinearConstraint(exact, k, k)])
    best, model = best_linear_topk(data, k)
    assert np.abs(model.weights).max() < box
    assert best == pytest.approx(-found.fun, abs=1e-6) and best == pytest.approx(model.topk(data, k), abs=1e-12)


# Bad input.


@pytest.mark.parametrize(("call", "message"), [
    (lambda: three_segments(0.5, 0.6, (0.5, 0.5)), "expected numbers above 0 that sum to 1"),
    (lambda: three_segments(0.5, 0.3, (1.0,)), "at least two classes"),
    (lambda: three_segments(0.5, 0.3, (0.5, 0.6)), "rows that sum to 1"),
    (lambda: Segments(np.array([0.5, 0.5]), np.ones((3, 1))), r"probabilities have shape \(3, 1\): expected \(2, C\)"),
    (lambda: topk_at(random_segments(0), 0.5, 5), "k=5: expected a whole number in 1..4"),
    (lambda: cross_entropy_at(random_segments(0), 1.5), r"thresholds lie in 1.5..1.5: expected \[0, 1\]"),
    (lambda: three_points(0.4, 0.4, (0.5, 0.5), 0.0), "noise=0.0: expected a probability above 0"),
    (lambda: fit_linear(Support(np.eye(3)[:, :1], np.full(3, 1 / 3), np.eye(3))), "a class probability is 0"),
    (lambda: fit_linear(Support(np.ones((2, 1)), np.full(2, 0.5), np.full((2, 2), 0.5))), "points span 0 dimensions"),
    (lambda: best_linear_topk(three_points(0.4, 0.4, (0.5, 0.5), 0.1), 3), "k=3: expected a whole number in 1..2"),
    (lambda: best_linear_topk(Support(np.arange(12.0)[:, None], np.full(12, 1 / 12), np.full((12, 3), 1 / 3)), 1),
     r"3\^12 assignments: expected at most 100,000"),
    (lambda: LinearModel(np.zeros((3, 2))).topk(three_points(0.4, 0.4, (0.5, 0.5), 0.1), 2), "tie at place k=2"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
