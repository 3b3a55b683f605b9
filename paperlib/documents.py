"""Measurements in cells, kept as one JSON document that a killed run finds again."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paperlib.records import write_atomically

_KEYS = {"settings", "code", "environment", "core_seconds", "cells"}


def collect(path: Path, head: dict[str, Any], measure: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Measure every cell that the document at ``path`` does not hold yet, and write it after each.

    A cell that is there is kept if it was made by committed code and neither it nor the settings that all cells share
    have changed: so a killed run goes on, and a cell can be added later. Each names the code that made it.

    Args:
        path: of the document.
        head: ``settings``, whose ``cells`` maps names to what they are; ``code``; ``environment``.
        measure: what a cell's name is mapped to.

    Returns:
        The document: the head, ``core_seconds`` in all, and ``cells``, each with ``core_seconds`` and ``code``.
    """
    done = _done(path, head)
    document = _document(head, done)
    for name in head["settings"]["cells"]:
        if name in done:
            continue
        started = time.process_time()
        found = measure(name)
        done[name] = {"code": head["code"], "core_seconds": round(time.process_time() - started, 1), **found}
        document = _document(head, done)
        write_atomically(path, json.dumps(document, allow_nan=False) + "\n")
    return document


def load(path: Path, script: str, keys: set[str]) -> dict[str, Any]:
    """The JSON object that a script wrote.

    Args:
        path: of the document.
        script: that makes it, for the messages.
        keys: that it must have.

    Raises:
        FileNotFoundError: it is not there; says how to make it.
        ValueError: it is no such document.
    """
    if not path.exists():
        raise FileNotFoundError(f"no {path}: make it with python {script}")
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or keys - document.keys():
        raise ValueError(f"{path}: expected the document of {script}")
    return document


def read(path: Path, script: str) -> dict[str, Any]:
    """A complete document in cells.

    Args:
        path: of the document.
        script: that makes it, for the messages.

    Raises:
        FileNotFoundError: it is not there; says how to make it.
        ValueError: it is no such document, or cells are missing.
    """
    document = load(path, script, _KEYS)
    if missing := [name for name in document["settings"]["cells"] if name not in document["cells"]]:
        raise ValueError(f"{path} has no cell {missing[0]!r} yet: go on with python {script}")
    return document


def _done(path: Path, head: dict[str, Any]) -> dict[str, Any]:
    """The cells of an earlier document that still hold."""
    if not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or _KEYS - document.keys():
        return {}
    before, now = document["settings"], head["settings"]
    if {**before, "cells": None} != {**now, "cells": None}:
        return {}
    found = {name: {"code": document["code"], **cell} for name, cell in document["cells"].items()}
    return {name: cell for name, cell in found.items()
            if not cell["code"]["dirty"] and before["cells"][name] == now["cells"].get(name)}


def _document(head: dict[str, Any], done: dict[str, Any]) -> dict[str, Any]:
    cells = {name: done[name] for name in head["settings"]["cells"] if name in done}
    return {**head, "core_seconds": round(sum(cell["core_seconds"] for cell in cells.values()), 1), "cells": cells}
