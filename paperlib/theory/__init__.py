"""Cases in which the effect of cross entropy on top-k can be proved, and solvers that check the proofs.

:class:`Segments` is data on an interval, and a *stump* is the model: one threshold with free class probabilities on
either side. Formulas come from :func:`predicted`; :func:`fitted` and :func:`best_topk` find the same numbers by
optimisation and by search, without them. :class:`Support` is data on finitely many points, for a linear softmax model.
"""

from paperlib.theory.linear import LinearModel, Support, best_linear_topk, fit_linear, three_points
from paperlib.theory.stump import (
    Predicted,
    Segments,
    cross_entropy_at,
    mass_entropy,
    predicted,
    three_segments,
    topk_at,
)
from paperlib.theory.stump_search import Fitted, best_topk, fit_at, fitted

__all__ = ["Fitted", "LinearModel", "Predicted", "Segments", "Support", "best_linear_topk", "best_topk",
           "cross_entropy_at", "fit_at", "fit_linear", "fitted", "mass_entropy", "predicted", "three_points",
           "three_segments", "topk_at"]
