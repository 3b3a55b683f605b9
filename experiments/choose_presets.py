"""Fills experiments/grids/presets.json with what validation records choose: ``python experiments/choose_presets.py``.

The rules are those of paperlib.analysis.choice. What cannot be chosen yet stays null, and a line says what is missing.
A preset that is filled is not changed by later records, unless --again is given: results may rest on it.
"""

import argparse
import json

from paperlib import analysis, paths, presets, records


def main(arguments: list[str] | None = None) -> int:
    """Write the document; 0, or 1 where a filled preset would have changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="choose anew also what has been chosen")
    again = parser.parse_args(arguments).again
    document, differing = presets.document(), []
    found, waiting = analysis.choices()
    for name, choice in found.items():
        old = document.get(name)
        if old is None or again:
            document[name] = choice
        elif old["keys"] != choice["keys"]:
            differing.append(name)
        if document[name] != old:
            print(f"{name}: {choice['label']}, {choice['found']}")
    records.write_atomically(presets.file(), json.dumps(document, indent=1) + "\n")
    for line in waiting:
        print(f"not yet: {line}")
    for name in differing:
        print(f"{name} is {document[name]['keys']}; today's records choose {found[name]['keys']}. It is left as it is "
              "(--again changes it).")
    print(presets.file().relative_to(paths.ROOT) if presets.file().is_relative_to(paths.ROOT) else presets.file())
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
