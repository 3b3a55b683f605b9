"""Executes the exemplary runs into ``book/runs``: ``python experiments/make_runs.py [NAME ...] [--jobs 2]``.

Each trains in full and compares itself with the committed record of the same run. A notebook that the present code has
made already is left alone unless ``--force`` is given; a run that was killed goes on from its last checkpoint.
"""

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nbformat  # noqa: E402

from experiments import run  # noqa: E402
from paperlib import grids  # noqa: E402

PAGES = run.ROOT / "book" / "runs"
WORK = run.ROOT / "experiments" / ".work" / "runs"


@dataclass(frozen=True)
class Exemplar:
    """A run that the book shows from beginning to end."""

    grid: str
    setup: str
    variant: str
    seed: int = 0

    @property
    def name(self) -> str:
        """The page's file name, without its ending."""
        return f"{self.grid}-{self.setup}-{self.variant}"


#: One for each setup and family of losses that a table of the report links to.
EXEMPLARS = tuple(Exemplar("first-study", setup, variant)
                  for setup in ("all", "fifth") for variant in ("ce", "ramp", "grouped"))


def digest() -> str:
    """What the notebooks are made with: the source of the notebook and of the library."""
    found = hashlib.sha256()
    for path in [run.SOURCE, *sorted((run.ROOT / "paperlib").rglob("*.py"))]:
        found.update(path.relative_to(run.ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def find(exemplar: Exemplar) -> tuple[grids.Grid, grids.Cell]:
    """The cell of an exemplar.

    Raises:
        ValueError: its grid has no such cell.
    """
    grid = grids.load(exemplar.grid)
    for cell in grid.cells:
        if (cell.setup, cell.variant, cell.seed) == (exemplar.setup, exemplar.variant, exemplar.seed):
            return grid, cell
    raise ValueError(f"grid {exemplar.grid!r} has no cell {exemplar.setup}/{exemplar.variant}/seed {exemplar.seed}")


def up_to_date(page: Path, run_id: str, code: str) -> bool:
    """Whether a page is there that this code made of this run."""
    if not page.exists():
        return False
    return nbformat.read(page, as_version=4).metadata.get("paperlib") == {"run_id": run_id, "code": code}


def make(exemplar: Exemplar, force: bool = False) -> bool:
    """Execute one exemplar unless its page is up to date; returns whether it had to."""
    grid, cell = find(exemplar)
    page, code = PAGES / f"{exemplar.name}.ipynb", digest()
    if not force and up_to_date(page, cell.config.run_id, code):
        return False
    work = WORK / code  # of this code alone: no checkpoint of another one is gone on with
    (work / f"{cell.config.run_id}.json").unlink(missing_ok=True)
    run.execute(cell.config, work, page, title=run.title_of(grid, cell), metadata={"code": code})
    return True


def side_by_side(names: Sequence[str], jobs: int, force: bool) -> bool:
    """Each exemplar in a process of its own, ``jobs`` at a time; returns whether one failed."""
    command = [sys.executable, __file__, *(["--force"] if force else [])]
    with ThreadPoolExecutor(jobs) as pool:
        return any(list(pool.map(lambda name: subprocess.run([*command, name]).returncode, names)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when all pages are there, 1 when a run failed."""
    known = {exemplar.name: exemplar for exemplar in EXEMPLARS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(known)}")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--force", action="store_true", help="also those that are up to date")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no exemplary run {', '.join(unknown)}: expected one of {', '.join(known)}")
    names = options.names or list(known)
    if options.jobs > 1 and len(names) > 1:
        return int(side_by_side(names, options.jobs, options.force))
    failed = False
    for name in names:
        try:
            made = make(known[name], options.force)
            print(f"{name}: {'executed' if made else 'up to date'}", flush=True)
        except (run.RunFailedError, OSError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
