"""Puts all records as one table beside the pages, for readers to download, before the pages are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from paperlib import records


def export(app: Sphinx) -> None:
    """Writes book/_static/records.csv and records.parquet from the committed records."""
    folder = Path(app.srcdir) / "book" / "_static"
    found = records.load()
    for name in ("records.csv", "records.parquet"):
        records.export(found, folder / name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the extension."""
    app.connect("builder-inited", export)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
