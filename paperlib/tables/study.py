"""Tables of the CIFAR-100 study."""

import pandas as pd

from paperlib import analysis
from paperlib.tables._text import rows


def verdicts(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """The five claims with the paper's figure, ours, the verdict and what it rests on, and what would change it."""
    found = analysis.verdicts_today() if frame is None else frame
    return pd.DataFrame({
        "the paper's claim and figure": [f"**{row.id}** {row.claim}: {row.paper}." for row in rows(found)],
        "ours": found["ours"],
        "verdict": [f"**{row.verdict}**" + (f", {row.evidence}" if row.ours != "no runs" else "")
                    for row in rows(found)],
        "what would change it": found["change"]})
