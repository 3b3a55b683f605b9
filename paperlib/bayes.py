"""What predictions achieve where the class probabilities are known: the best possible, a model's own, the regret.

Nothing here is estimated from labels: every accuracy is an expectation under the probabilities. Tensors and arrays are
both taken; nothing here needs torch to be imported.
"""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TIED = 1e-6  # of two sets of classes: below the rounding of single precision they are equally good


def bayes_topk(probabilities: Any) -> NDArray[np.float64]:
    """Accuracy of the best possible top-k prediction, for k = 1..C at positions 0..C-1.

    Args:
        probabilities: class probabilities (N, C) at N equally likely points.

    Returns:
        float64 (C,): the mean over the points of the k largest probabilities' sum.

    Raises:
        ValueError: not a matrix of probabilities whose rows sum to 1.
    """
    return _mean_curve(-np.sort(-_probabilities(probabilities), axis=1))


def expected_topk(logits: Any, probabilities: Any) -> NDArray[np.float64]:
    """Expected accuracy of a model's top k, for k = 1..C at positions 0..C-1.

    A class counts as among the first k where its score is above all but k - 1 others; equal scores count as ahead, as
    in :func:`paperlib.metrics.label_ranks`.

    Args:
        logits: scores (N, C). ``-inf`` marks a class left out.
        probabilities: class probabilities (N, C) at the same points.

    Returns:
        float64 (C,).

    Raises:
        ValueError: the shapes differ, a score is NaN, or the probabilities are none.
    """
    p, scores = _probabilities(probabilities), _array(logits)
    if scores.shape != p.shape or np.isnan(scores).any():
        raise ValueError(f"logits have shape {scores.shape}: expected numbers of shape {p.shape}, none of them NaN")
    order = np.argsort(-scores, axis=1, kind="stable")
    sorted_scores = np.take_along_axis(scores, order, axis=1)
    found = np.cumsum(np.take_along_axis(p, order, axis=1), axis=1)
    apart = np.ones(p.shape, dtype=bool)  # a block of equal scores counts from its last position on
    apart[:, :-1] = sorted_scores[:, :-1] > sorted_scores[:, 1:]
    return np.maximum.accumulate(np.where(apart, found, 0.0), axis=1).mean(axis=0)


def regret(logits: Any, probabilities: Any) -> NDArray[np.float64]:
    """What a model's top k falls short of the best possible, for k = 1..C: float64 (C,), at least 0, and 0 at C.

    Args:
        logits: scores (N, C).
        probabilities: class probabilities (N, C) at the same points.

    Raises:
        ValueError: as :func:`expected_topk`.
    """
    return np.maximum(bayes_topk(probabilities) - expected_topk(logits, probabilities), 0.0)


def best_sets(probabilities: Any, k: int) -> list[tuple[int, ...]]:
    """A best set of k classes at every point, with as few different sets as are needed (greedily).

    Where the k-th and the next class are equally probable (both impossible, say) several sets are equally good. Then
    the one is chosen that is best at the most points, so that the sets mark the regions which a top-k predictor must
    tell apart.

    Args:
        probabilities: class probabilities (N, C).
        k: size of the sets, in 1..C.

    Returns:
        For each point the chosen classes, ascending.

    Raises:
        ValueError: k or the probabilities are off.
    """
    p = _probabilities(probabilities)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= p.shape[1]:
        raise ValueError(f"k={k!r}: expected a whole number in 1..{p.shape[1]}")
    rows, place = np.unique(p, axis=0, return_inverse=True)
    weight = np.bincount(place.ravel(), minlength=len(rows))
    sets = list(itertools.combinations(range(p.shape[1]), int(k)))
    best = -np.sort(-rows, axis=1)[:, :k].sum(axis=1)
    is_best = np.stack([rows[:, members].sum(axis=1) for members in map(list, sets)], axis=1) > best[:, None] - _TIED
    chosen = np.full(len(rows), -1)
    while (open_rows := chosen < 0).any():
        widest = int(np.argmax(weight[open_rows] @ is_best[open_rows]))
        chosen[open_rows & is_best[:, widest]] = widest
    return [sets[i] for i in chosen[place.ravel()]]


def region_names(probabilities: Any, k: int) -> list[str]:
    """The name of the region that each point is in: ``class 2`` for k = 1, and ``{0, 1}`` for a best set of two.

    Args:
        probabilities: class probabilities (N, C).
        k: size of the sets, in 1..C.
    """
    return [f"class {members[0]}" if k == 1 else f"{{{', '.join(map(str, members))}}}"
            for members in best_sets(probabilities, k)]


def _array(values: Any) -> NDArray[np.float64]:
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=np.float64)


def _probabilities(values: Any) -> NDArray[np.float64]:
    p = _array(values)
    if p.ndim != 2 or not p.size:
        raise ValueError(f"probabilities have shape {p.shape}: expected (N, C) with N >= 1")
    if not ((p >= 0).all() and np.allclose(p.sum(axis=1), 1, atol=1e-5)):
        raise ValueError(f"probabilities lie in {p.min()}..{p.max()} with sums in {p.sum(axis=1).min()}.."
                         f"{p.sum(axis=1).max()}: expected at least 0 and rows that sum to 1")
    return p


def _mean_curve(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.cumsum(ordered, axis=1).mean(axis=0)
