"""Small networks trained to convergence, many at once: Adam, and a quasi-Newton method in double precision.

Gradient descent of a fixed length leaves it open whether a network is as it is by its loss or by the descent. These
functions go on until nothing moves, from many starts, so that the minima themselves can be compared.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from paperlib.models.stack import Stack
from paperlib.seeding import generator

#: ``objective(points (m, P), rows (m,)) -> values (m,), gradients (m, P)`` of the chosen rows of many problems.
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Loss = Callable[..., Tensor]

_ARMIJO, _WOLFE = 1e-4, 0.9  # decrease, and slope that is left, which a step must reach
_TRIALS = 40


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent of M independent problems ended.

    Attributes:
        points: float64 (M, P).
        values: of the objective, float64 (M,).
        gradients: Euclidean norm of the gradient, float64 (M,).
        steps: that each problem took, int64 (M,).
    """

    points: Tensor
    values: Tensor
    gradients: Tensor
    steps: Tensor


def weights(stack: Stack) -> Tensor:
    """All parameters of each network of a stack as one row, (M, P)."""
    return torch.cat([values.detach().reshape(stack.models, -1) for values in stack.parameters()], dim=1)


@torch.no_grad()
def load(stack: Stack, points: Tensor) -> None:
    """Write rows as :func:`weights` gives them back into the networks of a stack."""
    sizes = [values.numel() // stack.models for values in stack.parameters()]
    if points.shape != (stack.models, sum(sizes)):
        raise ValueError(f"points have shape {tuple(points.shape)}: expected {(stack.models, sum(sizes))}")
    for values, part in zip(stack.parameters(), points.split(sizes, dim=1), strict=True):
        values.copy_(part.reshape(values.shape))


def mean_loss(stack: Stack, loss: Loss, features: Tensor, labels: Tensor) -> Objective:
    """The mean loss over samples as a function of a network's weights, for :func:`bfgs`.

    Args:
        stack: gives the form of the networks, of the dtype of ``features``.
        loss: called as ``loss(logits, labels, reduction="none")``.
        features: (n, D), what the networks' first layers see.
        labels: int64 (n,).
    """
    names, shapes, sizes = zip(*((name, values.shape, values.numel() // stack.models)
                                 for name, values in stack.named_parameters()), strict=True)

    def objective(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        points = points.detach().requires_grad_()
        parts = points.split(sizes, dim=1)
        # A weight is (M, inputs, outputs), a bias (M * outputs,): both hold the networks one after the other.
        own = {name: part.reshape(len(points), *shape[1:]) if len(shape) > 1 else part.reshape(-1)
               for name, shape, part in zip(names, shapes, parts, strict=True)}
        logits = functional_call(stack, own, (features.expand(len(points), -1, -1),))
        values = loss(logits.flatten(0, 1), labels.repeat(len(points)), reduction="none").unflatten(
            0, (len(points), -1)).mean(dim=1)
        (gradients,) = torch.autograd.grad(values.sum(), points)
        return values.detach(), gradients

    return objective


def bfgs(objective: Objective, start: Tensor, *, steps: int = 500, tolerance: float = 1e-7) -> Descent:
    r"""Minimise M smooth functions of P variables at once, each by its own BFGS steps.

    The inverse Hessian is dense, (M, P, P), so P should be some hundreds at most. A step length t fulfils the weak
    Wolfe conditions :math:`f(x + t d) \le f(x) + 10^{-4} t\, d^T \nabla f(x)` and
    :math:`d^T \nabla f(x + t d) \ge 0.9\, d^T \nabla f(x)`, found by doubling and bisection
    (:cite:t:`lewis2013nonsmooth`), so a value never rises. A problem rests when its gradient's norm is at most
    ``tolerance``, or when rounding leaves no step that descends.

    Args:
        objective: values and gradients; see :data:`Objective`. The gradient must be that of the value: a transition
            loss with a detached gate has none.
        start: (M, P); computed in float64.
        steps: at most so many for each problem.
        tolerance: of the Euclidean norm of the gradient.

    Raises:
        ValueError: the start is no matrix, or the objective is not finite there.
    """
    if start.dim() != 2:
        raise ValueError(f"start has shape {tuple(start.shape)}: expected (M, P)")
    points = start.detach().double().clone()
    problems, size = points.shape
    values, gradients = objective(points, torch.arange(problems))
    if not (values.isfinite().all() and gradients.isfinite().all()):
        raise ValueError("the objective is not finite at the start: expected finite values and gradients")
    inverse = torch.eye(size, dtype=torch.float64).repeat(problems, 1, 1)
    taken = torch.zeros(problems, dtype=torch.int64)
    moving, fresh = gradients.norm(dim=1) > tolerance, torch.ones(problems, dtype=torch.bool)
    for _ in range(steps):
        rows = moving.nonzero().squeeze(1)
        if not len(rows):
            break
        directions = -(inverse[rows] @ gradients[rows].unsqueeze(2)).squeeze(2)
        found, new_points, new_values, new_gradients = _line_search(
            objective, rows, points[rows], directions, values[rows], gradients[rows])
        lost = rows[~found]
        moving[lost] = ~fresh[lost]  # the gradient itself is tried before a problem rests
        inverse[lost], fresh[lost] = torch.eye(size, dtype=torch.float64), True
        rows, new_points, new_gradients = rows[found], new_points[found], new_gradients[found]
        step, change = new_points - points[rows], new_gradients - gradients[rows]
        inverse[rows], fresh[rows] = _updated(inverse[rows], step, change, fresh[rows]), False
        points[rows], values[rows], gradients[rows] = new_points, new_values[found], new_gradients
        taken[rows] += 1
        moving[rows] = new_gradients.norm(dim=1) > tolerance
    return Descent(points, values, gradients.norm(dim=1), taken)


def _line_search(objective: Objective, rows: Tensor, points: Tensor, directions: Tensor, values: Tensor,
                 gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each row whether a step was found, and where it leads: points, values and gradients there."""
    slopes = (directions * gradients).sum(dim=1)
    low, high, length = torch.zeros_like(values), torch.full_like(values, torch.inf), torch.ones_like(values)
    found = torch.zeros_like(values, dtype=torch.bool)
    new_points, new_values, new_gradients = points.clone(), values.clone(), gradients.clone()
    pending = (slopes < 0).nonzero().squeeze(1)
    for _ in range(_TRIALS):
        if not len(pending):
            break
        t = length[pending]
        there = points[pending] + t.unsqueeze(1) * directions[pending]
        value, gradient = objective(there, rows[pending])
        # A value that is not a number fails this comparison too.
        falls = value <= values[pending] + _ARMIJO * t * slopes[pending]
        flat = (directions[pending] * gradient).sum(dim=1) >= _WOLFE * slopes[pending]
        high[pending] = torch.where(falls, high[pending], t)
        low[pending] = torch.where(falls & ~flat, t, low[pending])
        done = falls & flat
        new_points[pending[done]], new_values[pending[done]] = there[done], value[done]
        new_gradients[pending[done]], found[pending[done]] = gradient[done], True
        middle = (low + high) / 2
        length = torch.where(high.isinf(), 2 * low, middle)
        pending = pending[~done]
    return found, new_points, new_values, new_gradients


def _updated(inverse: Tensor, step: Tensor, change: Tensor, fresh: Tensor) -> Tensor:
    """The inverse Hessian after a step s with a change y of the gradient; a fresh one is first scaled by s'y / y'y."""
    product = (step * change).sum(dim=1)
    scale = torch.where(fresh, product / change.square().sum(dim=1), 1.0)
    inverse = inverse * scale[:, None, None]
    rho = 1 / product
    image = (inverse @ change.unsqueeze(2)).squeeze(2)  # H y
    both = step.unsqueeze(2) * image.unsqueeze(1)
    factor = rho * (1 + rho * (change * image).sum(dim=1))
    return (inverse - rho[:, None, None] * (both + both.transpose(1, 2))
            + factor[:, None, None] * step.unsqueeze(2) * step.unsqueeze(1))


def adam(stack: Stack, loss: Loss, features: Tensor, labels: Tensor, *, steps: int, batch: int, lr: float,
         seed: int = 0) -> None:
    """Train the networks of a stack in place by Adam, its rate falling linearly to 0.

    Each network draws its own batches, with replacement. Adam's step is made for each weight alone, so that networks
    which are trained together do not see each other.

    Args:
        stack: the networks, of the dtype of ``features``.
        loss: called as ``loss(logits, labels, reduction="none")``.
        features: (n, D).
        labels: int64 (n,).
        steps: in all.
        batch: samples of a step.
        lr: rate of the first step.
        seed: of the batches.
    """
    source = generator(seed, "adam")
    optimizer = torch.optim.Adam(stack.parameters(), lr=lr)
    for step in range(steps):
        index = torch.randint(len(labels), (stack.models, batch), generator=source)
        values = loss(stack(features[index]).flatten(0, 1), labels[index].flatten(), reduction="none")
        optimizer.zero_grad()
        (values.sum() / batch).backward()
        optimizer.param_groups[0]["lr"] = lr * (1 - (step + 0.5) / steps)
        optimizer.step()
