"""Families in which the best k classes are a coarser question than the best one."""

import torch
from torch import Tensor

from paperlib.data.synthetic._family import Family, between, cell, check_points, disc, polar, whole


def rings(x: Tensor, *, sectors: int = 4, top2_rings: int = 4, certainty: float = 0.8, group: int = 2) -> Tensor:
    r"""Class probabilities (N, 2k) at points x (N, 2) of the unit disc, where k is ``group``.

    Two groups of k classes, 0 to k - 1 and k to 2k - 1, alternate in ``top2_rings`` rings of equal area. In every ring
    the k classes of its group are all possible: the one that is due, in turn in ``sectors`` equal sectors, has
    probability ``certainty``, and the others share the rest. Top-k needs the rings alone, top-1 the rings and the
    sectors.

    The best possible top-1 accuracy is ``certainty``, and top-k is 1. Points beyond the rim belong to the last ring.

    Args:
        x: float (N, 2).
        sectors: top-1 complexity: 1, or a multiple of ``group``, so that neighbours across angle 0 differ.
        top2_rings: top-k complexity.
        certainty: label ambiguity, in [1 / k, 1]; at 1 / k the sectors do not matter.
        group: the k that the family is made for, at least 2.

    Raises:
        ValueError: the shape of x or an option is off.
    """
    check_points(x, 2)
    sectors, top2_rings = whole("sectors", sectors, 1), whole("top2_rings", top2_rings, 1)
    group = whole("group", group, 2)
    if sectors > 1 and sectors % group:
        raise ValueError(f"sectors={sectors!r}: expected 1 or a multiple of group={group}")
    certainty = between("certainty", certainty, 1 / group, 1)
    area, angle = polar(x)
    first = group * (cell(area, top2_rings) % 2)
    probabilities = x.new_zeros((len(x), 2 * group))
    rows = torch.arange(len(x), device=x.device)
    for member in range(group):
        probabilities[rows, first + member] = (1 - certainty) / (group - 1)
    probabilities[rows, first + cell(angle, sectors) % group] = certainty
    return probabilities


def gaussian_mixture(x: Tensor, *, modes: int = 2, top2_modes: int = 1, overlap: float = 0.7,
                     top2_overlap: float = 0.4, groups: int = 2, group: int = 2, dimension: int = 2) -> Tensor:
    r"""Class probabilities (N, GK) at points x (N, d): the exact posterior of a mixture of Gaussians.

    G ``groups`` of K = ``group`` classes lie on a lattice. Along the first coordinate, :math:`n = G \cdot`
    ``top2_modes`` sites with centres :math:`a_i = (2i + 1)/n - 1` belong to the groups in turn; along the second one,
    :math:`m =` ``modes`` sites with centres :math:`b_j = (2j + 1)/m - 1` belong to the members of every group in turn.
    Each site of the lattice is one Gaussian of equal weight, and all have the same covariance: standard deviations
    ``top2_overlap`` / n, ``overlap`` / m, and 1/2 in the remaining d - 2 coordinates, which tell nothing. (Neighbours
    are 2 / m apart, so an overlap of 1 puts the boundary one standard deviation from each.) Hence

    .. math::
        p_{(g, c)}(x) = P_g(x_1) \, Q_c(x_2), \qquad
        P_g(x_1) \propto \sum_{i \bmod G = g} e^{-(x_1 - a_i)^2 n^2 / (2\, \mathrm{top2\_overlap}^2)},

    and Q likewise. A linear softmax model is well specified where every class has one site, which is at
    ``modes`` = ``group`` and ``top2_modes`` = 1 (the log-odds are affine in x), and nowhere else.

    With G = K = 2 and one site each, :math:`E \max_g P_g = \Phi(1 / \mathrm{top2\_overlap})` and
    :math:`E \max_c Q_c = \Phi(1 / \mathrm{overlap})`; the best possible top-1 accuracy is always the product of the
    two expectations. Where members overlap more than groups do, the best k = K classes are mostly one group.

    Args:
        x: float (N, d).
        modes: top-1 complexity, at least ``group``.
        top2_modes: top-k complexity: sites of each group along the first coordinate.
        overlap: label ambiguity: how far the members of a group overlap, above 0.
        top2_overlap: how far the groups overlap, above 0.
        groups: G, at least 2.
        group: K, the k that the family is made for, at least 2.
        dimension: d, at least 2.

    Raises:
        ValueError: the shape of x or an option is off.
    """
    check_points(x, whole("dimension", dimension, 2))
    group_sites, member_sites = _sites(modes, top2_modes, groups, group)
    of_group = _posterior(x[:, 0], group_sites, groups, between("top2_overlap", top2_overlap, 1e-3, 1e3))
    of_member = _posterior(x[:, 1], member_sites, group, between("overlap", overlap, 1e-3, 1e3))
    return (of_group.unsqueeze(2) * of_member.unsqueeze(1)).flatten(1)


def mixture_points(n: int, source: torch.Generator, *, modes: int = 2, top2_modes: int = 1, overlap: float = 0.7,
                   top2_overlap: float = 0.4, groups: int = 2, group: int = 2, dimension: int = 2) -> Tensor:
    """Draws (n, d) from the mixture of :func:`gaussian_mixture`, whatever their class."""
    dimension = whole("dimension", dimension, 2)
    x = torch.randn(n, dimension, generator=source)
    overlaps = between("top2_overlap", top2_overlap, 1e-3, 1e3), between("overlap", overlap, 1e-3, 1e3)
    for axis, (sites, spread) in enumerate(zip(_sites(modes, top2_modes, groups, group), overlaps, strict=True)):
        at = torch.randint(sites, (n,), generator=source)
        x[:, axis] = (2 * at + 1) / sites - 1 + x[:, axis] * spread / sites
    x[:, 2:] *= 0.5
    return x


def _sites(modes: int, top2_modes: int, groups: int, group: int) -> tuple[int, int]:
    """Sites along the first and along the second coordinate."""
    members = whole("modes", modes, whole("group", group, 2))
    return whole("groups", groups, 2) * whole("top2_modes", top2_modes, 1), members


def _posterior(position: Tensor, sites: int, owners: int, overlap: float) -> Tensor:
    """Probability of each owner (N, owners) of equal sites on [-1, 1] that belong to the owners in turn."""
    number = torch.arange(sites, device=position.device)
    centres = (2 * number.to(position) + 1) / sites - 1
    distance = (position.unsqueeze(1) - centres) * sites / overlap
    of_site = (-distance.square() / 2).softmax(dim=1)
    return position.new_zeros((len(position), owners)).index_add_(1, number % owners, of_site)


RINGS = Family(rings, disc, ("sectors", "top2_rings", "certainty"))
GAUSSIAN_MIXTURE = Family(gaussian_mixture, mixture_points, ("modes", "top2_modes", "overlap"))
