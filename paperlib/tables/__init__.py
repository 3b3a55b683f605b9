"""One function per table: a grid's records in, a frame of strings out, ready to be shown.

Accuracies are percent, differences percentage points. ``mean ± sd`` is over seeds, whose number is in the
column n; brackets hold intervals. Functions that resample also take the frame of :mod:`paperlib.analysis`, for
pages that have it already.
"""

from paperlib.tables._text import markdown, points, signed
from paperlib.tables.advice import advice
from paperlib.tables.budget import budget_bought, budget_order, budget_trades, lists, price, promises
from paperlib.tables.classes import class_effects, class_sentence, probabilities, probability_sentence, scores
from paperlib.tables.performance import (
    augmentation_rates,
    calibration,
    choice_costs,
    determinism_costs,
    ensemble_speedups,
    loss_memory,
    loss_shares,
    loss_speed,
    measurements,
    rival_speed,
    training_rates,
)
from paperlib.tables.posthoc import METHODS, posthoc_added, posthoc_answer, posthoc_differences, posthoc_lists
from paperlib.tables.runs import (
    accuracies,
    candidate_differences,
    candidates,
    certificates,
    differences,
    explorer_grids,
    machines,
    origins,
    reruns,
    run_list,
    status,
)
from paperlib.tables.study import (
    aim,
    answer,
    better_rate,
    crossings,
    equivalences,
    growth,
    hypothesis,
    idle,
    longer_lists,
    memorisation,
    primary,
    rates,
    settings,
    unseen,
    verdicts,
)
from paperlib.tables.synthetic import losses_over_cells, phases, search

__all__ = [
    "METHODS", "accuracies", "advice", "aim", "answer", "augmentation_rates", "better_rate", "budget_bought",
    "budget_order", "budget_trades", "calibration", "candidate_differences", "candidates", "certificates",
    "choice_costs", "class_effects", "class_sentence", "crossings", "determinism_costs", "differences",
    "ensemble_speedups", "equivalences", "explorer_grids", "growth", "hypothesis", "idle", "lists", "longer_lists",
    "loss_memory", "loss_shares", "loss_speed", "losses_over_cells", "machines", "markdown", "measurements",
    "memorisation", "origins", "phases", "points", "posthoc_added", "posthoc_answer", "posthoc_differences",
    "posthoc_lists", "price", "primary", "probabilities", "probability_sentence", "promises", "rates", "reruns",
    "rival_speed", "run_list", "scores", "search", "settings", "signed", "status", "training_rates", "unseen",
    "verdicts",
]
