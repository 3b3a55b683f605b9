"""The notebook of a training run: its parameters, its runner, plain papermill, and the exemplary pages."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from experiments import make_runs, run
from paperlib import grids, records, reruns, sweep, train
from paperlib.config import RunConfig

TINY = {"dataset": "digits", "model": "mlp", "epochs": 2, "lr": 0.1, "batch_size": 64, "loss": "topk_transition",
        "k": 2, "loss_options": {"gate": "none"}, "strength_schedule": "ramp"}
Called = subprocess.CompletedProcess[str]
GRID = """
title = "Tiny"
seeds = [0, 1]
[base]
dataset = "digits"
model = "mlp"
epochs = 1
[[setup]]
name = "digits"
label = "digits, 1 epoch"
[[variant]]
name = "ce"
label = "cross entropy"
loss = "cross_entropy"
"""


def source_cells() -> list[nbformat.NotebookNode]:
    return jupytext.read(run.SOURCE, fmt="md:myst").cells


def copy_of_the_project(root: Path, folder: Path) -> Path:
    """The library and the experiments at another place, as in a git worktree, without records."""
    shutil.copytree(root / "paperlib", folder / "paperlib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "experiments", folder / "experiments",
                    ignore=shutil.ignore_patterns("__pycache__", "records", "logs", ".work"))
    (folder / "experiments" / "grids" / "tiny.toml").write_text(GRID)
    return folder


def call(copy: Path, *arguments: str, **environment: str) -> Called:
    """A command of the copy, as a reader would type it there: nothing points it to the copy but the working folder."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([sys.executable, *arguments], cwd=copy, env=inherited | environment, capture_output=True,
                          text=True)


def plain_papermill(copy: Path, target: Path, *parameters: str, **environment: str) -> Called:
    """The pipe that experiments/README.md shows, with other parameters."""
    readme = (run.ROOT / "experiments" / "README.md").read_text().replace("\\\n", "")
    pipe = re.search(r"jupytext --to ipynb .*\| papermill .* - (?=my-run\.ipynb)", readme).group(0)
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(["bash", "-o", "pipefail", "-c", f"{pipe} '{target}' {' '.join(parameters)}"], cwd=copy,
                          env=os.environ | {"PATH": programs, "PYTHONPATH": str(copy)} | environment,
                          capture_output=True, text=True)


@pytest.fixture(scope="module")
def copy(root, tmp_path_factory) -> Path:
    return copy_of_the_project(root, tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def done(copy) -> nbformat.NotebookNode:
    """The notebook of a tiny run, made by the command line."""
    pairs = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in TINY.items()]
    called = call(copy, "-m", "experiments.run", "--out", "records", "--notebook", "page.ipynb", *pairs)
    assert called.returncode == 0, called.stderr
    return nbformat.read(copy / "page.ipynb", as_version=4)


@pytest.fixture(scope="module")
def record(copy, done) -> records.Record:
    return records.read(copy / "records" / f"{RunConfig.from_dict(TINY).run_id}.json")


# The source


def test_the_parameters_are_the_configuration():
    (cell,) = [cell for cell in source_cells() if "parameters" in cell.metadata.get("tags", [])]
    values = {}
    for statement in ast.parse(cell.source).body:
        (target,) = statement.targets
        values[target.id] = ast.literal_eval(statement.value)
    assert isinstance(values.pop("out"), str)
    expected = RunConfig().to_dict()
    assert list(values) == list(expected)
    assert [(type(value), value) for value in values.values()] == [(type(v), v) for v in expected.values()]


def test_every_figure_says_what_is_seen():
    drawing = [cell for cell in source_cells() if "figures." in cell.source]
    assert drawing
    assert [cell.source for cell in drawing if len(cell.metadata["mystnb"]["image"]["alt"]) < 80] == []


def test_no_image_of_a_data_set_is_drawn():
    assert not re.search(r"imshow|PIL|Image\b|\.inputs", "\n".join(cell.source for cell in source_cells()))


# What is refused before anything runs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epoch=3"], "unknown configuration key 'epoch': did you mean 'epochs'?"),
        (["out=here"], "unknown configuration key 'out'"),
        (["epochs=many"], "epochs='many' is a str: expected int"),
        (["epochs=0"], "epochs=0: expected a whole number of at least 1"),
        (["loss_options=none"], "loss_options='none' is a str: expected dict"),
        (["digits"], "'digits': expected key=value"),
        (["--cell", "nowhere", "0"], "unknown grid 'nowhere'"),
        (["--cell", "first-study", "000000000000"], "grid 'first-study' has no run '000000000000': did you mean"),
        (["--cell", "first-study", "000000000000", "epochs=1"], "exclude each other"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "execute", lambda *_, **__: pytest.fail("was executed"))
    assert run.main(["--out", str(tmp_path / "records"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "execute", lambda *_, **__: pytest.fail("was executed"))
    (tmp_path / "file").write_text("")
    assert run.main(["--out", str(tmp_path / "file" / "records")]) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_values_are_json_or_plain_text():
    config = run.parse(["dataset=synthetic", "weight_decay=1e-3", "k=null", "augment=false", 'family_options={"n": 3}',
                        "model=mlp"])
    found = (config.weight_decay, config.k, config.augment, config.family_options, config.model)
    assert found == (1e-3, None, False, {"n": 3}, "mlp")


def test_a_cell_is_found_with_its_title():
    cell = grids.load("first-study").cells[0]
    config, title = run.find_cell("first-study", cell.config.run_id)
    assert config == cell.config
    assert title == "Cross entropy: all images, 8 epochs (seed 0)"


def test_a_page_shows_only_what_was_chosen():
    assert run.changed(RunConfig.from_dict(TINY)) == TINY


def test_paths_inside_the_project_are_shown_from_its_root(root, tmp_path):
    assert run.shown(root / "experiments" / "records") == "experiments/records"
    assert run.shown(tmp_path) == str(tmp_path)


def test_a_run_that_another_process_works_on_is_waited_for(tmp_path, capsys):
    output = sweep.Output(tmp_path)
    output.prepare()
    assert run.wait_until_free(output, "0" * 12) is False
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import sys, time; from pathlib import Path; from paperlib.sweep import Output\n"
         f"with Output(Path({str(tmp_path)!r})).claim('{'0' * 12}') as claimed:\n"
         f"    print(claimed, flush=True); time.sleep(1)"], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == "True\n"
        assert run.wait_until_free(output, "0" * 12, seconds=0.05) is True
    assert "waiting for it" in capsys.readouterr().err


# A run from the command line


def test_the_runner_writes_the_record_that_training_gives(record):
    again = train.train(RunConfig.from_dict(TINY), quiet=True)
    assert (record.history, record.validation, record.test) == (again.history, again.validation, None)


def test_the_page_names_the_run(done, record):
    text = "\n".join(output["data"].get("text/markdown", "") for cell in done.cells
                     for output in cell.get("outputs", []) if "data" in output)
    assert "is trained for 2 epochs on scikit-learn's digits with **top-k transition** (k = 2, gate = none)" in text
    assert "strength rises from 0 at 50 % of training to its full value at 100 %; seed 0" in text
    assert "**validation split**" in text and f"`{record.run_id}`" in text
    assert "There is no earlier record" in text
    assert done.metadata["paperlib"] == {"run_id": record.run_id}


def test_another_protocol_is_named_as_the_reason_for_other_ranks(record):
    (cell,) = [cell for cell in source_cells() if "def compare" in cell.source]
    names = {"split": "validation", "record": record, "earlier": [], "Markdown": str, "reruns": reruns,
             "percent": lambda x: f"{x:.2f}"}
    exec(cell.source, names)
    assert "reproduces the committed record" in names["compare"](record, [record])
    validation = record.validation | {"ranks": records.encode_ranks(record.ranks("validation") % 10 + 1)}
    other = dataclasses.replace(record, validation=validation)
    assert "on the same instruction set and library versions only." in (text := names["compare"](record, [other]))
    assert "no spread known (top-1 " in text and "expected of a further seed" not in text
    config = RunConfig.from_dict(record.config).replace(seed=7)
    third = dataclasses.replace(record, config=config.to_dict(), run_id=config.run_id)
    moved = dataclasses.replace(other, environment=record.environment | {"cpu_capability": "ALTIVEC"})
    text = names["compare"](record, [moved, third])
    assert "within the spread (top-1 " in text and "% there, expected of a further seed " in text
    assert f"here, cpu_capability {record.environment['cpu_capability']} instead of ALTIVEC." in text
    older = names["compare"](record, [dataclasses.replace(other, protocol=0)])
    assert f"Protocols {record.protocol} and 0: the same keys" in older and "instruction set" not in older


def table_of(notebook: nbformat.NotebookNode, heading: str) -> list[list[str]]:
    """The rows of the Markdown table that has a column of this name."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/markdown", "")
            if heading in text.split("\n")[0]:
                return [[field.strip() for field in line.strip("|").split("|")] for line in text.splitlines()]
    raise AssertionError(f"no table has a column {heading!r}")


def test_the_page_lists_what_differs_from_the_defaults(done):
    keys = [row[0].strip("`") for row in table_of(done, "this run")[2:]]
    assert sorted(keys) == sorted(TINY)


def test_the_page_shows_the_accuracies_of_the_record(done, record):
    rows = {int(row[0]): row[1] for row in table_of(done, "candidates k")[2:]}
    ranks = record.ranks("validation")
    assert rows == {k: f"{100 * (ranks <= k).mean():.1f}" for k in (1, 2, 5, 10)}


def test_the_hardest_images_are_those_of_the_record(done, record):
    rows = table_of(done, "candidates shown")[2:]
    ranks = record.ranks("validation")
    assert [int(row[2]) for row in rows] == sorted(ranks, reverse=True)[:10]
    assert [int(row[2]) for row in rows] == [ranks[int(row[0])] for row in rows]
    assert all(row[3].count("(") == 5 for row in rows), "five candidates with their probabilities"
    for row in rows:
        shown = [candidate.split()[0] for candidate in row[3].split(", ")]
        assert (row[1].strip("*") in shown) == (int(row[2]) <= 5)


def test_the_notebook_says_nothing_of_the_machine(done, copy):
    text = (copy / "page.ipynb").read_text()
    assert str(copy) not in text and str(Path.home()) + "/" not in text
    assert set(done.metadata) == {"kernelspec", "language_info", "paperlib"}
    assert [cell.id for cell in done.cells] == [f"cell-{number}" for number in range(len(done.cells))]
    assert not [cell for cell in done.cells if {"papermill", "execution"} & set(cell.metadata)]


def test_the_notebook_has_two_figures_and_no_complaint(done):
    outputs = [(cell, output) for cell in done.cells for output in cell.get("outputs", [])]
    assert not [output for _, output in outputs if output.output_type in ("error", "stream")]
    drawn = [cell for cell, output in outputs if "image/png" in output.get("data", {})]
    assert len(drawn) == 2 and all(cell.metadata["mystnb"]["image"]["alt"] for cell in drawn)


def test_a_finished_run_leaves_only_its_record(copy, done, record):
    left = {path.suffix for path in (copy / "records" / ".work").rglob("*") if path.is_file()}
    assert left <= {".lock"}
    assert not list(copy.glob("experiments/logs/*.failed.ipynb"))


def test_a_failed_run_is_kept_apart_and_reported(copy):
    called = call(copy, "-m", "experiments.run", "--out", "failing", "--notebook", "failing.ipynb", "dataset=digits",
                  "model=mlp", "loss=cross_entropi")
    assert called.returncode == 1
    assert "unknown loss 'cross_entropi'" in called.stderr
    (kept,) = copy.glob("experiments/logs/*.failed.ipynb")
    assert str(kept) in called.stderr and "cross_entropi" in kept.read_text()
    assert not (copy / "failing.ipynb").exists() and not list(copy.glob("failing/*.json"))
    kept.unlink()


# Plain papermill


def test_plain_papermill_repeats_the_run_and_keeps_the_record(copy, record):
    path = copy / "records" / f"{record.run_id}.json"
    before = path.read_bytes()
    parameters = [f"-p {key} {value}" for key, value in TINY.items() if key != "loss_options"]
    called = plain_papermill(copy, copy / "again.ipynb", *parameters, "-y 'loss_options: {gate: none}'",
                             "-p out records", PAPERLIB_RECORDS=str(copy / "records"))
    assert called.returncode == 0, called.stderr
    assert (f"the ranks of all {record.validation['n']} validation images are identical"
            in (copy / "again.ipynb").read_text())
    assert path.read_bytes() == before


def test_plain_papermill_refuses_an_unknown_parameter(copy):
    called = plain_papermill(copy, copy / "refused.ipynb", "-p dataset digits", "-p epoch 3", "-p out refused")
    assert called.returncode != 0
    assert "unknown parameter 'epoch': did you mean 'epochs'?" in called.stderr
    assert not (copy / "refused").exists()


# The exemplary pages


def test_every_exemplary_run_is_a_cell_of_its_grid():
    assert len({exemplar.name for exemplar in make_runs.EXEMPLARS}) == len(make_runs.EXEMPLARS)
    for exemplar in make_runs.EXEMPLARS:
        _, cell = make_runs.find(exemplar)
        assert cell.config.evaluate_test
    with pytest.raises(ValueError, match="has no cell all/nothing/seed 0"):
        make_runs.find(make_runs.Exemplar("first-study", "all", "nothing"))


def test_every_page_of_a_run_is_an_exemplary_one(root):
    pages = {path.stem: nbformat.read(path, as_version=4) for path in (root / "book" / "runs").glob("*.ipynb")}
    known = {exemplar.name: make_runs.find(exemplar)[1].config.run_id for exemplar in make_runs.EXEMPLARS}
    assert {name: page.metadata["paperlib"]["run_id"] for name, page in pages.items()}.items() <= known.items()


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        make_runs.main(["nobody"])
    assert f"expected one of {make_runs.EXEMPLARS[0].name}" in capsys.readouterr().err


def test_a_page_is_made_once_for_the_same_code(copy):
    code = ("from experiments import make_runs as m; m.EXEMPLARS = (m.Exemplar('tiny', 'digits', 'ce', 1),); "
            "raise SystemExit(m.main([]))")
    first = call(copy, "-c", code)
    assert (first.returncode, first.stdout) == (0, "tiny-digits-ce: executed\n"), first.stderr
    page = copy / "book" / "runs" / "tiny-digits-ce.ipynb"
    notebook, before = nbformat.read(page, as_version=4), page.stat().st_mtime_ns
    assert notebook.cells[0].source.startswith("# Cross entropy: digits, 1 epoch (seed 1)\n")
    assert "digest" not in notebook.metadata and set(notebook.metadata["paperlib"]) == {"run_id", "code"}
    assert call(copy, "-c", code).stdout == "tiny-digits-ce: up to date\n"
    assert page.stat().st_mtime_ns == before


def test_changed_code_makes_a_page_out_of_date(root, tmp_path, monkeypatch):
    copy = copy_of_the_project(root, tmp_path)
    monkeypatch.setattr(run, "ROOT", copy)
    monkeypatch.setattr(run, "SOURCE", copy / "experiments" / "train.md")
    page, code = tmp_path / "page.ipynb", make_runs.digest()
    nbformat.write(nbformat.v4.new_notebook(metadata={"paperlib": {"run_id": "1", "code": code}}), page)
    assert make_runs.up_to_date(page, "1", make_runs.digest())
    assert not make_runs.up_to_date(page, "2", make_runs.digest())
    assert not make_runs.up_to_date(tmp_path / "absent.ipynb", "1", code)
    with open(copy / "paperlib" / "train.py", "a") as file:
        file.write("# changed\n")
    assert not make_runs.up_to_date(page, "1", make_runs.digest())
