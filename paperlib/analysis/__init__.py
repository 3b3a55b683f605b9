"""From records to tidy frames and verdicts. Accuracies are fractions here; figures and tables show percent.

Functions take the name of a grid and read its records; a missing run is an error that names it. What the losses
themselves are found to do (``calibration``), what they cost and how fast training is have documents of their own.
"""

from paperlib.analysis.budget import BUDGET_GRIDS, budget_order, budget_points, budget_trades, core_minutes
from paperlib.analysis.calibrated import calibration, calibration_document
from paperlib.analysis.choice import choices, ranking, rates, transition_map
from paperlib.analysis.claims import part_status, setups_verdict, size_verdict, verdicts
from paperlib.analysis.classes import (
    class_differences,
    class_document,
    class_hits,
    class_spread,
    counted,
    reliability,
    score_differences,
)
from paperlib.analysis.comparisons import aim, crossings, equivalences, memorisation, primary, probabilities
from paperlib.analysis.convergence import (
    convergence,
    convergence_document,
    convergence_gaps,
    convergence_ways,
    lowest_losses,
)
from paperlib.analysis.costs import cost_document, loss_costs, loss_memory
from paperlib.analysis.explorer import EXPLORER_TARGETS, explorer_document, explorer_grids, listed
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
    present,
    require_comparable,
    runs,
    status,
    summary,
)
from paperlib.analysis.many import diverged, regrets
from paperlib.analysis.networks import Network, network_document, networks
from paperlib.analysis.performance import (
    augmentation_rates,
    choice_costs,
    determinism_costs,
    ensemble_speedups,
    loss_shares,
    performance_documents,
    step_parts,
    training_rates,
)
from paperlib.analysis.phase import PHASES, gains, joint_regions, overview, richness, search, trade
from paperlib.analysis.posthoc import (
    posthoc_candidates,
    posthoc_differences,
    posthoc_document,
    posthoc_lists,
    posthoc_part,
    posthoc_ranks,
    posthoc_scores,
    posthoc_trades,
)
from paperlib.analysis.promises import promises
from paperlib.analysis.robust import robust_differences, robust_document, robust_means, robustness
from paperlib.analysis.study import (
    acting,
    again_part,
    answer_bands,
    answer_grid,
    beyond_main,
    complete_pairs,
    finished,
    idle,
    idle_seeds,
    primary_part,
    rate_part,
    strengths,
    study_verdicts,
    unseen,
    verdicts_today,
)

__all__ = [
    "BUDGET_GRIDS", "EXPLORER_TARGETS", "Network", "PHASES", "acting", "again_part", "aim", "answer_bands",
    "answer_grid", "augmentation_rates", "beyond_main", "budget_order", "budget_points", "budget_trades",
    "calibration", "calibration_document", "candidate_differences", "candidates", "certificates", "choice_costs",
    "choices", "class_differences", "class_document", "class_hits", "class_spread", "complete_pairs",
    "convergence", "convergence_document", "convergence_gaps", "convergence_ways", "core_minutes",
    "cost_document", "counted", "crossings", "curve_bands", "curves", "determinism_costs", "difference_bands",
    "differences", "diverged", "ensemble_speedups", "environments", "equivalences", "explorer_document",
    "explorer_grids", "finished", "gains", "history", "idle", "idle_seeds", "joint_regions", "labels", "listed",
    "loss_costs", "loss_memory", "loss_shares", "lowest_losses", "memorisation", "network_document", "networks",
    "overview", "part_status", "performance_documents", "posthoc_candidates", "posthoc_differences",
    "posthoc_document", "posthoc_lists", "posthoc_part", "posthoc_ranks", "posthoc_scores", "posthoc_trades",
    "present", "primary", "primary_part", "probabilities", "promises", "ranking", "rate_part", "rates",
    "regrets", "reliability", "require_comparable", "richness", "robust_differences", "robust_document",
    "robust_means", "robustness", "runs", "score_differences", "search", "setups_verdict", "size_verdict",
    "status", "step_parts", "strengths", "study_verdicts", "summary", "trade", "training_rates",
    "transition_map", "unseen", "verdicts", "verdicts_today",
]
