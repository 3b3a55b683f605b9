"""Named settings that a study chose: grids refer to them by name, and a program fills them in.

``experiments/grids/presets.json`` holds for each name what ``experiments/choose_presets.py`` has chosen from
validation records, with the rule's numbers, or null as long as those records are missing. Nobody types a
chosen setting.

A setup's preset is what its variants start from: with the preset of cross entropy, those that name no learning rate,
the transition among them, are trained at the rate that was chosen for cross entropy. The same for one variant alone:
``preset = ["ce", "transition"]``.
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


def applied(table: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a setup or variant with its ``preset`` resolved; keys of its own go before the preset's.

    Of several presets, a list, the later goes before the earlier.

    Raises:
        UnfilledPresetError: nothing has been chosen under this name yet.
        ValueError: unknown name.
    """
    own = dict(table)
    if (named := own.pop("preset", None)) is None:
        return own
    known = document()
    keys: dict[str, Any] = {}
    for name in named if isinstance(named, list) else [named]:
        if not isinstance(name, str) or name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            raise ValueError(f"unknown preset {name!r}{f': did you mean {near[0]!r}?' if near else '.'} "
                             f"Known: {', '.join(known) or 'none'}")
        chosen = known[name]
        if chosen is None:
            raise UnfilledPresetError(f"preset {name!r} is not chosen yet: run the grid that it is chosen from, then "
                                      "python experiments/choose_presets.py, which says what is missing")
        keys |= chosen["keys"]
    return keys | own
