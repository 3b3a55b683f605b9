"""Records of many models: counts come back, damage is named, and frames pair models by seed or refuse."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib

import numpy as np
import pytest
from grids_for_tests import MAP, Study, make_record, ranks_with_accuracy
from test_records import CLASSES, edited
from test_records import make as make_single

from paperlib import analysis, counts, grids, records
from paperlib.grids import Cell
from paperlib.records import Record, RecordError

SEEDS = (0, 1, 2, 3)
GRID = MAP.replace("seeds = [0, 1, 2]", f"seeds = [{list(SEEDS)}]")
SETUPS = '[[setup]]\nname = "w4"\nlabel = "4 units"\nwidth = 4\n[[setup]]\nname = "w8"\nlabel = "8 units"\nwidth = 8'


def draws(seed: int, models: int, n: int = 40, num_classes: int = CLASSES) -> np.ndarray:
    return np.random.default_rng(seed).multinomial(n, np.ones(num_classes) / num_classes, size=models)


def results(table: np.ndarray, gone: tuple[int, ...] = (), **changes) -> dict:
    """An evaluation with these counts (M, C), in which some models diverged."""
    table, n, num_classes = table.copy(), int(table[0].sum()), table.shape[1]
    curves = np.cumsum(table, axis=1) / n
    table[list(gone)] = 0

    def each(values):
        return [None if place in gone else value for place, value in enumerate(values)]

    models = len(table)
    return {"n": n, "num_classes": num_classes, "loss": each([1.5 + m for m in range(models)]),
            "nll": each([1.25] * models), "ece": each([0.125] * models), "counts": counts.encode_counts(table),
            "expected": each(curves.round(6).tolist()), "bayes": np.linspace(0.9, 1, num_classes).tolist()} | changes


def make(**changes) -> Record:
    """A record of four models."""
    single = make_single()
    config = grids.RunConfig(dataset="synthetic", model="mlp", seed=SEEDS)
    return dataclasses.replace(single, **{
        "run_id": config.run_id, "config": config.to_dict(), "validation": results(draws(1, 4)),
        "test": results(draws(2, 4)), **changes})


# The record.


def test_counts_are_compressed_little_endian_words():
    text = counts.encode_counts([[1, 2, 0], [258, 65536, 3]])
    words = [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 1, 0, 3, 0, 0, 0]
    assert zlib.decompress(base64.b64decode(text)) == bytes(words)
    back = counts.decode_counts(text, 3)
    assert back.dtype == np.int64 and back.tolist() == [[1, 2, 0], [258, 65536, 3]]


def test_a_record_of_many_models_comes_back_equal(tmp_path):
    record = make()
    assert records.read(records.write(record, tmp_path)) == record
    assert record.many and record.seeds == list(SEEDS) and record.diverged() == []
    assert np.array_equal(record.counts(), draws(2, 4)) and np.array_equal(record.counts("validation"), draws(1, 4))
    assert record.expected().shape == (4, CLASSES)
    with pytest.raises(RecordError, match=r"holds 4 models.*no ranks.*expected a run of one seed.*counts\(\)"):
        record.ranks()
    with pytest.raises(RecordError, match="no 'test' evaluation"):
        make(test=None).counts()


def test_counts_of_one_model_are_those_of_its_ranks():
    record = make_single()
    assert record.seeds == [0] and not record.many and record.diverged("test") == []
    assert record.counts().shape == (1, CLASSES) and record.counts().dtype == np.int64
    assert record.counts()[0].tolist() == [(record.ranks() == rank).sum() for rank in range(1, CLASSES + 1)]
    with pytest.raises(RecordError, match="holds no expected accuracies"):
        record.expected()


def test_models_that_diverged_have_nothing():
    record = make(test=results(draws(2, 4), gone=(1, 3)))
    assert records.parse(record.to_json()) == record
    assert record.diverged("test") == [1, 3] and record.diverged("validation") == []
    assert np.isnan(record.expected()[[1, 3]]).all() and np.isfinite(record.expected()[[0, 2]]).all()
    assert not record.counts()[[1, 3]].any()


GOOD = draws(2, 4)


@pytest.mark.parametrize("test, message", [
    (results(GOOD[:3]), "expected results of 4 models.*'loss': 3"),
    (results(GOOD) | {"nll": [1.0] * 5}, "expected results of 4 models.*'nll': 5"),
    (results(GOOD) | {"n": 41}, "model 0 has counts .*add up to 41"),
    (results(GOOD) | {"n": 0}, "expected results of 4 models on at least one sample"),
    (results(GOOD) | {"counts": counts.encode_counts(-GOOD)}, "model 0 has counts"),
    (results(GOOD) | {"counts": "AAAA"}, "decodable counts"), (results(GOOD) | {"counts": None}, "decodable counts"),
    (results(GOOD) | {"num_classes": CLASSES + 1}, "decodable counts"),
    (results(GOOD) | {"ece": 0.1}, "decodable counts"),
    (results(GOOD) | {"loss": [1.0, None, 1.0, 1.0]}, "model 1 has counts .*all or nothing"),
    (results(GOOD, gone=(2,)) | {"nll": [1.0] * 4}, "model 2 has counts .*all or nothing"),
    (results(GOOD) | {"bayes": [0.5] * (CLASSES - 1)}, f"expected {CLASSES} numbers"),
    (results(GOOD) | {"bayes": np.linspace(1, 0.9, CLASSES).tolist()}, "never fall"),
    (results(GOOD) | {"bayes": np.linspace(0.5, 1.1, CLASSES).tolist()}, r"in \[0, 1\]"),
    (make_single().test, "expected n, num_classes, decodable counts"),
])
def test_damage_is_named(test, message):
    with pytest.raises(RecordError, match=f"(?s)text: test: .*{message}"):
        records.parse(edited(make(), test=test))


def test_a_record_of_one_model_needs_its_ranks():
    with pytest.raises(RecordError, match="test: expected n, num_classes and decodable ranks"):
        records.parse(edited(make_single(), test=results(draws(2, 1))))


def test_tidy_has_a_row_a_model():
    rows = records.tidy([make(test=results(draws(2, 4), gone=(3,))), make_single()])
    assert [row["seed"] for row in rows] == [*SEEDS, 0]
    assert len({row["run_id"] for row in rows}) == 2 and all(isinstance(row["seed"], int) for row in rows)
    assert rows[1]["test_top2"] == draws(2, 4)[1, :2].sum() / 40 and rows[1]["test_loss"] == 2.5
    assert rows[3]["test_top2"] is None and rows[3]["test_loss"] is None and rows[3]["validation_top1"] is not None
    assert rows[4]["test_top1"] == (make_single().ranks() <= 1).mean()


# Frames.


def table(cell: Cell, gain: float, num_classes: int = 5, n: int = 1000) -> np.ndarray:
    """Counts of a cell's models: top-1 .5, top-2 .7 + gain, plus a thousandth for each seed."""
    rows = [ranks_with_accuracy({1: 0.5, 2: 0.7 + gain + seed / n, num_classes: 1.0}, n=n)
            for seed in cell.config.seeds]
    return np.stack([np.bincount(row, minlength=num_classes + 1)[1:] for row in rows])


def make_many(cell: Cell, gain: float, gone: tuple[int, ...] = ()) -> Record:
    single = make_record(cell, np.ones(1000, dtype=int), 5)
    evaluation, models = results(table(cell, gain), gone), range(len(cell.config.seeds))
    entry = {"epoch": 60, "strength": None, "train_top1": [None if m in gone else 0.1 * m for m in models],
             "diverged": [cell.config.seeds[m] for m in gone]}
    return dataclasses.replace(single, history=[entry], validation=evaluation, test=evaluation)


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """Two setups whose transition gains 2 points of top-2 over cross entropy in every model."""
    made = Study(tmp_path / "study", monkeypatch)
    made.grid("many", GRID.replace("SETUPS", SETUPS))
    for cell in grids.load("many").cells:
        records.write(make_many(cell, 0.02 * (cell.variant == "transition")), made.records / "many")
    return made


def test_frames_have_a_row_a_model(study):
    runs = analysis.runs("many")
    assert len(runs) == 16 and sorted(runs["seed"].unique()) == list(SEEDS) and runs["run_id"].nunique() == 4
    row = runs[(runs.setup == "w8") & (runs.variant == "transition") & (runs.seed == 2)].iloc[0]
    assert (row.top1, row.top2, row.n, row.k90) == (0.5, 0.722, 1000, 5)
    assert (row.nll, row.train_top1, row.minutes) == (1.25, pytest.approx(0.2), pytest.approx(2.0 / 4))
    summary = analysis.summary("many", ["top2"]).set_index(["setup", "variant"])
    assert tuple(summary.loc[("w4", "ce"), ["mean", "n"]]) == (pytest.approx(0.7015), 4)
    curves = analysis.curves("many")
    assert len(curves) == 16 * 5 and (curves[curves.k == 5].accuracy == 1).all()
    history = analysis.history("many")
    assert len(history) == 16 and list(history["train_top1"][:4]) == pytest.approx([0, 0.1, 0.2, 0.3])


def test_differences_pair_the_models_of_two_records_by_seed(study):
    frame = analysis.differences("many", ks=(1, 2))
    assert len(frame) == 4 and set(frame["n"]) == {4}
    gains = frame[frame.k == 2]
    assert list(gains["mean"]) == pytest.approx([0.02, 0.02]) and list(gains["sd"]) == pytest.approx([0, 0], abs=1e-12)
    assert list(gains["p"]) == [0.125, 0.125]


def test_regret_is_what_the_best_possible_has_more(study):
    frame = analysis.regrets("many")
    assert list(frame.columns) == ["setup", "variant", "seed", "k", "expected", "bayes", "regret"]
    assert len(frame) == 16 * 5
    row = frame[(frame.setup == "w4") & (frame.variant == "ce") & (frame.seed == 1) & (frame.k == 2)].iloc[0]
    assert (row.expected, row.bayes, row.regret) == pytest.approx((0.701, 0.925, 0.224))


def test_what_needs_single_images_says_so(study):
    for function in (analysis.curve_bands, analysis.candidates, analysis.certificates, analysis.difference_bands):
        with pytest.raises(RecordError, match="holds 4 models, of which it keeps no ranks"):
            function("many")


def test_models_that_diverged_are_reported_and_never_averaged_away(study):
    cell = next(cell for cell in grids.load("many").cells if (cell.setup, cell.variant) == ("w8", "transition"))
    records.write(make_many(cell, 0.02, gone=(0, 3)), study.records / "many")
    for function in (analysis.runs, analysis.summary, analysis.differences, analysis.curves, analysis.regrets):
        with pytest.raises(ValueError, match=rf"{cell.config.run_id}: 2 of its 4 models diverged \(seeds 0, 3\)"):
            function("many")
    frame = analysis.diverged(["many"])
    assert frame[["setup", "variant", "seed", "epoch"]].values.tolist() == [["w8", "transition", 0, 60],
                                                                            ["w8", "transition", 3, 60]]
    assert analysis.diverged([]).empty
    history = analysis.history("many")
    assert history["train_top1"].isna().sum() == 2 and "diverged" not in history


def test_other_seeds_in_another_variant_are_refused(study):
    cells = grids.load("many").cells
    pairs = [(cell, make_many(cell, 0.0)) for cell in cells]
    analysis.require_comparable(pairs)
    single = Cell("many", "w4", "ce", 7, cells[0].config.replace(seed=7))
    with pytest.raises(ValueError, match="in w4: a list of seeds is True and False"):
        analysis.require_comparable([*pairs, (single, make_record(single, np.ones(1000, dtype=int), 5))])


def test_a_record_in_json_has_lists_and_no_ranks():
    document = json.loads(make().to_json())
    assert document["config"]["seed"] == list(SEEDS) and "ranks" not in document["test"]
