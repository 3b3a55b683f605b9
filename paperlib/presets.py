"""Named settings that a study chose: variants of grids refer to them by name, and a program fills them in.

``experiments/grids/presets.json`` holds for each name what ``experiments/choose_presets.py`` has chosen from
validation records, with the rule's numbers, or null as long as those records are missing. Nobody types a
chosen setting.
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paperlib import paths


class UnfilledPresetError(ValueError):
    """A preset that no records have chosen yet."""


def file() -> Path:
    """The document, beside the grids."""
    return paths.GRIDS / "presets.json"


def document() -> dict[str, dict[str, Any] | None]:
    """Every preset by name: None until it is chosen, else ``keys`` of the configuration and how they were chosen.

    Raises:
        ValueError: the file is no such document. No file is no presets.
    """
    if not file().exists():
        return {}
    try:
        found = json.loads(file().read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file()} is not valid JSON: {error}") from error
    if not isinstance(found, dict) or not all(
            value is None or (isinstance(value, dict) and isinstance(value.get("keys"), dict))
            for value in found.values()):
        raise ValueError(f"{file()}: expected null, or an object with keys, for each preset; it is written by "
                         "experiments/choose_presets.py")
    return found


def applied(variant: Mapping[str, Any]) -> dict[str, Any]:
    """A variant's keys with its ``preset`` resolved; keys of its own go before the preset's.

    Raises:
        UnfilledPresetError: nothing has been chosen under this name yet.
        ValueError: unknown name.
    """
    keys = dict(variant)
    if (name := keys.pop("preset", None)) is None:
        return keys
    known = document()
    if not isinstance(name, str) or name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        raise ValueError(f"unknown preset {name!r}{f': did you mean {near[0]!r}?' if near else '.'} "
                         f"Known: {', '.join(known) or 'none'}")
    chosen = known[name]
    if chosen is None:
        raise UnfilledPresetError(f"preset {name!r} is not chosen yet: run the grid that it is chosen from, then "
                                  "python experiments/choose_presets.py, which says what is missing")
    return {**chosen["keys"], **keys}
