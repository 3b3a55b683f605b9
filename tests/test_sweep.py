"""Sweeps: every cell exactly once, whatever is killed, broken or running beside it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from processes import BARE_MACHINE, CONTEXT

from paperlib import grids, predictions, records, sweep, train
from paperlib.checkpoint import Checkpoint
from paperlib.data import images

BASE = """
title = "A small study"
seeds = [0, 1]
[base]
dataset = "synthetic"
family = "capacity_competition"
family_options = { n = 600 }
model = "mlp"
width = 4
epochs = 2
batch_size = 100
lr = 0.5
precision = "fp32"
evaluate_every = 2
[[setup]]
name = "only"
label = "the only one"
[[variant]]
name = "ce"
label = "cross entropy"
loss = "cross_entropy"
"""
GROUPED = """
[[variant]]
name = "grouped"
label = "grouped"
loss = "topk_grouped"
k = 2
"""
BROKEN = """
[[variant]]
name = "broken"
label = "k beyond the classes"
loss = "topk_grouped"
k = 9
"""


@pytest.fixture(autouse=True)
def _signal_handlers():
    """A sweep in this process takes SIGTERM and SIGINT; give them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def study(tmp_path) -> Path:
    """A grid of four runs of a fraction of a second."""
    return write_grid(tmp_path, BASE + GROUPED)


def write_grid(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


def run_ids(grid: Path) -> list[str]:
    return [cell.config.run_id for cell in grids.load(grid).cells]


def sweep_here(grid: Path, out: Path, *arguments: str) -> int:
    return sweep.main([str(grid), "--out", str(out), "--commit", "a test", "--device", "cpu", *arguments])


def contents(source: Path) -> dict[str, dict]:
    """Records by run id, without what depends on the clock."""
    found = {record.run_id: asdict(record) for record in records.load(source)}
    for document in found.values():
        del document["timing"]
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, dict]:
    """The records of the four runs, swept once without any trouble."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    assert sweep_here(write_grid(folder, BASE + GROUPED), folder / "out") == 0
    for number, handler in before.items():
        signal.signal(number, handler)
    return contents(folder / "out")


# What is done, and what is left alone.


@pytest.mark.parametrize("name", ["out", "out.jsonl"])
def test_a_second_sweep_does_nothing(study, tmp_path, name, uninterrupted, monkeypatch, capsys):
    out = tmp_path / name
    assert sweep_here(study, out) == 0
    assert contents(out) == uninterrupted
    assert "4 of 4 cells have a record" in capsys.readouterr().err

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*") if path.is_file()}

    before = written()

    monkeypatch.setattr(train, "train", lambda *_, **__: pytest.fail("trained again"))
    assert sweep_here(study, out) == 0
    assert written() == before


def test_finished_cells_leave_no_checkpoint_and_records_nothing_but_records(study, tmp_path, uninterrupted):
    assert sweep_here(study, tmp_path / "out") == 0
    assert not list(tmp_path.rglob("*.pt*"))
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {f"{run_id}.json" for run_id in run_ids(study)}


def test_only_missing_cells_are_run_in_the_order_of_the_grid(study, tmp_path, uninterrupted, monkeypatch):
    out, order, really = tmp_path / "out", [], train.train
    assert sweep_here(study, out) == 0
    ids = run_ids(study)
    for index in (3, 1):
        (out / f"{ids[index]}.json").unlink()

    def watched(config, **options):
        order.append(config.run_id)
        return really(config, **options)

    monkeypatch.setattr(train, "train", watched)
    assert sweep_here(study, out) == 0
    assert order == [ids[1], ids[3]] and contents(out) == uninterrupted


def test_a_limit_takes_the_first_cells(study, tmp_path, capsys):
    assert sweep_here(study, tmp_path / "out", "--limit", "1") == 0
    assert list(contents(tmp_path / "out")) == run_ids(study)[:1]
    assert "1 of 1 cells" in capsys.readouterr().err


def test_one_setup_can_be_finished_before_the_others(tmp_path, capsys):
    other = '[[setup]]\nname = "wide"\nlabel = "a wider one"\nwidth = 5\n'
    study = write_grid(tmp_path, BASE.replace("[[variant]]", other + "[[variant]]"))
    wide = [cell.config.run_id for cell in grids.load(study).cells if cell.setup == "wide"]
    assert sweep_here(study, tmp_path / "out", "--setup", "wide", "--limit", "1") == 0
    assert list(contents(tmp_path / "out")) == wide[:1]
    assert sweep_here(study, tmp_path / "out", "--setup", "wide") == 0
    assert set(contents(tmp_path / "out")) == set(wide) and "2 of 2 cells" in capsys.readouterr().err
    assert sweep_here(study, tmp_path / "out", "--setup", "wide", "--setup", "only") == 0
    assert len(contents(tmp_path / "out")) == 4
    assert sweep_here(study, tmp_path / "none", "--setup", "wider") == 2
    assert "--setup wider: expected one of only, wide, the setups of study" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_predictions_are_kept_where_asked(study, tmp_path):
    assert sweep_here(study, tmp_path / "records", "--limit", "1", "--predictions", str(tmp_path / "kept")) == 0
    [run_id] = contents(tmp_path / "records")
    record = records.load(tmp_path / "records")[0]
    assert len(predictions.load(tmp_path / "kept", run_id, "validation").labels) == record.validation["n"]


def test_no_budget_no_run(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "train", lambda *_, **__: pytest.fail("trained without a budget"))
    assert sweep_here(study, tmp_path / "out", "--budget-minutes", "0") == 0
    assert records.load(tmp_path / "out") == []
    assert "0 of 4 cells have a record" in capsys.readouterr().err


def test_a_budget_that_ends_in_mid_run_is_kept_and_the_next_sweep_goes_on(study, tmp_path, monkeypatch, uninterrupted):
    ids, fit, now = run_ids(study), train.fit, time.monotonic

    def late(*arguments, checkpoint, **options):
        """The time is up during the second cell."""
        if checkpoint.run_id == ids[1]:
            monkeypatch.setattr(sweep.time, "monotonic", lambda: now() + 3600)
        return fit(*arguments, checkpoint=checkpoint, **options)

    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", late)
        assert sweep_here(study, tmp_path / "out", "--budget-minutes", "50") == 0
    monkeypatch.setattr(sweep.time, "monotonic", now)
    assert list(contents(tmp_path / "out")) == [ids[0]]
    assert [path.stem for path in tmp_path.rglob("*.pt")] == [ids[1]]
    assert sweep_here(study, tmp_path / "out", "--budget-minutes", "50") == 0
    assert contents(tmp_path / "out") == uninterrupted
    assert sum(record.timing["resumed"] for record in records.load(tmp_path / "out")) == 1


# Trouble.


@pytest.mark.parametrize("name", ["out", "out.jsonl"])
def test_a_broken_cell_costs_the_others_nothing(tmp_path, name, uninterrupted, capsys):
    grid, out = write_grid(tmp_path, BASE + BROKEN + GROUPED), tmp_path / name
    assert sweep_here(grid, out) == 1
    assert contents(out) == uninterrupted
    error = capsys.readouterr().err
    assert "4 of 6 cells have a record" in error and "2 failed here" in error
    broken = [cell.config.run_id for cell in grids.load(grid).cells if cell.variant == "broken"]
    reports = {path.stem: json.loads(path.read_text()) for path in sweep.Output(out).failed.iterdir()}
    assert reports.keys() == set(broken)
    assert all(f"FAILED {run_id} only/broken/seed" in error for run_id in broken)
    report = reports[broken[0]]
    assert report["run_id"] == broken[0] and report["cell"] == "only/broken/seed 0"
    assert report["error"].startswith("ValueError: ") and "k=9" in report["error"]
    assert "Traceback" in report["traceback"]


def test_a_run_that_diverges_is_reported_with_its_place(tmp_path):
    grid, out = write_grid(tmp_path, BASE.replace("lr = 0.5", "lr = 1e30")), tmp_path / "out"
    assert sweep_here(grid, out, "--limit", "1") == 1
    report = json.loads((sweep.Output(out).failed / f"{run_ids(grid)[0]}.json").read_text())
    assert report["where"]["epoch"] == 1 and report["where"]["step"] >= 1 and "diverged" in report["error"]


def test_a_cell_that_works_again_loses_its_report(study, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(train, "train", fail)
        assert sweep_here(study, tmp_path / "out", "--limit", "1") == 1
    failed = sweep.Output(tmp_path / "out").failed
    assert len(list(failed.iterdir())) == 1
    assert sweep_here(study, tmp_path / "out", "--limit", "1") == 0
    assert list(failed.iterdir()) == []


def test_a_record_that_cannot_be_read_is_one_failed_cell(study, tmp_path, uninterrupted, capsys):
    out, broken = tmp_path / "out", run_ids(study)[1]
    records.write_atomically(out / f"{broken}.json", '{"schema": 1, "run')
    assert sweep_here(study, out) == 1
    error = capsys.readouterr().err
    assert f"{broken} failed: {out / broken}.json: expected a JSON record" in error and "3 of 4 cells" in error
    assert (out / f"{broken}.json").read_text() == '{"schema": 1, "run', "nothing is deleted unasked"
    (out / f"{broken}.json").unlink()
    assert sweep_here(study, out) == 0 and contents(out) == uninterrupted


def test_a_torn_line_costs_only_its_own_cell(study, tmp_path, uninterrupted, monkeypatch):
    out, trained, really = tmp_path / "out.jsonl", [], train.train
    assert sweep_here(study, out) == 0
    out.write_bytes(out.read_bytes()[:-100])

    def watched(config, **options):
        trained.append(config.run_id)
        return really(config, **options)

    monkeypatch.setattr(train, "train", watched)
    assert sweep_here(study, out) == 0
    assert trained == run_ids(study)[3:] and contents(out) == uninterrupted


def test_a_single_file_is_read_once_and_what_others_append_is_seen(study, tmp_path, uninterrupted, monkeypatch):
    out, read, really = tmp_path / "out.jsonl", [], records.parse
    assert sweep_here(study, out) == 0
    monkeypatch.setattr(records, "parse", lambda *a: read.append(a) or really(*a))
    output, (first, *others) = sweep.Output(out), run_ids(study)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0])
    assert output.has(first) and not any(map(output.has, others)) and len(read) == 1
    out.write_text("".join(lines))
    assert all(map(output.has, [first, *others])) and not output.has("no run") and len(read) == len(lines)
    assert contents(out) == uninterrupted


def test_an_unknown_grid_is_an_error_of_use(tmp_path, capsys):
    assert sweep_here(Path("no-such-grid"), tmp_path / "out") == 2
    assert "unknown grid 'no-such-grid': expected one of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["a file", "below a file", "a folder.jsonl"])
def test_an_output_that_cannot_be_written_is_an_error_of_use(study, tmp_path, capsys, monkeypatch, place):
    (tmp_path / "a file").write_text("precious")
    (tmp_path / "a folder.jsonl").mkdir()
    out = tmp_path / "a file" / "out" if place == "below a file" else tmp_path / place
    monkeypatch.setattr(train, "train", lambda *_, **__: pytest.fail("trained for nothing"))
    assert sweep_here(study, out) == 2
    assert f"cannot write to {out}" in capsys.readouterr().err
    assert (tmp_path / "a file").read_text() == "precious"


def test_a_missing_argument_is_an_error_of_use(study):
    with pytest.raises(SystemExit) as caught:
        sweep.main([str(study)])
    assert caught.value.code == 2


@pytest.mark.parametrize("option, value", [("--budget-minutes", "nan"), ("--budget-minutes", "-1"), ("--jobs", "0"),
                                           ("--limit", "-1"), ("--limit", "two")])
def test_a_number_that_means_nothing_is_an_error_of_use(study, tmp_path, capsys, option, value):
    with pytest.raises(SystemExit) as caught:
        sweep_here(study, tmp_path / "out", option, value)
    assert caught.value.code == 2
    assert f"argument {option}: '{value}', expected a number of at least" in capsys.readouterr().err


@pytest.mark.parametrize("kit", [False, True])
@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_one_error_and_not_one_a_cell(tmp_path, capsys, device, kit):
    study = write_grid(tmp_path, f"kit = {str(kit).lower()}{BASE}")
    assert sweep.main([str(study), "--out", str(tmp_path / "out.jsonl"), "--device", device]) == 2
    assert f"device='{device}'" in capsys.readouterr().err


def test_a_file_that_holds_something_else_is_an_error_of_use(study, tmp_path, capsys):
    (tmp_path / "out.jsonl").write_text('{"schema": 99}\n')
    assert sweep_here(study, tmp_path / "out.jsonl") == 2
    assert "out.jsonl, line 1: record schema 99" in capsys.readouterr().err


# Processes: killed, stopped, side by side.


def sweep_slowly(grid: Path, out: Path, said: Path, together: Barrier | None) -> None:
    """A sweep that saves a checkpoint after every step and takes its time over each."""
    save = Checkpoint.save

    def save_slowly(*arguments):
        save(*arguments)
        time.sleep(0.1)

    Checkpoint.__init__.__defaults__ = (0.0,)  # seconds
    Checkpoint.save = save_slowly
    os.dup2(os.open(said, os.O_CREAT | os.O_WRONLY), sys.stderr.fileno())
    if together:
        together.wait()
    sys.exit(sweep_here(grid, out))


def start(grid: Path, out: Path, said: Path, together: Barrier | None = None) -> BaseProcess:
    """A slow sweep in a process of its own, whose messages go into the file ``said``."""
    process = CONTEXT.Process(target=sweep_slowly, args=(grid, out, said, together))
    process.start()
    return process


def command_line(grid: Path, out: Path, *arguments: str, code: str | None = None, root: Path) -> tuple[int, str]:
    """Exit code and messages of the command, or of Python code with its arguments."""
    command = [sys.executable, *(["-c", code] if code else ["-m", "paperlib.sweep"]), str(grid), "--out", str(out)]
    done = subprocess.run([*command, "--commit", "a test", "--device", "cpu", *arguments], cwd=root,
                          stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("name, how, code", [("out", signal.SIGKILL, -signal.SIGKILL),
                                             ("out.jsonl", signal.SIGTERM, 0)], ids=["killed", "asked to stop"])
def test_a_sweep_ended_in_mid_run_goes_on_where_it_was(study, tmp_path, uninterrupted, name, how, code):
    out, second = tmp_path / name, run_ids(study)[1]
    process = start(study, out, tmp_path / "said")
    while not (sweep.Output(out).work / f"{second}.pt").exists():
        assert process.is_alive(), (tmp_path / "said").read_text()
        time.sleep(0.01)
    os.kill(process.pid, how)  # the second of four runs is under way
    process.join()
    assert process.exitcode == code
    said = (tmp_path / "said").read_text()
    assert "Traceback" not in said
    if how == signal.SIGTERM:
        assert f"run {second} stopped as asked" in said and "1 of 4 cells have a record" in said
    assert list(contents(out)) == run_ids(study)[:1]

    assert sweep_here(study, out) == 0
    assert contents(out) == uninterrupted
    resumed = {record.run_id: record.timing["resumed"] for record in records.load(out)}
    assert resumed == {run_id: int(run_id == second) for run_id in resumed}


def test_two_sweeps_side_by_side_share_the_cells(study, tmp_path, uninterrupted):
    out = tmp_path / "out.jsonl"  # here a cell that was run twice would stay visible
    together = CONTEXT.Barrier(2)
    sweeps = [start(study, out, tmp_path / f"said{number}", together) for number in (1, 2)]
    for process in sweeps:
        process.join()
    said = [path.read_text() for path in sorted(tmp_path.glob("said*"))]
    assert [process.exitcode for process in sweeps] == [0, 0], said
    assert len(out.read_text().splitlines()) == 4 and contents(out) == uninterrupted
    assert all("only/" in text for text in said), "each had a share"


def test_a_claimed_cell_is_left_to_its_owner(study, tmp_path, monkeypatch):
    """A sweep does not wait for another: it takes what is free."""
    output = sweep.Output(tmp_path / "out")
    output.prepare()
    mine, *others = run_ids(study)
    with output.claim(mine) as got:
        assert got
        with output.claim(mine) as again:
            assert not again
        assert sweep_here(study, output.path) == 0
        assert set(contents(output.path)) == set(others)
    with output.claim(mine) as free:
        assert free


def test_jobs_run_side_by_side(tmp_path, root, uninterrupted):
    grid, out = write_grid(tmp_path, BASE + GROUPED + BROKEN), tmp_path / "out"
    code, said = command_line(grid, out, "--jobs", "2", root=root)
    assert code == 1, "a failed cell shows in the exit code of the whole"
    assert contents(out) == uninterrupted
    assert "only/ce/seed 0" in said and "2 failed here" in said or said.count("1 failed here") == 2


def test_stopping_several_jobs_stops_each(study, tmp_path, monkeypatch):
    class Worker:
        """A process that ends when told to."""

        def __init__(self, command, env):
            self.command, self.env, self.returncode, self.told = command, env, None, 0
            workers.append(self)

        def poll(self):
            if len(workers) == 2 and not any(worker.told for worker in workers):
                os.kill(os.getpid(), signal.SIGTERM)
            return self.returncode

        def terminate(self):
            self.told, self.returncode = self.told + 1, 0

    workers: list[Worker] = []
    monkeypatch.setattr(subprocess, "Popen", Worker)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert sweep_here(study, tmp_path / "out", "--jobs", "7") == 0
    assert len(workers) == 2, "never more than there are cores"
    assert [worker.told for worker in workers] == [1, 1]
    assert all(worker.env["OMP_NUM_THREADS"] == "1" for worker in workers)
    assert all(worker.command[-2:] == ["--jobs", "1"] for worker in workers)


# A training machine has torch, torchvision and numpy, and need not have more.
WITHOUT = BARE_MACHINE + """
from paperlib import sweep
sys.exit(sweep.main(sys.argv[1:]))
"""


def test_a_training_machine_needs_only_torch_torchvision_and_numpy(tmp_path, root):
    cifar = """
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
    present = images.cifar_present()
    text = BASE.replace("[0, 1]", "[0]").replace("[[variant]]", (cifar if present else "") + "[[variant]]")
    text = text.replace('[base]\ndataset = "synthetic"\n', "[base]\n").replace(
        'label = "the only one"\n', 'label = "the only one"\ndataset = "synthetic"\n')
    out = tmp_path / "out"
    code, said = command_line(write_grid(tmp_path, text), out, code=WITHOUT, root=root)
    assert code == 0, said
    trained = {record.config["dataset"] for record in records.load(out)}
    assert trained == ({"synthetic", "cifar100"} if present else {"synthetic"})


def test_a_stop_request_knows_signals_and_time():
    stop = sweep.StopRequest()
    assert not stop()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop()
    assert sweep.StopRequest(time.monotonic() - 1)() and not sweep.StopRequest(math.inf)()
    interrupted = sweep.StopRequest()
    os.kill(os.getpid(), signal.SIGINT)
    assert interrupted()


def test_one_of_several_jobs_stops_when_the_sweep_that_started_it_is_gone():
    assert not sweep.StopRequest(parent=os.getppid())()
    assert sweep.StopRequest(parent=os.getpid())(), "what started this process is another by now"
