"""Every chapter has a recorded twin with the same cells; nbval compares the outputs in the same run of pytest."""

from __future__ import annotations

import nbformat
import pytest
import record


def cells(notebook):
    return [(c.cell_type, c.source, c.metadata.get("tags", []), c.metadata.get("mystnb", {})) for c in notebook.cells]


@pytest.mark.parametrize("chapter", record.chapters(), ids=lambda path: path.stem)
def test_the_twin_has_the_cells_of_its_chapter(chapter):
    path = record.twin_path(chapter)
    assert path.exists(), f"{chapter.name} has no recorded outputs; run: make record"
    twin = nbformat.read(path, as_version=4)
    assert cells(twin) == cells(record.to_notebook(chapter)), f"{path.name} is out of date; run: make record"


@pytest.mark.parametrize("chapter", record.chapters(), ids=lambda path: path.stem)
def test_the_twin_records_results_and_nothing_else(chapter):
    twin = nbformat.read(record.twin_path(chapter), as_version=4)
    outputs = [output for cell in twin.cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert not [kind for o in outputs for kind in o.get("data", {}) if kind.startswith("image/")]
    assert not [cell for cell in twin.cells if "execution" in cell.metadata]


def test_no_twin_outlives_its_chapter():
    assert {path.stem for path in record.RECORDED.glob("*.ipynb")} == {path.stem for path in record.chapters()}


def test_every_figure_prints_what_it_plots():
    """Images are never compared, so a figure counts as tested only by the frame that its cell prints."""
    silent = []
    for chapter in record.chapters():
        for number, cell in enumerate(nbformat.read(record.twin_path(chapter), as_version=4).cells):
            outputs = cell.get("outputs", [])
            drawn = any(str(o.get("data", {}).get("text/plain", "")).startswith("<Figure") for o in outputs)
            printed = any(o.output_type == "stream" and o.text.strip() for o in outputs)
            if drawn and not printed:
                silent.append(f"{chapter.name}, cell {number}")
    assert not silent, f"figure cells that print no frame: {silent}"
