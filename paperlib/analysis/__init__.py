"""From records to tidy frames and verdicts. Accuracies are fractions here; figures and tables show percent.

Functions take the name of a grid and read its records; a missing run is an error that names it. What the losses
themselves are found to do (``calibration``) has a document of its own.
"""

from paperlib.analysis.calibrated import calibration, calibration_document
from paperlib.analysis.claims import Place, part_status, region_verdict, setups_verdict, size_verdict, verdicts
from paperlib.analysis.costs import cost_document, loss_costs, loss_memory
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
from paperlib.analysis.many import diverged, regrets

__all__ = [
    "Place", "calibration", "calibration_document", "candidate_differences", "candidates", "certificates",
    "cost_document", "curve_bands", "curves", "difference_bands", "differences", "diverged", "environments", "history",
    "labels", "loss_costs", "loss_memory", "part_status", "region_verdict", "regrets", "require_comparable", "runs",
    "setups_verdict", "size_verdict", "status", "summary", "verdicts",
]
