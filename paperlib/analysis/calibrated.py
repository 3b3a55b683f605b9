"""What the test of every loss for top-k calibration found: the document of ``experiments/calibration_table.py``."""

from typing import Any

import pandas as pd

from paperlib import documents, paths

_KEYS = {"settings", "code", "environment", "core_seconds", "probabilities", "cases"}
_VERDICTS = ("right", "tied", "wrong")


def calibration_document() -> dict[str, Any]:
    """The document: ``settings``, ``code``, ``environment``, ``core_seconds``, ``probabilities``, ``cases``.

    Raises:
        FileNotFoundError: it is not there; says how to make it.
        ValueError: it is no such document.
    """
    return documents.load(paths.CALIBRATION, "experiments/calibration_table.py", _KEYS)


def calibration() -> pd.DataFrame:
    """One row for each tested loss and options, in the order of the document.

    Columns: loss (name), label, note, options, solver, n (class probabilities tried), right, tied, wrong (how many of
    them), gap (least, in units of the loss), regret (largest, a probability), at_tie and far_out (at how many the
    least risk is only approached, on the right side of a tie or as scores grow apart), descents_right (mean share),
    kept_right (share). :func:`paperlib.calibration.check` says what they mean.
    """
    rows = []
    for case in calibration_document()["cases"]:
        found = pd.DataFrame(case["results"])
        rows.append({**{key: case[key] for key in ("loss", "label", "note", "options", "solver")}, "n": len(found),
                     **{verdict: int((found["verdict"] == verdict).sum()) for verdict in _VERDICTS},
                     "gap": found["gap"].min(), "regret": found["regret"].max(),
                     "at_tie": int(((found["verdict"] == "right") & (found["margin"] == 0)).sum()),
                     "far_out": int((~found["attained"]).sum()), "descents_right": found["descents_right"].mean(),
                     "kept_right": found["kept_right"].mean()})
    return pd.DataFrame(rows)
