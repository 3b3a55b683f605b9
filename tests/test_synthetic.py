"""The synthetic families: probabilities as described, draws by the probabilities, knobs that do what they say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from paperlib import data
from paperlib.bayes import bayes_topk, best_sets
from paperlib.config import RunConfig
from paperlib.data.synthetic import EVALUATION_SIZE, FAMILIES, gaussian_mixture, synthetic

# Options of every family: the defaults, other complexities and ambiguities, and larger k.
SETTINGS = [
    ("capacity_competition", {}),
    ("capacity_competition", {"stripes": 7, "top2_stripes": 3, "common": 0.8}),
    ("capacity_competition", {"stripes": 9, "top2_stripes": 5, "common": 0.7, "group": 3}),
    ("capacity_competition", {"stripes": 10, "common": 0.9, "group": 5}),
    ("spirals", {}),
    ("spirals", {"segments": 8, "top2_segments": 2, "turns": 2.5, "common": 0.75, "group": 3}),
    ("spirals", {"segments": 5, "turns": 0, "common": 0.85, "group": 5}),
    ("rings", {}),
    ("rings", {"sectors": 6, "top2_rings": 3, "certainty": 0.6, "group": 3}),
    ("rings", {"sectors": 10, "top2_rings": 2, "certainty": 0.3, "group": 5}),
    ("gaussian_mixture", {}),
    ("gaussian_mixture", {"modes": 5, "top2_modes": 3, "overlap": 0.5, "dimension": 5}),
    ("gaussian_mixture", {"modes": 6, "groups": 3, "group": 3, "dimension": 10}),
    ("gaussian_mixture", {"modes": 5, "group": 5, "overlap": 1.5, "top2_overlap": 1.2}),
]
CLASSES = {"capacity_competition": lambda k, _: 2 * k + 1, "spirals": lambda k, _: 2 * k + 1,
           "rings": lambda k, _: 2 * k, "gaussian_mixture": lambda k, options: k * options.get("groups", 2)}


def drawn(name: str, options: dict, n: int = 20_000, seed: int = 0) -> torch.Tensor:
    return FAMILIES[name].points(n, torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=str)
def test_probabilities_sum_to_one_in_every_precision(name, options):
    x = drawn(name, options, 2_000)
    p = FAMILIES[name](x, **options)
    assert p.shape == (2_000, CLASSES[name](options.get("group", 2), options)) and p.dtype == torch.float32
    assert (p >= 0).all() and p.sum(dim=1) == pytest.approx(np.ones(2_000), abs=1e-6)
    double = FAMILIES[name](x.double(), **options)
    assert double.dtype == torch.float64 and double.sum(dim=1) == pytest.approx(np.ones(2_000), abs=1e-12)
    same = (double - p).abs().amax(dim=1) < 1e-4  # points on a boundary may round to either side
    assert same.double().mean() > 0.999


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=str)
def test_labels_follow_the_probabilities_by_chi_square(name, options):
    """One table of counts for every vector of probabilities (to one decimal) that occurs."""
    source = synthetic(name, options, 3)
    labels, p = source.test.labels.numpy(), FAMILIES[name](source.test.inputs, **options).double().numpy()
    assert source.test.inputs.dtype == torch.float32 and len(source.class_names) == p.shape[1]
    assert (p[np.arange(len(labels)), labels] > 0).all()
    pearson, freedom = 0.0, 0
    place = np.unique(np.round(p, 1), axis=0, return_inverse=True)[1].ravel()
    for here in (place == i for i in range(place.max() + 1)):
        expected, seen = p[here].sum(axis=0), np.bincount(labels[here], minlength=p.shape[1])
        often = expected >= 5
        pearson += ((seen - expected)[often] ** 2 / expected[often]).sum()
        freedom += max(0, often.sum() - (expected[~often].sum() < 1))
    assert freedom >= p.shape[1] // 2 and stats.chi2.sf(pearson, freedom) > 1e-3


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=str)
def test_class_frequencies_agree_by_chi_square(name, options):
    source = synthetic(name, {**options, "n": 20_000}, 4)
    expected = FAMILIES[name](source.train.inputs, **options).double().sum(dim=0).numpy()
    seen = source.train.labels.bincount(minlength=len(expected)).numpy()
    assert stats.chisquare(seen[expected > 0], expected[expected > 0] * seen.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=str)
def test_best_possible_accuracies_are_those_of_the_closed_form(name, options):
    k = options.get("group", 2)
    found = bayes_topk(FAMILIES[name](drawn(name, options, 40_000).double(), **options))
    if name in ("capacity_competition", "spirals"):
        common = options.get("common", 0.6)
        top1, topk = (1 + max(common / (k - 1), 1 - common)) / 2, 1.0
    elif name == "rings":
        top1, topk = options.get("certainty", 0.8), 1.0
    else:
        return  # below: an integral
    assert found[0] == pytest.approx(top1, abs=0.01) and found[k - 1] == pytest.approx(topk, abs=1e-12)
    assert found[-1] == pytest.approx(1, abs=1e-12)


def expected_largest(sites: int, owners: int, overlap: float) -> float:
    """E max of the posterior over owners of sites in turn, by integration over the density."""
    x = np.linspace(-4, 4, 400_001)
    density = np.zeros((owners, len(x)))
    for site in range(sites):
        density[site % owners] += stats.norm.pdf(x, (2 * site + 1) / sites - 1, overlap / sites) / sites
    return float(np.trapezoid(density.max(axis=0), x))


@pytest.mark.parametrize("options", [options for name, options in SETTINGS if name == "gaussian_mixture"], ids=str)
def test_the_best_top1_of_a_mixture_is_the_product_of_two_integrals(options):
    full = {"modes": 2, "top2_modes": 1, "overlap": 0.7, "top2_overlap": 0.4, "groups": 2, "group": 2, **options}
    expected = (expected_largest(full["groups"] * full["top2_modes"], full["groups"], full["top2_overlap"])
                * expected_largest(full["modes"], full["group"], full["overlap"]))
    found = bayes_topk(gaussian_mixture(drawn("gaussian_mixture", options, 100_000).double(), **options))
    assert found[0] == pytest.approx(expected, abs=0.004)
    if full["groups"] == full["group"] == full["modes"] == 2 and full["top2_modes"] == 1:
        by_phi = stats.norm.cdf(1 / full["overlap"]) * stats.norm.cdf(1 / full["top2_overlap"])
        assert expected == pytest.approx(by_phi, abs=1e-6)


@pytest.mark.parametrize("dimension", [2, 5, 10])
@pytest.mark.parametrize("overlap", [0.3, 1.0])
def test_the_posterior_of_a_mixture_is_bayes_rule_on_its_densities(dimension, overlap):
    options = {"modes": 4, "top2_modes": 2, "overlap": overlap, "groups": 3, "dimension": dimension}
    x = drawn("gaussian_mixture", options, 200).double()
    assert x.shape == (200, dimension)
    density = np.zeros((200, 6))
    for i in range(6):
        for j in range(4):
            centre = np.zeros(dimension)
            centre[:2] = (2 * i + 1) / 6 - 1, (2 * j + 1) / 4 - 1
            sd = np.array([0.4 / 6, overlap / 4, *[0.5] * (dimension - 2)])
            density[:, i % 3 * 2 + j % 2] += stats.norm.pdf(x.numpy(), centre, sd).prod(axis=1)
    expected = density / density.sum(axis=1, keepdims=True)
    assert gaussian_mixture(x, **options).numpy() == pytest.approx(expected, abs=1e-9)


def test_points_of_a_mixture_have_its_moments():
    options = {"modes": 3, "top2_modes": 2, "overlap": 0.9, "dimension": 5}
    x = drawn("gaussian_mixture", options, 100_000).numpy()
    for axis, sites, spread in ((0, 4, 0.4), (1, 3, 0.9)):
        centres = (2 * np.arange(sites) + 1) / sites - 1
        sd = math.sqrt(centres.var() + (spread / sites) ** 2)
        assert x[:, axis].std() == pytest.approx(sd, rel=0.01) and abs(x[:, axis].mean()) < 4 * sd / math.sqrt(1e5)
    assert x[:, 2:].std(axis=0) == pytest.approx([0.5] * 3, rel=0.01)
    assert np.abs(np.corrcoef(x.T) - np.eye(5)).max() < 0.015


@pytest.mark.parametrize(("options", "well_specified"), [
    ({}, True), ({"groups": 3, "group": 3, "modes": 3, "dimension": 5}, True),
    ({"modes": 4}, False), ({"top2_modes": 2}, False)], ids=str)
def test_a_linear_model_is_well_specified_where_the_page_says(options, well_specified):
    x = drawn("gaussian_mixture", options, 500).double()
    p = gaussian_mixture(x, **{**options, "overlap": 1.0, "top2_overlap": 1.0}).log()
    odds = (p - p[:, :1]).numpy()
    design = np.column_stack([x.numpy(), np.ones(500)])
    residual = odds - design @ np.linalg.lstsq(design, odds, rcond=None)[0]
    assert (np.abs(residual).max() < 1e-8) == well_specified


def changes_along(name: str, options: dict, path: torch.Tensor, k: int) -> int:
    """How often the best k classes change along a path through the data."""
    sets = best_sets(FAMILIES[name](path.double(), **options), k)
    return sum(a != b for a, b in zip(sets[:-1], sets[1:], strict=True))


def upwards(x: float) -> torch.Tensor:
    y = torch.linspace(-0.9999, 0.9999, 5_001)
    return torch.stack([torch.full_like(y, x), y], dim=1)


def arm(turns: float, angle: float) -> torch.Tensor:
    radius = torch.linspace(0.001, 0.9999, 5_001)
    phase = 2 * math.pi * (angle + turns * radius)
    return torch.stack([radius * phase.cos(), radius * phase.sin()], dim=1)


def around(radius: float) -> torch.Tensor:
    phase = 2 * math.pi * (torch.arange(5_001) + 0.5) / 5_000  # closed: the last point is the first one again
    return torch.stack([radius * phase.cos(), radius * phase.sin()], dim=1)


@pytest.mark.parametrize("group", [2, 3, 5])
@pytest.mark.parametrize("number", [2, 5, 10])
def test_the_knobs_set_the_number_of_regions(number, group):
    """One knob for the best class, one for the best k, and neither touches the other's question."""
    common = {"common": 0.85, "group": group}
    knobs = {"stripes": number, "top2_stripes": number + 1, **common}
    assert changes_along("capacity_competition", knobs, upwards(-0.5), 1) == number - 1
    assert changes_along("capacity_competition", knobs, upwards(-0.5), group) == 0
    assert changes_along("capacity_competition", knobs, upwards(0.5), 1) == 0
    assert changes_along("capacity_competition", knobs, upwards(0.5), group) == number
    knobs = {"segments": number, "top2_segments": number + 1, "turns": 1.5, **common}
    assert changes_along("spirals", knobs, arm(1.5, 0.25), 1) == number - 1
    assert changes_along("spirals", knobs, arm(1.5, 0.25), group) == 0
    assert changes_along("spirals", knobs, arm(1.5, 0.75), 1) == 0
    assert changes_along("spirals", knobs, arm(1.5, 0.75), group) == number
    assert changes_along("spirals", {**knobs, "segments": 1, "top2_segments": 1}, arm(0, 0.125), group) == 3
    knobs = {"sectors": group * number, "top2_rings": number, "certainty": 0.7, "group": group}
    assert changes_along("rings", knobs, around(0.1), 1) == group * number
    assert changes_along("rings", knobs, around(0.1), group) == 0
    assert changes_along("rings", knobs, arm(0, 0.01), group) == number - 1
    assert changes_along("rings", {**knobs, "sectors": 1}, around(0.1), 1) == 0


@pytest.mark.parametrize(("modes", "copies"), [(2, 1), (4, 1), (3, 2), (6, 4)])
def test_the_knobs_of_the_mixture_set_the_number_of_regions(modes, copies):
    knobs = {"modes": modes, "top2_modes": copies, "overlap": 0.6, "top2_overlap": 0.3}
    column = upwards(1 / (2 * copies) - 1)  # through the sites of the first group
    assert changes_along("gaussian_mixture", knobs, column, 1) == modes - 1
    assert changes_along("gaussian_mixture", knobs, column, 2) == 0
    row = upwards(1 / modes - 1).flip(1)
    assert changes_along("gaussian_mixture", knobs, row, 1) == 2 * copies - 1
    p = gaussian_mixture(drawn("gaussian_mixture", knobs).double(), **knobs)
    assert set(best_sets(p[p.max(dim=1).values < 0.9], 2)) >= {(0, 1), (2, 3)}


@pytest.mark.parametrize(("name", "knob", "values"), [
    ("capacity_competition", "common", (0.6, 0.75, 0.9)), ("spirals", "common", (0.6, 0.75, 0.9)),
    ("rings", "certainty", (0.5, 0.7, 0.9)), ("gaussian_mixture", "overlap", (1.2, 0.8, 0.4))])
def test_less_ambiguous_labels_raise_the_best_top1(name, knob, values):
    assert FAMILIES[name].knobs[2] == knob and set(FAMILIES[name].knobs) <= set(FAMILIES[name].options)
    best = [bayes_topk(FAMILIES[name](drawn(name, {knob: value}), **{knob: value}))[0] for value in values]
    assert best[0] < best[1] - 0.04 and best[1] < best[2] - 0.04


# Draws.


def test_the_draws_of_committed_records_are_unchanged(root):
    checked = set()
    for path in sorted((root / "experiments/records/synthetic-search").glob("*.json")):
        record = json.loads(path.read_text())
        config = RunConfig.from_dict(record["config"])
        if (digest := record["data"]["checksum"]) not in checked:
            assert data.splits(config).checksum == digest
            checked.add(digest)
    assert len(checked) == 4


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_and_seeds_are_fresh_draws(name):
    source = synthetic(name, {"n": 500}, 0)
    again = synthetic(name, {"n": 500}, 0)
    assert torch.equal(source.train.inputs, again.train.inputs) and torch.equal(source.test.labels, again.test.labels)
    parts = [source.train, source.validation, source.test, synthetic(name, {"n": 500}, 1).train]
    assert len({float(part.inputs[0, 0]) for part in parts}) == 4
    assert [len(part) for part in parts] == [500, EVALUATION_SIZE, EVALUATION_SIZE, 500]


@pytest.mark.parametrize("name", ["spirals", "rings"])
def test_points_are_uniform_on_the_disc(name):
    x = drawn(name, {}).numpy()
    area, angle = (x**2).sum(axis=1), np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) % 1
    assert area.max() <= 1 + 1e-6
    assert stats.kstest(area, "uniform").pvalue > 1e-3 and stats.kstest(angle, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(area, angle)[0, 1]) < 0.03


def test_points_off_the_disc_belong_to_its_rim():
    rim, far = around(0.9999), 3 * around(0.9999)
    for name, options in (("rings", {}), ("spirals", {"turns": 0})):
        torch.testing.assert_close(FAMILIES[name](far, **options), FAMILIES[name](rim, **options))


def test_a_run_trains_on_any_family():
    splits = data.splits(RunConfig(dataset="synthetic", family="gaussian_mixture",
                                   family_options={"n": 100, "dimension": 7, "groups": 4, "group": 3, "modes": 3}))
    assert splits.train.inputs.shape == (100, 7) and splits.num_classes == 12


def test_a_whole_number_may_be_written_with_a_point():
    one, other = ({"stripes": value, "group": value} for value in (3, 3.0))
    assert torch.equal(synthetic("capacity_competition", one, 0).train.labels,
                       synthetic("capacity_competition", other, 0).train.labels)


# Bad input.


@pytest.mark.parametrize(("name", "options", "message"), [
    ("capacity_competition", {"stripes": 0}, "stripes=0: expected a whole number of at least 1"),
    ("capacity_competition", {"stripes": 2.5}, "stripes=2.5: expected a whole number"),
    ("capacity_competition", {"common": 1.2}, r"common=1.2: expected a number in \[0, 1\]"),
    ("capacity_competition", {"common": float("nan")}, "common=nan: expected a number"),
    ("capacity_competition", {"group": 1}, "group=1: expected a whole number of at least 2"),
    ("spirals", {"top2_segments": True}, "top2_segments=True: expected a whole number"),
    ("spirals", {"turns": -1}, "turns=-1: expected a number in"),
    ("rings", {"sectors": 3}, "sectors=3: expected 1 or a multiple of group=2"),
    ("rings", {"certainty": 0.4}, r"certainty=0.4: expected a number in \[0.5, 1\]"),
    ("gaussian_mixture", {"modes": 1}, "modes=1: expected a whole number of at least 2"),
    ("gaussian_mixture", {"overlap": 0}, "overlap=0: expected a number in"),
    ("gaussian_mixture", {"dimension": 1}, "dimension=1: expected a whole number of at least 2"),
    ("gaussian_mixture", {"stripes": 2}, "unknown option 'stripes' of family 'gaussian_mixture': expected n, modes"),
], ids=str)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        synthetic(name, options, 0)


@pytest.mark.parametrize("name", FAMILIES)
def test_points_of_the_wrong_shape_are_refused(name):
    for x in (torch.zeros(4, 3), torch.zeros(4), torch.zeros(4, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"x has shape .*: expected floats of shape \(N, 2\)"):
            FAMILIES[name](x)
