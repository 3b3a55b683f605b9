"""Measurements in cells, kept as one JSON document that a killed run finds again."""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paperlib.records import write_atomically

_KEYS = {"settings", "code", "environment", "core_seconds", "cells"}


def options(description: str | None, path: Path, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of a script that writes a document: ``out``, ``smoke`` and ``commit``.

    Args:
        description: of the script.
        path: of the document that the report reads; ``--smoke`` may not replace it.
        arguments: of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=path)
    parser.add_argument("--smoke", action="store_true", help="a small version, to see that it works")
    parser.add_argument("--commit", help="of the code, where there is no git")
    chosen = parser.parse_args(arguments)
    if chosen.smoke and chosen.out == path:
        parser.error("--smoke would replace the results that the report prints: name another file with --out")
    return chosen


def digits(values: Any, significant: int = 6) -> Any:
    """As documents hold numbers, alone or in lists: so many significant digits, None for NaN; counts as they are."""
    if isinstance(values, list):
        return [digits(value, significant) for value in values]
    if isinstance(values, float):
        return None if math.isnan(values) else float(f"{values:.{significant}g}")
    return values


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

    Raises:
        ValueError: there is something at ``path`` that is no such document.
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


def kept(path: Path, script: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What the cells are that an earlier document holds, so that others can be added to them.

    Args:
        path: of the document; there may be none yet.
        script: that makes it, for the messages.
        settings: that all cells share.

    Returns:
        By name, those that :func:`collect` keeps if they are asked for again.

    Raises:
        ValueError: it is no document of the script, or was made with other settings. What it holds may not be made
            again as easily as it is lost, so it is not replaced.
    """
    if not path.exists():
        return {}
    document = load(path, script, _KEYS)
    if {**document["settings"], "cells": None} != {**settings, "cells": None}:
        raise ValueError(f"{path} was made with other settings: expected those of {script}. Delete it, or name "
                         "another file with --out")
    return {name: what for name, what in document["settings"]["cells"].items()
            if name in document["cells"] and not document["cells"][name]["code"]["dirty"]}


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
    document = _parse(path)
    if not isinstance(document, dict) or keys - document.keys():
        raise ValueError(f"{path}: expected the document of {script}")
    return document


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also what is no text
        raise ValueError(f"{path}: expected a JSON document ({error}). Delete it to make it anew") from error


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
    document = _parse(path)
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
