"""A chapter's cells run in this process, on whatever records and documents a test has put in place."""

from __future__ import annotations

import ast
from typing import Any

import jupytext
import myst_nb
import pytest

from paperlib import paths


def run_page(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    """What the cells of a chapter compute, and all text that they glue or show."""
    shown: list[str] = []
    monkeypatch.setattr(myst_nb, "glue", lambda key, value, display: shown.append(f"{key}: {value}"))
    names: dict[str, Any] = {}
    for cell in jupytext.read(paths.BOOK / f"{name}.md", fmt="md:myst").cells:
        if cell.cell_type == "code":
            body = ast.parse(cell.source).body
            last = body.pop() if isinstance(body[-1], ast.Expr) else None
            exec(compile(ast.Module(body, []), name, "exec"), names)
            value = eval(compile(ast.Expression(last.value), name, "eval"), names) if last else None
            shown.append(getattr(value, "data", None) or "")
    return names, "\n".join(shown)
