"""Runs what the synthetic study still misses: ``python experiments/synthetic.py --jobs 2``, or ``make synthetic``.

All its grids in turn, then the scripts that write documents: networks that the report draws, training to convergence,
robust boundaries. A killed run goes on where it was. With
``--out FOLDER`` everything is run again from nothing, into a folder of yours. ``--smoke`` runs a cell of each loss of
each grid with two networks for two epochs, in seconds, into a folder that is deleted.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from paperlib import grids, paths, sweep

#: In the order in which they are run. Grids share cells: whatever has a record already is not run again.
GRIDS = (
    "synthetic-search", "phase-competition", "phase-rings", "phase-mixture", "phase-spirals", "lengths-competition",
    "pairs-competition", "models-competition", "sizes-competition", "top3-competition", "top5-competition",
    "ablation-competition", "losses-competition", "losses-rings", "losses-mixture", "losses-spirals",
)


#: Scripts beside the grids, by the document that each writes.
SCRIPTS = {paths.NETWORKS: "networks.py", paths.CONVERGENCE: "convergence.py",
           paths.ROBUST_BOUNDARY: "robust_boundary.py"}


def run(out: Path, jobs: int) -> int:
    """Every grid by the sweep, the largest exit status of all."""
    status = 0
    for name in GRIDS:
        done = [part for other in GRIDS if other != name and (out / other).exists()
                for part in ("--done", str(out / other))]
        status = max(status, subprocess.run([sys.executable, "-m", "paperlib.sweep", name, "--out", str(out / name),
                                             "--jobs", str(jobs), *done], cwd=paths.ROOT).returncode)
    return status


def smoke(out: Path) -> int:
    """Two networks for two epochs with each loss of each grid; the number of cells that failed."""
    failed = 0
    for name in GRIDS:
        grid, first = grids.load(name), {}
        for cell in grid.cells:
            first.setdefault(cell.variant, cell)
        cells = [grids.Cell(name, cell.setup, cell.variant, (0, 1),
                            cell.config.replace(seed=[0, 1], epochs=2, evaluate_every=2)) for cell in first.values()]
        output = sweep.Output(out / name)
        output.prepare()
        failed += len(sweep.run(cells, output, quiet=True))
        print(f"{name}: {len(cells)} losses", flush=True)
    return failed + write_documents(out, "--smoke")


def write_documents(out: Path, *options: str) -> int:
    """The largest exit status of the scripts; what is committed already is not made again."""
    status = 0
    for document, script in SCRIPTS.items():
        if out == paths.RECORDS and document.exists():
            continue
        where = [] if out == paths.RECORDS else ["--out", str(out / document.name)]
        command = [sys.executable, str(paths.EXPERIMENTS / script), *options, *where]
        status = max(status, subprocess.run(command, cwd=paths.ROOT).returncode)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; 0 when nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=paths.RECORDS, help="folder for the folders of records")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--smoke", action="store_true")
    chosen = parser.parse_args(arguments)
    if chosen.smoke:
        with tempfile.TemporaryDirectory() as folder:
            return min(smoke(Path(folder)), 1)
    out = paths.RECORDS if chosen.out == paths.RECORDS else chosen.out.resolve()
    return max(run(out, chosen.jobs), write_documents(out))


if __name__ == "__main__":
    raise SystemExit(main())
