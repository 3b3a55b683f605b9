"""The conditional risk, and the coordinates in which one order of the classes is a cone."""

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[..., Tensor]

#: In logits: classes nearer than this count as tied.
NEGLIGIBLE = 1e-6
_CLOSEST = 1e-9  # logits: neighbours in the order stay this far apart, which is inside the cone
_FARTHEST = 60.0  # logits: beyond, double precision tells no more


def risk(loss: Loss, scores: Tensor, eta: Tensor) -> Tensor:
    """Conditional risk of each row, (rows,), for scores and probabilities (rows, C); infinite where undefined."""
    rows, num_classes = scores.shape
    labels = torch.arange(num_classes).repeat(rows)
    values = loss(scores.repeat_interleave(num_classes, dim=0), labels, reduction="none").reshape(rows, num_classes)
    return torch.where(eta > 0, eta * values, 0.0).sum(dim=1).nan_to_num(nan=torch.inf, posinf=torch.inf)


def scores_of(x: Tensor, order: Tensor) -> Tensor:
    """Scores (rows, C) of cone coordinates: the largest score, then how far each rank lies below the one before."""
    below = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:].cumsum(dim=1)], dim=1)
    return torch.zeros_like(x).scatter(1, order, x[:, :1] - below)


def inside(x: Tensor) -> Tensor:
    """The nearest coordinates inside the cone; the last dimension holds them."""
    return torch.cat([x[..., :1], x[..., 1:].clamp(_CLOSEST, _FARTHEST)], dim=-1)
