"""The chapter on CIFAR-100 follows its records: a changed one is noticed, and a missing one is named."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
import record
from nbclient.exceptions import CellExecutionError

from paperlib import grids

CHAPTER = "03-cifar100"
GRID = "first-study"


@pytest.fixture
def records(root, tmp_path) -> Path:
    """A copy of the committed records, to be damaged."""
    return Path(shutil.copytree(root / "experiments" / "records", tmp_path / "records"))


@pytest.fixture
def one_record(records) -> Path:
    """The file of the first run with cross entropy: every difference in the chapter is taken to its variant."""
    cell = next(cell for cell in grids.load(GRID).cells if cell.config.loss == "cross_entropy")
    return records / GRID / f"{cell.config.run_id}.json"


def push_back_every_label(path: Path, places: int) -> None:
    """Writes a record anew in which every test image's label ranks a few places further down."""
    document = json.loads(path.read_text())
    test = document["test"]
    ranks = np.frombuffer(zlib.decompress(base64.b64decode(test["ranks"])), dtype="<u2")
    worse = np.minimum(ranks.astype(int) + places, test["num_classes"]).astype("<u2")
    test["ranks"] = base64.b64encode(zlib.compress(worse.tobytes())).decode()
    path.write_text(json.dumps(document))


def kinds_of_results() -> dict[str, set[str]]:
    """The cells of the chapter, as nbval names them, that show a table, glue a number or print a figure's frame."""
    kinds: dict[str, set[str]] = {"table": set(), "glued number": set(), "figure": set()}
    twin = nbformat.read(record.RECORDED / f"{CHAPTER}.ipynb", as_version=4)
    for number, cell in enumerate(cell for cell in twin.cells if cell.cell_type == "code"):
        for data in (output.get("data", {}) for output in cell.outputs):
            if "{table}" in data.get("text/markdown", ""):
                kinds["table"].add(f"Cell {number}")
            if any(kind.startswith("application/papermill.record/") for kind in data):
                kinds["glued number"].add(f"Cell {number}")
            if data.get("text/plain", "").startswith("<Figure"):
                kinds["figure"].add(f"Cell {number}")
    return kinds


def compare_with(records: Path, report: Path) -> dict[str, str]:
    """Runs nbval on the chapter with other records: the message of each cell's failure, empty where it passed."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"),
            str(record.RECORDED / f"{CHAPTER}.ipynb"),
        ],
        cwd=record.ROOT,
        env=os.environ | {"PAPERLIB_RECORDS": str(records)},
        stdout=subprocess.DEVNULL,
    )
    cases = ElementTree.parse(report).getroot().iter("testcase")
    return {case.get("name"): "".join(f.text or "" for f in case.iter("failure")) for case in cases}


def test_a_changed_record_shows_in_the_table_the_glued_numbers_and_the_figures(records, one_record, tmp_path):
    push_back_every_label(one_record, places=3)
    outcome = compare_with(records, tmp_path / "report.xml")
    assert not [name for name, text in outcome.items() if "exception" in text], "a cell failed, not its comparison"
    noticed = {name for name, text in outcome.items() if text}
    missed = [kind for kind, cells in kinds_of_results().items() if not cells & noticed]
    assert missed == [], f"a changed record went unnoticed there; noticed in {sorted(noticed)}"


def test_a_missing_record_is_named(records, one_record, monkeypatch):
    one_record.unlink()
    monkeypatch.setenv("PAPERLIB_RECORDS", str(records))
    with pytest.raises(CellExecutionError) as error:
        record.execute(record.BOOK / f"{CHAPTER}.md")
    assert one_record.stem in str(error.value)
    assert f"python -m paperlib.sweep {GRID}" in str(error.value)
