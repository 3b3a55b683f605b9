"""The synthetic study as a whole: what it runs, its smoke version, and the notebook for a diagram of one's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import jupytext
import numpy as np
import papermill
import pytest

from experiments import synthetic
from paperlib import grids, paths, stats


def test_the_study_runs_every_synthetic_grid_and_no_other():
    text = {name: (paths.GRIDS / f"{name}.toml").read_text() for name in grids.names()}
    wanted = {name for name in text if 'dataset = "synthetic"' in text[name]}
    assert set(synthetic.GRIDS) == wanted and len(synthetic.GRIDS) == len(wanted)


def test_the_study_is_run_into_a_folder_and_then_rests(tmp_path, monkeypatch):
    called, done = [], subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(synthetic, "GRIDS", ("phase-rings", "losses-rings"))
    monkeypatch.setattr(synthetic.subprocess, "run", lambda command, **_: called.append(command) or done)
    assert synthetic.main(["--out", str(tmp_path), "--jobs", "2"]) == 0
    assert [command[3] for command in called[:2]] == ["phase-rings", "losses-rings"]
    assert all(command[command.index("--jobs") + 1] == "2" for command in called[:2])
    assert called[2][1:] == [str(paths.EXPERIMENTS / "networks.py"), "--out", str(tmp_path / "networks.json")]
    assert [Path(command[1]).stem for command in called[2:]] == ["networks", "convergence", "robust_boundary"]
    called.clear()
    (tmp_path / "phase-rings").mkdir()
    synthetic.main(["--out", str(tmp_path)])
    assert "--done" not in called[0] and called[1][-2:] == ["--done", str(tmp_path / "phase-rings")]
    called.clear()
    synthetic.main([])
    assert [command[3] for command in called] == ["phase-rings", "losses-rings"], "documents that are there stay"
    monkeypatch.setattr(synthetic.subprocess, "run", lambda command, **_: subprocess.CompletedProcess([], 1))
    assert synthetic.main(["--out", str(tmp_path)]) == 1


def test_every_loss_of_a_grid_trains(monkeypatch):
    monkeypatch.setattr(synthetic, "GRIDS", ("synthetic-search", "models-competition"))
    monkeypatch.setattr(synthetic, "SCRIPTS", {})
    assert synthetic.main(["--smoke"]) == 0


def test_the_defaults_of_ones_own_diagram_can_be_significant(root):
    cells = jupytext.read(root / "experiments/phase.md", fmt="md:myst").cells
    defaults: dict = {}
    exec(next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), defaults)
    rows = len(defaults["values"]) * len(defaults["sizes"]) * 2
    floor = stats.sign_flips(np.ones((defaults["seeds"], 1)))[0]
    assert stats.holm([floor] + [1.0] * (rows - 1))[0] <= 0.05


def test_a_phase_diagram_of_ones_own_is_a_call_of_papermill(root, tmp_path):
    jupytext.write(jupytext.read(root / "experiments/phase.md", fmt="md:myst"), tmp_path / "phase.ipynb")
    knobs = {"family": "rings", "family_options": {"n": 400}, "knob": "sectors", "values": [2, 4], "sizes": [2, 3],
             "epochs": 1, "seeds": 3, "out": str(tmp_path / "out")}
    done = papermill.execute_notebook(tmp_path / "phase.ipynb", tmp_path / "done.ipynb", knobs, kernel_name="python3",
                                      cwd=str(root), progress_bar=False)
    data = [output.data for cell in done.cells for output in cell.get("outputs", []) if "data" in output]
    assert any("image/png" in each for each in data) and any("significant" in str(each) for each in data)
    assert len(list((tmp_path / "out" / "phase").glob("*.json"))) == 8
    wrong = knobs | {"family_options": {"top2_stripes": 4}, "out": str(tmp_path / "wrong")}
    with pytest.raises(papermill.PapermillExecutionError, match="unknown option 'top2_stripes' of family 'rings'"):
        papermill.execute_notebook(tmp_path / "phase.ipynb", tmp_path / "done.ipynb", wrong, kernel_name="python3",
                                   cwd=str(root), progress_bar=False)
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameters famly"):
        papermill.execute_notebook(tmp_path / "phase.ipynb", tmp_path / "done.ipynb", {"famly": "rings"},
                                   kernel_name="python3", cwd=str(root), progress_bar=False)
