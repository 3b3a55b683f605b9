"""What comes before the cells of a grid that says ``kit = true``, on a machine that is lent for minutes.

Checks of the machine and a table of its speed are made once, each in a process of its own, which may crash, and
written beside the records; which cells are worth starting in the time that is left follows from those that finished.
"""

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paperlib import grids
from paperlib.grids import Cell
from paperlib.processes import end_with_parent
from paperlib.records import Record, write_atomically

PARTS = ("checks", "speed")
#: Deterministic mode needs it before CUDA starts.
WORKSPACE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
#: Of the time that is left, what the speed table may take before it is given up.
SPEED_SHARE = 1 / 3
#: By how much a cell may take longer than the last one like it.
MARGIN = 1.1
#: Keys that decide how long a step takes. The loss is not among them: beside the network its time is not seen.
WORK = ("dataset", "model", "width", "depth", "batch_size", "precision", "low_resolution", "low_resolution_until",
        "augment")


@dataclass(frozen=True)
class Kit:
    """Checks and speed table of one machine for one grid."""

    grid: str
    sidecars: dict[str, Path]  #: by part
    device: str | None
    commit: str | None
    left: Callable[[], float]  #: seconds of the budget
    stop: Callable[[], bool]

    def prepare(self) -> bool:
        """Make what is not there yet; False if a check failed or could not be finished."""
        identity = _identity(self.device, self.commit)
        if not _is_done(self.sidecars["checks"], identity):
            say(f"checks: {self.sidecars['checks']}")
            self._make("checks", self.left())
        for line in _failures(self.sidecars["checks"]):
            say(line)
        passed = _is_done(self.sidecars["checks"], identity, repeat_changed=False)
        if passed and not self.stop() and not _is_done(self.sidecars["speed"], identity):
            say(f"speed table: {self.sidecars['speed']}")
            self._make("speed", self.left() * SPEED_SHARE)
        return passed

    def _make(self, part: str, seconds: float) -> None:
        """One part in a process of its own: an assertion on a GPU ends the process that it happens in."""
        path = self.sidecars[part]
        path.unlink(missing_ok=True)
        command = [sys.executable, "-m", "paperlib.kit", part, self.grid, "--write", str(path)]
        for name, value in (("--device", self.device), ("--commit", self.commit)):
            command += [name, value] if value else []
        child = subprocess.Popen(command, env={**WORKSPACE, **os.environ})
        ends = time.monotonic() + seconds
        while child.poll() is None and not self.stop() and time.monotonic() < ends:
            time.sleep(0.05)
        late = child.poll() is None
        if late:
            child.kill()
            say(f"{part}: not finished")
        if child.wait() and not late:
            say(f"{part}: the process ended with status {child.returncode}")
        if part == "speed" and late and not self.stop():  # a second try would cost as much and end no better
            document = _read(path) | {"complete": True, "error": f"took longer than {seconds:.0f} s"}
            write_atomically(path, json.dumps(document, indent=1) + "\n")


def _identity(device: str | None, commit: str | None) -> tuple[Any, ...]:
    """Of what the checks hold for: the code and the machine."""
    import torch

    from paperlib import environment

    code = environment.code(commit)
    return code["commit"], code["dirty"], device_name(device), torch.__version__


def device_name(device: str | None) -> str:
    """What records call a device; None: the one that runs are trained on by default."""
    from paperlib import environment

    return environment.device_name(environment.find_device(device))


def _is_done(path: Path, identity: tuple[Any, ...], repeat_changed: bool = True) -> bool:
    """Whether a sidecar is complete, has passed, and is of this code on this machine."""
    document = _read(path)
    found = (*document.get("code", {}).values(), document.get("environment", {}).get("device"),
             document.get("environment", {}).get("torch"))
    known = bool(identity[0]) and identity[1] is not True  # code that nobody can name may have changed since
    return (found == identity and bool(document.get("complete")) and bool(document.get("passed", True))
            and (known or not repeat_changed))


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _failures(path: Path) -> list[str]:
    """What is wrong with the checks, for people."""
    document = _read(path)
    lines = [f"CHECK FAILED: {entry['name']}: {entry['error']}" for entry in document.get("checks", [])
             if not entry["passed"]]
    return lines if document.get("complete") else [*lines, f"CHECKS NOT FINISHED: see {path}"]


def say(text: str, quiet: bool = False) -> None:
    """One line for people."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


@dataclass
class Schedule:
    """Which cells are worth starting: a checkpoint is of little use on a machine that is gone when the budget ends.

    A cell's time is that of the last finished cell with the same work a step on the same device, in proportion to
    its images, or else the ``minutes`` of its setup in the grid's file; without either it is started. A cell that is
    longer than the whole budget is started as well: it can be finished in pieces only.
    """

    budget: float  #: seconds
    left: Callable[[], float]  #: seconds
    device: str  #: as records name it
    finished: dict[tuple[Any, ...], Record] = field(default_factory=dict)

    def learn(self, record: Record) -> None:
        """Take a finished run as a measure for those like it."""
        timing = record.timing
        usable = timing.get("wall_seconds") and timing["images_per_second"] and not timing["resumed"]
        if usable and record.environment["device"] == self.device:
            self.finished[_work(record.config)] = record

    def seconds(self, cell: Cell) -> float | None:
        """How long a cell will take; None if nothing is known."""
        record = self.finished.get(_work(cell.config.to_dict()))
        if record is None:
            return None if cell.minutes is None else 60 * cell.minutes
        rate, config = record.timing["images_per_second"], cell.config
        images = record.data["train"] * record.config["epochs"] / rate
        beside = max(0.0, record.timing["wall_seconds"] - images)  # loading, compiling, evaluation
        share = config.epochs * config.train_fraction / (record.config["epochs"] * record.config["train_fraction"])
        return images * share + beside

    def has_time_for(self, cell: Cell) -> bool:
        """Whether a cell is worth starting now."""
        seconds = self.seconds(cell)
        return seconds is None or MARGIN * seconds <= self.left() or MARGIN * seconds > self.budget


def _work(config: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(config.get(key) for key in WORK)


def speed_table(device: Any, report: Callable[[dict[str, Any]], None] = lambda document: None) -> dict[str, Any]:
    """The benchmark's table, or a line that says why there is none; ``report`` is told it after every row."""
    if importlib.util.find_spec("paperlib.benchmark") is None:
        return {"error": "this library has no module paperlib.benchmark"}
    benchmark = importlib.import_module("paperlib.benchmark")
    return dict(benchmark.measure(device, quick=device.type == "cpu", report=report))


def main(arguments: Sequence[str] | None = None) -> int:
    """One part, in this process."""
    from paperlib import checks, environment, train

    parser = argparse.ArgumentParser(prog="python -m paperlib.kit", description="One part of what comes before a "
                                     "grid; python -m paperlib.sweep calls it")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("grid")
    parser.add_argument("--write", type=Path, required=True)
    parser.add_argument("--device")
    parser.add_argument("--commit")
    options = parser.parse_args(arguments)
    end_with_parent()
    device = environment.find_device(options.device)

    def write(document: dict[str, Any]) -> None:
        write_atomically(options.write, json.dumps(document, indent=1) + "\n")

    with train.torch_threads(1):
        if options.part == "checks":
            configs = [cell.config for cell in grids.load(options.grid).cells]
            return 0 if checks.run(configs, device, commit=options.commit, report=write)["passed"] else 1
        document = {"code": environment.code(options.commit), "environment": environment.describe(device)}
        write(document | {"complete": False})

        def keep(found: dict[str, Any]) -> None:  # a table that is cut off is worth what it holds
            write(found | document | {"complete": False})

        write(speed_table(device, keep) | document | {"complete": True})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
