"""Least risk in each cone by linear programs, for losses that are piecewise linear and convex there."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from paperlib.calibration._risk import NEGLIGIBLE, Loss, inside, risk, scores_of

_POINTS = 300  # places in each cone at which the pieces of the loss are read off


def solve(loss: Loss, eta: Tensor, order: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Least risk in each cone, (n, cones), and where, in the cone's coordinates, (n, cones, C).

    Raises:
        ValueError: the loss is not piecewise linear and convex in a cone, or its risk falls without end.
    """
    cones, num_classes = order.shape
    found = [_pieces(loss, one, generator) for one in order]
    # One program holds a block for each cone: its coordinates, then the loss of each label, not below any piece.
    constraints = sparse.block_diag([pieces[:, :-1] for pieces in found], format="csr")
    limits = -np.concatenate([pieces[:, -1] for pieces in found])
    bounds = ([(None, None)] + [(0, None)] * (num_classes - 1) + [(None, None)] * num_classes) * cones
    values, x = [], []
    for row in eta:
        cost = np.tile(np.concatenate([np.zeros(num_classes), row.numpy()]), cones)
        solved = linprog(cost, A_ub=constraints, b_ub=limits, bounds=bounds, method="highs")
        if not solved.success:
            raise ValueError(f"the conditional risk at {tuple(row.tolist())} has no minimum: {solved.message}")
        solution = torch.tensor(solved.x).reshape(cones, 2 * num_classes)
        x.append(solution[:, :num_classes])
        values.append(solution[:, num_classes:] @ row)
        with torch.no_grad():
            truth = risk(loss, scores_of(inside(x[-1]), order), row.expand(cones, -1))
        if (truth - values[-1]).abs().max() > NEGLIGIBLE:  # a piece between the places was not seen
            raise ValueError("the linear pieces of the loss were not all found: use solver='search'")
    return torch.stack(values), torch.stack(x)


def _pieces(loss: Loss, one: Tensor, generator: torch.Generator) -> NDArray[np.float64]:
    """The pieces of all labels in one cone: slope (C), minus the label's one-hot row (C), value at the origin."""
    num_classes = len(one)
    # Places over two decades: pieces that meet near the origin and far from it.
    scale = torch.logspace(-1, 1, _POINTS, dtype=torch.float64).unsqueeze(1)
    x = torch.empty(_POINTS, num_classes, dtype=torch.float64).exponential_(generator=generator) * scale
    rows = x.repeat_interleave(num_classes, dim=0).requires_grad_()
    labels = torch.arange(num_classes).repeat(_POINTS)
    values = loss(scores_of(rows, one.expand_as(rows)), labels, reduction="none")
    (slope,) = torch.autograd.grad(values.sum(), rows)
    values, rows = values.detach(), rows.detach()
    at_origin = (values - (slope * rows).sum(dim=1)).unsqueeze(1)
    pieces = torch.cat([slope, -torch.eye(num_classes, dtype=x.dtype)[labels], at_origin], dim=1).numpy()
    pieces = pieces[np.unique(pieces.round(9), axis=0, return_index=True)[1]]
    for label in range(num_classes):
        mine = torch.from_numpy(pieces[pieces[:, num_classes + label] == -1])
        highest = (x @ mine[:, :num_classes].T + mine[:, -1]).amax(dim=1)
        if len(mine) > _POINTS // 3 or (highest - values[labels == label]).abs().max() > NEGLIGIBLE:
            raise ValueError("the loss is not piecewise linear and convex where the order of the classes is "
                             f"{tuple(one.tolist())}: use solver='search'")
    return pieces
