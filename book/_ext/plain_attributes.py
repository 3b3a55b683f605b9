"""Takes the comment above an attribute as it stands.

Napoleon reads "colours: one a loss" above an attribute as a type ("colours") and its description. The types are
in the code here, so a first line that holds an empty comment keeps it from looking for one.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def keep_as_prose(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Puts an empty comment in front of what describes an attribute."""
    if what in {"attribute", "data", "property"} and lines:
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects ahead of Napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", keep_as_prose, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
