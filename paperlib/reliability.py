r"""How far the scores of a network can be trusted as probabilities, and what its candidate lists hold.

All of it is computed from logits: ranks alone do not tell. The mass of the first k is the sum of the k largest
probabilities of the softmax, which promises how often the right class is among them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax


class Reliability(NamedTuple):
    """One entry a bin: mean predicted probability, share of samples for which it came true, number of samples."""

    predicted: NDArray[np.float64]
    right: NDArray[np.float64]
    samples: NDArray[np.int64]


def mass(logits: ArrayLike, k: int) -> NDArray[np.float64]:
    """Sum of the k largest softmax probabilities of each row of logits (n, C), float64 (n,).

    Raises:
        ValueError: not finite logits of two dimensions, or k outside 1..C.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"logits have shape {values.shape}: expected finite numbers of shape (n, C), n at least 1")
    if not 1 <= k <= values.shape[1]:
        raise ValueError(f"k={k!r}: expected a whole number in 1..{values.shape[1]}, the classes")
    return np.partition(softmax(values, axis=1), -k, axis=1)[:, -k:].sum(axis=1).clip(0, 1)


def reliability(logits: ArrayLike, ranks: ArrayLike, k: int = 1, bins: int = 15) -> Reliability:
    """Mass of the first k against how often the label is among them, in bins of equally many samples.

    Bins of equal width, as in :cite:t:`guo2017calibration`, would leave most of them all but empty: the mass of the
    first five is close to 1 for nearly every image. Samples of equal mass may fall into two bins; the earlier one goes
    into the lower.

    Args:
        logits: float, (n, C).
        ranks: of the labels, 1 = top, (n,).
        k: length of the list.
        bins: number of bins, at most n.

    Raises:
        ValueError: see :func:`mass`; ranks of another number of samples, or more bins than samples.
    """
    predicted, inside = mass(logits, k), np.asarray(ranks) <= k
    if inside.shape != predicted.shape:
        raise ValueError(f"ranks have shape {inside.shape}: expected ({len(predicted)},), one a row of logits")
    if not 1 <= bins <= len(predicted):
        raise ValueError(f"bins={bins!r}: expected a whole number in 1..{len(predicted)}, the samples")
    parts = np.array_split(np.argsort(predicted, kind="stable"), bins)
    return Reliability(np.array([predicted[part].mean() for part in parts]),
                       np.array([inside[part].mean() for part in parts]), np.array([len(part) for part in parts]))


def calibration_error(table: Reliability) -> float:
    r"""Expected calibration error :math:`\sum_b \frac{n_b}{n} |\bar p_b - \bar a_b|` of a table of bins, a fraction.

    It is above 0 also for exact probabilities, since each bin has finitely many samples: :func:`calibration_floor`.
    """
    return float(np.average(np.abs(table.predicted - table.right), weights=table.samples))


def calibration_floor(table: Reliability) -> float:
    r"""What :func:`calibration_error` is expected to be for exact probabilities.

    Each bin then misses by :math:`\sqrt{2/\pi}` standard deviations of a share on average. All samples of a bin are
    taken to have the bin's mean probability, which makes it a little too large.
    """
    misses = np.sqrt(2 / np.pi * table.predicted * (1 - table.predicted) / table.samples)
    return float(np.average(misses, weights=table.samples))


class Groups(NamedTuple):
    """``within``: share of wrong first candidates that are of the label's group; ``different``: groups in a list."""

    within: float
    different: float


def groups(logits: ArrayLike, labels: ArrayLike, group_of: ArrayLike, k: int = 5) -> Groups:
    """How close mistakes are, and how diverse the lists of k: by groups of classes such as CIFAR-100's superclasses.

    Args:
        logits: float, (n, C).
        labels: classes, (n,).
        group_of: the group of each class, (C,).
        k: length of the list.

    Returns:
        :class:`Groups`: ``within`` in 0..1, NaN where no first candidate is wrong; ``different``, in 1..k, is the mean
        over samples.

    Raises:
        ValueError: shapes that do not fit each other, or k outside 1..C.
    """
    values, own, group = np.asarray(logits), np.asarray(labels), np.asarray(group_of)
    if values.ndim != 2 or own.shape != values.shape[:1] or group.shape != values.shape[1:]:
        raise ValueError(f"logits, labels and group_of have shapes {values.shape}, {own.shape} and {group.shape}: "
                         "expected (n, C), (n,) and (C,)")
    if not 1 <= k <= values.shape[1]:
        raise ValueError(f"k={k!r}: expected a whole number in 1..{values.shape[1]}, the classes")
    best = np.argsort(-values, axis=1, kind="stable")[:, :k]
    wrong = best[:, 0] != own
    listed = np.sort(group[best], axis=1)
    within = float((group[best[wrong, 0]] == group[own[wrong]]).mean()) if wrong.any() else float("nan")
    return Groups(within, float(1 + (np.diff(listed, axis=1) != 0).sum(axis=1).mean()))
