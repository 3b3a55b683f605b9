"""The Snakefile: what it would run, and one tiny grid for real."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_experiments import copy_of_the_project

from paperlib import grids, records

pytestmark = pytest.mark.skipif(importlib.util.find_spec("snakemake") is None,
                                reason="snakemake is not installed (extra: sweep)")


@pytest.fixture
def copy(root, tmp_path) -> Path:
    return copy_of_the_project(root, tmp_path)


def snakemake(copy: Path, *arguments: str, grid: str = "first-study",
              where: tuple[str, ...] = ("--cores", "1")) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", "experiments/Snakefile", *where, *arguments]
    return subprocess.run([*command, "--config", f"grid={grid}"], cwd=copy, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True,
                          env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"})


def planned(copy: Path) -> set[str]:
    """The run ids that a dry run of the first study names."""
    called = snakemake(copy, "--dry-run")
    assert called.returncode == 0, called.stdout
    return set(re.findall(r"output: experiments/records/first-study/([0-9a-f]{12})\.json", called.stdout))


def test_only_missing_records_are_due(copy):
    runs = [cell.config.run_id for cell in grids.load("first-study").cells]
    own, shared = copy / "experiments/records/first-study", copy / "experiments/records/another"
    own.mkdir(parents=True)
    shared.mkdir()
    (own / f"{runs[0]}.json").write_text("a record")
    (shared / f"{runs[1]}.json").write_text("a record of the same run, in another grid")
    assert planned(copy) == set(runs[2:])
    with open(copy / "paperlib/train.py", "a") as file:
        file.write("# Records are evidence: a changed library does not throw them away.\n")
    for run_id in runs:
        (own / f"{run_id}.json").write_text("a record")
    assert planned(copy) == set()


def test_an_unknown_grid_is_refused(copy):
    called = snakemake(copy, "--dry-run", grid="nowhere")
    assert called.returncode != 0
    assert "unknown grid 'nowhere': expected one of" in called.stdout


def test_a_grid_of_many_models_a_cell_is_left_to_the_sweep(copy):
    called = snakemake(copy, "--dry-run", grid="phase-rings")
    assert called.returncode != 0
    assert "python -m paperlib.sweep phase-rings --out experiments/records/phase-rings" in called.stdout


def test_a_grid_runs_through_the_notebook_and_then_rests(copy):
    called = snakemake(copy, grid="tiny")
    assert called.returncode == 0, called.stdout
    runs = sorted(cell.config.run_id for cell in grids.load(copy / "experiments/grids/tiny.toml").cells)
    assert [record.run_id for record in records.load(copy / "experiments/records/tiny")] == runs
    assert sorted(path.stem for path in (copy / "experiments/logs").glob("*.ipynb")) == runs
    assert "Nothing to be done" in snakemake(copy, grid="tiny").stdout


# More than one machine: the same file, by one of Snakemake's executor plugins.

SETUP = """
[[setup]]
name = "lr{number}"
label = "learning rate {number}"
lr = {lr}
"""


def thousand_cells(copy: Path) -> None:
    """A grid of 125 setups at eight seeds."""
    text = (copy / "experiments/grids/tiny.toml").read_text().replace("[0, 1]", str(list(range(8))))
    before, after = text.split("[[setup]]")[0], text[text.index("[[variant]]"):]
    setups = "".join(SETUP.format(number=number, lr=(number + 1) / 1000) for number in range(125))
    (copy / "experiments/grids/thousand.toml").write_text(before + setups + after)


@pytest.fixture
def cluster(tmp_path) -> tuple[str, ...]:
    """Arguments for a cluster whose submit command starts the job on this machine and notes what it was told."""
    pytest.importorskip("snakemake_executor_plugin_cluster_generic", reason="the executor plugin is missing (extra: "
                        "sweep)")
    submit = tmp_path / "sbatch"
    submit.write_text(f"#!/bin/sh\necho \"$@\" >> '{tmp_path}/submitted'\nfor script; do :; done\n"
                      f"nohup sh \"$script\" > '{tmp_path}/job.log' 2>&1 &\necho $!\n")
    submit.chmod(0o755)
    return ("--executor", "cluster-generic", "--cluster-generic-submit-cmd",
            f"{submit} --gres={{resources.gres}} --cpus-per-task={{threads}}", "--default-resources", "gres=gpu:1",
            "--jobs", "50")


def test_a_thousand_cells_are_planned_in_seconds(copy, cluster):
    thousand_cells(copy)
    called = snakemake(copy, "--dry-run", "--quiet", "rules", grid="thousand", where=cluster)
    assert called.returncode == 0, called.stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", called.stdout, re.MULTILINE))
    assert counts == {**{f"seed_{seed}": "125" for seed in range(8)}, "all": "1", "total": "1001"}


def test_a_grid_runs_on_a_cluster(copy, cluster, tmp_path):
    """One run of a grid, really submitted, with a GPU asked for."""
    grid = copy / "experiments/grids/tiny.toml"
    grid.write_text(grid.read_text().replace("[0, 1]", "[0]"))
    called = snakemake(copy, grid="tiny", where=cluster)
    assert called.returncode == 0, called.stdout
    (cell,) = grids.load(grid).cells
    assert [record.run_id for record in records.load(copy / "experiments/records/tiny")] == [cell.config.run_id]
    (submitted,) = (tmp_path / "submitted").read_text().splitlines()
    assert submitted.startswith("--gres=gpu:1 --cpus-per-task=1 ") and "snakejob.seed_0" in submitted
    assert "Nothing to be done" in snakemake(copy, grid="tiny", where=cluster).stdout
