"""Adjusted scores of recorded runs: the script resumes and refuses other logits, frames and chapter show results."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from chapter_cells import run_page
from grids_for_tests import Study, make_record, two_losses
from scipy import stats as distributions

from experiments import posthoc as script
from paperlib import analysis, documents, grids, metrics, paths, predictions, records, tables
from paperlib.predictions import Predictions

GRID = """
title = "A study"
seeds = [0, 1, 2, 3, 4]
[base]
evaluate_test = true
epochs = 2
[[setup]]
name = "fifth"
label = "a fifth of the images"
train_fraction = 0.2
[[setup]]
name = "all"
label = "all images"
""" + two_losses()
CLASSES = 26
WRECK = 2 * np.sin(np.arange(CLASSES))


def run(cell) -> dict[str, Predictions]:
    """Logits whose classes have wrong biases; the transition's have not."""
    found = {}
    for place, (split, n) in enumerate((("validation", 500), ("test", 400))):
        source = torch.Generator().manual_seed(100 * cell.seed + 10 * (cell.setup == "all") + place)
        logits = 2.5 * torch.randn(n, CLASSES, generator=source)
        labels = torch.multinomial(logits.softmax(dim=1), 1, generator=source).squeeze(1)
        wrong = logits.numpy() + (WRECK if cell.variant == "ce" else 0)
        found[split] = Predictions(wrong.astype(np.float32), labels.numpy())
    return found


def evaluation(kept: Predictions) -> dict:
    logits, labels = torch.from_numpy(kept.logits), torch.from_numpy(kept.labels)
    return {"n": len(labels), "num_classes": CLASSES, "loss": 1.0,
            "nll": metrics.negative_log_likelihood(logits, labels),
            "ece": metrics.expected_calibration_error(logits, labels),
            "ranks": records.encode_ranks(metrics.label_ranks(logits, labels).numpy())}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A grid with records, logits in ``kept``, and a document in a place of its own."""
    monkeypatch.setattr(paths, "POSTHOC", tmp_path / "posthoc.json")
    for key, value in (("penalties", ["inf", "100.0", "3.0"]), ("folds", 2)):
        monkeypatch.setitem(script.SETTINGS, key, value)
    found = Study(tmp_path, monkeypatch)
    found.grid("cifar-main", GRID)
    found.grid("cifar-entropy", GRID.replace("epochs = 2", "epochs = 3"))  # nothing of it has run
    for cell in grids.load("cifar-main").cells:
        splits = run(cell)
        predictions.save(tmp_path / "kept", cell.config.run_id, splits)
        made = make_record(cell, np.ones(3, dtype=int))
        records.write(dataclasses.replace(made, **{split: evaluation(kept) for split, kept in splits.items()}),
                      found.records / "cifar-main")
    return found


def call(tmp_path, *more: str, commit: str = "abc") -> int:
    return script.main(["--predictions", str(tmp_path / "kept"), "--out", str(paths.POSTHOC), "--commit", commit,
                        *more])


def hide(tmp_path, keep) -> list:
    """Take away the logits of the cells that are not to be kept; returns what brings them back."""
    hidden = []
    for cell in grids.load("cifar-main").cells:
        if not keep(cell):
            path = predictions.place(tmp_path / "kept", cell.config.run_id)
            hidden.append((path, path.rename(tmp_path / path.name)))
    return hidden


def test_runs_are_added_frames_are_paired_and_the_chapter_reads_them(study, tmp_path, monkeypatch, capsys):
    # Four seeds of one setup first, then the rest without their logits: nothing is fitted twice.
    assert analysis.posthoc_part() is None and analysis.posthoc_ranks() == {} and len(tables.posthoc_answer()) == 0
    hidden = hide(tmp_path, lambda cell: cell.setup == "fifth" and cell.seed < 3)
    assert call(tmp_path) == 0 and "14 of the grid have no logits there" in capsys.readouterr().out
    assert analysis.posthoc_part() is None, "three seeds of five are no block"
    for path, away in hidden:
        away.rename(path)
    hidden = hide(tmp_path, lambda cell: cell.seed == 3 or (cell.setup == "fifth" and cell.seed == 4))
    assert call(tmp_path, commit="def") == 0
    document = analysis.posthoc_document()
    assert {cell["code"]["commit"] for cell in document["cells"].values()} == {"abc", "def"}
    assert len(document["cells"]) == 6 + 4 + 2
    part = analysis.posthoc_part()
    assert list(part.setups) == ["fifth"] and part.seeds == (0, 1, 2, 3, 4)

    # Known answers: wrong biases are repaired, and scores without a fault stay what they were.
    ranks = analysis.posthoc_ranks()
    cells = [cell for cell in grids.load("cifar-main").cells if (cell.setup, cell.variant) == ("fifth", "ce")]
    assert np.array_equal(ranks["fifth", "ce", "none"], [
        metrics.label_ranks(*map(torch.from_numpy, dataclasses.astuple(run(cell)["test"]))) for cell in cells])
    assert np.array_equal(ranks["fifth", "ce", "temperature"], ranks["fifth", "ce", "none"])
    gains = analysis.posthoc_differences().set_index(["variant", "method", "k"])
    assert gains.loc[("ce", "bias", 5), "low"] > 0.02
    gap = (ranks["fifth", "ce", "bias"] <= 5).mean(axis=1) - (ranks["fifth", "ce", "none"] <= 5).mean(axis=1)
    half = distributions.t.isf(0.025 / 8, 4) * gap.std(ddof=1) / math.sqrt(5)
    assert gains.loc[("ce", "bias", 5), "mean"] == pytest.approx(gap.mean())
    assert gains.loc[("ce", "bias", 5), "low"] == pytest.approx(gap.mean() - half)
    changed = analysis.posthoc_differences(scores="bias").set_index(["variant", "method", "k"])
    assert ("ce", "bias", 5) not in changed.index
    assert changed.loc[("ce", "none", 5), "mean"] == pytest.approx(-gap.mean())
    beyond = analysis.posthoc_differences(baseline="transition").set_index(["variant", "method", "k"])
    assert ("transition", "none", 5) not in beyond.index and abs(beyond.loc[("ce", "chosen", 5), "mean"]) < 0.02
    saved = analysis.posthoc_candidates(draws=50, methods=("bias", "temperature"))
    saved = saved.set_index(["variant", "method", "target"])
    assert saved.loc[("ce", "bias", 0.95), "high"] < 0 and saved.loc[("ce", "temperature", 0.95), "difference"] == 0
    chosen = analysis.posthoc_candidates(draws=50, methods=("chosen",)).query("variant == 'ce' and target == 0.95")
    [row] = analysis.posthoc_trades((0.95,), draws=50).itertuples()
    assert (row.setup, row.label, row.kind) == ("fifth", "cross entropy, scores changed", "scores")
    assert (-row.saved, -row.high, -row.low) == tuple(chosen[["difference", "low", "high"]].iloc[0])
    assert row.price == "free" and row.extra == 0 and "scores changed" in analysis.budget_order(
        analysis.posthoc_trades((0.95,), draws=50), 0.95)["label"].item()
    scores = analysis.posthoc_scores().set_index(["variant", "method"])
    assert scores.loc["ce"]["chosen"].sum() == 1 and (scores["n"] == 5).all()
    assert scores.loc[("ce", "bias"), "nll"] < scores.loc[("ce", "none"), "nll"] - 0.1
    assert scores.loc[("ce", "temperature"), "penalty"] == math.inf

    # The chapter, with results.
    texts = run_page("03-posthoc", monkeypatch)[1]
    answer = tables.posthoc_answer().set_index("what")
    assert list(answer.index) == ["scores changed", "transition", "both"] and set(answer["n"]) == {5}
    gap = (ranks["fifth", "ce", "chosen"] <= 5).mean() - (ranks["fifth", "ce", "none"] <= 5).mean()
    assert answer.loc["scores changed", "top-5"].startswith(f"{100 * gap:+.2f} [+")
    assert answer.loc["scores changed", "k for 95 %"].startswith("\N{MINUS SIGN}")
    assert "Not yet run" not in texts and "**Does training with the transition still add to changed scores?**" in texts
    added = ranks["fifth", "transition", "chosen"] <= 5
    gap = (added.mean(axis=1) - (ranks["fifth", "ce", "chosen"] <= 5).mean(axis=1)).mean()
    text = tables.posthoc_added()
    assert text.startswith("not shown with a fifth") and f"{100 * gap:+.2f} [".replace("-", "\N{MINUS SIGN}") in text
    assert tables.posthoc_added("cifar-entropy") == ""
    line = tables.posthoc_lists(target=0.9).iloc[0]
    smallest = [metrics.smallest_k(np.cumsum(np.bincount(own, minlength=CLASSES + 1)[1:]) / len(own), 0.9)
                for own in ranks["fifth", "ce", "chosen"]]
    assert line["k for 90 %"].startswith(f"{np.mean(smallest):.1f} [") and line["n"] == 5
    assert line["loss"] == "cross entropy, scores changed" and line["certified for 90 %"] >= f"{min(smallest)}"
    assert line["top-5 (%)"] == f"{100 * (ranks['fifth', 'ce', 'chosen'] <= 5).mean():.1f}"
    assert all(f":name: {name}\n" in texts for name in (
        "tab-posthoc", "tab-posthoc-answer", "tab-posthoc-transition", "tab-posthoc-scores"))


def test_the_chapter_without_results(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "POSTHOC", tmp_path / "none.json")
    texts = run_page("03-posthoc", monkeypatch)[1]
    assert "**Not yet run**" in texts and "{table}" not in texts


def test_a_killed_run_goes_on(study, tmp_path, monkeypatch):
    hide(tmp_path, lambda cell: cell.setup == "fifth" and cell.seed < 2)
    measure, calls = script.measure, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(script, "measure", dies)
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path)
    assert call(tmp_path) == 0 and len(calls) == 3 + 2
    first = json.loads(paths.POSTHOC.read_text())
    paths.POSTHOC.unlink()
    assert call(tmp_path) == 0
    again = json.loads(paths.POSTHOC.read_text())
    assert {name: cell["methods"] for name, cell in first["cells"].items()} == {
        name: cell["methods"] for name, cell in again["cells"].items()}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_logits_of_something_else_are_refused(split, study, tmp_path, capsys):
    hide(tmp_path, lambda cell: cell.setup == "fifth" and cell.seed == 0)
    cell = study.cell("cifar-main", "fifth", "transition")
    splits = run(cell)
    logits = splits[split].logits.copy()
    label = splits[split].labels[0]
    logits[0, label] = 99 if logits[0].argmax() != label else -99
    changed = {split: Predictions(logits, splits[split].labels)}
    predictions.save(tmp_path / "kept", cell.config.run_id, splits | changed)
    assert call(tmp_path) == 1
    said = f".npz: 1 of {len(logits)} {split} ranks are not those of record {cell.config.run_id}"
    assert said in capsys.readouterr().err
    assert len(json.loads(paths.POSTHOC.read_text())["cells"]) == 1, "the run before it is kept"


def test_a_run_that_was_recorded_again_is_measured_again(study, tmp_path):
    hide(tmp_path, lambda cell: cell.setup == "fifth" and cell.seed == 0)
    assert call(tmp_path) == 0
    cell = study.cell("cifar-main", "fifth", "ce")
    splits = run(study.cell("cifar-main", "all", "ce"))
    study.change("cifar-main", cell, **{split: evaluation(kept) for split, kept in splits.items()})
    with pytest.raises(ValueError, match="was recorded again since"):
        analysis.posthoc_part()
    before = json.loads(paths.POSTHOC.read_text())["cells"]
    predictions.save(tmp_path / "kept", cell.config.run_id, splits)
    assert call(tmp_path, commit="def") == 0
    after = json.loads(paths.POSTHOC.read_text())["cells"]
    assert [name for name in after if after[name] != before[name]] == [cell.config.run_id]


def test_what_the_script_cannot_use_is_named(study, tmp_path, monkeypatch, capsys):
    for arguments, message in (
            (["--variants", "svm"], "no variant 'svm': expected some of ce, transition"),
            (["--grid", "nothing"], "unknown grid 'nothing'"),
            (["--predictions", str(tmp_path / "empty")], "holds logits of no run")):
        assert call(tmp_path, *arguments) == 1 and message in capsys.readouterr().err
    hide(tmp_path, lambda cell: cell.place == "fifth/ce/seed 0")
    assert call(tmp_path) == 0
    monkeypatch.setitem(script.SETTINGS, "folds", 3)
    assert call(tmp_path) == 1 and "made with other settings" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"expected the document of experiments/posthoc\.py"):
        paths.POSTHOC.write_text("[]")
        analysis.posthoc_document()


def test_the_committed_document_is_of_these_settings():
    if not paths.POSTHOC.exists():
        pytest.skip("experiments/posthoc.py has not run yet")
    document = documents.load(paths.POSTHOC, "experiments/posthoc.py", {"settings", "cells"})
    assert {**document["settings"], "cells": None} == {**json.loads(json.dumps(script.SETTINGS)), "cells": None}
    assert all(cell["code"]["dirty"] is False for cell in document["cells"].values())
