"""The two studies of training run in small, resume, and become frames and figures that say what is in them."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import convergence, robust_boundary
from paperlib import analysis, documents, paths

HEAD = {"settings": {"n": 3, "cells": {"a": {"x": 1}, "b": {"x": 2}}}, "code": {"commit": "c1", "dirty": False},
        "environment": {"python": "3"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the documents of both scripts lie, made with little effort."""
    folder = tmp_path_factory.mktemp("studies")
    for name, script in (("CONVERGENCE", convergence), ("ROBUST_BOUNDARY", robust_boundary)):
        script.main(["--smoke", "--commit", "abc", "--out", str(folder / f"{name}.json")])
    return folder


@pytest.fixture
def files(folder, monkeypatch) -> dict:
    """The documents, which analysis reads in place of the committed ones."""
    for name in ("CONVERGENCE", "ROBUST_BOUNDARY"):
        monkeypatch.setattr(paths, name, folder / f"{name}.json")
    return {"convergence": json.loads(paths.CONVERGENCE.read_text()),
            "robust": json.loads(paths.ROBUST_BOUNDARY.read_text())}


# Documents


def measured(names: list, value: int = 0):
    def measure(name: str) -> dict:
        names.append(name)
        return {"value": value}

    return measure


def test_a_killed_run_goes_on_with_the_next_cell(tmp_path):
    path, names = tmp_path / "new" / "d.json", []

    def dies(name):
        if name == "b":
            raise KeyboardInterrupt
        return measured(names)(name)

    with pytest.raises(KeyboardInterrupt):
        documents.collect(path, HEAD, dies)
    with pytest.raises(ValueError, match="no cell 'b' yet: go on with python do.py"):
        documents.read(path, "do.py")
    document = documents.collect(path, HEAD, measured(names, 1))
    assert names == ["a", "b"] and document == documents.read(path, "do.py")
    assert [cell["value"] for cell in document["cells"].values()] == [0, 1]
    assert document["core_seconds"] == sum(cell["core_seconds"] for cell in document["cells"].values())


@pytest.mark.parametrize(("change", "again"), [
    ({}, []), ({"code": {"commit": "c2", "dirty": False}}, []),  # a cell names the commit that made it
    ({"settings": {"n": 4, "cells": HEAD["settings"]["cells"]}}, ["a", "b"]),
    ({"settings": {"n": 3, "cells": {"b": {"x": 5}, "a": {"x": 1}, "c": {"x": 3}}}}, ["b", "c"])])
def test_cells_are_measured_again_where_something_changed(tmp_path, change, again):
    path, names = tmp_path / "d.json", []
    documents.collect(path, HEAD, measured([]))
    document = documents.collect(path, HEAD | change, measured(names))
    assert names == again and list(document["cells"]) == list(document["settings"]["cells"])
    kept = [cell["code"]["commit"] for name, cell in document["cells"].items() if name not in again]
    assert set(kept) <= {"c1"}


def test_cells_of_uncommitted_code_are_not_kept(tmp_path):
    names, head = [], HEAD | {"code": {"commit": "c1", "dirty": True}}
    for _ in range(2):
        documents.collect(tmp_path / "d.json", head, measured(names))
    assert names == ["a", "b"] * 2


def test_a_document_that_is_not_there_or_of_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="make it with python do.py"):
        documents.read(tmp_path / "d.json", "do.py")
    (tmp_path / "d.json").write_text("[]")
    with pytest.raises(ValueError, match="expected the document of do.py"):
        documents.read(tmp_path / "d.json", "do.py")
    (tmp_path / "half.json").write_text('{"settings": {')
    for use in (lambda path: documents.read(path, "do.py"), lambda path: documents.collect(path, HEAD, measured([])),
                lambda path: documents.kept(path, "do.py", {})):
        with pytest.raises(ValueError, match=r"half\.json: expected a JSON document .* Delete it to make it anew"):
            use(tmp_path / "half.json")
    names: list = []
    documents.collect(tmp_path / "d.json", HEAD, measured(names))
    assert names == ["a", "b"]


def test_cells_are_kept_for_others_to_join_them(tmp_path):
    path, settings = tmp_path / "d.json", HEAD["settings"]
    assert documents.kept(path, "do.py", settings) == {}
    documents.collect(path, HEAD, measured([]))
    assert documents.kept(path, "do.py", {"n": 3}) == settings["cells"]
    with pytest.raises(ValueError, match=r"other settings: expected those of do\.py. Delete it, or name another file"):
        documents.kept(path, "do.py", {"n": 4})
    documents.collect(path, HEAD | {"settings": {"n": 3, "cells": {"a": {"x": 2}}},
                                    "code": {"commit": "c1", "dirty": True}}, measured([]))
    assert documents.kept(path, "do.py", {"n": 3}) == {}


def test_numbers_of_documents():
    assert documents.digits([1 / 3, [float("nan"), 2, float("inf")], True]) == [0.333333, [None, 2, math.inf], True]
    assert documents.digits(-1 / 3, 2) == -0.33 and documents.digits("a") == "a"


# The scripts


@pytest.mark.parametrize("script", [convergence, robust_boundary])
def test_smoke_does_not_replace_the_results(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--smoke"])
    assert "name another file with --out" in capsys.readouterr().err


def test_every_way_starts_at_the_same_networks_and_only_descents_go_down(files):
    settings = files["convergence"]["settings"]
    cell = convergence.Cell(settings, settings["cells"]["stripes8-width3"])
    cell.sgd(convergence.CE, "short")
    cell.note(convergence.CE, "fresh", cell.fresh())
    rows = {(row["loss"], row["way"]): row for row in [*files["convergence"]["cells"]["stripes8-width3"]["rows"],
                                                       cell.rows[-1]]}
    ce = convergence.CE
    for start, end in (((ce, "fresh"), "random + bfgs"), ((ce, "recipe"), "cross_entropy + bfgs"),
                       (("topk_transition", "recipe"), "topk_transition + bfgs"),
                       (("topk_grouped", "recipe"), "topk_grouped + bfgs")):
        assert all(np.array(rows[ce, end]["cross_entropy"]) < rows[start]["cross_entropy"])
    assert rows[ce, "short"]["own_loss"] == rows[ce, "short"]["cross_entropy"]
    assert rows["topk_transition", "recipe"]["own_loss"] != rows["topk_transition", "recipe"]["cross_entropy"]


def test_the_networks_of_a_run_are_those_that_are_rebuilt(files):
    settings = files["convergence"]["settings"] | {"ways": {"short": {"lr": 1e-30, "epochs": 1}}}
    for name in settings["cells"]:
        cell = convergence.Cell(settings, settings["cells"][name])
        cell.sgd(convergence.CE, "short")
        cell.note(convergence.CE, "fresh", cell.fresh())
        np.testing.assert_allclose(cell.rows[0]["cross_entropy"], cell.rows[1]["cross_entropy"], rtol=1e-6)


def test_the_best_sets_are_the_best(files):
    for cell in files["robust"]["cells"].values():
        assert cell["best"]["1"]["noise"][0] == pytest.approx(0.8, abs=0.01)
        assert cell["best"]["2"]["noise"][0] == pytest.approx(1, abs=1e-9)
        for loss in cell["losses"].values():
            for k in ("1", "2"):
                assert all(own[0] <= cell["best"][k]["noise"][0] for own in loss[k]["noise"])
                still = ([own[0] for own in loss[k][quantity]] for quantity in ("noise", "certain"))
                np.testing.assert_allclose(*still)


# Frames


def test_convergence_becomes_frames(files):
    frame = analysis.convergence()
    assert len(frame) == 2 * 11 * 2 and not frame.isna().any().any()
    assert set(frame.groupby("cell")["size"].first()) == {3}
    ways = analysis.convergence_ways()
    assert len(ways) == 22 and (ways["n"] == 2).all() and (ways["near"] <= 2).all()
    row = ways.iloc[0]
    own = frame[(frame["cell"] == row["cell"]) & (frame["way"] == "short")]
    assert row["topk"] == pytest.approx(own["topk"].mean()) and row["lowest"] == own["own_loss"].min()
    assert row["topk_lowest"] == own.loc[own["own_loss"].idxmin(), "topk"]


def test_gaps_are_paired_by_restart(files):
    frame, gaps = analysis.convergence(), analysis.convergence_gaps()
    own = frame[frame["cell"] == "stripes8-degree3"].set_index(["loss", "way", "restart"])["topk"].sort_index()
    expected = (own["topk_transition", "recipe"] - own["cross_entropy", "long"]).mean()
    row = gaps[(gaps["cell"] == "stripes8-degree3") & (gaps["way"] == "long")].iloc[0]
    assert row["mean"] == pytest.approx(expected) and row["low"] <= row["mean"] <= row["high"] and row["n"] == 2


def test_the_lowest_losses_and_what_could_be_reached(files):
    frame, lowest = analysis.convergence(), analysis.lowest_losses().set_index("cell")
    for cell, row in lowest.iterrows():
        own = frame[frame["cell"] == cell]
        ce = own[own["loss"] == "cross_entropy"]
        assert row["cross_entropy"] == ce["cross_entropy"].min() and row["reachable"] == own["topk"].max()
        assert row["capacity_gap"] >= row["gap"] - 1e-12 and row["near_low"] <= row["topk"] <= row["near_high"]
        assert row["near"] == (ce["cross_entropy"] <= row["cross_entropy"] + 0.005).sum()


def test_robustness_becomes_frames(files):
    frame = analysis.robustness()
    assert set(frame["loss"]) == {"best", "ce", "transition", "ramp"} and set(frame["k"]) == {1, 2}
    means = analysis.robust_means().set_index(["cell", "loss", "k", "quantity", "at"])["value"].sort_index()
    first = files["robust"]["cells"]["rings-width8"]["losses"]["ce"]["2"]
    assert means["rings-width8", "ce", 2, "noise", 0.1] == pytest.approx(np.mean([own[1] for own in first["noise"]]))
    assert means["rings-width8", "ce", 2, "margin"].index.tolist() == [0.05, 0.25, 0.5, 0.75]
    differences = analysis.robust_differences()
    assert set(differences["loss"]) == {"transition", "ramp"} and (differences["n"] == 2).all()
    row = differences.query("cell == 'rings-width8' and loss == 'ramp' and k == 2 and quantity == 'radius'").iloc[0]
    other = files["robust"]["cells"]["rings-width8"]["losses"]["ramp"]["2"]
    assert row["mean"] == pytest.approx(np.mean(np.subtract(other["radius"], first["radius"])))
    with pytest.raises(ValueError, match="expected one of ce, transition, ramp"):
        analysis.robust_differences("grouped")


def test_the_committed_studies_are_complete_and_large_enough():
    for script, document in ((convergence, analysis.convergence_document()),
                             (robust_boundary, analysis.robust_document())):
        now = json.loads(json.dumps(script.SETTINGS))
        assert document["settings"] == now, f"run: python experiments/{script.__name__.split('.')[-1]}.py"
        assert all(cell["code"]["dirty"] is False for cell in document["cells"].values())
    assert (analysis.convergence_ways()["n"] >= 32).all()
    assert (analysis.robust_differences()["n"] >= 32).all()


def test_the_committed_convex_cells_have_one_minimum():
    frame = analysis.convergence()
    ends = frame[(frame["model"] == "polynomial") & frame["way"].str.endswith("bfgs")]
    spread: pd.Series = ends.groupby("cell")["cross_entropy"].agg(lambda values: values.max() - values.min())
    assert len(spread) and (spread < 1e-6).all()
