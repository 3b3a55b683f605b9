"""Tables of the synthetic study."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from paperlib import analysis
from paperlib.tables._text import rows, sign, title, values_tried


def phases(grid_names: Sequence[str] = analysis.PHASES, ours: str = "transition",
           found: Mapping[str, Mapping[str, Any]] | None = None) -> pd.DataFrame:
    """What each phase diagram says of C1: how many cells of each kind, and in how many of them the loss gains."""
    found = found or {name: analysis.overview(name, ours) for name in grid_names}
    return pd.DataFrame([{
        "data": title(name), "unsolved": row["poor"], "gain there": row["gained"], "largest region": row["region"],
        "worse there": row["lost"],
        "largest gain": "–" if math.isnan(row["largest"]) else sign(100 * row["largest"], 2),
        "reachable": row["reachable"], "solved": row["rich"], "gain in solved": row["exceptions"],
        "part of C1": row["status"] or "not tested"} for name, row in found.items()])


def losses_over_cells(grid_names: Sequence[str], k: int = 2) -> pd.DataFrame:
    """What each loss gains over cross entropy at 1 and at k, in points, averaged over the cells of each grid."""
    rows: dict[str, dict[str, str]] = {}
    for name in grid_names:
        means = analysis.gains(name).groupby(["variant", "k"], sort=False)["gain"].mean()
        for (variant, at), gain in means.items():
            rows.setdefault(analysis.labels(name)[variant], {})[f"{title(name)}, top-{at}"] = sign(100 * gain, 2)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("loss").reset_index()


def search(grid_name: str) -> pd.DataFrame:
    """The value that a search chose for each loss, in bold, among those tried: top-k on validation, in percent."""
    found = analysis.search(grid_name)
    found["text"] = [f"{100 * row.accuracy:.2f}" for row in rows(found)]
    found["column"] = [f"{row.family.replace('_', ' ')}, {row.value:g}" for row in rows(found)]
    return values_tried(found, grid_name)
