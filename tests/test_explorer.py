"""The explorer's document says what the frames of the analysis say, and leaves out what is not complete."""

from __future__ import annotations

import json

import numpy as np
import pytest
from grids_for_tests import MAP, STUDY, Study, geometric_ranks, make_record

from paperlib import analysis, grids, records, tables

GRID = "first-study"
RATES = {"ce": 0.30, "ramp": 0.32, "grouped": 0.28}
DRAWS = {"draws": 60, "seed": 4, "level": 0.9}


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """A complete grid, one that was never run, and one of another data set."""
    study = Study(tmp_path / "study", monkeypatch)
    study.grid(GRID, STUDY)
    study.write(GRID, lambda cell: geometric_ranks(cell, RATES[cell.variant]))
    study.grid("later", STUDY.replace("epochs = 2", "epochs = 5"))
    study.grid("search", STUDY.replace("evaluate_test = true", "lr = 0.1"))
    study.grid("other", MAP.replace("SETUPS", '[[setup]]\nname = "only"\nlabel = "only"'))
    return study


def losses(document: dict) -> dict[tuple[str, str], dict]:
    (grid,) = document["grids"]
    return {(setup["name"], loss["name"]): loss for setup in grid["setups"] for loss in setup["losses"]}


def table(frame, setup: str, variant: str, column: str, factor: float = 1) -> np.ndarray:
    rows = frame[(frame.setup == setup) & (frame.variant == variant)]
    return factor * rows[[column, "low", "high"]].to_numpy().T


def test_the_numbers_are_those_of_the_frames(study):
    found = losses(analysis.explorer_document(targets=(50, 90, 99.5), **DRAWS))
    assert list(found) == [(s, v) for s in ("all", "fifth") for v in ("ce", "ramp", "grouped")]
    goals = {"targets": (0.5, 0.9, 0.995)}
    curves, needed = analysis.curve_bands(GRID, **DRAWS), analysis.candidates(GRID, **goals, **DRAWS)
    gaps = analysis.difference_bands(GRID, **DRAWS)
    more = analysis.candidate_differences(GRID, **goals, **DRAWS)
    for (setup, variant), loss in found.items():
        accuracy = np.clip(table(curves, setup, variant, "accuracy", 100), 0, 100)
        np.testing.assert_allclose(loss["accuracy"], accuracy, atol=0.0501)
        np.testing.assert_allclose(loss["candidates"], table(needed, setup, variant, "k"), atol=0.0501)
        if variant == "ce":
            assert loss["difference"] is None and loss["more_candidates"] is None
            continue
        np.testing.assert_allclose(loss["difference"], table(gaps, setup, variant, "difference", 100), atol=0.00501)
        np.testing.assert_allclose(loss["more_candidates"], table(more, setup, variant, "difference"), atol=0.0501)


def test_it_says_what_was_run(study):
    document = analysis.explorer_document(**DRAWS)
    (grid,) = document["grids"]
    assert (grid["name"], grid["title"]) == (GRID, "A study")
    setup = grid["setups"][1]
    assert (setup["label"], setup["seeds"], setup["images"]) == ("a fifth of the images", 3, 800)
    assert [loss["label"] for loss in setup["losses"]][1] == "transition, late ramp"
    assert (document["level"], document["draws"], document["baseline"]) == (90, 60, "ce")


def test_it_is_rounded_as_it_is_shown_and_small(study):
    document = analysis.explorer_document(**DRAWS)
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    assert "-0.0," not in text and "-0.0]" not in text
    numbers = 6 * 60 * 3 + 4 * 60 * 3  # six curves, four differences, estimate and band
    assert len(text) < 6.5 * numbers
    for loss in losses(document).values():
        low, high = np.min(loss["accuracy"]), np.max(loss["accuracy"])
        assert 0 <= low < high == 100


def test_losses_that_never_left_cross_entropy_are_named(study):
    for cell in grids.load(GRID).cells:
        if (cell.setup, cell.variant) == ("all", "ramp"):
            (before,) = (record for record in records.load() if record.run_id == cell.config.run_id)
            study.change(GRID, cell, history=[{**row, "strength": 0.0} for row in before.history])
    (grid,) = analysis.explorer_document(**DRAWS)["grids"]
    assert {setup["name"]: setup["idle"] for setup in grid["setups"]} == {
        "all": ["transition, late ramp"], "fifth": []}


def test_a_grid_without_the_baseline_has_no_differences(study):
    found = losses(analysis.explorer_document(baseline="hinge", **DRAWS))
    assert {loss["difference"] for loss in found.values()} == {None}


def test_what_has_finished_is_shown_once_and_the_rest_is_named(study):
    study.grid("waiting", STUDY.replace('name = "ramp"', 'name = "ramp"\npreset = "chosen"'))
    (study.grids / "presets.json").write_text('{"chosen": null}')
    assert list(analysis.explorer_grids()["grid"]) == [GRID, "later"]
    shown = tables.explorer_grids().set_index("grid")["in the explorer"]
    assert shown.to_dict() == {GRID: "yes", "later": "not yet"}
    cell = study.cell(GRID, "fifth", "ramp", 2)
    (study.records / GRID / f"{cell.config.run_id}.json").unlink()
    assert analysis.explorer_grids()["missing"].tolist() == [1, 18]
    shown = tables.explorer_grids().set_index("grid")["in the explorer"]
    assert shown.to_dict() == {GRID: "what has finished", "later": "not yet"}
    assert [key for key in losses(analysis.explorer_document(**DRAWS)) if key[0] == "fifth"] == [
        ("fifth", "ce"), ("fifth", "grouped")]
    with pytest.raises(records.MissingRecordsError, match=cell.config.run_id):
        analysis.explorer_document([GRID], **DRAWS)


def test_grids_that_share_runs_show_them_once_and_the_main_comparison_comes_first(study):
    study.grid("a-part", STUDY.replace("[0, 1, 2]", "[0, 1]"))  # of the runs of the first study
    study.grid("cifar-main", STUDY.replace("epochs = 2", "epochs = 3"))
    study.write("cifar-main", lambda cell: geometric_ranks(cell, RATES[cell.variant]))
    assert [grid["name"] for grid in analysis.explorer_document(**DRAWS)["grids"]] == ["cifar-main", GRID]
    cell = study.cell(GRID, "fifth", "ce", 0)
    (study.records / GRID / f"{cell.config.run_id}.json").unlink()
    shown = analysis.explorer_grids().set_index("grid")["shown"].to_dict()
    assert shown == {"a-part": "elsewhere", "cifar-main": "whole", GRID: "part", "later": "no"}


def test_every_run_is_listed_once(study):
    study.grid("a-part", STUDY.replace("[0, 1, 2]", "[0, 1]"))
    study.grid("cifar-main", STUDY.replace("epochs = 2", "epochs = 3"))
    cell = study.cell("cifar-main", "all", "ce", 1)
    (study.records / "cifar-main").mkdir()
    records.write(make_record(cell, geometric_ranks(cell, 0.3)), study.records / "cifar-main")
    found = analysis.listed()
    assert {name: len(part.cells) for name, part in found.items()} == {"cifar-main": 1, "a-part": 12, GRID: 6}
    assert list(found)[0] == "cifar-main" and set(tables.run_list(found[GRID])["seed"]) == {2}
    assert list(tables.run_list(found["cifar-main"])["run"]) == [cell.config.run_id]


@pytest.mark.parametrize(("options", "message"), [({"targets": (90, 120)}, "targets=.*percent"),
                                                  ({"level": 1.5}, "level=1.5")])
def test_what_makes_no_sense_is_refused(study, options, message):
    with pytest.raises(ValueError, match=message):
        analysis.explorer_document(**{**DRAWS, **options})
