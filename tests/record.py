"""Runs every chapter of the report and records its outputs in tests/recorded, for nbval to compare with.

    python tests/record.py             all chapters
    python tests/record.py 01-losses   the named ones

A twin holds the same cells as its chapter, with fixed ids, no timings and no images (nbval compares none): what
changes in it is what changed in the report, so read the difference before you commit it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
RECORDED = ROOT / "tests" / "recorded"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def chapters() -> list[Path]:
    """The chapters that compute something, in the order of the report."""
    return [BOOK / "index.md", *sorted(BOOK.glob("[0-9][0-9]-*.md"))]


def twin_path(chapter: Path) -> Path:
    """Where the outputs of a chapter are recorded."""
    return RECORDED / f"{chapter.stem}.ipynb"


def to_notebook(chapter: Path) -> nbformat.NotebookNode:
    """The cells of a chapter, without outputs."""
    notebook = jupytext.read(chapter, fmt="md:myst")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


def execute(chapter: Path) -> nbformat.NotebookNode:
    """Runs a chapter and returns it with its outputs; raises CellExecutionError where a cell does."""
    notebook = to_notebook(chapter)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=300,
        startup_timeout=300,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(RECORDED)}},  # where nbval will run it
    )
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind in [kind for kind in output.get("data", {}) if kind.startswith("image/")]:
                del output["data"][kind]
                output.get("metadata", {}).pop(kind, None)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    return notebook


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {chapter.stem: chapter for chapter in chapters()}
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(known)}")
    names = parser.parse_args(arguments).names
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no chapter named {', '.join(unknown)}: expected one of {', '.join(known)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    RECORDED.mkdir(exist_ok=True)
    for name in names or known:
        nbformat.write(execute(known[name]), twin_path(known[name]))
        print(f"recorded {twin_path(known[name]).relative_to(ROOT)}")
    for path in RECORDED.glob("*.ipynb"):
        if path.stem not in known:
            path.unlink()
            print(f"removed {path.relative_to(ROOT)}: its chapter is gone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
