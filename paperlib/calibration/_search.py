"""Least risk in each cone by descent from many starts: values alone, no derivative of the loss."""

import math

import torch
from torch import Tensor

from paperlib.calibration._risk import Loss, inside, risk, scores_of

_DIFFERENCE = 1e-6  # logits: step of the numerical derivative

#: Rounds of a race: the shares of ``steps`` for gradients and for polls, and the starts left on either side.
_ROUNDS = ((0.01, 0.0, 24), (0.02, 0.0, 8), (0.1, 0.25, 4), (0.2, 0.5, 1))


@torch.no_grad()
def search(loss: Loss, eta: Tensor, order: Tensor, right: Tensor, steps: int,
           generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Least risk found in each cone, (n, cones), and where, in the cone's coordinates, (n, cones, C).

    Every cone is entered from a near start, from a far one, and then from the best place found in any cone.
    ``right`` (n, cones) tells the cones whose first k classes are the right ones.
    """
    n, cones = right.shape
    near = torch.empty(n, cones, eta.shape[1], dtype=eta.dtype).exponential_(generator=generator)
    far = 10 ** (2 * torch.rand(near.shape, dtype=eta.dtype, generator=generator) - 0.5)
    values, x = _race(loss, eta, order, right, torch.stack([near, far], dim=1), steps, generator)
    best = x.take_along_dim(values.argmin(dim=1)[:, None, None], dim=1)
    again, y = _race(loss, eta, order, right, best.repeat(1, cones, 1).unsqueeze(1), steps, generator)
    return torch.minimum(values, again), torch.where((again < values).unsqueeze(2), y, x)


def _race(loss: Loss, eta: Tensor, order: Tensor, right: Tensor, starts: Tensor, steps: int,
          generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As :func:`search`, from ``starts`` (n, starts, cones, C): those that promise most get the most steps."""
    n, count, cones, _ = starts.shape
    x, sides = starts.flatten(1, 2), right.repeat(1, count)
    values = torch.zeros(sides.shape, dtype=x.dtype)
    kept = torch.arange(count * cones).expand(n, -1)
    for gradient_steps, polls, left in _ROUNDS:
        row, place = torch.arange(n).unsqueeze(1).expand_as(kept).flatten(), kept.flatten()
        target = loss, order[place % cones], eta[row]
        better, _ = _descend(*target, x[row, place], math.ceil(gradient_steps * steps))
        x[row, place], values[row, place] = _poll(*target, better, round(polls * steps), generator)
        left = min(left, int(right.sum(dim=1).min()))
        kept = torch.cat([torch.where(side, values, math.inf).topk(left, dim=1, largest=False).indices
                          for side in (sides, ~sides)], dim=1)
    values, start = values.reshape(n, count, cones).min(dim=1)
    return values, x.reshape(starts.shape).take_along_dim(start[:, None, :, None], dim=1).squeeze(1)


def _risks(loss: Loss, tried: Tensor, order: Tensor, eta: Tensor) -> Tensor:
    """Risks of several places for each row, (rows, tries), for cone coordinates of shape (rows, tries, C)."""
    rows, tries, _ = tried.shape
    scores = scores_of(tried.flatten(0, 1), order.repeat_interleave(tries, dim=0))
    return risk(loss, scores, eta.repeat_interleave(tries, dim=0)).reshape(rows, tries)


def _descend(loss: Loss, order: Tensor, eta: Tensor, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Spectral projected gradients, each row for itself: places in the cone, and their risks."""
    units = torch.cat([torch.zeros_like(x[:1]), _DIFFERENCE * torch.eye(x.shape[1], dtype=x.dtype)])
    shorter = torch.logspace(-0.5, -4.5, 5, dtype=x.dtype)

    def at(x: Tensor) -> tuple[Tensor, Tensor]:
        # Forward differences only ever widen a gap, so they stay inside the cone, whatever lies beyond its edge.
        found = _risks(loss, x.unsqueeze(1) + units, order, eta)
        return found[:, 0], ((found[:, 1:] - found[:, :1]) / _DIFFERENCE).nan_to_num(0.0, 0.0, 0.0)

    x = inside(x)
    values, slope = at(x)
    step = torch.ones_like(values)
    recent = values.repeat(5, 1)
    for i in range(steps):
        way = inside(x - step.unsqueeze(1) * slope) - x
        # A step may go up, but not above all of the last five values: the method needs that to be fast.
        ceiling, needed = recent.amax(dim=0), 1e-4 * (way * slope).sum(dim=1)
        length = (risk(loss, scores_of(x + way, order), eta) <= ceiling + needed).to(x.dtype)
        failed = (length == 0).nonzero().squeeze(1)
        if len(failed):
            tried = x[failed].unsqueeze(1) + shorter[:, None] * way[failed].unsqueeze(1)
            found = _risks(loss, tried, order[failed], eta[failed])
            enough = found <= ceiling[failed, None] + shorter * needed[failed, None]
            first = shorter[enough.int().argmax(dim=1)]
            length[failed] = torch.where(enough.any(dim=1), first, 0.0)  # 0: a kink, or the end
        moved = length.unsqueeze(1) * way
        x, old = x + moved, slope
        values, slope = at(x)
        recent[i % len(recent)] = values
        bend = (moved * (slope - old)).sum(dim=1)
        step = torch.where(bend > 0, (moved**2).sum(dim=1) / bend, 10 * step).clamp(1e-4, 1e4)
        step = torch.where(length > 0, step, 0.1)
    return x, values


def _poll(loss: Loss, order: Tensor, eta: Tensor, x: Tensor, steps: int,
          generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places around each row, nearer after a failure: goes on where gradients stop at a kink, or fade far out."""
    rows, size = x.shape
    values = risk(loss, scores_of(x, order), eta)
    reach = torch.full_like(values, 0.5)
    for i in range(steps):
        if i % 100 == 0:  # what looks like the end may be a narrow valley
            reach = torch.full_like(values, 0.5)
        if i % 2:
            axes, _ = torch.linalg.qr(torch.randn(size, size, dtype=x.dtype, generator=generator))
            ways = axes.expand(rows, -1, -1)
        else:
            ways = torch.diag_embed(x)
        tried = inside(x.unsqueeze(1) + reach[:, None, None] * torch.cat([ways, -ways], dim=1))
        least, which = _risks(loss, tried, order, eta).min(dim=1)
        better = least < values
        x = torch.where(better.unsqueeze(1), tried[torch.arange(rows), which], x)
        values = torch.where(better, least, values)
        reach = torch.where(better, 2 * reach, 0.8 * reach).clamp(max=1.0)
    return x, values
