"""The pages of the report, as _toc.yml lists them."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def pages() -> list[str]:
    """The names of all pages, such as book/index: the root first, then in the order of the report."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    entries = [entry for part in toc["parts"] for entry in part["chapters"]]
    found = [toc["root"]]
    for entry in entries:
        if "glob" in entry:
            found += sorted(str(p.relative_to(ROOT).with_suffix("")) for p in ROOT.glob(entry["glob"]))
        else:
            found.append(entry["file"])
    return found
