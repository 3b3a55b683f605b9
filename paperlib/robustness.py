"""How far a predictor's top k is from being lost, in the plane, where the class probabilities are known.

A population in the plane is laid out on a lattice that reaches beyond it. Then accuracy under noise is a sum over the
lattice and the way to the decision boundary a distance transform: neither draws a sample, and the scale of the scores
enters nowhere. Nothing here needs torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from paperlib.bayes import best_sets

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Plane:
    """A population with equal density on the square or the disc, on a lattice of the window [-reach, reach]^2.

    Attributes:
        points: midpoints of the lattice's cells, float64 (n * n, 2), the second coordinate the slow one.
        joint: probability of each point and class together, float64 (n, n, C), 0 beyond the population; sum 1.
        step: of the lattice, in the units of the points.
        margin: how far the window reaches beyond the population.
    """

    points: Array
    joint: Array
    step: float
    margin: float

    @property
    def side(self) -> int:
        """Points along each axis, n."""
        return len(self.joint)


def plane(probabilities: Callable[[Array], Any], *, disc: bool = False, reach: float = 1.5,
          side: int = 300) -> Plane:
    """The population that is uniform on [-1, 1]^2, or on the unit disc.

    Args:
        probabilities: class probabilities (N, C) at points (N, 2).
        disc: whether the population is the disc.
        reach: of the window, above 1.
        side: points of the lattice along each axis.

    Raises:
        ValueError: the window does not reach beyond the population, or the lattice is too coarse.
    """
    if not reach > 1 or isinstance(side, bool) or not isinstance(side, int) or side < 10:
        raise ValueError(f"reach={reach!r}, side={side!r}: expected a reach above 1 and a whole side of at least 10")
    step = 2 * reach / side
    axis = step * (np.arange(side) + 0.5) - reach
    x, y = (values.ravel() for values in np.meshgrid(axis, axis))
    inside = (np.hypot(x, y) <= 1) if disc else (np.maximum(np.abs(x), np.abs(y)) <= 1)
    points = np.column_stack([x, y])
    table = np.asarray(probabilities(points), dtype=np.float64) * inside[:, None] / inside.sum()
    return Plane(points, table.reshape(side, side, -1), step, reach - 1)


def margins(scores: Any, k: int) -> Array:
    """How far each class is inside the first k: its score less the k-th best score among the others, (N, C).

    Above 0 exactly where the class is among the first k; a tie counts as outside, as everywhere.

    Args:
        scores: (N, C).
        k: in 1..C - 1.

    Raises:
        ValueError: the scores are no matrix, hold NaN, or k is out of range.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or np.isnan(values).any():
        raise ValueError(f"scores have shape {values.shape}: expected numbers of shape (N, C), none of them NaN")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k < values.shape[1]:
        raise ValueError(f"k={k!r}: expected a whole number in 1..{values.shape[1] - 1}")
    ordered = -np.sort(-values, axis=1)
    last, beyond = ordered[:, k - 1 : k], ordered[:, k : k + 1]
    return values - np.where(values >= last, beyond, last)


def best_members(population: Plane, k: int) -> Mask:
    """Which classes are among a best set of k at each point of the lattice, bool (n, n, C).

    The sets are those of :func:`paperlib.bayes.best_sets`; beyond the population each point has the set of its nearest
    one within, as nothing is lost there.
    """
    joint = population.joint
    inside = joint.sum(axis=2) > 0
    members = np.zeros(joint.shape, dtype=bool)
    table = joint[inside] / joint[inside].sum(axis=1, keepdims=True)
    rows = np.zeros(table.shape, dtype=bool)
    np.put_along_axis(rows, np.array(best_sets(table, k)), True, axis=1)
    members[inside] = rows
    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    return members[tuple(nearest)]


def smeared(population: Plane, deviations: Sequence[float]) -> dict[float, Array]:
    """The joint probability of class and *noisy* point for Gaussian noise of each standard deviation, (n, n, C) each.

    A predictor's expected accuracy under noise is then a sum over the lattice, :func:`noisy_topk`, and no noise needs
    to be drawn. The class probabilities are those of the clean point.

    Raises:
        ValueError: four standard deviations reach beyond the window, or one is negative.
    """
    found = {}
    for deviation in deviations:
        if not 0 <= 4 * deviation <= population.margin + 1e-9:
            raise ValueError(f"a standard deviation of {deviation!r}: expected 0 to {population.margin / 4:g}, that "
                             "four of them fit between the population and the window's end")
        found[float(deviation)] = ndimage.gaussian_filter(
            population.joint, sigma=deviation / population.step, axes=(0, 1), mode="constant")
    return found


def noisy_topk(members: Mask, clouds: dict[float, Array]) -> dict[float, float]:
    """Expected top-k accuracy under the noise of each standard deviation.

    Args:
        members: which classes are among the first k at each point, bool (n, n, C).
        clouds: of :func:`smeared`.
    """
    return {deviation: float(cloud[members].sum()) for deviation, cloud in clouds.items()}


def distances(members: Mask, population: Plane) -> Array:
    """How far each class is from leaving the first k, (n, n, C): the least change of the point that it takes.

    0 where it is not among them. Exact to about a step of the lattice, and never beyond the window: a class that
    stays inside throughout has the distance to the window's end.
    """
    padded = np.pad(members, ((1, 1), (1, 1), (0, 0)))
    found = np.zeros(members.shape)
    for label in np.flatnonzero(members.any(axis=(0, 1))):
        found[:, :, label] = ndimage.distance_transform_edt(padded[:, :, label])[1:-1, 1:-1]
    # The boundary is, on average, half a step this side of the nearest point beyond it.
    return population.step * np.maximum(found - 0.5, 0)


def certain_topk(far: Array, population: Plane, radii: Sequence[float]) -> dict[float, float]:
    """Probability that the label is among the first k at *every* point within each radius of the clean one.

    Args:
        far: of :func:`distances`.
        population: whose probabilities count.
        radii: at least 0; at 0 it is the accuracy.

    Raises:
        ValueError: a radius is beyond what the window shows.
    """
    for radius in radii:
        if not 0 <= radius <= population.margin:
            raise ValueError(f"radius={radius!r}: expected 0 to {population.margin:g}, as far as the window reaches")
    return {float(radius): float(population.joint[far > radius].sum()) for radius in radii}


def weighted_quantiles(values: Array, weights: Array, shares: Sequence[float]) -> list[float]:
    """The smallest value up to which at least each share of the weight lies; arrays of one shape.

    Raises:
        ValueError: shapes differ, or there is no weight.
    """
    values, weights = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if values.shape != weights.shape or not weights.sum() > 0:
        raise ValueError(f"values {values.shape} with weights {weights.shape}: expected one shape, and weight above 0")
    used = weights > 0
    values, weights = values[used], weights[used]
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    places = np.searchsorted(reached, np.asarray(shares) - 1e-12)
    return [float(value) for value in values[order][np.minimum(places, len(values) - 1)]]
