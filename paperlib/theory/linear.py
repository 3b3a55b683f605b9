"""A linear softmax model on finitely many points: its cross-entropy minimum, and its best top-k accuracy by search."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from paperlib.bayes import bayes_topk
from paperlib.theory.stump import Array

_STEPS = 200
_GRADIENT = 1e-12
_LARGEST_SEARCH = 100_000  # assignments of sets to points


@dataclass(frozen=True, eq=False)
class Support:
    """A population of finitely many points.

    Attributes:
        points: float64 (N, d).
        masses: probability of each point, float64 (N,), above 0 with sum 1.
        probabilities: class probabilities at each, float64 (N, C).

    Raises:
        ValueError: shapes, masses or probabilities are off.
    """

    points: Array
    masses: Array
    probabilities: Array

    def __post_init__(self) -> None:
        for name in ("points", "masses", "probabilities"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if self.points.ndim != 2 or not np.isfinite(self.points).all():
            raise ValueError(f"points have shape {self.points.shape}: expected finite numbers of shape (N, d)")
        if self.masses.shape != self.points.shape[:1] or not ((self.masses > 0).all()
                                                              and np.isclose(self.masses.sum(), 1, atol=1e-12)):
            raise ValueError(f"masses={self.masses.tolist()}: expected {len(self.points)} numbers above 0 with sum 1")
        if self.probabilities.shape[:1] != self.masses.shape:
            raise ValueError(f"probabilities have shape {self.probabilities.shape}: expected ({len(self.points)}, C)")
        bayes_topk(self.probabilities)  # refuses what is no table of probabilities

    @property
    def design(self) -> Array:
        """Points with a 1 appended, (N, d + 1)."""
        return np.column_stack([self.points, np.ones(len(self.points))])


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Scores s = W (x, 1).

    Attributes:
        weights: W, float64 (C, d + 1), the last column the bias.
    """

    weights: Array

    def scores(self, data: Support) -> Array:
        """Scores (N, C) at the points."""
        return data.design @ self.weights.T

    def cross_entropy(self, data: Support) -> float:
        """Expected cross entropy, nats."""
        scores = self.scores(data)
        top = scores.max(axis=1)
        log_sum = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
        return float(data.masses @ (log_sum - (data.probabilities * scores).sum(axis=1)))

    def topk(self, data: Support, k: int) -> float:
        """Expected top-k accuracy; a tie at the k-th place raises, as it would not be an answer."""
        if self.margin(data, k) <= 0:
            raise ValueError(f"scores tie at place k={k}: the first k classes are not defined")
        first_k = np.argsort(-self.scores(data), axis=1)[:, :k]
        return float(data.masses @ np.take_along_axis(data.probabilities, first_k, axis=1).sum(axis=1))

    def margin(self, data: Support, k: int) -> float:
        """Least difference, over the points, between the k-th and the next score."""
        ordered = -np.sort(-self.scores(data), axis=1)
        return float((ordered[:, k - 1] - ordered[:, k]).min())


def three_points(first: float, second: float, rest: tuple[float, float], noise: float,
                 places: tuple[float, float, float] = (0.0, 1.0, 2.0)) -> Support:
    """The family of the stump's theorem, k = 2, with its segments drawn together to points on a line.

    Args:
        first: mass of the first point, where class 0 is due.
        second: mass of the second, where class 1 is due; what is left belongs to the third.
        rest: probabilities of classes 0 and 2 at the third point.
        noise: probability above 0 with which a label is redrawn uniformly from the three classes. Without it cross
            entropy would have no minimum, only an infimum at infinite weights.
        places: where the points are.

    Raises:
        ValueError: noise is not in (0, 1), or the masses or probabilities are off.
    """
    if not 0 < noise < 1:
        raise ValueError(f"noise={noise!r}: expected a probability above 0 and below 1")
    table = np.array([[1, 0, 0], [0, 1, 0], [rest[0], 0, rest[1]]])
    return Support(np.array(places)[:, None], np.array([first, second, 1 - first - second]),
                   (1 - noise) * table + noise / 3)


def fit_linear(data: Support) -> LinearModel:
    """The global minimum of cross entropy over all linear softmax models, to a gradient of 1e-12, by Newton's method.

    Cross entropy is convex in the weights. It is strictly convex, up to a common shift of all classes' weights, where
    the points span their space; the shift is fixed by giving the last class the weights 0.

    Raises:
        ValueError: a class has probability 0 at some point (the minimum may not exist), or the points do not span.
        RuntimeError: the gradient stays larger.
    """
    x, target = data.design, data.probabilities
    if (target <= 0).any():
        raise ValueError("a class probability is 0: expected all above 0, else weights may grow without end")
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise ValueError(f"points span {np.linalg.matrix_rank(x) - 1} dimensions: expected {x.shape[1] - 1}")
    free, inputs = target.shape[1] - 1, x.shape[1]

    def model(flat: Array) -> LinearModel:
        return LinearModel(np.vstack([flat.reshape(free, inputs), np.zeros(inputs)]))

    flat = np.zeros(free * inputs)
    for _ in range(_STEPS):
        scores = model(flat).scores(data)
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        gradient = ((data.masses[:, None] * (p - target)).T @ x)[:free].ravel()
        if np.abs(gradient).max() < _GRADIENT:
            return model(flat)
        q = p[:, :free]
        curvature = data.masses[:, None, None] * (q[:, :, None] * (np.eye(free) - q[:, None, :]))
        hessian = np.einsum("ncd,ni,nj->cidj", curvature, x, x).reshape(free * inputs, -1)
        step, size, value = -np.linalg.solve(hessian, gradient), 1.0, model(flat).cross_entropy(data)
        while model(flat + size * step).cross_entropy(data) > value + 1e-15 and size > 1e-10:
            size /= 2
        flat = flat + size * step
    raise RuntimeError(f"Newton's method left a derivative of {np.abs(gradient).max():.1e} after {_STEPS} steps")


def best_linear_topk(data: Support, k: int) -> tuple[float, LinearModel]:
    """The largest top-k accuracy of any linear model on these points, and a model that has it.

    Every assignment of a set of k classes to each point is tried, from the most accurate down, until a linear program
    finds weights under which each point's set is scored at least 1 above its other classes. Scores may be scaled, so
    that this asks no more than that the sets are told apart without ties: the search is exact.

    Raises:
        ValueError: k is not in 1..C - 1, or there are more than 100,000 assignments.
    """
    num_points, num_classes = data.probabilities.shape
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k < num_classes:
        raise ValueError(f"k={k!r}: expected a whole number in 1..{num_classes - 1}")
    sets = list(itertools.combinations(range(num_classes), k))
    if math.comb(num_classes, k) ** num_points > _LARGEST_SEARCH:
        raise ValueError(f"{len(sets)}^{num_points} assignments: expected at most {_LARGEST_SEARCH:,}")
    worth = data.masses[:, None] * np.stack([data.probabilities[:, list(s)].sum(axis=1) for s in sets], axis=1)
    assignments = np.array(list(itertools.product(range(len(sets)), repeat=num_points)))
    accuracy = worth[np.arange(num_points), assignments].sum(axis=1)
    for place in np.argsort(-accuracy, kind="stable"):
        if (model := _separate(data, [sets[i] for i in assignments[place]])) is not None:
            return float(accuracy[place]), model
    raise RuntimeError("no assignment is linear")  # a constant model always is


def _separate(data: Support, sets: list[tuple[int, ...]]) -> LinearModel | None:
    """A linear model that scores each point's set at least 1 above its other classes; None where there is none."""
    num_classes = data.probabilities.shape[1]
    rows = []
    for x, members in zip(data.design, sets, strict=True):
        for inside, outside in itertools.product(members, set(range(num_classes)) - set(members)):
            row = np.zeros((num_classes, len(x)))
            row[outside], row[inside] = x, -x
            rows.append(row.ravel())
    result = linprog(np.zeros(len(rows[0])), A_ub=np.array(rows), b_ub=-np.ones(len(rows)), bounds=(None, None),
                     method="highs")
    return LinearModel(result.x.reshape(num_classes, -1)) if result.status == 0 else None
