"""What a loss does to classes: counted from records and labels, and found where it is known, not where chance is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from chapter_cells import run_page
from grids_for_tests import Study, make_record, two_losses

from experiments import by_class
from paperlib import analysis, data, figures, grids, paths, predictions, presets, records, tables, train
from paperlib.analysis import classes
from paperlib.config import RunConfig

GRID = """
title = "Digits"
seeds = SEEDS
[base]
dataset = "digits"
model = "mlp"
width = 8
precision = "fp32"
evaluate_test = true
epochs = 1
batch_size = 128
[[setup]]
name = "all"
label = "all images"
""" + two_losses("ramp", "transition, late ramp")
DIGITS = data.splits(RunConfig(dataset="digits", model="mlp"))
LABELS = DIGITS.test.labels.numpy()
GROUPS = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2, 2])


def ranks_of(cell: grids.Cell, gains: float = 0.6, liked: int = 3) -> np.ndarray:
    """Half of the images are right, others at rank 2; the ramp has more of one class right."""
    chance = np.random.default_rng(cell.seed).random((2, len(LABELS)))
    right = chance[0] < 0.3
    if cell.variant == "ramp":
        right |= (chance[1] < gains) & (liked == LABELS)
    return np.where(right, 1, 2)


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """A grid of digits in three superclasses, the document elsewhere."""
    found = Study(tmp_path / "study", monkeypatch)
    monkeypatch.setattr(paths, "CLASSES", tmp_path / "classes.json")
    source = data.DATASETS["digits"]
    monkeypatch.setitem(data.DATASETS, "digits",
                        lambda config: dataclasses.replace(source(config), superclass=GROUPS))
    monkeypatch.setitem(data.DATASETS, "digits_superclasses",
                        lambda config: dataclasses.replace(source(config), class_names=("few", "some", "many_more")))
    return found


def filled(study: Study, seeds: int, ranks=ranks_of, name: str = "small") -> grids.Grid:
    """The study with made-up records of these digits."""
    study.grid(name, GRID.replace("SEEDS", str(list(range(seeds)))))
    for cell in grids.load(name).cells:
        write(study, name, cell, ranks(cell))
    return grids.load(name)


def write(study: Study, name: str, cell: grids.Cell, ranks: np.ndarray, checksum: str = DIGITS.checksum) -> None:
    record = make_record(cell, ranks, 10)
    records.write(dataclasses.replace(record, data={**record.data, "checksum": checksum}), study.records / name)


def count(*arguments: str) -> dict:
    by_class.main([*arguments, "--out", str(paths.CLASSES), "--commit", "abc"])
    return json.loads(paths.CLASSES.read_text())


# The script


def test_counts_are_those_of_records_and_labels(study):
    grid = filled(study, 2)
    document = count("small")
    about = document["settings"]["data"]
    assert about["superclass_of"] == GROUPS.tolist() and about["superclasses"] == ["few", "some", "many_more"]
    assert about["classes"] == [str(digit) for digit in range(10)] and about["checksum"] == DIGITS.checksum
    assert np.sum(about["images"], axis=0).tolist() == np.bincount(LABELS).tolist()
    assert np.ptp(about["images"], axis=0).max() <= 1
    assert document["settings"]["ks"] == [1, 5], "of ten classes, ten candidates say nothing"
    for cell in grid.cells:
        own = document["cells"][cell.config.run_id]
        for label in range(10):
            ranks = ranks_of(cell)[label == LABELS]
            assert [row[label] for row in own["hits"]["1"]] == [(ranks[::2] == 1).sum(), (ranks[1::2] == 1).sum()]
        assert own["scores"] is None and own["code"]["commit"] == "abc"
        assert np.array_equal(own["hits"]["5"], about["images"])


def test_a_killed_script_goes_on_and_runs_are_added(study, monkeypatch):
    grid, counted = filled(study, 3), []
    real = by_class.hits

    def dies(record, images):
        counted.append(record.run_id)
        if len(counted) == 3:
            raise KeyboardInterrupt
        return real(record, images)

    monkeypatch.setattr(by_class, "hits", dies)
    with pytest.raises(KeyboardInterrupt):
        count("small")
    with pytest.raises(ValueError, match=r"no cell '\w+' yet: go on with python experiments/by_class.py"):
        analysis.class_document()
    count("small")
    assert len(counted) == 7 and set(counted) == {cell.config.run_id for cell in grid.cells}
    more = filled(study, 4, name="more")  # shares its first runs with the other grid
    for cell in grid.cells:
        (study.records / "more" / f"{cell.config.run_id}.json").unlink()
    study.grid("last", GRID.replace("SEEDS", "[3]"))
    document = count("last")
    assert len(counted) == 9 and set(document["cells"]) == {cell.config.run_id for cell in more.cells}
    again = study.cell("small", "all", "ramp", 1)
    write(study, "small", again, 3 - ranks_of(again))
    with pytest.raises(ValueError, match=f"counts another record of run {again.config.run_id}"):
        analysis.class_hits("small")
    count("small")
    assert counted[9:] == [again.config.run_id], "a record that was made anew is counted anew, and it alone"
    analysis.class_hits("small")


def test_other_data_no_records_and_several_data_sets_are_refused(study):
    grid = filled(study, 2)
    write(study, "small", grid.cells[1], ranks_of(grid.cells[1]), "abc")
    with pytest.raises(ValueError, match=rf"record {grid.cells[1].config.run_id} was made with data of checksum abc"):
        count("small")
    study.grid("empty", GRID.replace("SEEDS", "[9]"))
    with pytest.raises(ValueError, match="expected at least one run with a record"):
        count("empty")
    study.grid("other", GRID.replace("SEEDS", "[9]").replace('"digits"', '"cifar10"').replace('"mlp"', '"speednet"'))
    study.write("other", ranks_of, 10)
    with pytest.raises(ValueError, match="of the data sets cifar10, digits: expected one"):
        count("small", "other")
    assert not paths.CLASSES.exists()


def test_a_run_that_was_not_counted_is_named(study):
    filled(study, 2)
    with pytest.raises(FileNotFoundError, match=r"make it with python experiments/by_class.py"):
        analysis.class_document()
    count("small")
    cell = filled(study, 3).cells[-1]
    with pytest.raises(ValueError, match=r"has no run \w+ \(all/ce/seed 2 of small\): add it with python .* small"):
        analysis.class_hits("small")
    assert cell.config.run_id not in analysis.class_document()["cells"]


def test_records_that_came_later_wait_for_their_count(study):
    filled(study, 4)
    count("small")
    filled(study, 8)  # the same runs and four seeds more
    part = analysis.counted("small")
    assert part.seeds == (0, 1, 2, 3) and len(analysis.class_hits(part)["all", "ce"]) == 4
    assert analysis.counted("small", scored=True) is None
    count("small")
    assert analysis.counted("small").seeds == tuple(range(8))
    assert analysis.counted(filled(study, 3, name="small")).seeds == (0, 1, 2)
    study.grid("later", GRID.replace("SEEDS", "[7, 8]"))
    assert analysis.counted("later") is None


# Classes


@pytest.mark.parametrize(("seeds", "test"), [(8, "sign flips, largest |t|"), (5, "t tests, Holm")])
def test_the_class_that_gains_is_found_and_no_other(study, seeds, test):
    filled(study, seeds)
    count("small")
    found = analysis.class_differences("small")
    one = found[found["k"] == 1].set_index("name")
    assert one["test"].unique() == [test] and one["n"].unique() == [seeds]
    assert one.index[one["p"] < 0.05].tolist() == ["3"]
    assert one.loc["3", "mean"] == pytest.approx(0.7 * 0.6, abs=0.1)
    assert one.loc["3", "low"] > 0.25 and one.loc["3", "group"] == "some"
    assert (one.drop("3")["mean"] == 0).all() and (one.drop("3")["p"] == 1).all()
    assert one["baseline"].mean() == pytest.approx(0.3, abs=0.03)
    groups = analysis.class_differences("small", by="superclass").query("k == 1").set_index("name")
    assert list(groups.index) == ["few", "some", "many_more"] and groups.index[groups["p"] < 0.05].tolist() == ["some"]
    share = (LABELS == 3).sum() / np.isin(LABELS, [2, 3, 4, 5]).sum()
    assert groups.loc["some", "mean"] == pytest.approx(one.loc["3", "mean"] * share)
    for wrong, message in (({"by": "family"}, "by='family': expected 'class' or 'superclass'"),
                           ({"baseline": "mse"}, "baseline='mse': expected one of the variants ce, ramp")):
        with pytest.raises(ValueError, match=message):
            analysis.class_differences("small", **wrong)


def test_the_same_small_difference_in_all_seeds_is_no_certainty(study):
    def one_more(cell):
        right = np.arange(len(LABELS)) % 2 == 0
        if cell.variant == "ramp":
            right[np.flatnonzero(~right & (LABELS == 4))[0]] = True
        return np.where(right, 1, 2)

    filled(study, 3, one_more)
    count("small")
    four = analysis.class_differences("small").query("k == 1").set_index("name").loc["4"]
    images = (LABELS == 4).sum()
    assert four["mean"] == pytest.approx(1 / images) and four["sd"] == pytest.approx(1 / images / np.sqrt(12))
    assert four["low"] < four["mean"] < four["high"] and four["p"] > 0.05


def test_one_seed_has_no_interval(study):
    filled(study, 1)
    count("small")
    found = analysis.class_differences("small")
    assert np.isinf(found["low"]).all() and (found["p"] == 1).all()
    spread = analysis.class_spread("small")
    assert spread[["spread", "slope"]].isna().all(axis=None) and spread["mean"].notna().all()
    assert "One seed" in tables.class_sentence(spread, found, "all", "ramp", 1)


def simulated(monkeypatch, rng, *, number=300, seeds=4, slope=0.0, spread=0.0, shift=0.0) -> None:
    """Counts of 50 images a half: accuracies of cross entropy differ, and gains depend on them or not."""
    accuracy = rng.uniform(0.3, 0.8, number)
    gain = shift + slope * (accuracy - 0.55) + rng.normal(0, spread, number)
    # Images are easier or harder for both losses and all seeds, and each seed has its own luck with each class.
    hits = {}
    difficulty = rng.uniform(-0.15, 0.15, (2, number, 50))
    for variant, mean in (("ce", accuracy), ("ramp", accuracy + gain)):
        luck = rng.normal(0, 0.03, (seeds, 1, number, 1))
        chance = np.clip(mean[:, None] + difficulty + luck, 0, 1)
        hits["all", variant] = (rng.random(chance.shape) < chance).sum(axis=3)[..., None]
    monkeypatch.setattr(classes, "class_hits", lambda grid: hits)
    monkeypatch.setattr(classes, "class_document", lambda: {"settings": {
        "ks": [1], "data": {"images": [[50] * number] * 2}}})


def test_chance_alone_is_no_spread_and_no_help_for_hard_classes(monkeypatch):
    rng, found = np.random.default_rng(0), []
    for _ in range(12):
        simulated(monkeypatch, rng, shift=0.02)
        found.append(analysis.class_spread("made up", draws=200).iloc[0])
    table = pd.DataFrame(found)
    assert table["mean"].mean() == pytest.approx(0.02, abs=0.003)
    assert table["observed"].min() > 0.025, "the plain spread is that of the noise"
    assert table["spread"].mean() < 0.008 and (table["spread_low"] == 0).mean() >= 0.8
    assert (table["naive"] < 0).all(), "regression to the mean makes hard classes look helped"
    assert table["naive"].mean() < -0.02
    assert abs(table["slope"].mean()) < 0.008
    assert ((table["slope_low"] < 0) & (table["slope_high"] > 0)).mean() >= 0.75


def test_a_true_spread_and_slope_are_found(monkeypatch):
    rng, found = np.random.default_rng(1), []
    for _ in range(8):
        simulated(monkeypatch, rng, slope=-0.2, spread=0.04)
        found.append(analysis.class_spread("made up", draws=200).iloc[0])
    table = pd.DataFrame(found)
    truth = np.hypot(0.2 * 0.5 / np.sqrt(12), 0.04)  # of a uniform accuracy, and what is left
    assert table["spread"].mean() == pytest.approx(truth, rel=0.08)
    assert ((table["spread_low"] < truth) & (truth < table["spread_high"])).mean() >= 0.75
    assert table["slope"].mean() == pytest.approx(-0.2, abs=0.03) and (table["slope_high"] < 0).all()
    assert table["naive"].mean() < table["slope"].mean()


# Scores


@pytest.fixture
def trained(study, tmp_path) -> tuple[grids.Grid, Path]:
    """The grid, trained for a moment, and the folder of its logits."""
    study.grid("small", GRID.replace("SEEDS", "[0, 1]"))
    kept = tmp_path / "kept"
    for cell in grids.load("small").cells:
        record = train.train(cell.config, commit="a test", quiet=True, device="cpu", keep=kept)
        records.write(record, study.records / "small")
    return grids.load("small"), kept


def test_scores_are_measured_where_logits_were_kept_and_stay(trained):
    grid, kept = trained
    document = count("small", "--predictions", str(kept))
    run = grid.cells[1].config.run_id
    own = predictions.load(kept, run, "test")
    chance = torch.from_numpy(own.logits).double().softmax(dim=1).numpy()
    order = np.argsort(-chance, axis=1)
    first = chance.max(axis=1)
    bins = np.array_split(np.argsort(first, kind="stable"), 15)
    error = sum(len(part) * abs(first[part].mean() - (order[part, 0] == own.labels[part]).mean()) for part in bins)
    found = document["cells"][run]["scores"]
    assert found["calibration_error"]["1"] == pytest.approx(error / len(first), rel=1e-5)
    assert set(found["calibration_error"]) == {"1", "5"} and 0 < found["calibration_floor"]["1"] < 0.2
    five = found["reliability"]["5"]
    assert np.average(five["right"], weights=five["samples"]) == pytest.approx(
        (order[:, :5] == own.labels[:, None]).any(axis=1).mean(), rel=1e-4)
    wrong = order[:, 0] != own.labels
    group = GROUPS.numpy()
    assert found["within"] == pytest.approx((group[order[wrong, 0]] == group[own.labels[wrong]]).mean(), rel=1e-5)
    assert found["different"] == pytest.approx(np.mean([len(set(row)) for row in group[order[:, :5]]]), rel=1e-5)
    assert count("small")["cells"] == document["cells"], "without the logits what they told is kept"
    assert analysis.counted("small", scored=True).seeds == (0, 1)
    table = analysis.reliability("small")
    assert len(table) == 2 * 2 * 15 and table["n"].unique() == [2]
    scores = analysis.score_differences("small").set_index(["variant", "quantity"])
    both = [document["cells"][cell.config.run_id]["scores"]["within"] for cell in grid.cells if cell.variant == "ce"]
    assert scores.loc[("ce", "within"), "mean"] == pytest.approx(np.mean(both))
    assert np.isnan(scores.loc[("ce", "error1"), "difference"]) and scores.loc[("ramp", "error1"), "n"] == 2
    assert list(tables.scores("small")["loss"]) == ["cross entropy", "transition, late ramp"]
    figure, frame = figures.reliability_diagram(table, analysis.labels("small"))
    line = figure.axes[0].get_lines()[1]
    assert line.get_xdata().tolist() == (100 * table.query("variant == 'ce' and k == 1")["predicted"]).tolist()
    assert frame["right"].max() <= 100


def test_predictions_of_another_run_are_refused_and_missing_ones_named(trained):
    grid, kept = trained
    one, other = (predictions.place(kept, cell.config.run_id) for cell in grid.cells[:2])
    other.write_bytes(one.read_bytes())
    with pytest.raises(ValueError, match=f"not those of record {grid.cells[1].config.run_id}"):
        count("small", "--predictions", str(kept))
    paths.CLASSES.unlink()  # it holds the first run
    changed = predictions.load(kept, one.stem, "test")
    predictions.save(kept, one.stem, {"test": predictions.Predictions(changed.logits[:, ::-1], 9 - changed.labels)})
    with pytest.raises(ValueError, match="its labels are not those of the test images of digits"):
        count("small", "--predictions", str(kept))
    one.unlink()
    other.unlink()
    document = count("small", "--predictions", str(kept))
    assert [cell["scores"] is None for cell in document["cells"].values()] == [True, True, False, False]
    with pytest.raises(ValueError, match=r"has no scores of run \w+ \(all/ce/seed 0\).*--predictions FOLDER"):
        analysis.reliability("small")


# The page, words and pictures


def test_the_page_shows_the_first_look_until_the_study_was_counted(study, monkeypatch, tmp_path):
    filled(study, 3, name="first-study")
    count("first-study")
    chosen = GRID.replace("SEEDS", "[0, 1, 2, 3]").replace('"ramp"', '"transition"').replace("128", "64")
    study.grid("cifar-main", chosen.replace('loss = "topk_transition"\nk = 5', 'preset = "transition"'))
    monkeypatch.setattr(presets, "document", lambda: {"transition": None})
    names, text = run_page("03-classes", monkeypatch)
    assert names["OURS"] == "ramp" and "a first look of protocol 0" in text and "3 seeds" in text
    assert "not yet measured" in text and "Holm's correction" in text
    study.grid("cifar-main", chosen.replace("k = 5", "k = 4"))
    kept = tmp_path / "kept"
    for cell in grids.load("cifar-main").cells:
        records.write(train.train(cell.config, commit="a test", quiet=True, device="cpu", keep=kept),
                      study.records / "cifar-main")
    assert run_page("03-classes", monkeypatch)[0]["OURS"] == "ramp", "records without their count change nothing"
    count("cifar-main", "--predictions", str(kept))
    names, text = run_page("03-classes", monkeypatch)
    assert names["OURS"] == "transition" and "main comparison" in text and "4 seeds" in text
    assert "not yet measured" not in text and "tab-scores" in text
    assert names["frame"]["k"].unique().tolist() == [1, 5], "the last figure is that of the scores"


def spread_row(**changes) -> pd.DataFrame:
    return pd.DataFrame([{"setup": "all", "variant": "ramp", "k": 1, "n": 3, "mean": 0.01, "observed": 0.03,
                          "naive": -0.2, "spread": 0.02, "spread_low": 0.01, "spread_high": 0.03, "slope": -0.1,
                          "slope_low": -0.2, "slope_high": -0.05, **changes}])


def class_frame() -> pd.DataFrame:
    return pd.DataFrame([{"setup": "all", "variant": "ramp", "k": k, "name": name, "group": "g", "baseline": 0.2 * i,
                          "mean": 0.01 * gain, "sd": 0.01, "n": 3, "low": -1.0, "high": 1.0, "p": p, "test": "t"}
                         for k in (1, 5) for i, (name, gain, p) in enumerate(
                             [("apple", -4, 0.01), ("big_bear", 2, 0.04), ("cup", 3, 0.2)])])


@pytest.mark.parametrize(("changes", "words"), [
    ({}, ["1 can be told to gain and 1 to lose", "True effects differ", "2.0 [1.0, 3.0]",
          "Hard classes come out better than easy ones: +1.00 [+0.50, +2.00] points"]),
    ({"spread_low": 0.0, "slope": 0.1, "slope_low": 0.05, "slope_high": 0.2},
     ["is not shown", "noise makes it look like 3.0", "Hard classes come out worse than easy ones: −1.00"]),
    ({"slope_high": 0.1}, ["cannot be told to come out better or worse"])])
def test_sentences_say_what_intervals_allow(changes, words):
    text = tables.class_sentence(spread_row(**changes), class_frame(), "all", "ramp", 1)
    assert [word for word in words if word not in text] == [], text


def test_sentences_of_probabilities_say_what_intervals_allow():
    rows = [("nll", 0.1, 0.05, 0.15), ("ece", -0.02, -0.03, -0.01), ("first", 0.0, -0.01, 0.01)]
    frame = pd.DataFrame([{"setup": "all", "variant": "ramp", "quantity": quantity, "mean": 1.0, "n": 3,
                           "difference": mean, "low": low, "high": high} for quantity, mean, low, high in rows])
    text = tables.probability_sentence(frame, "all", "ramp")
    assert text == ("It gives the right class less probability (+0.10 [+0.05, +0.15] nats), is calibrated better "
                    "(−2.0 [−3.0, −1.0] points), and cannot be told to change the order inside the list "
                    "(0.0 [−1.0, +1.0] points).")


def test_tables_put_losses_beside_cross_entropy(study):
    filled(study, 8)
    count("small")
    effects = tables.class_effects("small", ks=(1,))
    assert effects["told to gain, to lose"].tolist() == ["1, 0"] and effects["loss"].tolist() == [
        "transition, late ramp"]
    assert effects["lowest class"].item().startswith("0 (")
    found = tables.probabilities("small")
    assert found["negative log-likelihood (nats)"].tolist() == ["1.25", "1.25; 0.00 [0.00, 0.00]"]


def test_classes_told_from_zero_are_filled_and_named():
    figure, frame = figures.class_gains(class_frame(), pd.concat([spread_row(), spread_row(k=5)]), "ramp")
    axes = figure.axes[0]
    zero, hollow, full, slope = axes.get_lines()
    assert list(zero.get_ydata()) == [0, 0]
    assert full.get_ydata().tolist() == pytest.approx([-4, 2]) and hollow.get_ydata().tolist() == pytest.approx([3])
    assert {text.get_text() for text in axes.texts} == {"apple", "big bear"}
    assert np.diff(slope.get_ydata()) / np.diff(slope.get_xdata()) == pytest.approx(-0.1)
    assert frame["baseline"].tolist()[:3] == pytest.approx([0, 20, 40])


def test_the_forest_has_a_row_a_superclass():
    frame = class_frame().assign(name=["large natural outdoor_scenes", "b", "c"] * 2)
    figure, frame = figures.superclass_forest(frame, "ramp", ks=(5,))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["large natural\noutdoor scenes", "b", "c"]
    assert frame["gain"].tolist() == pytest.approx([-4, 2, 3])
