"""From records to tidy frames and verdicts. Accuracies are fractions here; figures and tables show percent.

Every function takes the name of a grid and reads its records; a missing run is an error that names it.
"""

from paperlib.analysis.claims import Place, part_status, region_verdict, setups_verdict, size_verdict, verdicts
from paperlib.analysis.frames import (
    candidate_differences,
    candidates,
    certificates,
    curve_bands,
    curves,
    difference_bands,
    differences,
    environments,
    history,
    labels,
    require_comparable,
    runs,
    status,
    summary,
)

__all__ = [
    "Place", "candidate_differences", "candidates", "certificates", "curve_bands", "curves", "difference_bands",
    "differences", "environments", "history", "labels", "part_status", "region_verdict", "require_comparable",
    "runs", "setups_verdict", "size_verdict", "status", "summary", "verdicts",
]
