"""Records of known content give the frames and the verdicts that they must."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from grids_for_tests import STUDY, Study, geometric_ranks, make_record, ranks_with_accuracy

from paperlib import analysis, grids, records, stats
from paperlib.analysis import claims
from paperlib.metrics import smallest_k, topk_curve
from paperlib.stats import Interval

RATES = {"ce": 0.30, "ramp": 0.32, "grouped": 0.28}


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    return Study(tmp_path / "study", monkeypatch)


@pytest.fixture
def done(study: Study) -> Study:
    """The study with all its records; the ramp better, the grouped loss worse than cross entropy."""
    study.grid("first-study", STUDY)
    study.write("first-study", lambda cell: geometric_ranks(cell, RATES[cell.variant]))
    return study


# --- frames -----------------------------------------------------------------------------------------------

def test_runs_hold_what_the_ranks_say(done):
    frame = analysis.runs("first-study")
    assert len(frame) == 18
    assert list(frame["setup"].unique()) == ["all", "fifth"]
    assert list(frame["variant"].unique()) == ["ce", "ramp", "grouped"]
    row = frame[(frame.setup == "fifth") & (frame.variant == "ramp") & (frame.seed == 2)].iloc[0]
    cell = done.cell("first-study", "fifth", "ramp", 2)
    ranks = geometric_ranks(cell, 0.32)
    assert row.run_id == cell.config.run_id
    assert row.n == 800
    for k in (1, 2, 5, 10, 20):
        assert row[f"top{k}"] == (ranks <= k).mean()
    assert [row.k90, row.k95, row.k99] == [smallest_k(topk_curve(ranks, 60), t) for t in (0.9, 0.95, 0.99)]
    assert (row.nll, row.ece, row.train_top1, row.minutes, row.device) == (1.25, 0.03, 0.4, 2.0, "a CPU")


def test_accuracy_beyond_the_number_of_classes_is_nan(study):
    study.grid("few", STUDY)
    study.write("few", lambda cell: geometric_ranks(cell, 0.5, num_classes=4), num_classes=4)
    frame = analysis.runs("few")
    assert frame[["top5", "top10", "top20"]].isna().all(axis=None)
    assert frame[["top1", "top2"]].notna().all(axis=None)


def test_summary_is_mean_sd_and_n_in_the_grids_order(done):
    frame, runs = analysis.summary("first-study", ["top5", "k99"]), analysis.runs("first-study")
    assert list(frame["quantity"].head(2)) == ["top5", "k99"]
    assert list(frame.drop_duplicates(["setup", "variant"])["variant"]) == ["ce", "ramp", "grouped"] * 2
    own = runs[(runs.setup == "all") & (runs.variant == "grouped")]["k99"]
    row = frame[(frame.setup == "all") & (frame.variant == "grouped") & (frame.quantity == "k99")].iloc[0]
    assert (row["mean"], row["sd"], row["n"]) == pytest.approx((own.mean(), own.std(ddof=1), 3))
    with pytest.raises(ValueError, match="unknown column 'top3'.*top1"):
        analysis.summary("first-study", ["top3"])


def test_curves_and_history(done):
    curves = analysis.curves("first-study")
    assert len(curves) == 18 * 60
    assert (curves[curves.k == 60].accuracy == 1).all()
    history = analysis.history("first-study")
    assert len(history) == 36
    assert set(history.loc[history.variant == "ramp", "strength"]) == {0.25, 0.5}
    assert history.loc[history.variant == "ce", "strength"].isna().all()


def test_differences_are_paired_by_seed(done):
    frame = analysis.differences("first-study", ks=(1, 5), comparisons=4)
    assert list(frame.columns) == ["setup", "variant", "k", "mean", "sd", "n", "low", "high", "p"]
    assert list(frame["variant"].unique()) == ["ramp", "grouped"]
    runs = analysis.runs("first-study").set_index(["setup", "variant", "seed"])["top5"]
    gaps = (runs["all"]["ramp"] - runs["all"]["ce"]).to_numpy()
    row = frame[(frame.setup == "all") & (frame.variant == "ramp") & (frame.k == 5)].iloc[0]
    expected = stats.paired_t_interval(gaps, comparisons=4)
    assert tuple(row[["mean", "sd", "n", "low", "high"]]) == pytest.approx(tuple(expected))
    assert frame["p"].min() == 0.25  # three seeds, all of one sign
    for wrong in ((0,), (61,)):
        with pytest.raises(ValueError, match=r"ks=.*1..60"):
            analysis.differences("first-study", ks=wrong)
    part = grids.load("first-study").part(lambda cell: (cell.seed == 0) == (cell.variant == "ce"))
    for paired in (analysis.differences, analysis.candidate_differences, analysis.difference_bands):
        with pytest.raises(ValueError, match=r"'ce' has seeds \[0\] and 'ramp' \[1, 2\]: expected the same"):
            paired(part)
    with pytest.raises(ValueError, match="baseline='CE': expected one of the variants ce, ramp, grouped"):
        analysis.differences("first-study", baseline="CE")


def test_bands_hold_the_curve_and_end_at_one(done):
    frame = analysis.curve_bands("first-study", draws=200)
    assert (frame.low <= frame.accuracy).all() and (frame.accuracy <= frame.high).all()
    last = frame[frame.k == 60]
    assert (last.low == 1).all() and (last.high == 1).all()
    mean = analysis.curves("first-study").groupby(["setup", "variant", "k"]).accuracy.mean()
    np.testing.assert_allclose(frame.set_index(["setup", "variant", "k"]).accuracy.sort_index(), mean)
    pd.testing.assert_frame_equal(frame, analysis.curve_bands("first-study", draws=200))


def test_paired_difference_bands_are_narrower_than_the_curves(done):
    curves = analysis.curve_bands("first-study", draws=200).query("variant == 'ramp' and k == 5")
    pairs = analysis.difference_bands("first-study", draws=200).query("variant == 'ramp' and k == 5")
    assert ((pairs.high - pairs.low).to_numpy() < (curves.high - curves.low).to_numpy()).all()
    assert (pairs.difference > 0).all()


def test_candidates_average_the_smallest_k_of_the_seeds(done):
    frame = analysis.candidates("first-study", draws=200)
    runs = analysis.runs("first-study").groupby(["setup", "variant"])[["k90", "k95", "k99"]].mean()
    for row in frame.itertuples():
        assert row.k == pytest.approx(runs.loc[(row.setup, row.variant), f"k{round(100 * row.target)}"])
        assert row.low <= row.k <= row.high
        assert row.n == 3
    single = analysis.certificates("first-study", targets=(0.9, 0.999))
    assert (single.low <= single.k).all()
    assert (single.dropna().certified >= single.dropna().k).all()
    assert single[single.target == 0.999].certified.isna().all()  # .999 ** 800 > .05
    assert single[single.target == 0.9].certified.notna().all()


def test_candidate_differences_have_the_sign_of_the_loss(done):
    frame = analysis.candidate_differences("first-study", targets=(0.95,), draws=200).set_index(["setup", "variant"])
    assert (frame.loc[("all", "ramp"), "difference"] < 0) and (frame.loc[("all", "grouped"), "difference"] > 0)
    assert set(frame.n) == {3}


def test_labels_come_from_the_grid(done):
    assert analysis.labels("first-study")["ramp"] == "transition, late ramp"
    done.grid("mixed", STUDY.replace('name = "all"', 'name = "ce"'))
    with pytest.raises(ValueError, match="'ce' names a setup and a variant"):
        analysis.labels("mixed")


# --- refusals ---------------------------------------------------------------------------------------------

def test_a_missing_record_is_named_with_its_command(done):
    cell = done.cell("first-study", "fifth", "ramp", 1)
    (done.records / "first-study" / f"{cell.config.run_id}.json").unlink()
    message = f"{cell.config.run_id}(.|\n)*paperlib.sweep first-study"
    for function in (analysis.runs, analysis.curve_bands, analysis.verdicts):
        with pytest.raises(records.MissingRecordsError, match=message):
            function("first-study")


@pytest.mark.parametrize(("changes", "message"), [
    ({"protocol": 1}, "protocol is 0 and 1"),
    ({"data": {"checksum": "other", "num_classes": 60}}, "in fifth: data checksum is 'abc' and 'other'"),
])
def test_records_that_differ_are_refused(done, changes, message):
    done.change("first-study", done.cell("first-study", "fifth", "ramp", 2), **changes)
    for function in (analysis.runs, analysis.differences, analysis.candidates, analysis.verdicts):
        with pytest.raises(ValueError, match=message):
            function("first-study")


def test_setups_may_differ_in_their_data_and_runs_in_their_device(done):
    for cell in grids.load("first-study").cells:
        if cell.setup == "fifth":
            done.change("first-study", cell, data={"checksum": "other", "num_classes": 60})
    environment = {**make_record(cell, np.array([1])).environment, "device": "another"}
    done.change("first-study", cell, environment=environment)
    assert set(analysis.runs("first-study").device) == {"a CPU", "another"}


def test_other_configurations_and_schemas_are_refused(done):
    cell, other = (done.cell("first-study", "all", "ce", seed) for seed in (0, 1))
    pairs = [(c, make_record(c, np.array([1, 2]))) for c in (cell, other)]
    analysis.require_comparable(pairs)
    longer = grids.Cell("first-study", "all", "ce", 1, other.config.replace(epochs=3))
    with pytest.raises(ValueError, match="all/ce: configuration key 'epochs' is 2 and 3"):
        analysis.require_comparable([pairs[0], (longer, make_record(longer, np.array([1, 2])))])
    with pytest.raises(ValueError, match="trained with epochs=3, its cell all/ce expects 2"):
        analysis.require_comparable([(other, make_record(longer, np.array([1, 2])))])
    with pytest.raises(ValueError, match="number of test images is 2 and 3"):
        analysis.require_comparable([pairs[0], (other, make_record(other, np.array([1, 2, 3])))])
    newer = make_record(other, np.array([1, 2]))
    object.__setattr__(newer, "schema", 2)
    with pytest.raises(ValueError, match="schema is 1 and 2"):
        analysis.require_comparable([pairs[0], (other, newer)])


def test_status_counts_without_demanding(done):
    done.grid("later", STUDY.replace("epochs = 2", "epochs = 5"))
    cell = done.cell("first-study", "fifth", "ramp", 1)
    (done.records / "first-study" / f"{cell.config.run_id}.json").unlink()
    frame = analysis.status().set_index("grid")
    assert tuple(frame.loc["first-study", ["runs", "missing", "missing_runs", "protocol"]]) == (
        17, 1, cell.config.run_id, "0")
    assert tuple(frame.loc["later", ["runs", "missing", "protocol"]]) == (0, 18, "")
    assert frame.loc["first-study", "core_hours"] == pytest.approx(17 * 80 / 3600)
    other = done.cell("first-study", "fifth", "ramp", 2)
    timing = records.read(done.records / "first-study" / f"{other.config.run_id}.json").timing
    done.change("first-study", other, timing=timing | {"shared_cpu_seconds": 60.0})
    [hours] = analysis.status(["first-study"]).core_hours
    assert hours == pytest.approx((16 * 80 + 20) / 3600), "steps that were made once are paid once"
    environments = analysis.environments()
    assert list(environments.runs) == [17]
    assert environments.iloc[0]["torch"] == "2.14" and environments.iloc[0]["engine"] == "eager"
    cell = done.cell("first-study", "all", "ce")
    environment = records.read(done.records / "first-study" / f"{cell.config.run_id}.json").environment
    done.change("first-study", cell, environment={**environment, "compiled": True, "cuda_graphs": True,
                                                  "deterministic": False})
    assert sorted(analysis.environments().engine) == ["compiled, CUDA graphs", "eager"]
    date = "1999-12-31T23:59:00+00:00"
    done.change("first-study", cell, timing={**records.read(
        done.records / "first-study" / f"{cell.config.run_id}.json").timing, "finished": date})
    assert analysis.environments().set_index("machine").engine.to_dict() == {1: "compiled, CUDA graphs", 2: "eager"}


# --- the rules of the verdicts ----------------------------------------------------------------------------

def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, 1.0, 3, low, high)


UP, LEAN, WRONG, DOWN = interval(1, 3), interval(-1, 2), interval(-2, 1), interval(-3, -1)


@pytest.mark.parametrize(("intervals", "every", "mean"), [
    ([UP], "holds", "holds"), ([LEAN], "leans", "leans"), ([WRONG], "fails", "fails"), ([DOWN], "fails", "fails"),
    ([UP, UP], "holds", "holds"), ([UP, LEAN], "leans", "leans"), ([UP, WRONG], "fails", "leans"),
    ([interval(9, 10), DOWN], "fails", "fails"), ([LEAN, WRONG], "fails", "fails"),
    ([interval(0, 2)], "leans", "leans"),  # 0 is not above 0
    ([Interval(0.1, float("nan"), 1, -float("inf"), float("inf"))], "leans", "leans"),
])
def test_status_of_one_setup(intervals, every, mean):
    assert analysis.part_status(intervals) == every
    assert analysis.part_status(intervals, sign="mean") == mean


@pytest.mark.parametrize(("parts", "all_of_them", "but_one"), [
    ("", "not yet tested", "not yet tested"),
    ("h", "reproduced", "partly"), ("l", "partly", "partly"), ("f", "not reproduced", "not reproduced"),
    ("hh", "reproduced", "reproduced"), ("hl", "partly", "partly"), ("hf", "partly", "partly"),
    ("ll", "partly", "partly"), ("lf", "not reproduced", "partly"), ("ff", "not reproduced", "not reproduced"),
    ("hhf", "partly", "reproduced"), ("hll", "partly", "partly"), ("llf", "not reproduced", "partly"),
    ("lff", "not reproduced", "not reproduced"), ("lllf", "not reproduced", "partly"),
    ("hhff", "partly", "partly"), ("hhhf", "partly", "reproduced"),
])
def test_verdict_over_setups(parts, all_of_them, but_one):
    words = {"h": "holds", "l": "leans", "f": "fails"}
    for order in set(itertools.permutations(parts)):
        statuses = [words[letter] for letter in order]
        assert analysis.setups_verdict(statuses) == all_of_them
        assert analysis.setups_verdict(statuses, exceptions=1) == but_one


@pytest.mark.parametrize(("parts", "exceptions", "text"), [
    ("", 0, "the runs"), ("h", 0, "an interval that reaches 0 in 1 setup where it lies above now"),
    ("hhh", 1, "an interval that reaches 0 in 2 setups where it lies above now"),
    ("hhf", 1, "an interval that reaches 0 in 1 setup where it lies above now"),
    ("h", 1, "reproduced needs 1 setup more"),
    ("hlf", 0, "reproduced needs 2 setups more. More seeds may settle: b. The sign is wrong, or an interval below 0: "
               "c"),
    ("ff", 1, "reproduced needs 2 setups more. The sign is wrong, or an interval below 0: a; b"),
])
def test_what_would_change_a_verdict(parts, exceptions, text):
    words = {"h": "holds", "l": "leans", "f": "fails"}
    assert claims.what_would_change({"abc"[i]: words[x] for i, x in enumerate(parts)}, exceptions) == text


@pytest.mark.parametrize(("difference", "low", "high", "verdict"), [
    (-6, -10, -2, "reproduced"), (-8, -8, -8, "reproduced"), (-3, -5, -1, "partly"), (-12, -15, -9, "partly"),
    (-4, -9, 1, "partly"), (-1, -3, 0, "partly"), (1, -9, 3, "not reproduced"), (0, 0, 0, "not reproduced"),
    (3, 1, 5, "not reproduced"),
])
def test_verdict_on_a_size(difference, low, high, verdict):
    assert analysis.size_verdict(difference, low, high) == verdict


@pytest.mark.parametrize(("difference", "low", "high", "by_sign"), [
    (-4, -7, 1, True), (-1, -3, 0, True), (-4, -9, 1, False), (-3, -5, -1, False), (1, -3, 3, False),
])
def test_what_would_change_the_verdict_on_a_size(difference, low, high, by_sign):
    start = "partly by the sign alone" if by_sign else "reproduced needs"
    assert claims.size_change(difference, low, high).startswith(start)


# --- verdicts from records --------------------------------------------------------------------------------

def verdicts(**options) -> dict[str, str]:
    return analysis.verdicts(draws=100, **options).set_index("id")["verdict"].to_dict()


def study_with(study: Study, ce: dict[int, float], ramp: dict[str, dict[int, float]],
               text: str = STUDY) -> None:
    """Exact accuracies, one image apart between seeds so that intervals have some width."""
    study.grid("first-study", text)

    def ranks(cell):
        curve = {"ce": ce, "ramp": ramp[cell.setup]}.get(cell.variant, {k: a - 0.05 for k, a in ce.items()})
        wobble = 0.00025 * cell.seed if cell.variant != "ce" else 0
        return ranks_with_accuracy({k: a + wobble for k, a in curve.items()}, n=4000)

    study.write("first-study", ranks)


CE = {1: 0.60, 5: 0.80, 11: 0.86, 50: 0.99}
BETTER = {1: 0.50, 5: 0.85, 6: 0.9, 11: 0.999}  # ahead at 5 and at every k of 11..50, behind at 1
WORSE = {1: 0.65, 5: 0.70, 11: 0.80, 50: 0.95}


def test_no_records_mean_not_yet_tested(study):
    study.grid("first-study", STUDY)
    frame = analysis.verdicts()
    assert list(frame.id) == ["C1", "C2", "C3", "C4", "C5"]
    assert set(frame.verdict) == {"not yet tested"}
    assert list(frame.columns) == ["id", "claim", "paper", "ours", "verdict", "change"]
    assert set(frame.change) == {"the runs"}


def test_a_clear_success_reproduces(study):
    study_with(study, CE, {"all": BETTER, "fifth": BETTER})
    found = analysis.verdicts(draws=100).set_index("id")
    assert dict(found.verdict) == {"C1": "not yet tested", "C2": "reproduced", "C3": "reproduced",
                                   "C4": "reproduced", "C5": "not yet tested"}
    assert "all images: +5.02 [" in found.ours["C3"]
    assert "speednet" in found.ours["C5"]
    assert "no resnet18 runs" in found.ours["C5"]
    assert "of 40" in found.ours["C4"]
    assert "rivals" in found.ours["C2"]


def test_one_setup_of_two_is_partly(study):
    study_with(study, CE, {"all": BETTER, "fifth": WORSE})
    assert verdicts() == {"C1": "not yet tested", "C2": "partly", "C3": "partly", "C4": "partly",
                          "C5": "not yet tested"}


def test_the_opposite_is_not_reproduced(study):
    study_with(study, CE, {"all": WORSE, "fifth": WORSE})
    assert verdicts() == {"C1": "not yet tested", "C2": "not reproduced", "C3": "not reproduced",
                          "C4": "not reproduced", "C5": "not yet tested"}


def test_a_right_sign_within_the_noise_is_partly(study):
    study.grid("first-study", STUDY)
    noise = (0.0, 0.03, -0.02)  # larger than the effect of .01

    def ranks(cell):
        gain = 0 if cell.variant == "ce" else 0.01 + noise[cell.seed]
        return ranks_with_accuracy({1: 0.6 - gain, 5: 0.8 + gain, 11: 0.9 + gain, 50: 0.99})

    study.write("first-study", ranks)
    assert verdicts() == {"C1": "not yet tested", "C2": "partly", "C3": "partly", "C4": "partly",
                          "C5": "not yet tested"}


@pytest.mark.parametrize(("better", "verdict"), [(12, "reproduced"), (18, "partly"), (25, "not reproduced")])
def test_c5_needs_resnet18(study, better, verdict):
    ramp = {1: 0.5, better: 0.995}
    study_with(study, {1: 0.6, 20: 0.995}, {"all": ramp, "fifth": ramp},
               STUDY.replace("epochs = 2", 'epochs = 2\nmodel = "resnet18"'))
    row = analysis.verdicts(draws=100).set_index("id").loc["C5"]
    assert row.verdict == verdict
    assert "no resnet18" not in row.ours


def test_a_grid_without_the_transition_is_refused(done):
    done.grid("first-study", STUDY.replace('name = "ramp"', 'name = "late"'))
    with pytest.raises(ValueError, match="variants ce, late, grouped: a verdict compares 'ce' with one of ramp"):
        analysis.verdicts()
