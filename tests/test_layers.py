"""Imports point back along the flow of data, and what reads records never loads torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# What each part of paperlib may import of the others. A new edge is a decision: it is made here.
MAY_IMPORT: dict[str, set[str]] = {
    "paths": set(),
    "seeding": set(),
    "metrics": set(),
    "counts": set(),
    "bayes": set(),
    "robustness": {"bayes"},
    "reliability": set(),
    "theory": {"bayes"},
    "losses": set(),
    "calibration": {"losses"},
    "posthoc": {"losses"},
    "benchmark": {
        *("config", "records", "environment", "schedules", "data", "models", "losses", "parts", "engine", "ensemble"),
        "train",
    },
    "config": {"paths"},
    "presets": {"paths"},
    "grids": {"paths", "config", "presets"},
    "environment": {"paths"},
    "schedules": {"config"},
    "stats": {"metrics"},
    "records": {"paths", "config", "counts", "grids", "metrics", "stats"},
    "documents": {"records"},
    "reruns": {"config", "records", "stats"},
    "predictions": {"records", "metrics"},
    "data": {"paths", "config", "seeding"},
    "models": {"config", "seeding"},
    "optimisation": {"models", "seeding"},
    "engine": {"losses"},
    "checkpoint": {"config"},
    "progress": set(),
    "processes": set(),
    "parts": {"config", "losses", "schedules"},
    "branches": {"config", "checkpoint", "parts"},
    "evaluation": {"bayes", "config", "counts", "metrics", "data", "models"},
    "ensemble": {
        *("config", "counts", "records", "environment", "seeding", "schedules", "data", "models", "losses"),
        *("checkpoint", "progress", "parts", "evaluation", "engine"),
    },
    "train": {
        *("paths", "config", "records", "environment", "seeding", "schedules", "metrics", "stats"),
        *("data", "models", "losses", "engine", "checkpoint", "progress", "parts", "branches", "ensemble"),
        "predictions",
    },
    "checks": {"config", "records", "environment", "seeding", "data", "models", "losses", "engine", "train"},
    "kit": {"config", "grids", "records", "environment", "processes", "train", "checks"},
    "sweep": {
        *("paths", "config", "grids", "records", "environment", "checkpoint", "progress", "branches", "train", "kit"),
    },
    "analysis": {"paths", "config", "presets", "grids", "metrics", "stats", "records", "documents"},
    "figures": {"paths", "metrics", "bayes", "theory", "stats", "analysis"},
    "tables": {"paths", "grids", "metrics", "stats", "records", "reruns", "analysis"},
}
NO_TORCH = [
    *("paths", "config", "counts", "presets", "grids", "records", "documents", "predictions", "metrics"),
    *("bayes", "reruns", "theory", "stats", "robustness", "reliability", "analysis", "figures", "tables"),
    *("kit", "sweep"),
]


def part_of(path: Path, package: Path) -> str:
    """The part that a file belongs to: losses for losses/grouped.py, and the empty name for __init__.py."""
    first = path.relative_to(package).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def nodes(tree: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    """The nodes that run, on import alone or also in calls; what serves type checkers only is left out."""
    for child in ast.iter_child_nodes(tree):
        if is_type_checking(child):
            continue
        if not inside_functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from nodes(child, inside_functions)


def imports(path: Path, package: Path, inside_functions: bool = True) -> set[str]:
    """Absolute names of all that a file imports: paperlib.config, torch, numpy.linalg, ..."""
    found: set[str] = set()
    here = [package.name, *path.relative_to(package).with_suffix("").parts]
    for node in nodes(ast.parse(path.read_text()), inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # "from paperlib import config" imports paperlib.config; in "from paperlib.config import X" the
            # second name does no harm.
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def parts_imported(names: set[str], package: Path, own: str) -> set[str]:
    """Those of the names that are other parts of the package."""
    parts = {part_of(path, package) for path in package.rglob("*.py")} - {""}
    found = {name.split(".")[1] for name in names if name.startswith(f"{package.name}.")}
    return (found & parts) - {own}


def wrong_directions(package: Path, may_import: dict[str, set[str]] = MAY_IMPORT) -> list[str]:
    """One line for each import that does not point back along the flow, and each part without a place in it."""
    wrong = []
    for path in sorted(package.rglob("*.py")):
        part = part_of(path, package)
        if part and part not in may_import:
            wrong.append(f"{part} has no place in the flow: name it in MAY_IMPORT")
            continue
        for other in sorted(parts_imported(imports(path, package), package, part) - may_import.get(part, set())):
            wrong.append(f"{path.relative_to(package.parent)} imports {other}")
    return wrong


def loads_torch(package: Path, part: str, seen: frozenset[str] = frozenset()) -> list[str]:
    """The chain of parts by which importing one loads torch; empty where it does not."""
    files = [path for path in sorted(package.rglob("*.py")) if part_of(path, package) == part]
    names = set().union(*(imports(path, package, inside_functions=False) for path in files))
    if any(name.split(".")[0] in {"torch", "torchvision"} for name in names):
        return [part, "torch"]
    for other in sorted(parts_imported(names, package, part) - seen):
        if chain := loads_torch(package, other, seen | {part}):
            return [part, *chain]
    return []


@pytest.fixture(scope="module")
def package(root):
    return root / "paperlib"


def test_imports_point_back_along_the_flow(package):
    assert wrong_directions(package) == []


def test_the_flow_itself_has_no_cycle():
    left = dict(MAY_IMPORT)
    while left:
        ready = [part for part, others in left.items() if not others & left.keys()]
        assert ready, f"these parts may import each other in a circle: {sorted(left)}"
        left = {part: others for part, others in left.items() if part not in ready}


@pytest.mark.parametrize("part", NO_TORCH)
def test_what_reads_records_does_not_load_torch(package, part):
    assert " -> ".join(loads_torch(package, part)) == ""


def test_python_agrees_that_torch_is_not_loaded(root):
    code = f"import sys; from paperlib import {', '.join(NO_TORCH)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_the_package_imports_no_sub_module(package):
    assert parts_imported(imports(package / "__init__.py", package), package, "") == set()


# The checks themselves can fail: a small package with each of the faults.


@pytest.fixture
def faulty(tmp_path):
    package = tmp_path / "paperlib"
    (package / "losses").mkdir(parents=True)
    (package / "losses" / "__init__.py").write_text("from ..train import fit\n")
    sources = {
        "__init__": "from . import config\n",
        "config": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from paperlib.train import fit\n",
        "train": "import torch\n",
        "records": "def late():\n    import torch\n    from paperlib import train\n",
        "stats": "import numpy\n",
        "analysis": "from paperlib import train\n",
        "figures": "from paperlib.analysis import runs\n",
        "plots": "",
    }
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)
    return package


def test_a_wrong_direction_is_found_wherever_it_hides(faulty):
    assert wrong_directions(faulty) == [
        "paperlib/__init__.py imports config",
        "paperlib/analysis.py imports train",
        "paperlib/losses/__init__.py imports train",
        "plots has no place in the flow: name it in MAY_IMPORT",
        "paperlib/records.py imports train",
    ]


def test_torch_is_found_through_other_parts_but_not_inside_functions(faulty):
    assert loads_torch(faulty, "figures") == ["figures", "analysis", "train", "torch"]
    assert loads_torch(faulty, "records") == []
    assert loads_torch(faulty, "stats") == []


def test_an_import_in_the_package_is_found(faulty):
    assert parts_imported(imports(faulty / "__init__.py", faulty), faulty, "") == {"config"}
