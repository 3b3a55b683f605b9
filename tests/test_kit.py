"""What comes before a grid on a lent machine: its checks, its speed table, and cells that the budget has time for."""

from __future__ import annotations

import functools
import importlib.machinery
import json
import math
import os
import shutil
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from processes import BARE_MACHINE
from test_sweep import BASE, GROUPED, contents, run_ids, write_grid

from paperlib import checks, engine, grids, kit, losses, records, sweep, train
from paperlib.data import DataError, images
from paperlib.kit import Kit, Schedule
from paperlib.losses import LossSpec

CPU = torch.device("cpu")
KIT = BASE.replace("seeds", "kit = true\nseeds")
CONFIG = train.RunConfig(dataset="synthetic", family="capacity_competition", family_options={"n": 600}, model="mlp",
                         width=4, batch_size=100, precision="fp32", lr=0.5)


# The whole path, as on a machine that is lent: nothing there but torch, torchvision, numpy and Pillow, no git, and a
# folder with the library, one grid and the data.

SLOWLY = """
import sys, time
from paperlib import sweep
from paperlib.checkpoint import Checkpoint
save = Checkpoint.save
def save_slowly(*arguments):
    save(*arguments)
    time.sleep(0.2)
Checkpoint.save, Checkpoint.__init__.__defaults__ = save_slowly, (0.0,)
sys.exit(sweep.main(sys.argv[1:]))
"""
CIFAR = """
[[setup]]
name = "cifar"
label = "CIFAR-100"
dataset = "cifar100"
family = "none"
family_options = {}
train_fraction = 0.004
model = "speednet"
width = 8
epochs = 1
precision = "bf16"
"""


@pytest.fixture
def machine(root, tmp_path) -> Path:
    """A folder with no more than travels, and every Python that is started in it without what is missing there."""
    folder = tmp_path / "machine"
    shutil.copytree(root / "paperlib", folder / "paperlib", ignore=shutil.ignore_patterns("__pycache__", "benchmark*"))
    # The benchmark of this machine takes minutes, and has tests of its own.
    (folder / "paperlib/benchmark.py").write_text(
        "def measure(device, *, quick, report):\n    return {'rows': [{'device': str(device), 'quick': quick}]}\n")
    (folder / "experiments/grids").mkdir(parents=True)
    more = CIFAR if images.cifar_present() else ""
    text = KIT.replace("[0, 1]", "[0]").replace('[base]\ndataset = "synthetic"\n', "[base]\n").replace(
        'label = "the only one"\n', 'label = "the only one"\ndataset = "synthetic"\n' + more)
    (folder / "experiments/grids/tiny.toml").write_text(text + GROUPED)
    (folder / "sitecustomize.py").write_text(BARE_MACHINE)
    (folder / "bin").mkdir()
    return folder


def test_the_whole_path_from_a_bare_machine_into_the_records(machine, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(machine), "PATH": str(machine / "bin"), "OMP_NUM_THREADS": "1",
           "PAPERLIB_DATA": str(train.data.images.paths.DATA)}
    out = machine / "tiny.jsonl"
    arguments = ["tiny", "--out", str(out), "--work", str(tmp_path / "work"), "--budget-minutes", "9",
                 "--commit", "c0ffee", "--device", "cpu"]
    with open(tmp_path / "said", "w") as said:
        first = subprocess.Popen([sys.executable, "-c", SLOWLY, *arguments], cwd=machine, env=env, stderr=said)
    cells = grids.load(machine / "experiments/grids/tiny.toml").cells
    while not (tmp_path / "work" / f"{cells[1].config.run_id}.pt").exists():
        assert first.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.02)
    first.kill()  # in the middle of the second cell
    first.wait()
    assert len(out.read_text().splitlines()) == 1
    assert {path.name for path in machine.glob("tiny.*")} == {"tiny.jsonl", "tiny.checks.json", "tiny.speed.json"}
    checked, speed = (json.loads((machine / f"tiny.{part}.json").read_text()) for part in ("checks", "speed"))
    assert checked["passed"] and checked["code"] == {"commit": "c0ffee", "dirty": None}
    assert [entry["name"] for entry in checked["checks"]][-1] == "deterministic runs repeat and resume"
    assert all(f"loss {name} as on the CPU" in {entry["name"] for entry in checked["checks"]}
               for name in losses.names())
    assert checked["checks"][-1]["found"]["images_per_second"].keys() == {"deterministic", "fast"}
    assert speed["rows"] == [{"device": "cpu", "quick": True}] and speed["complete"]

    before = {path: path.stat().st_mtime_ns for path in machine.glob("tiny.*.json")}
    second = subprocess.run([sys.executable, "-m", "paperlib.sweep", *arguments], cwd=machine, env=env,
                            stderr=subprocess.PIPE, text=True)
    assert second.returncode == 0, second.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is checked or measured twice"
    assert f"{len(cells)} of {len(cells)} cells have a record" in second.stderr

    folder = tmp_path / "records" / "tiny"
    assert records.merge(out, folder) == len(cells) and records.merge(out, folder) == 0
    found = contents(folder)
    assert found.keys() == {cell.config.run_id for cell in cells}
    assert sorted(record.timing["resumed"] for record in records.load(folder)) == [0] * (len(cells) - 1) + [1]
    for cell in cells:
        expected = train.train(cell.config, commit="c0ffee", device="cpu", quiet=True)
        assert found[cell.config.run_id]["validation"] == expected.validation


# What the sweep makes of the checks.


@pytest.fixture
def study(tmp_path) -> Path:
    return write_grid(tmp_path, KIT + GROUPED)


class Parts(list):
    """A list that takes attributes."""


@pytest.fixture
def parts(monkeypatch) -> Parts:
    """Which parts of the kit were made; each writes what a process of its own would have written."""
    made = Parts()

    def make(self: Kit, part: str, seconds: float) -> None:
        made.append(part)
        device = sys.modules["paperlib.environment"].device_name(CPU)
        entries = [{"name": "a thing", "passed": make.passes, "error": "it is broken"}]
        document = {"code": {"commit": self.commit, "dirty": None}, "complete": make.completes,
                    "environment": {"device": device, "torch": torch.__version__}}
        document |= {"passed": make.passes, "checks": entries} if part == "checks" else {"rows": []}
        records.write_atomically(self.sidecars[part], json.dumps(document))

    make.passes = make.completes = True
    monkeypatch.setattr(Kit, "_make", make)
    made.make = make
    return made


@pytest.fixture(autouse=True)
def _handlers(monkeypatch):
    monkeypatch.setattr(sweep.signal, "signal", lambda *_: None)


def sweep_here(grid: Path, out: Path, *arguments: str) -> int:
    return sweep.main([str(grid), "--out", str(out), "--commit", "a", "--device", "cpu", "--limit", "1", *arguments])


@pytest.mark.parametrize("name, places", [
    ("out.jsonl", {"checks": "out.checks.json", "speed": "out.speed.json"}),
    ("out", {"checks": "out/.work/checks.json", "speed": "out/.work/speed.json"})])
def test_sidecars_lie_beside_a_file_and_never_among_records(study, tmp_path, parts, name, places):
    output = sweep.Output(tmp_path / name)
    assert output.sidecars == {part: tmp_path / place for part, place in places.items()}
    assert sweep_here(study, output.path) == 0
    assert parts == ["checks", "speed"] and all(path.exists() for path in output.sidecars.values())
    assert list(contents(output.path)) == run_ids(study)[:1]


def test_what_has_passed_is_not_made_again_on_this_machine_with_this_code(study, tmp_path, parts):
    out = tmp_path / "out.jsonl"
    assert sweep_here(study, out) == sweep_here(study, out) == 0 and parts == ["checks", "speed"]
    assert sweep_here(study, out, "--commit", "another") == 0 and parts == ["checks", "speed"] * 2
    for part, path in sweep.Output(out).sidecars.items():
        parts.clear()
        text = path.read_text().replace(torch.__version__, "1.0")
        path.write_text(text)
        assert sweep_here(study, out, "--commit", "another") == 0 and parts == [part]


def test_code_that_nobody_can_name_is_checked_every_time(study, tmp_path, parts, monkeypatch):
    monkeypatch.setattr("paperlib.environment.code", lambda commit: {"commit": "a", "dirty": True})
    make = parts.make

    def changed(self: Kit, part: str, seconds: float) -> None:
        make(self, part, seconds)
        path = self.sidecars[part]
        path.write_text(path.read_text().replace('"dirty": null', '"dirty": true'))

    monkeypatch.setattr(Kit, "_make", changed)
    out = tmp_path / "out.jsonl"
    assert sweep_here(study, out) == sweep_here(study, out) == 0
    assert parts == ["checks", "speed"] * 2


@pytest.mark.parametrize("attribute, said", [("passes", "CHECK FAILED: a thing: it is broken"),
                                             ("completes", "CHECKS NOT FINISHED: see ")])
def test_a_failed_check_stops_the_sweep_before_it_spends_its_budget(study, tmp_path, parts, capsys, monkeypatch,
                                                                   attribute, said):
    setattr(parts.make, attribute, False)
    out = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(train, "train", lambda *_, **__: pytest.fail("trained on a broken machine"))
        assert sweep_here(study, out) == 3
    error = capsys.readouterr().err
    assert said in error and "No cell was run. To run them all the same: --checks ignore" in error
    assert parts == ["checks"] and not out.exists()
    assert sweep_here(study, out, "--checks", "ignore") == 0
    assert parts == ["checks", "checks"] and list(contents(out)) == run_ids(study)[:1]
    assert said in capsys.readouterr().err


def test_checks_can_be_skipped_and_other_grids_have_none(study, tmp_path, parts):
    assert sweep_here(study, tmp_path / "out.jsonl", "--checks", "skip") == 0
    study.write_text(study.read_text().replace("kit = true", "kit = false"))
    assert sweep_here(study, tmp_path / "out.jsonl", "--limit", "2") == 0
    assert parts == []


def test_a_sweep_waits_for_the_checks_of_another_and_does_not_repeat_them(study, tmp_path, parts):
    output = sweep.Output(tmp_path / "out.jsonl")
    output.prepare()
    with ThreadPoolExecutor() as pool:
        with output.claim("kit"):
            waiting = pool.submit(sweep_here, study, output.path)
            time.sleep(0.5)
            assert parts == [] and not output.path.exists()
            identity = kit._identity("cpu", "a")
            for path in output.sidecars.values():  # what the other one leaves
                document = {"code": {"commit": "a", "dirty": None}, "complete": True, "passed": True, "checks": [],
                            "environment": {"device": identity[2], "torch": identity[3]}}
                records.write_atomically(path, json.dumps(document))
        assert waiting.result() == 0
    assert parts == [] and list(contents(output.path)) == run_ids(study)[:1]


def test_no_budget_no_checks(study, tmp_path, parts):
    assert sweep_here(study, tmp_path / "out.jsonl", "--budget-minutes", "0") == 0 and parts == []


def test_jobs_are_checked_once_and_share_what_is_left_of_the_budget(study, tmp_path, parts, monkeypatch):
    commands = []

    class Worker:
        returncode = 0

        def __init__(self, command, env):
            commands.append(command)

        def poll(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Worker)
    assert sweep_here(study, tmp_path / "out.jsonl", "--jobs", "2", "--budget-minutes", "5") == 0
    assert parts == ["checks", "speed"] and commands
    options = sweep.parser().parse_args(commands[0][3:])
    assert options.checks == "skip" and options.jobs == 1 and 4 < options.budget_minutes < 5


# The processes that make the parts.


@pytest.fixture
def made_by(monkeypatch, tmp_path):
    """A kit whose parts are made by some Python code instead."""
    popen = subprocess.Popen

    def get(code: str, stop=lambda: False) -> Kit:
        monkeypatch.setattr(subprocess, "Popen", lambda command, env: popen([sys.executable, "-c", code, *command],
                                                                            env=env))
        return Kit("tiny", sweep.Output(tmp_path / "out.jsonl").sidecars, "cpu", "a", lambda: 1e9, stop)

    return get


def test_a_part_that_takes_too_long_is_ended(made_by, capsys):
    slow = made_by("import time; time.sleep(600)")
    started = time.monotonic()
    slow._make("checks", 0.1)
    assert time.monotonic() - started < 60 and not slow.sidecars["checks"].exists()
    slow._make("speed", 0.1)
    assert json.loads(slow.sidecars["speed"].read_text()) == {"complete": True, "error": "took longer than 0 s"}
    assert "speed: not finished" in capsys.readouterr().err


def test_a_part_is_ended_when_the_sweep_is_asked_to_stop(made_by):
    stopping = made_by("import time; time.sleep(600)", stop=lambda: True)
    stopping._make("speed", math.inf)
    assert not stopping.sidecars["speed"].exists()


def test_a_part_that_crashes_leaves_the_sweep_alive(made_by, capsys):
    made_by("import os; os.abort()")._make("checks", math.inf)
    assert "checks: the process ended with status -6" in capsys.readouterr().err


def test_a_part_gets_what_it_needs(made_by, tmp_path):
    kit_ = made_by("import json, os, sys; json.dump([sys.argv[2:], os.environ['CUBLAS_WORKSPACE_CONFIG']], "
                   f"open({str(tmp_path / 'seen')!r}, 'w'))")
    kit_._make("checks", math.inf)
    command, workspace = json.loads((tmp_path / "seen").read_text())
    assert command == ["-m", "paperlib.kit", "checks", "tiny", "--write", str(kit_.sidecars["checks"]),
                       "--device", "cpu", "--commit", "a"]
    assert workspace == ":4096:8"


def test_the_speed_table_is_the_benchmark_s(monkeypatch):
    module = types.ModuleType("paperlib.benchmark")
    module.__spec__ = importlib.machinery.ModuleSpec("paperlib.benchmark", None)
    told = []

    def measure(device, *, quick=False, report):
        report({"rows": []})
        return {"rows": [str(device), quick]}

    module.measure = measure
    monkeypatch.setitem(sys.modules, "paperlib.benchmark", module)
    assert kit.speed_table(CPU, told.append) == {"rows": ["cpu", True]} and told == [{"rows": []}]
    assert kit.speed_table(torch.device("cuda")) == {"rows": ["cuda", False]}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "no module paperlib.benchmark" in kit.speed_table(CPU)["error"]


# The checks themselves, and that each can fail.


def broken_loss(monkeypatch, name: str, on_call: int) -> None:
    """The named loss, one per cent too large at one of its calls."""
    spec, calls = losses.SPECS[name], []

    @functools.wraps(spec.function)
    def function(*arguments, **options):
        calls.append(1)
        return spec.function(*arguments, **options) * (1.01 if len(calls) == on_call else 1)

    monkeypatch.setitem(losses.SPECS, name, LossSpec(function, spec.label, spec.cite))


def test_a_loss_that_differs_on_the_device_is_found(monkeypatch):
    assert checks.loss_agrees("topk_entropy", CPU)["value"] < 1e-4
    broken_loss(monkeypatch, "topk_entropy", on_call=3)
    with pytest.raises(checks.CheckFailedError, match="value of topk_entropy is .* away .*expected at most"):
        checks.loss_agrees("topk_entropy", CPU)


@pytest.mark.parametrize("found", [1.01, math.nan, math.inf])
def test_what_is_near(found):
    exact = torch.tensor([1.0, 1000.0], dtype=torch.float64)
    assert checks._near("x", exact + 0.009, exact, exact) == pytest.approx(0.009)
    assert checks._near("x", exact + 0.09, exact + 0.01, exact) == pytest.approx(0.09)
    with pytest.raises(checks.CheckFailedError, match="x is .* away"):
        checks._near("x", torch.tensor([found, 1000.1]), exact, exact)


def test_a_compiled_step_that_differs_is_found(monkeypatch):
    monkeypatch.setattr(engine, "BACKEND", "aot_eager")
    loss = losses.get("topk_transition", k=5, gate="none")
    assert checks.compiled_agrees(loss, CPU)["gradient"] < 1e-5

    def wrong(*_):
        def step(*arguments):
            logits, value = engine.forward(*arguments)
            return logits, 1.001 * value
        return step

    monkeypatch.setattr(engine, "_compiled", wrong)
    with pytest.raises(checks.CheckFailedError, match="loss with compiled topk_transition"):
        checks.compiled_agrees(loss, CPU)
    torch._dynamo.reset()


def test_runs_that_do_not_repeat_are_found(monkeypatch):
    found = checks.runs_repeat(CONFIG, CPU)
    assert found["images_per_second"].keys() == {"deterministic", "fast"} and found["train_loss"] > 0
    really, calls = train.set_learning_rate, iter(range(1, 10_000))
    monkeypatch.setattr(train, "set_learning_rate", lambda optimizer, lr: really(optimizer, lr + 1e-4 * next(calls)))
    with pytest.raises(checks.CheckFailedError, match="the same run again differs in its history and validation"):
        checks.runs_repeat(CONFIG, CPU)


def test_a_resume_that_changes_something_is_found(monkeypatch):
    restore = train.Checkpoint.restore

    def forgetful(self, model, optimizer):
        state = restore(self, model, optimizer)
        optimizer.state.clear()  # the momentum
        return state

    monkeypatch.setattr(train.Checkpoint, "restore", forgetful)
    with pytest.raises(checks.CheckFailedError, match="with a stop and a resume differs in its history"):
        checks.runs_repeat(CONFIG, CPU)


def test_all_checks_are_made_and_written_down_although_some_fail(monkeypatch):
    def missing(config):
        raise DataError("put the files there")

    monkeypatch.setattr(checks.data, "splits", missing)
    broken_loss(monkeypatch, "ldr_kl", on_call=3)
    monkeypatch.setattr(checks, "runs_repeat", lambda config, device: {"train_loss": 1.0})
    written = []
    document = checks.run([CONFIG], CPU, commit="a", report=lambda now: written.append(json.loads(json.dumps(now))))
    failed = {entry["name"]: entry for entry in document["checks"] if not entry["passed"]}
    assert failed.keys() == {"data set synthetic", "loss ldr_kl as on the CPU"}
    assert failed["data set synthetic"]["error"] == "DataError: put the files there"
    assert "traceback" in failed["data set synthetic"] and "traceback" not in failed["loss ldr_kl as on the CPU"]
    assert len(document["checks"]) == len(losses.names()) + 2
    assert (document["passed"], document["complete"]) == (False, True)
    assert [len(found["checks"]) for found in written[:-1]] == list(range(1, len(losses.names()) + 3))
    assert not any(found["complete"] for found in written[:-1]) and written[-1] == document


# Which cells are worth starting.


@pytest.fixture(scope="module")
def finished() -> records.Record:
    """A run of 1,000 images, ten epochs, 100 images a second, and 20 seconds beside the training."""
    record = train.train(CONFIG.replace(epochs=1), commit="a", device="cpu", quiet=True)
    timing = {**record.timing, "images_per_second": 100.0, "wall_seconds": 120.0, "resumed": 0}
    assert record.timing["wall_seconds"] > record.timing["train_seconds"]
    return replace(record, timing=timing, data={**record.data, "train": 1000},
                   config={**asdict(record)["config"], "epochs": 10})


def cell(minutes: float | None = None, **changes) -> grids.Cell:
    return grids.Cell("a grid", "a setup", "a variant", 0, CONFIG.replace(epochs=10, **changes), minutes)


def test_the_time_of_a_cell_follows_from_those_that_finished(finished):
    schedule = Schedule(600, lambda: 600, finished.environment["device"])
    assert schedule.seconds(cell()) is None and schedule.seconds(cell(minutes=2)) == 120
    schedule.learn(finished)
    assert schedule.seconds(cell(minutes=99)) == pytest.approx(120)
    assert schedule.seconds(cell(loss="topk_grouped", k=2, seed=5, lr=0.1)) == pytest.approx(120)
    assert schedule.seconds(cell(train_fraction=0.2)) == pytest.approx(40)
    assert schedule.seconds(cell(minutes=3, width=8)) == 180


@pytest.mark.parametrize("changes", [{"resumed": 1}, {"images_per_second": None}, {"wall_seconds": None}])
def test_runs_that_say_little_about_time_are_no_measure(finished, changes):
    schedule = Schedule(600, lambda: 600, finished.environment["device"])
    schedule.learn(replace(finished, timing={**finished.timing, **changes}))
    assert schedule.seconds(cell()) is None


def test_other_machines_are_no_measure(finished):
    schedule = Schedule(600, lambda: 600, "another device")
    schedule.learn(finished)
    assert schedule.seconds(cell()) is None


@pytest.mark.parametrize("minutes, left, starts", [
    (1, 67, True), (1, 65, False), (None, 1, True),
    (10, 5, True),  # longer than the whole budget: it can be finished in pieces only
])
def test_a_cell_is_started_only_where_there_is_time_for_it(minutes, left, starts):
    assert Schedule(600, lambda: left, "a device").has_time_for(cell(minutes)) is starts


@pytest.fixture
def long_and_short(tmp_path, monkeypatch) -> Path:
    """A grid of two runs, of five minutes and of seconds, while one minute is left of ten."""
    monkeypatch.setattr(sweep.StopRequest, "left", lambda self: 60.0)
    setups = 'label = "the only one"\nminutes = 5\n[[setup]]\nname = "short"\nlabel = "s"\nepochs = 1\nminutes = 0.1'
    return write_grid(tmp_path, KIT.replace("[0, 1]", "[0]").replace('label = "the only one"', setups))


TEN_MINUTES = ("--budget-minutes", "10", "--limit", "2")


def test_cells_without_time_are_left_out_and_shorter_ones_run(long_and_short, tmp_path, parts, capsys):
    long, short = run_ids(long_and_short)
    assert sweep_here(long_and_short, tmp_path / "out.jsonl", *TEN_MINUTES) == 0
    assert contents(tmp_path / "out.jsonl").keys() == {short}
    assert f"{long} only/ce/seed 0: not started, no time is left for it" in capsys.readouterr().err


def test_a_cell_with_a_checkpoint_goes_on(long_and_short, tmp_path, parts):
    out, (long, short) = tmp_path / "out.jsonl", run_ids(long_and_short)
    config = grids.load(long_and_short).cells[0].config
    steps = iter(range(2))
    with pytest.raises(train.TrainingInterruptedError):
        train.train(config, checkpoint=sweep.Output(out).work / f"{long}.pt", stop=lambda: next(steps, None) is None,
                    quiet=True, device="cpu")
    assert sweep_here(long_and_short, out, *TEN_MINUTES) == 0
    assert contents(out).keys() == {long, short}


def test_finished_cells_in_the_file_are_the_measure_and_grids_without_a_kit_have_none(long_and_short, tmp_path, parts,
                                                                                    monkeypatch):
    out, (long, short) = tmp_path / "out.jsonl", run_ids(long_and_short)
    assert sweep_here(long_and_short, out, *TEN_MINUTES) == 0
    long_and_short.write_text(long_and_short.read_text().replace("minutes = 5", "minutes = 4"))  # not believed now
    assert sweep_here(long_and_short, out, *TEN_MINUTES) == 0
    assert contents(out).keys() == {long, short}

    long_and_short.write_text(long_and_short.read_text().replace("kit = true", ""))
    assert sweep_here(long_and_short, tmp_path / "plain.jsonl", *TEN_MINUTES) == 0
    assert contents(tmp_path / "plain.jsonl").keys() == {long, short}


# What a sweep may leave to other places.


def test_checkpoints_and_locks_go_where_they_are_wanted(study, tmp_path, parts):
    assert sweep_here(study, tmp_path / "out/out.jsonl", "--work", str(tmp_path / "work")) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"out.jsonl", "out.checks.json", "out.speed.json"}
    assert list((tmp_path / "work").glob("*.lock"))


def test_runs_with_a_record_elsewhere_are_not_made_again(study, tmp_path, parts, capsys, monkeypatch):
    assert sweep_here(study, tmp_path / "records/study") == 0
    with monkeypatch.context() as patch:
        patch.setattr(train, "train", lambda *_, **__: pytest.fail("trained twice"))
        assert sweep_here(study, tmp_path / "out.jsonl", "--done", str(tmp_path / "records")) == 0
    assert "0 of 0 cells have a record" in capsys.readouterr().err
    assert sweep_here(study, tmp_path / "out.jsonl", "--done", str(tmp_path / "records"), "--limit", "2") == 0
    assert list(contents(tmp_path / "out.jsonl")) == run_ids(study)[1:2]
    assert sweep_here(study, tmp_path / "out.jsonl", "--done", str(tmp_path / "nowhere")) == 2
    assert "no records at" in capsys.readouterr().err


def test_how_steps_run_is_an_option_of_the_sweep(study, tmp_path, parts, monkeypatch):
    seen = []

    def look(config, **options):
        seen.append((options["compile"], options["deterministic"]))
        raise OSError("enough")

    monkeypatch.setattr(train, "train", look)
    monkeypatch.setenv(engine.WORKSPACE, "")  # put back afterwards
    monkeypatch.delenv(engine.WORKSPACE)
    for arguments in ([], ["--compile"], ["--no-compile", "--deterministic"]):
        assert sweep_here(study, tmp_path / "out.jsonl", *arguments) == 1
        assert (engine.WORKSPACE in os.environ) is ("--deterministic" in arguments), "before anything starts CUDA"
    assert seen == [(None, False), (True, False), (False, True)]
    assert os.environ[engine.WORKSPACE] in engine.WORKSPACE_SIZES
