"""Puts all records as tables beside the pages, for readers to download, before the pages are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from paperlib import records


def export(app: Sphinx) -> None:
    """Writes what is committed into book/_static: runs of one network, and apart the thousands of small ones."""
    folder = Path(app.srcdir) / "book" / "_static"
    found = records.load()
    single, many = ([record for record in found if record.many is kind] for kind in (False, True))
    for name in ("records.csv", "records.parquet"):
        records.export(single, folder / name)
    records.export(many, folder / "networks.parquet")  # compressed: as text they are tens of megabytes


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the extension."""
    app.connect("builder-inited", export)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
