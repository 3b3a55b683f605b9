"""The primary tests and what else is compared, on records made up with known differences."""

from __future__ import annotations

import numpy as np
import pytest
from grids_for_tests import STUDY, Study, make_record, ranks_with_accuracy

from paperlib import analysis, grids, records, stats

#: Images of 1000 right at k = 1 and k = 5, by variant; a seed adds to them.
TOP1 = {"ce": 500, "ramp": 497, "grouped": 450}
TOP5 = {"ce": 800, "ramp": 820, "grouped": 810}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Two setups, three seeds: the ramp pays .3 points of top-1 for 2 of top-5, grouped 5 for 1."""
    study = Study(tmp_path, monkeypatch)
    study.grid("cifar-main", STUDY)

    def ranks(cell):
        jitter = cell.seed if cell.variant == "ramp" else 0  # differences vary over seeds
        one, five = TOP1[cell.variant] + jitter + 3 * cell.seed, TOP5[cell.variant] + jitter + 2 * cell.seed
        return ranks_with_accuracy({1: one / 1000, 5: five / 1000, 60: 1.0})

    study.write("cifar-main", ranks)
    return study


def test_the_primary_tests_are_one_family(study):
    table = analysis.primary(variant="ramp")
    assert list(zip(table["setup"], table["k"], strict=True)) == [
        (setup, k) for setup in ("all", "fifth") for k in (1, 5, 10, 25)]
    gaps = np.array([[-3, 20, 20, 20], [-2, 21, 21, 21], [-1, 22, 22, 22]]) / 1000
    for place, row in enumerate(table.itertuples()):
        expected = stats.paired_t_interval(gaps[:, place % 4], comparisons=8)
        assert (row.mean, row.sd, row.n, row.low, row.high) == pytest.approx(tuple(expected))
    np.testing.assert_allclose(table["p"], stats.max_t_sign_flips(np.hstack([gaps, gaps])))
    assert table["p"].min() == 0.25, "three seeds show nothing by sign flips"
    narrow = analysis.primary(variant="ramp", setups=["all"], ks=[5])
    assert narrow["low"].item() > table.query("setup == 'all' and k == 5")["low"].item()


@pytest.mark.parametrize("options, message", [
    ({"variant": "transition"}, "has no all/transition beside 'ce': expected one of all/ramp, all/grouped"),
    ({"variant": "ramp", "setups": ["half"]}, "has no half/ramp"),
    ({"variant": "ramp", "ks": [61]}, r"ks=\(61,\): expected values in 1\.\."),
    ({"variant": "ramp", "baseline": "cross"}, "baseline='cross': expected one of the variants"),
])
def test_what_is_not_there_is_no_member_of_a_family(study, options, message):
    with pytest.raises(ValueError, match=message):
        analysis.primary(**options)


def test_no_loss_in_top1_is_an_interval_within_the_margin(study):
    table = analysis.equivalences("cifar-main").set_index(["setup", "variant"])
    expected = stats.equivalence_test(np.array([-3, -2, -1]) / 1000, 0.005)
    row = table.loc[("all", "ramp")]
    assert (row["mean"], row["p"], row["low"], row["high"]) == pytest.approx(tuple(expected)[:4])
    assert row["equivalent"] and row["no_loss"] and (row["k"], row["n"]) == (1, 3)
    assert not table.loc[("all", "grouped"), ["equivalent", "no_loss"]].any()
    # A gain beyond the margin is no loss, and not the same either.
    five = analysis.equivalences("cifar-main", k=5).set_index(["setup", "variant"])
    assert five.loc[("all", "ramp"), "no_loss"] and not five.loc[("all", "ramp"), "equivalent"]


def test_the_curves_cross_between_top1_and_top5(study):
    table = analysis.crossings("cifar-main", draws=100).set_index(["setup", "variant"])
    # The ramp is behind at k = 1 to 4, whose accuracy is that of top-1, and ahead from 5 on.
    assert table.loc[("all", "ramp"), "k"] == 5 and table.loc[("all", "ramp"), "n"] == 3
    assert table.loc[("all", "ramp"), "low"] <= 5 <= table.loc[("all", "ramp"), "high"]
    with pytest.raises(ValueError, match="baseline='CE'"):
        analysis.crossings("cifar-main", baseline="CE")


def test_a_setup_memorises_where_training_runs_ahead(study):
    for cell in grids.load("cifar-main").cells:
        if cell.setup == "fifth" and cell.variant == "ce":
            record = make_record(cell, ranks_with_accuracy({1: 0.5, 60: 1.0}))
            record.history[-1]["train_top1"] = 0.7
            records.write(record, study.records / "cifar-main")
    table = analysis.memorisation("cifar-main").set_index("setup")
    assert table.loc["fifth", ["train_top1", "validation_top1", "gap"]].tolist() == pytest.approx([0.7, 0.5, 0.2])
    assert table.loc["all", "gap"] == pytest.approx(0.4 - 0.503), "made-up records train to 40 %"
    assert table["n"].tolist() == [3, 3] and not table.loc["all", "memorises"]
    assert analysis.memorisation("cifar-main", threshold=0.19).set_index("setup").loc["fifth", "memorises"]


def test_probabilities_are_compared_in_pairs(study):
    for cell in grids.load("cifar-main").cells:
        if cell.variant == "ramp":
            ranks = ranks_with_accuracy({1: 0.4, 5: 0.8, 60: 1.0})
            record = make_record(cell, ranks)
            record.test["nll"], record.test["ece"] = 1.25 + 0.1 * (1 + cell.seed), 0.02
            records.write(record, study.records / "cifar-main")
    table = analysis.probabilities("cifar-main").set_index(["setup", "variant", "quantity"])
    row = table.loc[("all", "ramp", "nll")]
    expected = stats.paired_t_interval([0.1, 0.2, 0.3])
    assert (row["mean"], row["difference"], row["low"], row["high"]) == pytest.approx(
        (1.45, expected.mean, expected.low, expected.high))
    assert table.loc[("all", "ramp", "ece"), "difference"] == pytest.approx(-0.01)
    assert table.loc[("all", "ramp", "first"), "mean"] == pytest.approx(0.5)
    assert np.isnan(table.loc[("all", "ce", "nll"), "difference"]) and table.loc[("all", "ce", "nll"), "mean"] == 1.25
    with pytest.raises(ValueError, match="k=3: expected one of 1, 2, 5, 10, 20"):
        analysis.probabilities("cifar-main", k=3)
    with pytest.raises(ValueError, match="baseline='CE'"):
        analysis.probabilities("cifar-main", baseline="CE")
