"""A run made again, beside its record: the same bits, within the spread of seeds, or not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from grids_for_tests import STUDY, Study, geometric_ranks, make_record, ranks_with_accuracy

from paperlib import grids, paths, records, reruns, stats, tables
from paperlib.config import RunConfig
from paperlib.records import Record


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    study = Study(tmp_path, monkeypatch)
    study.grid("study", STUDY)
    study.write("study", lambda cell: geometric_ranks(cell, 0.1 + 0.01 * cell.seed))
    monkeypatch.setattr(paths, "RERUNS", tmp_path / "again")
    paths.RERUNS.mkdir()
    return study


def again(study: Study, rate: float | None = None, **changes: object) -> Record:
    """Another record of a cell whose three seeds have rates .10, .11 and .12."""
    cell = study.cell("study", "fifth", "grouped", 1)
    record = make_record(cell, geometric_ranks(cell, 0.11 if rate is None else rate))
    history = [dict(entry) for entry in record.history]
    if rate is not None:
        history[1]["train_loss"] += 0.001
    return dataclasses.replace(record, history=history, **changes)


def one(record: Record) -> reruns.Rerun:
    found, = reruns.compare([record], records.load())
    return found


def test_the_same_numbers_are_the_same_bits_whatever_the_machine_and_the_clock_say(study):
    record = again(study)
    slower = dataclasses.replace(record, timing=record.timing | {"train_seconds": 1e6},
                                 code={"commit": "f00d", "dirty": False},
                                 environment=record.environment | {"device": "another CPU"})
    found = one(slower)
    assert (found.outcome, found.parts_epoch) == ("the same bits", None)
    assert found.changes == {"device": ("another CPU", "a CPU")}
    assert reruns.describe(found) == f"{record.run_id} cifar100, speednet, topk_grouped, seed 1: the same bits"


@pytest.mark.parametrize("part", ["history", "validation", "test"])
def test_one_number_less_and_they_are_not(study, part):
    record = again(study)
    changed = [*record.history[:-1], record.history[-1] | {"train_loss": 1e-9}] if part == "history" else \
        getattr(record, part) | {"nll": 1.2500000001}
    found = one(dataclasses.replace(record, **{part: changed}))
    assert found.outcome == "within the spread"
    assert found.parts_epoch == (2 if part == "history" else None)


def test_other_numbers_are_judged_by_the_spread_of_the_seeds(study):
    near, far = one(again(study, 0.115)), one(again(study, 0.3))
    assert (near.outcome, far.outcome) == ("within the spread", "outside the spread")
    assert near.parts_epoch == far.parts_epoch == 2
    assert [(a.split, a.k, a.n) for a in near.accuracies] == [
        ("validation", 1, 3), ("validation", 5, 3), ("test", 1, 3), ("test", 5, 3)]
    seeds = [float((geometric_ranks(study.cell("study", "fifth", "grouped", seed), 0.1 + 0.01 * seed) <= 5).mean())
             for seed in range(3)]
    top5 = near.accuracies[-1]
    assert (top5.low, top5.high) == pytest.approx(stats.prediction_interval(seeds, comparisons=4))
    assert top5.before == seeds[1]
    line = reruns.describe(far).splitlines()[4]
    assert line.startswith("  test top-5: 83.") and "a further run after 3 seeds: " in line


def test_cross_entropy_has_no_k_of_its_own_and_shows_five(study):
    cell = study.cell("study", "all", "ce")
    found = one(make_record(cell, geometric_ranks(cell, 0.1)))
    assert found.outcome == "the same bits" and [a.k for a in found.accuracies] == [1, 5, 1, 5]


def test_a_single_seed_tells_no_spread(study):
    for seed in (0, 2):
        (study.records / "study" / f"{study.cell('study', 'fifth', 'grouped', seed).config.run_id}.json").unlink()
    found = one(again(study, 0.115))
    assert found.outcome == "no spread known" and math.isinf(found.accuracies[0].high)
    assert "after 1 seed: anywhere" in reruns.describe(found)


def test_another_protocol_and_other_data_are_named_not_compared(study):
    assert one(again(study, protocol=7)).outcome == "another protocol"
    data = again(study).data | {"checksum": "def"}
    assert one(again(study, data=data)).outcome == "other data"


def test_what_older_records_do_not_say_was_off(study):
    environment = again(study).environment
    assert one(again(study, environment=environment | {"widened": False})).changes == {}
    assert one(again(study, environment=environment | {"widened": True})).changes == {"widened": (True, False)}


def test_many_models_are_judged_by_their_own_spread():
    """A run of a list of seeds has a mean accuracy; its models are the seeds."""
    from paperlib.counts import encode_counts

    config = RunConfig(dataset="synthetic", model="mlp", seed=[0, 1, 2, 3], k=2, evaluate_test=True, precision="fp32")
    cell = grids.Cell("g", "s", "v", (0, 1, 2, 3), config)

    def record(tops: list[int]) -> Record:
        counts = np.array([[top, 10, 90 - top] if top else [0, 0, 0] for top in tops])
        part = {"n": 100, "num_classes": 3, "counts": encode_counts(counts),
                **{key: [0.5 if top else None for top in tops] for key in ("loss", "nll", "ece")}}
        plain = make_record(cell, ranks_with_accuracy({1: 0.5}, n=10))
        return dataclasses.replace(plain, validation=part, test=part)

    before = record([50, 52, 54, 56])
    same, near, far, gone = (reruns.compare([record(tops)], [before])[0] for tops in (
        [50, 52, 54, 56], [52, 54, 56, 50], [70, 72, 74, 76], [0, 0, 0, 0]))
    assert [found.outcome for found in (same, near, far, gone)] == [
        "the same bits", "within the spread", "outside the spread", "outside the spread"]
    top1 = near.accuracies[0]
    assert (top1.n, top1.again, top1.before) == (4, pytest.approx(0.53), pytest.approx(0.53))
    low, high = stats.prediction_interval([0.5, 0.52, 0.54, 0.56], new=4, comparisons=4)
    assert (top1.low, top1.high) == pytest.approx((low, high))
    assert math.isnan(gone.accuracies[0].again)


def test_the_command(study, capsys):
    assert reruns.main([str(paths.RERUNS)]) == 2
    assert "none of the 0 runs" in capsys.readouterr().err
    records.write(again(study), paths.RERUNS)
    assert reruns.main([str(paths.RERUNS)]) == 0
    assert capsys.readouterr().out.endswith("the same bits\n1 of 1 runs agree with the records before\n")
    records.write(again(study, 0.3), paths.RERUNS)
    foreign = study.cell("study", "fifth", "grouped").config.replace(seed=77)
    cell = dataclasses.replace(study.cell("study", "fifth", "grouped"), config=foreign)
    records.write(make_record(cell, geometric_ranks(cell, 0.1)), paths.RERUNS)
    assert reruns.main([str(paths.RERUNS), "--before", str(study.records)]) == 1
    out = capsys.readouterr().out
    assert "outside the spread, differs from epoch 2 on" in out
    assert out.endswith("0 of 1 runs agree with the records before; 1 without an earlier record\n")
    assert reruns.main([str(paths.RERUNS / "nowhere")]) == 2
    assert "no records at" in capsys.readouterr().err
    (paths.RERUNS / "broken.json").write_text("{")
    assert reruns.main([str(paths.RERUNS)]) == 2
    assert "broken.json: expected a JSON record" in capsys.readouterr().err


def test_the_table(study):
    assert tables.reruns().empty
    paths.RERUNS.rmdir()
    assert tables.reruns().empty
    records.write(again(study, 0.115, environment=again(study).environment | {"threads": 2}), paths.RERUNS)
    row, = tables.reruns().to_dict("records")
    assert row["run"] == "a fifth of the images: grouped from the start (seed 1)"
    assert (row["changed"], row["outcome"]) == ("threads 1 → 2", "within the spread, differs from epoch 2 on")
    assert row["accuracy (%)"] == "test top-5" and " to " in row["a further seed"]
    records.write(again(study), paths.RERUNS)
    row, = tables.reruns().to_dict("records")
    assert (row["changed"], row["outcome"], row["record"]) == ("–", "the same bits", row["again"])
