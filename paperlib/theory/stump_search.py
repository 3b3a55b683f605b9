"""The best stumps by optimisation and by exhaustive search: what the closed forms are checked against."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from paperlib.theory.stump import Array, Segments

_STEPS = 200
_GRADIENT = 1e-10  # of a leaf's cross entropy with respect to its logits


@dataclass(frozen=True)
class Fitted:
    """The stump that minimises cross entropy.

    Attributes:
        threshold: where it splits.
        cross_entropy: its expected value, nats.
        probabilities: class probabilities left and right of the threshold, float64 (2, C).
    """

    threshold: float
    cross_entropy: float
    probabilities: Array

    def topk(self, data: Segments, k: int) -> float:
        """Top-k accuracy of this stump's own first k classes."""
        left = data.below(self.threshold)[0]
        first_k = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return float(left[first_k[0]].sum() + (data.below(1.0)[0] - left)[first_k[1]].sum())


def fit_at(data: Segments, threshold: Any) -> tuple[Array, Array]:
    """The best class probabilities on either side of each threshold, by Newton's method on their logits.

    No use is made of what the minimiser is known to be: the objective, which is convex, is the expected cross entropy,
    and the method stops where every derivative is below 1e-10.

    Returns:
        Cross entropy (T,), nats, and class probabilities (T, 2, C); uniform on a side that is empty.
    """
    left = data.below(threshold)
    masses = np.stack([left, np.maximum(data.below(1.0) - left, 0)], axis=1)
    weight = masses.sum(axis=2)
    rows = masses[weight > 0] / weight[weight > 0][:, None]
    probabilities = np.full_like(masses, 1 / masses.shape[2])
    loss = np.zeros(weight.shape)
    loss[weight > 0], probabilities[weight > 0] = _fit_leaves(rows)
    return (weight * loss).sum(axis=1), probabilities


def fitted(data: Segments, points: int = 401) -> Fitted:
    """The threshold and the class probabilities with the smallest cross entropy of all.

    Every threshold of an even grid is fitted, then finer and finer grids around each of its local minima, down to a
    width of 1e-12. The result is the global minimum unless two minima lie within one step of the first grid.
    """
    grid = np.linspace(0.0, 1.0, points)
    values, _ = fit_at(data, grid)
    around = np.concatenate([[np.inf], values, [np.inf]])
    dips = np.flatnonzero((values <= around[:-2]) & (values <= around[2:])).tolist()
    candidates = [_zoom(data, float(grid[max(i - 1, 0)]), float(grid[min(i + 1, points - 1)])) for i in dips]
    values, probabilities = fit_at(data, candidates)
    best = int(np.argmin(values))
    return Fitted(candidates[best], float(values[best]), probabilities[best])


def _zoom(data: Segments, low: float, high: float, points: int = 41) -> float:
    """The threshold between two others with the smallest cross entropy, where it has one dip there."""
    while True:
        grid = np.linspace(low, high, points)
        best = int(fit_at(data, grid)[0].argmin())
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, points - 1)])
        if high - low < 1e-12:
            return float(grid[best])


def best_topk(data: Segments, k: int, points: int = 401) -> tuple[float, float]:
    """The largest top-k accuracy of any stump, and a threshold that has it.

    Tries all pairs of sets of k classes at all boundaries of the data and at an even grid of thresholds. For one pair
    the accuracy is linear in the threshold on every segment, so that the boundaries alone hold a maximum.
    """
    grid = np.unique(np.concatenate([data.boundaries, np.linspace(0, 1, points)]))
    left = data.below(grid)
    right = data.below(1.0) - left
    sets = [list(members) for members in itertools.combinations(range(left.shape[1]), k)]
    found = (-1.0, 0.0)
    for one, other in itertools.product(sets, repeat=2):
        accuracy = left[:, one].sum(axis=1) + right[:, other].sum(axis=1)
        if accuracy.max() > found[0]:
            found = float(accuracy.max()), float(grid[accuracy.argmax()])
    return found


def _fit_leaves(target: Array) -> tuple[Array, Array]:
    """Cross entropy (L,) and softmax (L, C) at its minimum for samples with class shares (L, C)."""
    rows, num_classes = target.shape
    logits: Array = np.zeros((rows, num_classes))
    along = np.full((num_classes, num_classes), 1 / num_classes)  # a common shift changes nothing: hold it at 0

    def evaluate(at: Array) -> tuple[Array, Array]:
        top = at.max(axis=1, keepdims=True)
        weights = np.exp(at - top)
        total = weights.sum(axis=1, keepdims=True)
        return (top + np.log(total))[:, 0] - (target * at).sum(axis=1), weights / total

    value, p = evaluate(logits)
    for _ in range(_STEPS):
        gradient = p - target
        open_rows = np.flatnonzero(np.abs(gradient).max(axis=1) > _GRADIENT)
        if not len(open_rows):
            return value, p
        q = p[open_rows]
        hessian = q[:, :, None] * (np.eye(num_classes) - q[:, None, :]) + along
        step = np.zeros_like(logits)
        step[open_rows] = -np.linalg.solve(hessian, gradient[open_rows][:, :, None])[:, :, 0]
        slope, size = (gradient * step).sum(axis=1), np.ones(rows)
        for _ in range(50):
            new_value, new_p = evaluate(logits + size[:, None] * step)
            too_far = new_value > value + 0.25 * size * slope + 1e-15
            if not too_far.any():
                break
            size[too_far] /= 2
        logits, value, p = logits + size[:, None] * step, new_value, new_p
    raise RuntimeError(f"Newton's method left a derivative of {np.abs(p - target).max():.1e} after {_STEPS} steps")
