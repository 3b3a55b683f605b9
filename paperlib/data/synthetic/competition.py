"""Families in which what top-1 needs and what top-k needs compete for one small network."""

import torch
from torch import Tensor

from paperlib.data.synthetic._family import Family, between, cell, check_points, disc, polar, square, whole


def capacity_competition(x: Tensor, *, stripes: int = 2, top2_stripes: int = 4, common: float = 0.6,
                         group: int = 2) -> Tensor:
    r"""Class probabilities (N, 2k + 1) at points x (N, 2) of the square [-1, 1]^2, where k is ``group``.

    Left half: classes 0 to k - 1 alternate in ``stripes`` horizontal stripes, without noise: hard for top-1, while all
    k of them are always right for top-k. Right half: classes k to 2k - 2 share the probability ``common`` equally,
    and the rest belongs to the class that is due among the last two, which alternate in ``top2_stripes`` stripes:
    top-k needs those stripes, though they are worth little likelihood, and top-1 does not as long as
    common >= 1 - 1/k. A network with few units cannot serve both halves.

    With m = max(common / (k - 1), 1 - common), the best possible top-1 accuracy is (1 + m) / 2 and top-k is 1.

    Args:
        x: float (N, 2).
        stripes: top-1 complexity.
        top2_stripes: top-k complexity.
        common: label ambiguity, in [0, 1]: at 1, nothing is left that only top-k can gain.
        group: the k that the family is made for, at least 2.

    Raises:
        ValueError: the shape of x or an option is off.
    """
    check_points(x, 2)
    height = (x[:, 1] + 1) / 2
    return _two_parts(x[:, 0] < 0, height, stripes=whole("stripes", stripes, 1),
                      top2_stripes=whole("top2_stripes", top2_stripes, 1), common=between("common", common, 0, 1),
                      group=whole("group", group, 2))


def spirals(x: Tensor, *, segments: int = 6, top2_segments: int = 4, common: float = 0.6, turns: float = 1.0,
            group: int = 2) -> Tensor:
    r"""Class probabilities (N, 2k + 1) at points x (N, 2) of the unit disc, where k is ``group``.

    :func:`capacity_competition` wound up: two arms, each half of the disc, make ``turns`` turns from the centre to the
    rim. A point at radius r and angle :math:`\theta` is on the first arm where
    :math:`(\theta / 2\pi - \mathrm{turns} \cdot r) \bmod 1 < 1/2`. On the first arm classes 0 to k - 1 alternate in
    ``segments`` segments of equal area, without noise; on the second one k - 1 classes share ``common``, and one of
    the last two is due, in turn in ``top2_segments`` segments. Every boundary bends, and even the best group for
    top-k asks which arm a point is on.

    The best possible accuracies are those of :func:`capacity_competition`. Points beyond the rim belong to the
    outermost segments.

    Args:
        x: float (N, 2).
        segments: top-1 complexity.
        top2_segments: top-k complexity.
        common: label ambiguity, in [0, 1].
        turns: complexity that both need, at least 0, where the arms are half discs.
        group: the k that the family is made for, at least 2.

    Raises:
        ValueError: the shape of x or an option is off.
    """
    check_points(x, 2)
    area, angle = polar(x)
    first = (angle - between("turns", turns, 0, 100) * area.sqrt()) % 1.0 < 0.5
    return _two_parts(first, area, stripes=whole("segments", segments, 1),
                      top2_stripes=whole("top2_segments", top2_segments, 1), common=between("common", common, 0, 1),
                      group=whole("group", group, 2))


def _two_parts(first: Tensor, place: Tensor, *, stripes: int, top2_stripes: int, common: float,
               group: int) -> Tensor:
    """One class at a time where ``first``, a common set and the class that is due elsewhere; place in [0, 1]."""
    probabilities = place.new_zeros((len(place), 2 * group + 1))
    rows = torch.arange(len(place), device=place.device)
    single = cell(place, stripes) % group
    due = 2 * group - 1 + cell(place, top2_stripes) % 2
    probabilities[rows[first], single[first]] = 1.0
    probabilities[~first, group:2 * group - 1] = common / (group - 1)
    probabilities[rows[~first], due[~first]] = 1 - common
    return probabilities


CAPACITY_COMPETITION = Family(capacity_competition, square, ("stripes", "top2_stripes", "common"))
SPIRALS = Family(spirals, disc, ("segments", "top2_segments", "common"))
