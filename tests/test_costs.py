"""The benchmark of the losses: it runs, and its document becomes the tables of the report."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import torch.nn.functional as F

from experiments import benchmark_losses
from paperlib import analysis, losses, paths, tables


def test_it_runs_and_times_every_loss(root, monkeypatch) -> None:
    monkeypatch.setattr(benchmark_losses, "rivals", lambda num_classes: {"topk_grouped": ("other", F.cross_entropy)})
    rows = benchmark_losses.race(8, 20, rounds=2)
    timed = {row["loss"].split(",")[0] for row in rows if row["side"] == "paperlib"}
    assert timed == set(losses.names())
    assert all(row["seconds"] > 0 and row["ratio_low"] <= row["ratio"] <= row["ratio_high"] for row in rows)
    assert next(row for row in rows if row["side"] == "torch")["ratio"] == 1
    assert {row["condition"] for row in rows} == {"loop", "step"}
    for rival in (row for row in rows if row["side"] == "rival"):
        assert (rival["code"], rival["loss"]) == ("other", "topk_grouped") and rival["times_ours"] > 0
    found = subprocess.run([sys.executable, "experiments/benchmark_losses.py", "--help"], cwd=root, check=True,
                           capture_output=True, text=True).stdout  # fmt: skip
    assert "--quick" in found


def test_memory_is_measured_in_logits() -> None:
    if not benchmark_losses.Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not keep the mark of the largest memory")
    rows = {row["loss"]: row["logits"] for row in benchmark_losses.memory(128, 100_000, ["topk_grouped"])}
    assert set(rows) == {"F.cross_entropy", "topk_grouped"}
    assert all(1 < size < 10 for size in rows.values()), rows  # the gradient alone is as large as the logits


def test_the_committed_document_becomes_tables() -> None:
    speed, rivals, memory = tables.loss_speed(), tables.rival_speed(), tables.loss_memory()
    assert list(speed.columns) == ["loss", "256 x 100", "256 x 1000", "64 x 10000"]
    assert {name.split(",")[0] for name in speed["loss"]} == {"F.cross_entropy", *losses.names()}
    assert speed["64 x 10000"].str.fullmatch(r"\d+\.\d \[\d+\.\d, \d+\.\d\]").all()
    assert rivals["other code"].str.contains("difftopk").any() and rivals["other code"].str.contains("pytopk").any()
    limited = analysis.loss_memory().query("n == 4096")
    assert set(limited["loss"]) >= {"topk_transition", "topk_grouped", "truncated_topk_entropy", "topk_entropy"}
    assert (limited["ratio"] <= 3).all(), limited
    assert len(memory) == len(speed) == len(tables.loss_speed(condition="step"))
    assert analysis.cost_document()["code"]["dirty"] is False


def test_a_missing_or_foreign_document_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(paths, "LOSS_COSTS", tmp_path / "losses.json")
    with pytest.raises(FileNotFoundError, match="benchmark_losses.py"):
        analysis.loss_costs()
    (tmp_path / "losses.json").write_text("{}")
    with pytest.raises(ValueError, match="benchmark_losses.py"):
        analysis.loss_costs()


def test_ratios_of_memory_are_within_a_size(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(paths, "LOSS_COSTS", tmp_path / "losses.json")
    found = [(1, "F.cross_entropy", 2.0), (1, "a", 3.0), (2, "F.cross_entropy", 4.0), (2, "a", 2.0)]
    rows = [{"loss": name, "n": n, "num_classes": 7, "logits": size} for n, name, size in found]
    (tmp_path / "losses.json").write_text(
        json.dumps({"memory": rows, "speed": [], "accuracy": [], "code": {}, "environment": {}}))
    assert analysis.loss_memory().set_index(["n", "loss"])["ratio"].to_dict() == pytest.approx(
        {(1, "F.cross_entropy"): 1.0, (1, "a"): 1.5, (2, "F.cross_entropy"): 1.0, (2, "a"): 0.5})
    assert isinstance(tables.loss_memory(), pd.DataFrame)
