"""The statistics against known values, brute force, and coverage by simulation with fixed seeds."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats as distributions

from paperlib import stats
from paperlib.metrics import smallest_k, topk_curve

RANKS = np.arange(1, 10_001)
TARGETS = some.fractions(Fraction(1, 20), Fraction(1), max_denominator=40)
LEVELS = some.sampled_from([".5", ".75", ".9", ".95", ".975", ".99"])


def binomial_cdf(x: int, n: int, p: Fraction) -> Fraction:
    return sum((math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(x + 1)), Fraction(0))


# --- order statistics -------------------------------------------------------------------------------------

@pytest.mark.parametrize(("target", "low", "high", "certified"), [
    (0.99, 9880, 9920, 9917),  # 83 errors allowed, not 100
    (0.95, 9457, 9543, 9537),  # 463, not 500
])
def test_published_values_for_ten_thousand_images(target, low, high, certified):
    assert stats.smallest_k_interval(RANKS, target) == (low, high)
    assert stats.certified_k(RANKS, target) == certified


def test_certified_k_is_where_the_one_sided_clopper_pearson_bound_reaches_the_target():
    rng = np.random.default_rng(0)
    ranks = np.minimum(rng.geometric(0.3, 997), 60)
    for target in (0.5, 0.9, 0.95, 0.99):
        hits = np.cumsum(np.bincount(ranks))
        lower = distributions.beta.ppf(0.05, np.maximum(hits, 1), 997 - hits + 1) * (hits > 0)
        assert stats.certified_k(ranks, target) == np.flatnonzero(lower >= target)[0]


@settings(deadline=None, max_examples=150, derandomize=True)
@given(some.lists(some.integers(1, 6), min_size=1, max_size=9), TARGETS, LEVELS)
def test_order_statistics_equal_exact_enumeration(ranks, target, level):
    n, ordered, alpha = len(ranks), sorted(ranks), 1 - Fraction(level)
    smallest = next(k for k in range(1, 7) if sum(r <= k for r in ranks) >= n * target)
    assert stats.smallest_k_statistic([target])(np.array(ranks)) == [smallest]
    lower = next(x for x in range(n + 1) if binomial_cdf(x, n, target) >= alpha / 2)
    upper = next(x for x in range(n + 1) if binomial_cdf(x, n, target) >= 1 - alpha / 2) + 1
    expected = (ordered[lower - 1] if lower else 1, ordered[upper - 1] if upper <= n else None)
    assert stats.smallest_k_interval(ranks, target, level) == expected
    certain = [c for c in range(n + 1) if 1 - binomial_cdf(c - 1, n, target) <= alpha]
    assert stats.certified_k(ranks, target, level) == (ordered[certain[0] - 1] if certain else None)


def test_targets_and_levels_are_the_decimals_they_were_written_as():
    # .07 * 100 is 7.000000000000001 in doubles, which would ask for an eighth image.
    assert stats.smallest_k_statistic([0.07, np.float32(0.07)])(np.arange(1, 101)) == [7, 7]
    # One image certifies .05 at exactly 95 %: the tail is .05 on the nose.
    assert stats.certified_k([3], 0.05, 0.95) == 3
    assert stats.certified_k([3], 0.0501, 0.95) is None


def test_too_few_images_bound_nothing_from_above():
    assert stats.smallest_k_interval([1] * 20, 0.99) == (1, None)
    assert stats.certified_k([1] * 298, 0.99) is None  # .99**298 = .05003
    assert stats.certified_k([1] * 299, 0.99) == 1
    assert stats.certified_k(RANKS, 1) is None
    assert stats.smallest_k_interval(RANKS, 1) == (10_000, None)
    assert stats.smallest_k_interval([4, 5], 0.01) == (1, 4)  # l = 0


def test_smallest_k_interval_covers_and_certified_k_rarely_errs():
    probabilities = 1 / np.arange(1, 41) ** 1.5
    probabilities /= probabilities.sum()
    truth = int(np.searchsorted(np.cumsum(probabilities), 0.9)) + 1
    rng = np.random.default_rng(1)
    covered = wrong = 0
    for _ in range(1000):
        ranks = rng.choice(np.arange(1, 41), 500, p=probabilities)
        low, high = stats.smallest_k_interval(ranks, 0.9)
        covered += low <= truth <= (high or math.inf)
        wrong += (stats.certified_k(ranks, 0.9) or 41) < truth
    assert covered >= 940  # 95 % less two standard errors
    assert wrong <= 65  # 5 % and two


def test_interval_for_continuous_ranks_is_not_needlessly_wide():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(1000):
        ranks = rng.integers(1, 10**6 + 1, 400)
        low, high = stats.smallest_k_interval(ranks, 0.9)
        covered += low <= 900_000 <= high
    assert 940 <= covered <= 980


@pytest.mark.parametrize("ranks", [[], [[1, 2]], [1.0, 2.0], [0, 1], [True], ["a"], [[1], [2, 3]], None])
@pytest.mark.parametrize("function", [stats.smallest_k_interval, stats.certified_k])
def test_bad_ranks_are_refused(function, ranks):
    with pytest.raises(ValueError, match="ranks: expected .*got|anything that numpy.asarray takes"):
        function(ranks, 0.9)


@pytest.mark.parametrize("function", [stats.smallest_k_interval, stats.certified_k])
def test_bad_targets_and_levels_are_refused(function):
    for target in (0, -0.1, 1.01, math.nan, None, "many"):
        with pytest.raises(ValueError, match=r"target=.*expected a number in \(0, 1\]"):
            function([1, 2], target)
    for level in (0, 1, 95, math.nan):
        with pytest.raises(ValueError, match=r"level=.*expected a number in \(0, 1\)"):
            function([1, 2], 0.9, level)


def test_tensors_are_taken_as_they_are():
    torch = pytest.importorskip("torch")
    ranks = torch.arange(1, 1001)
    assert stats.smallest_k_interval(ranks, 0.95) == stats.smallest_k_interval(ranks.numpy(), 0.95)
    assert stats.certified_k(ranks.to(torch.int16), 0.95) == stats.certified_k(ranks.numpy(), 0.95)


# --- proportions ------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("function", "method"), [(stats.clopper_pearson, "exact"), (stats.wilson, "wilson")])
def test_proportion_intervals_equal_scipy(function, method):
    low, high = function(np.arange(31), 30, 0.9)
    for count in range(31):
        expected = distributions.binomtest(count, 30).proportion_ci(0.9, method=method)
        assert (low[count], high[count]) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert isinstance(float(function(3, 30)[0]), float)


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (1.0, 3), ([], 3), (1, 0), (1, 2.0)])
def test_impossible_counts_are_refused(successes, n):
    for function in (stats.clopper_pearson, stats.wilson):
        with pytest.raises(ValueError, match="expected"):
            function(successes, n)


# --- seeds ------------------------------------------------------------------------------------------------

def test_paired_t_interval_equals_scipy_and_its_bonferroni_form():
    differences = [0.8, 0.2, 1.1, 0.7]
    got, expected = stats.paired_t_interval(differences), distributions.ttest_1samp(differences, 0)
    ci = expected.confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((ci.low, ci.high))
    assert got[:3] == pytest.approx((0.7, np.std(differences, ddof=1), 4))
    ci = expected.confidence_interval(0.995)
    assert stats.paired_t_interval(differences, comparisons=10)[3:] == pytest.approx((ci.low, ci.high))
    half = stats.paired_t_interval([-1, 0, 1]).high
    assert half == pytest.approx(2.484, abs=1e-3)  # 2.48 sd at three seeds


def test_prediction_intervals_hold_further_seeds_as_often_as_they_say():
    assert stats.prediction_interval([0.3]) == (-math.inf, math.inf)
    low, high = stats.prediction_interval([-1, 0, 1])
    assert -low == high == pytest.approx(4.30265 * math.sqrt(4 / 3), abs=1e-4)  # t of 2 degrees, sd 1
    assert stats.prediction_interval([-1, 0, 1], new=3)[1] == pytest.approx(4.30265 * math.sqrt(2 / 3), abs=1e-4)
    draws = np.random.default_rng(5).normal(3, 2, size=(4000, 9))
    for new in (1, 3):
        intervals = np.array([stats.prediction_interval(row, new, 0.9) for row in draws[:, :6]])
        later = draws[:, 6:6 + new].mean(axis=1)
        assert np.mean((intervals[:, 0] <= later) & (later <= intervals[:, 1])) == pytest.approx(0.9, abs=0.015)
    wider = stats.prediction_interval(draws[0], comparisons=4)
    assert wider == pytest.approx(stats.prediction_interval(draws[0], level=1 - 0.05 / 4))
    with pytest.raises(ValueError, match="new"):
        stats.prediction_interval([1, 2], new=0)


def test_one_seed_bounds_nothing_and_equal_seeds_have_no_width():
    one = stats.paired_t_interval([0.3])
    assert math.isnan(one.sd) and (one.mean, one.n, one.low, one.high) == (0.3, 1, -math.inf, math.inf)
    same = stats.paired_t_interval([0.1] * 3)
    assert same.sd == 0 and same.low == same.high == same.mean


def test_bonferroni_intervals_cover_together():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(800):
        draws = rng.normal(0.5, 1, (5, 4))  # five seeds, four comparisons
        intervals = [stats.paired_t_interval(column, comparisons=4) for column in draws.T]
        covered += all(interval.low <= 0.5 <= interval.high for interval in intervals)
    assert 745 <= covered <= 785  # at least 95 %, and Bonferroni loses little for independent columns


@pytest.mark.parametrize("differences", [[], [[1.0]], [math.nan, 1], [math.inf], ["a"], [True, False]])
def test_bad_differences_are_refused(differences):
    with pytest.raises(ValueError, match="differences: expected"):
        stats.paired_t_interval(differences)
    with pytest.raises(ValueError, match="differences: expected"):
        stats.equivalence_test(differences, 1.0)


def test_bad_comparisons_are_refused():
    for comparisons in (0, 1.5, True):
        with pytest.raises(ValueError, match="comparisons=.*at least 1"):
            stats.paired_t_interval([1.0, 2.0], comparisons=comparisons)


def brute_force_max_t(differences: np.ndarray) -> np.ndarray:
    """Every one of the 2**S flips, with t written out."""
    def t(d):
        with np.errstate(divide="ignore"):
            return np.abs(d.mean(0)) / d.std(0, ddof=1)

    flips = [t(np.array(signs)[:, None] * differences).max()
             for signs in itertools.product([1, -1], repeat=len(differences))]
    return np.array([np.mean([flip >= own * (1 - 1e-9) for flip in flips]) for own in t(differences)])


@pytest.mark.parametrize("seed", range(5))
def test_max_t_sign_flips_equal_brute_force(seed):
    rng = np.random.default_rng(seed)
    differences = rng.normal(rng.normal(0, 1, 4), 1, (6, 4))
    np.testing.assert_allclose(stats.max_t_sign_flips(differences), brute_force_max_t(differences))


def test_max_t_reaches_its_smallest_p_and_no_less():
    for seeds in range(1, 9):
        p = stats.max_t_sign_flips(np.full((seeds, 2), 3.0) + np.arange(seeds)[:, None] * 1e-3)
        np.testing.assert_allclose(p, min(1.0, 2 / 2**seeds))


def test_max_t_on_columns_that_do_not_vary():
    p = stats.max_t_sign_flips([[1.0, 0, 2], [1, 0, 3], [1, 0, -4]])
    np.testing.assert_allclose(p, [0.25, 1, 1])  # constant: most extreme; zeros: never


def test_max_t_drawn_at_random_agrees_with_the_normal_limit_and_its_seed():
    rng = np.random.default_rng(4)
    differences = rng.normal(0.5, 1, (16, 1))
    p = stats.max_t_sign_flips(differences, draws=50_000)
    assert p == stats.max_t_sign_flips(differences, draws=50_000)
    assert p != stats.max_t_sign_flips(differences, draws=50_000, seed=1)
    assert p == pytest.approx(brute_force_max_t(differences), abs=0.005)


def test_max_t_controls_the_family_wise_error_of_correlated_columns():
    rng = np.random.default_rng(5)
    false = 0
    for _ in range(600):
        shared = rng.normal(0, 1, (7, 1))
        false += stats.max_t_sign_flips(shared + 0.5 * rng.normal(0, 1, (7, 20))).min() <= 0.05
    assert false / 600 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 600)
    assert false > 0  # and the test is no dead letter


@pytest.mark.parametrize("differences", [[1.0, 2.0], [], [[math.nan]], [[]]])
def test_max_t_refuses_other_shapes(differences):
    with pytest.raises(ValueError, match=r"differences: expected"):
        stats.max_t_sign_flips(differences)


def test_holm_known_value_and_definition():
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(stats.holm([1.0, 0.9]), [1, 1])
    for bad in ([], [1.2], [math.nan], [[0.1]], ["a"]):
        with pytest.raises(ValueError, match=r"numbers in \[0, 1\]"):
            stats.holm(bad)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(some.lists(some.floats(0, 1), min_size=1, max_size=6), some.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p, alpha):
    adjusted = stats.holm(p)
    rejected = set()
    for step, index in enumerate(np.argsort(p, kind="stable")):
        if p[index] * (len(p) - step) > alpha:
            break
        rejected.add(int(index))
    assert set(np.flatnonzero(adjusted <= alpha)) == rejected


def test_equivalence_is_the_interval_inside_the_margin():
    rng = np.random.default_rng(6)
    decided = set()
    for _ in range(200):
        differences = rng.normal(0.1, 0.4, 6)
        result = stats.equivalence_test(differences, 0.5)
        one_sided = max(distributions.ttest_1samp(differences, -0.5, alternative="greater").pvalue,
                        distributions.ttest_1samp(differences, 0.5, alternative="less").pvalue)
        assert result.p == pytest.approx(one_sided)
        assert result.equivalent == (result.low > -0.5 and result.high < 0.5)
        decided.add(result.equivalent)
    assert decided == {True, False}


def test_equivalence_at_the_edges():
    assert stats.equivalence_test([0.1], 0.5)[1:] == (1.0, -math.inf, math.inf, False)
    assert stats.equivalence_test([0.1] * 3, 0.5).p == 0
    assert not stats.equivalence_test([0.5] * 3, 0.5).equivalent
    for margin in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="margin="):
            stats.equivalence_test([0.1, 0.2], margin)


# --- bootstrap --------------------------------------------------------------------------------------------

def crossed_ranks(rng: np.random.Generator, seeds: int, n: int, seed_spread: float = 0.0) -> np.ndarray:
    """Ranks in 1..30: images differ in difficulty, seeds by a common shift."""
    score = rng.normal(0, 1, (1, n)) + rng.normal(0, 0.5, (seeds, n))
    score += seed_spread * rng.normal(0, 1, (seeds, 1))
    return np.clip(np.exp(1 + score), 1, 30).astype(np.int64)


def top5(ranks: np.ndarray) -> float:
    return float((ranks <= 5).mean())


def test_the_smallest_k_statistic_reads_the_curve():
    ranks = crossed_ranks(np.random.default_rng(7), 1, 500)[0]
    targets = (0.3, 0.9, 1)
    expected = [smallest_k(topk_curve(ranks, 30), target) for target in targets]
    assert stats.smallest_k_statistic(targets)(ranks) == expected


def test_image_part_of_the_bootstrap_is_the_binomial_error():
    ranks = crossed_ranks(np.random.default_rng(8), 1, 400)
    replicates = stats.two_way_bootstrap(top5, ranks, draws=4000)
    share = top5(ranks[0])
    assert replicates.std() == pytest.approx(math.sqrt(share * (1 - share) / 400), rel=0.05)
    assert replicates.mean() == pytest.approx(share, abs=0.002)


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_seed_part_of_the_bootstrap_has_the_variance_of_a_mean_of_seeds(seeds):
    # Every image of a seed has the same rank: images add nothing, so all variance is the seeds'.
    ranks = np.repeat(np.arange(1, seeds + 1)[:, None], 50, axis=1)
    replicates = stats.two_way_bootstrap(np.mean, ranks, draws=6000)
    expected = np.arange(1, seeds + 1).var(ddof=1) / seeds
    assert replicates.var() == pytest.approx(expected, rel=0.06)


def test_bootstrap_is_paired_reproducible_and_shaped():
    ranks = crossed_ranks(np.random.default_rng(9), 3, 300)
    assert not stats.two_way_bootstrap(lambda a, b: top5(a) - top5(b), ranks, ranks, draws=50).any()
    curve = stats.two_way_bootstrap(lambda r: topk_curve(r, 30), ranks, draws=50, seed=4)
    assert curve.shape == (50, 30)
    np.testing.assert_array_equal(
        curve, stats.two_way_bootstrap(lambda r: topk_curve(r, 30), ranks, draws=50, seed=4))
    for bad in ([], [ranks[0]], [ranks, ranks[:2]], [ranks.astype(float)]):
        with pytest.raises(ValueError, match="ranks: expected"):
            stats.two_way_bootstrap(top5, *bad)
    with pytest.raises(ValueError, match="draws=0"):
        stats.two_way_bootstrap(top5, ranks, draws=0)


def test_sup_t_band_covers_the_whole_curve():
    rng = np.random.default_rng(10)
    truth = np.mean([topk_curve(crossed_ranks(rng, 1, 5000)[0], 30) for _ in range(40)], axis=0)
    covered = pointwise = 0
    for _ in range(120):
        ranks = crossed_ranks(rng, 6, 200)
        replicates = stats.two_way_bootstrap(lambda r: topk_curve(r, 30), ranks, draws=150)
        estimate = np.mean([topk_curve(row, 30) for row in ranks], axis=0)
        low, high = stats.sup_t_band(estimate, replicates)[1:]
        inside = (low <= truth + 1e-9) & (truth <= high + 1e-9)
        covered += inside[:20].all()
        pointwise += inside[4]
    assert 108 <= covered <= 120  # 90 % to 100 %: nominal 95 %, the interaction makes it a little wide
    assert pointwise >= covered


def test_sup_t_band_gives_no_width_where_nothing_varies():
    replicates = np.random.default_rng(11).normal(0, 1, (20_000, 3))
    replicates[:, 2] = 1.0
    low, high = stats.sup_t_band([0.0, 0.0, 1.0], replicates)[1:]
    assert low[2] == high[2] == 1
    assert high[0] == pytest.approx(2.236, abs=0.05)  # two independent normals: .9747 of |z|
    for estimate, sample in (([0.0], replicates), (0.0, replicates), ([0.0] * 3, replicates[:1])):
        with pytest.raises(ValueError, match="replicates"):
            stats.sup_t_band(estimate, sample)


def test_mean_interval_is_the_mean_over_seeds_with_its_quantiles():
    ranks = crossed_ranks(np.random.default_rng(12), 3, 300)
    band = stats.mean_interval(top5, ranks, draws=400, level=0.9)
    replicates = stats.two_way_bootstrap(top5, ranks, draws=400)
    assert band.estimate == pytest.approx(np.mean([top5(row) for row in ranks]))
    assert (band.low, band.high) == pytest.approx(tuple(np.quantile(replicates, [0.05, 0.95])))


def test_smallest_k_difference_finds_a_shift_and_covers_it():
    rng = np.random.default_rng(13)
    covered = found = 0
    for _ in range(60):
        ranks = crossed_ranks(rng, 4, 400, seed_spread=0.05)
        band = stats.smallest_k_difference(ranks, ranks + 2, 0.9, draws=200)
        assert band.estimate == band.low == band.high == -2  # the same images shifted: no uncertainty is left
        other = crossed_ranks(rng, 4, 400, seed_spread=0.05)
        band = stats.smallest_k_difference(ranks, other, 0.9, draws=200)
        covered += band.low <= 0 <= band.high
        found += band.low < band.high
    assert covered >= 53
    assert found == 60


def test_differences_for_several_targets_are_those_for_each():
    rng, targets = np.random.default_rng(14), (0.5, 0.9, 1)
    ranks, other = (crossed_ranks(rng, 4, 400, seed_spread=0.3) for _ in range(2))
    together = stats.smallest_k_differences(ranks, other, targets, level=0.9, draws=100, seed=3)
    alone = [stats.smallest_k_difference(ranks, other, target, level=0.9, draws=100, seed=3) for target in targets]
    np.testing.assert_array_equal(np.transpose(together), alone)
    assert len(set(map(tuple, alone))) == len(targets)


def test_the_bootstrap_draws_images_for_all_seeds_and_losses_together():
    pair = [crossed_ranks(np.random.default_rng(seed), 3, 50) for seed in (15, 16)]
    found = stats.two_way_bootstrap(lambda a, b: top5(a) - top5(b), *pair, draws=20, seed=5)
    rng, expected = np.random.default_rng(5), []
    for _ in range(20):
        images = rng.integers(50, size=50)
        gaps = np.array([top5(pair[0][seed, images]) - top5(pair[1][seed, images]) for seed in range(3)])
        expected.append(gaps.mean() + math.sqrt(3 / 2) * (gaps[rng.integers(3, size=3)].mean() - gaps.mean()))
    np.testing.assert_array_equal(found, expected)


def test_smallest_k_difference_refuses_unpaired_ranks():
    with pytest.raises(ValueError, match="one shape"):
        stats.smallest_k_difference([[1, 2]], [[1, 2, 3]], 0.9)
    with pytest.raises(ValueError, match="target=1.5"):
        stats.smallest_k_difference([[1, 2]], [[1, 2]], 1.5)
