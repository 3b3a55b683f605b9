"""Run what a grid still misses: ``python -m paperlib.sweep GRID --out PATH --budget-minutes M --jobs N``.

Cells run in the grid's order. A finished one is on disk at once; one that was killed goes on from its last checkpoint;
one that failed is written down under ``failed/`` and the others go on. Several sweeps, also on a shared disk, may
work on one PATH: a lock per cell, which dies with its process, keeps them apart.

A grid that says ``kit = true`` is meant for a machine that is lent for minutes: it is checked and measured first
(``PATH.checks.json``, ``PATH.speed.json``), and no cell is started that the budget has no time for.
"""

import argparse
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from paperlib import grids, records
from paperlib.grids import Cell, Grid
from paperlib.kit import PARTS, WORKSPACE, Kit, Schedule, device_name, say


@dataclass(frozen=True)
class Output:
    """Where a sweep writes: a folder of records, or one append-only ``.jsonl`` file."""

    path: Path
    workplace: Path | None = None  #: for checkpoints and locks; None: beside the records
    #: Runs with a record in the single file, and the byte up to which it was read for them.
    _found: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    _read: list[int] = field(default_factory=lambda: [0], init=False, repr=False, compare=False)

    @property
    def single_file(self) -> bool:
        """Whether all records share one file."""
        return self.path.suffix == ".jsonl"

    @property
    def work(self) -> Path:
        """Checkpoints and locks: hidden, beside the records, of no interest afterwards."""
        if self.workplace:
            return self.workplace
        return self.path.with_name(f".{self.path.name}.work") if self.single_file else self.path / ".work"

    @property
    def failed(self) -> Path:
        """One report per failed cell."""
        return self.work / "failed"

    @property
    def sidecars(self) -> dict[str, Path]:
        """What is found out about the machine: beside a file; in a folder of records not among the records."""
        return {part: self.path.with_suffix(f".{part}.json") if self.single_file else self.work / f"{part}.json"
                for part in PARTS}

    def prepare(self) -> None:
        """Fail now rather than after the first cell if nothing can be written here."""
        try:
            if self.single_file and self.path.exists() and not self.path.is_file():
                raise IsADirectoryError("it is a folder, for all its name")
            self.failed.mkdir(parents=True, exist_ok=True)
            records.write_atomically(self.work / "probe", "")
            (self.work / "probe").unlink(missing_ok=True)  # a sweep beside this one may have been faster
        except OSError as error:
            raise OSError(f"cannot write to {self.path}: {error}. Expected a folder, or a name ending in .jsonl, in a "
                          "place where files can be created.") from error

    def has(self, run_id: str) -> bool:
        """Whether a record of this run is there, and sound."""
        if self.single_file:
            if run_id not in self._found and self.path.exists():  # sweeps beside this one append to it, too
                new, self._read[0] = records.read_new_lines(self.path, self._read[0])
                self._found.update(record.run_id for record in new)
            return run_id in self._found
        path = self.path / f"{run_id}.json"
        return path.exists() and records.read(path).run_id == run_id

    def add(self, record: records.Record) -> None:
        """Put a finished record on disk."""
        if self.single_file:
            records.append(record, self.path)
        else:
            records.write(record, self.path)

    @contextmanager
    def claim(self, run_id: str) -> Iterator[bool]:
        """Whether this process got the cell. The lock goes when the process does, however it ends."""
        with open(self.work / f"{run_id}.lock", "w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def run(cells: Sequence[Cell], output: Output, *, stop: Callable[[], bool] = lambda: False,
        schedule: Schedule | None = None, commit: str | None = None, quiet: bool = False,
        **options: Any) -> list[Cell]:
    """Run every cell without a record until ``stop`` says so; returns the cells that failed.

    Args:
        cells: in the order in which they are started.
        output: where the records go.
        stop: asked after every step.
        schedule: leaves out what the budget has no time for; None: every cell is started.
        commit: stands in for git.
        quiet: print nothing.
        options: of :func:`paperlib.train.trained`.
    """
    from paperlib import train  # torch is not needed to list what is missing

    failed = []
    for place, cell in enumerate(cells):
        if stop():
            break
        run_id = cell.config.run_id
        report, checkpoint = output.failed / f"{run_id}.json", output.work / f"{run_id}.pt"
        with output.claim(run_id) as claimed, ExitStack() as others:
            if not claimed:
                continue
            try:
                if output.has(run_id):
                    continue
                name = f"{cell.grid}: {run_id} {cell.place}"
                if schedule and not checkpoint.exists() and not schedule.has_time_for(cell):
                    say(f"{name}: not started, no time is left for it", quiet)
                    continue
                say(name, quiet)
                # A budget of minutes is laid out by what whole runs take, so there each run is one.
                along = {} if schedule else alike(cell, cells[place + 1 :], output, others)
                record = train.train(cell.config, checkpoint=checkpoint, stop=stop, commit=commit, quiet=quiet,
                                     **options, **along)
                output.add(record)
                checkpoint.unlink(missing_ok=True)
                report.unlink(missing_ok=True)
                if schedule:
                    schedule.learn(record)
            except train.TrainingInterruptedError as interruption:
                say(str(interruption), quiet)
                break
            except Exception as error:  # one broken cell must not cost the others
                failed.append(cell)
                say(f"{run_id} failed: {error}", quiet)
                where = error.where if isinstance(error, train.TrainingDivergedError) else {}
                content = {"run_id": run_id, "cell": cell.place, "where": where,
                           "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
                records.write_atomically(report, json.dumps(content, indent=1) + "\n")
    return failed


def alike(cell: Cell, later: Sequence[Cell], output: Output, claims: ExitStack) -> dict[str, Any]:
    """Options of training: the cells to come that may go along with this one, each claimed for as long as it does."""
    from paperlib.branches import begin_alike

    found, own = {}, {}
    for other in later:
        run_id, checkpoint = other.config.run_id, output.work / f"{other.config.run_id}.pt"
        if checkpoint.exists() or not begin_alike(cell.config, other.config):
            continue
        claim = claims.enter_context(ExitStack())
        with suppress(OSError, ValueError):  # a record that cannot be read is told of when it is that cell's turn
            if claim.enter_context(output.claim(run_id)) and not output.has(run_id):
                found[other.config], own[other.config] = checkpoint, claim
                continue
        claim.close()
    return {"branches": found, "left": lambda config: own[config].close()} if found else {}


def prepared(kit: Kit, output: Output) -> bool:
    """:meth:`paperlib.kit.Kit.prepare`, one sweep after the other: the second finds what the first has made."""
    while not kit.stop():
        with output.claim("kit") as claimed:
            if claimed:
                return kit.prepare()
        time.sleep(0.2)
    return False


def run_side_by_side(arguments: list[str], jobs: int, stop: "StopRequest") -> int:
    """The same sweep in several processes, one thread each; they share the cells out by their locks."""
    jobs = min(jobs, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    command = [sys.executable, "-m", "paperlib.sweep", *arguments, "--checks", "skip",
               "--budget-minutes", str(stop.left() / 60), "--parent", str(os.getpid()), "--jobs", "1"]
    workers = [subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) for _ in range(jobs)]
    while any(worker.poll() is None for worker in workers):
        if stop.asked:
            for worker in workers:
                worker.terminate()  # each saves its checkpoint and ends
            stop.asked = False
        time.sleep(0.2)
    return max(abs(worker.returncode) for worker in workers)


class StopRequest:
    """Whether SIGTERM or Ctrl-C came, the time is up, or ``parent``, the process that started this one, is gone.

    A reason to stop cleanly, not to die.
    """

    def __init__(self, deadline: float = math.inf, parent: int | None = None) -> None:
        self.deadline, self.asked, self.parent = deadline, False, parent
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def __call__(self) -> bool:
        """Whether to stop now."""
        orphaned = self.parent is not None and os.getppid() != self.parent  # killed, it could tell nobody
        return self.asked or orphaned or time.monotonic() > self.deadline

    def left(self) -> float:
        """Seconds until the time is up, at least 0."""
        return max(0.0, self.deadline - time.monotonic())


def at_least(least: int, kind: Callable[[str], float]) -> Callable[[str], float]:
    """A type for an option: numbers of some kind from ``least`` on."""
    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text!r}, expected a number of at least {least}")
        return value

    return convert


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m paperlib.sweep", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", help="name of a grid, or the path of a .toml file")
    parser.add_argument("--out", required=True, type=Path, help="folder of records, or a .jsonl file")
    parser.add_argument("--work", type=Path, help="folder for checkpoints and locks; default: beside the records")
    parser.add_argument("--done", type=Path, action="append", default=[], metavar="RECORDS",
                        help="a folder or .jsonl file; cells with a record there are not run again")
    parser.add_argument("--predictions", type=Path, metavar="FOLDER",
                        help="keep the logits of every run here, 6 MB each for CIFAR-100; not for runs of many seeds")
    parser.add_argument("--budget-minutes", type=at_least(0, float), default=math.inf,
                        help="stop cleanly after this long")
    parser.add_argument("--jobs", type=at_least(1, int), default=1,
                        help="processes side by side; never more than free cores")
    parser.add_argument("--commit", help="commit to name in the records where there is no git")
    parser.add_argument("--device", help="torch device; default CUDA where there is one")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None,
                        help="forward pass and loss by torch.compile; default on CUDA")
    parser.add_argument("--deterministic", action="store_true", help="the same bits again on the same GPU; slower")
    parser.add_argument("--checks", choices=["run", "ignore", "skip"], default="run",
                        help="for a grid with a kit: stop if a check fails, go on nevertheless, or make none")
    parser.add_argument("--setup", action="append", metavar="NAME",
                        help="only the cells of this setup of the grid; may be given again for another")
    parser.add_argument("--limit", type=at_least(1, int), help="only the first cells of the grid")
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # of a process among several
    return parser


def _of_setups(grid: Grid, setups: Sequence[str] | None) -> Grid:
    """The part of the grid that those setups are; None: all of it."""
    if unknown := [name for name in setups or () if name not in grid.setups]:
        raise ValueError(f"--setup {unknown[0]}: expected one of {', '.join(grid.setups)}, the setups of {grid.name}")
    return grid.part(lambda cell: setups is None or cell.setup in setups)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, or 1: a cell failed, 2: the arguments or the output are unusable, 3: a check failed."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(arguments)
    output = Output(options.out, options.work)
    if options.deterministic:
        os.environ.update({**WORKSPACE, **os.environ})
    try:
        grid = grids.load(options.grid)
        elsewhere = {record.run_id for source in options.done for record in records.load(source)}
        wanted = _of_setups(grid, options.setup).cells[: options.limit]
        cells = [cell for cell in wanted if cell.config.run_id not in elsewhere]
        output.prepare()
        there = list(records.read_lines(output.path)) if output.single_file and output.path.exists() else []
        device = device_name(options.device) if cells else ""
    except (OSError, ValueError) as error:
        say(str(error))
        return 2
    budget = 60 * options.budget_minutes
    stop = StopRequest(time.monotonic() + budget, options.parent)
    if grid.kit and options.checks != "skip" and cells and not stop():
        kit = Kit(options.grid, output.sidecars, options.device, options.commit, stop.left, stop)
        if not prepared(kit, output) and not stop():
            if options.checks == "run":
                say("No cell was run. To run them all the same: --checks ignore")
                return 3
            say("The cells are run all the same.")
    if options.jobs > 1:
        return run_side_by_side(arguments, options.jobs, stop)
    timed = grid.kit and budget < math.inf
    schedule = Schedule(budget, stop.left, device) if timed else None
    if schedule:
        for record in there:
            schedule.learn(record)
    failed = run(cells, output, stop=stop, schedule=schedule, commit=options.commit, device=options.device,
                 compile=options.compile, deterministic=options.deterministic, keep=options.predictions)
    for cell in failed:
        report = output.failed / f"{cell.config.run_id}.json"
        say(f"FAILED {cell.config.run_id} {cell.place}: see {report}")
    broken = {cell.config.run_id for cell in failed}  # among them records that cannot be read: not asked again
    done = sum(cell.config.run_id not in broken and output.has(cell.config.run_id) for cell in cells)
    say(f"{options.grid}: {done} of {len(cells)} cells have a record in {output.path}, {len(failed)} failed here"
        + (f", {len(elsewhere)} records elsewhere" if elsewhere else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
