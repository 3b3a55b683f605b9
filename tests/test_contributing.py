"""The recipe for a loss in CONTRIBUTING.md works as it stands: followed here in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

LOSS = "cooled_cross_entropy"


def steps(root: Path) -> list[tuple[str, str]]:
    """The files that the recipe names, in its order, and what it writes into each."""
    text = (root / "CONTRIBUTING.md").read_text()
    recipe = re.search(r"^## Add a loss\n(.*?)^## ", text, re.DOTALL | re.MULTILINE).group(1)
    blocks = re.findall(r"^ *```python\n(.*?)^ *```$", recipe, re.DOTALL | re.MULTILINE)
    return [tuple(textwrap.dedent(block).removeprefix("# ").split("\n", maxsplit=1)) for block in blocks]


@pytest.fixture
def copy(root, tmp_path) -> Path:
    """The library and the tests of its losses, to be extended."""
    shutil.copytree(root / "paperlib", tmp_path / "paperlib")
    (tmp_path / "tests").mkdir()
    for name in ("reference.py", "test_losses_contract.py"):
        shutil.copy(root / "tests" / name, tmp_path / "tests" / name)
    return tmp_path


def run_contract(copy: Path, select: str) -> subprocess.CompletedProcess[str]:
    """Runs the selected contract tests of the copy, on the library of the copy."""
    options = ["-q", "-p", "no:cacheprovider", "-o", "markers=gpu", "-k", select]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests/test_losses_contract.py"],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_loss_added_by_the_recipe_keeps_the_contract(root, copy):
    without_reference = None
    for file, code in steps(root):
        if file == "tests/reference.py":
            without_reference = run_contract(copy, "reference")
        path = copy / file
        assert path.exists(), f"the recipe names {file}, which is not there"
        path.write_text(f"{path.read_text()}\n\n{code}")
    assert without_reference.returncode == 1 and LOSS in without_reference.stdout, without_reference.stdout

    followed = run_contract(copy, f"{LOSS} or reference")
    assert followed.returncode == 0, followed.stdout[-4000:]
    passed = int(re.search(r"(\d+) passed", followed.stdout).group(1))
    assert passed > 10, followed.stdout
