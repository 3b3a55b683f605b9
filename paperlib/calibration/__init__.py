r"""Does minimising a loss put the right k classes first? A numerical test of top-k calibration.

At one input with class probabilities :math:`\eta` a loss is judged by its conditional risk
:math:`R(s) = \sum_y \eta_y L(s, y)`. It is calibrated for the top k at :math:`\eta` if the infimum of the risk over
all scores that put a wrong set first, or tie one of the k most probable classes with another class, is above its
infimum over all scores (:cite:t:`yang2020consistency`). One run of an optimiser does not decide that, so
:func:`check` compares two infima: over the scores that are right, and over those that are wrong or tied.

The scores are divided into the C! cones of one order of the classes each, where ranks do not change: there the losses
of this library are smooth but for kinks, or convex and piecewise linear. A loss that jumps at ties takes its limit
from inside a cone; scores that are tied to the last bit are tried as well and count as wrong.

``solver="search"`` takes values of the loss alone, so it does not matter whether autograd tells its derivative (it
does not where a gate is detached). What it finds are upper bounds of both infima: evidence, not proof.
``solver="linear"`` is for losses that are piecewise linear, and convex in each cone: linear programs, whose minima are
exact.
"""

import math
from itertools import permutations
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from paperlib import losses
from paperlib.calibration._linear import solve
from paperlib.calibration._risk import NEGLIGIBLE, Loss, risk, scores_of
from paperlib.calibration._search import search

__all__ = ["check", "draw_probabilities"]


def draw_probabilities(count: int = 24, num_classes: int = 5, k: int = 2, *, gap: float = 0.02,
                       seed: int = 0) -> NDArray[np.float64]:
    r"""Class probabilities from the flat Dirichlet distribution, those whose top k is clear.

    Args:
        count: number of rows, >= 1.
        num_classes: C, 3 to 7.
        k: 1 <= k <= C - 1.
        gap: least difference :math:`\eta_{[k]} - \eta_{[k+1]}`; rows with less are drawn again.
        seed: of the draw.

    Returns:
        Shape (count, C), rows sum to 1.

    Raises:
        ValueError: a number is off, or the gap so large that hardly any draw has it.
    """
    _check_sizes(num_classes, k)
    if count < 1:
        raise ValueError(f"count={count}: expected at least 1")
    draws = np.random.default_rng(seed).dirichlet(np.ones(num_classes), 1000 * count)
    kept = draws[_gaps(draws, k) >= gap][:count]
    if len(kept) < count:
        raise ValueError(f"gap={gap}: only {len(kept)} of {len(draws)} draws have it, expected {count}; "
                         "choose a smaller one")
    return kept


def check(loss: str | Loss, k: int = 2, *, probabilities: ArrayLike | None = None,
          solver: Literal["search", "linear"] = "search", tolerance: float = 1e-5, starts: int = 32, steps: int = 400,
          seed: int = 0, **options: Any) -> pd.DataFrame:
    r"""Test one loss at each of some class probabilities.

    Args:
        loss: a name of :func:`paperlib.losses.names`, or any ``loss(logits, labels, reduction="none")``, logits
            float64 (N, C), of which each result depends on its own row alone. A random loss needs its noise fixed.
        k: size of the set.
        probabilities: shape (n, C), 3 <= C <= 7, each with a clear top k; default :func:`draw_probabilities`.
        solver: ``search``, or ``linear`` for losses that are piecewise linear, and convex in each cone.
        tolerance: infima that differ by less are taken for equal, in units of the loss.
        starts: descents, at each of the probabilities, by the gradient that training would follow.
        steps: length of a descent, and measure of how long a search goes on.
        seed: of all starts and searches.
        options: of a loss that is given by name, without k.

    Returns:
        One row for each of the probabilities:

        - ``eta``: the probabilities, a tuple;
        - ``verdict``: ``right`` (only right sets come near the infimum), ``wrong`` (no right set does) or ``tied``
          (both do, or it lies at a tie); the loss passes the test where it is right;
        - ``risk_right``, ``risk_wrong``: least risk found with the right set, and with a wrong or tied one;
        - ``gap``: the second minus the first;
        - ``regret``: probability that the set shown misses beyond the best one, at the worst minimiser found;
        - ``margin``: how far the sets are apart at the best right scores, in logits; 0 is a tie that is approached.
          Where many scores are best, it is that of one of them;
        - ``attained``: False where the infimum is only approached, as scores grow apart for ever;
        - ``descents_right``: share of the descents (unit steps, shrinking to 0, from standard normal scores) that end
          with the right set. They follow autograd, and where there are several minima they may end in a wrong one;
        - ``kept_right``: whether such a descent from the minimiser of cross entropy does.

    Raises:
        ValueError: an argument is off, the loss does not give one finite number a row, is random, has no derivative or
            looks at other rows, or ``linear`` meets one that it cannot solve.
    """
    if isinstance(loss, str):
        loss = losses.get(loss, **({"k": k} if "k" in losses.options(loss) else {}), **options)
    elif options:
        raise ValueError(f"options {sorted(options)} came with a callable: expected them with the name of a loss")
    if solver not in ("search", "linear"):
        raise ValueError(f"solver={solver!r}: expected 'search' or 'linear'")
    if starts < 1 or steps < 1 or not tolerance > 0:
        raise ValueError(f"starts={starts}, steps={steps}, tolerance={tolerance}: expected all to be positive")
    eta = torch.tensor(_check_probabilities(draw_probabilities(k=k) if probabilities is None else probabilities, k))
    generator = torch.Generator().manual_seed(seed)
    _check_loss(loss, eta.shape[1], generator)
    order = torch.tensor(list(permutations(range(eta.shape[1]))))
    best = eta.topk(k, dim=1).indices
    sets = torch.zeros_like(eta, dtype=torch.bool).scatter_(1, best, True)
    right = sets[:, order[:, :k]].all(dim=2)
    if solver == "linear":
        values, x = solve(loss, eta, order, generator)
    else:
        values, x = search(loss, eta, order, right, steps, generator)
    missed = eta.gather(1, best).sum(dim=1, keepdim=True) - eta[:, order[:, :k]].sum(dim=2)
    ends = _descend(loss, eta, starts, steps, generator)
    margins = torch.where(sets, ends, math.inf).amin(dim=2) - torch.where(sets, -math.inf, ends).amax(dim=2)
    ends_right = (margins > NEGLIGIBLE).T
    return pd.DataFrame([
        _row(loss, order, k, tolerance, *parts)
        for parts in zip(eta, right, values, x, missed, ends_right, strict=True)])


@torch.no_grad()
def _row(loss: Loss, order: Tensor, k: int, tolerance: float, eta: Tensor, right: Tensor, values: Tensor, x: Tensor,
         missed: Tensor, ends_right: Tensor) -> dict[str, Any]:
    """The result at one eta, from the least risk of each cone, (cones,), and where it lies, (cones, C)."""
    place = int(torch.where(right, values, math.inf).argmin())
    # Scores tied over the k-th place lie on the edge of a right cone but count as wrong; a loss may jump there.
    exact = torch.cat([x[:, :1], torch.where(x[:, 1:] <= NEGLIGIBLE, 0.0, x[:, 1:])], dim=1)
    tied = torch.where(right & (exact[:, k] == 0), risk(loss, scores_of(exact, order), eta.expand_as(x)), math.inf)
    risk_right, risk_wrong = float(values[place]), float(torch.where(right, tied, values).amin())
    gap = risk_wrong - risk_right
    near = values <= min(risk_right, risk_wrong) + tolerance
    verdict = "right" if gap > tolerance else "wrong" if gap < -tolerance else "tied"
    margin = float(x[place, k])
    least = values.argmin()
    return {"eta": tuple(eta.tolist()), "verdict": verdict, "risk_right": risk_right, "risk_wrong": risk_wrong,
            "gap": gap, "regret": float(torch.where(near, missed, 0.0).amax()),
            "margin": margin if margin > NEGLIGIBLE else 0.0, "attained": _attained(loss, x[least], order[least], eta),
            "descents_right": float(ends_right[1:].double().mean()), "kept_right": bool(ends_right[0])}


def _attained(loss: Loss, x: Tensor, order: Tensor, eta: Tensor) -> bool:
    """False if the risk falls for ever, as far as numbers tell, while one of the gaps widens."""
    gaps = torch.eye(len(x), dtype=x.dtype)[1:]
    factors = 0.9 ** torch.arange(1, 40, dtype=x.dtype)
    narrower = x * (1 - gaps.unsqueeze(1) * (1 - factors.unsqueeze(1)))
    tried = torch.cat([x.unsqueeze(0), x + 20 * gaps, narrower.flatten(0, 1)])
    rise = risk(loss, scores_of(tried, order.expand(len(tried), -1)), eta.expand(len(tried), -1))
    wider, narrow = (rise - rise[0])[1:].split([len(gaps), len(gaps) * len(factors)])
    # Where the search went until nothing changed any more, what fades out passes through all the smallest rises on the
    # way back; what is flat beyond a kink has none.
    fades = ((narrow > 1e-12) & (narrow < 1e-6)).reshape(len(gaps), -1).any(dim=1)
    return not bool(((wider < -1e-14) | (wider <= 1e-14) & fades).any())


def _descend(loss: Loss, eta: Tensor, starts: int, steps: int, generator: torch.Generator) -> Tensor:
    """Where gradient descent ends that follows autograd, as training does: (1 + starts, n, C).

    It starts from the minimiser of cross entropy, then from random scores.
    """
    drawn = torch.randn(starts, *eta.shape, dtype=eta.dtype, generator=generator)
    scores = torch.cat([eta.clamp(min=NEGLIGIBLE).log(), drawn.flatten(0, 1)])
    rows = eta.repeat(1 + starts, 1)
    for i in range(steps):
        scores.requires_grad_()
        (slope,) = torch.autograd.grad(risk(loss, scores, rows).sum(), scores)
        # Steps shrink to 0 along a cosine, so that a kink is met and not jumped over for ever.
        scores = scores.detach() - math.cos(math.pi / 2 * i / steps) * slope
    return scores.reshape(1 + starts, *eta.shape)


def _gaps(probabilities: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    descending = -np.sort(-probabilities, axis=1)
    return descending[:, k - 1] - descending[:, k]


def _check_sizes(num_classes: int, k: int) -> None:
    if not 3 <= num_classes <= 7:
        raise ValueError(f"{num_classes} classes: expected 3 to 7, for all their orders are tried")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k < num_classes:
        raise ValueError(f"k={k!r}: expected a whole number, 1 <= k <= {num_classes - 1}")


def _check_probabilities(probabilities: ArrayLike, k: int) -> NDArray[np.float64]:
    found = np.asarray(probabilities, dtype=np.float64)
    if found.ndim != 2 or not len(found):
        raise ValueError(f"probabilities have shape {found.shape}: expected (n, C), n >= 1")
    _check_sizes(found.shape[1], k)
    if not (found >= 0).all() or not np.allclose(found.sum(axis=1), 1, atol=1e-9, rtol=0):
        raise ValueError("probabilities: expected rows of numbers >= 0 that sum to 1")
    if unclear := int((_gaps(found, k) <= 0).sum()):
        raise ValueError(f"probabilities: {unclear} of {len(found)} rows have no clear top {k}, for the k-th and the "
                         "next largest are equal")
    return found


def _check_loss(loss: Loss, num_classes: int, generator: torch.Generator) -> None:
    scores = torch.randn(4 * num_classes, num_classes, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.arange(num_classes).repeat(4)
    first = loss(scores, labels, reduction="none")
    if not isinstance(first, Tensor) or first.shape != labels.shape or not first.is_floating_point():
        got = f"shape {tuple(first.shape)}, {first.dtype}" if isinstance(first, Tensor) else type(first).__name__
        raise ValueError(f"the loss returned {got} for {len(labels)} rows: expected one number a row")
    if not first.isfinite().all():
        raise ValueError("the loss returned infinity or NaN for ordinary scores: expected finite numbers")
    if not first.requires_grad:
        raise ValueError("the loss has no derivative: expected a result that autograd can go back from")
    if not torch.equal(first, loss(scores, labels, reduction="none")):
        raise ValueError("the loss is random: two calls with the same scores differ. Fix its noise, for instance by a "
                         "callable that always passes the same")
    part = loss(scores[:num_classes], labels[:num_classes], reduction="none")
    if not torch.allclose(first[:num_classes], part, rtol=1e-9, atol=1e-12):
        raise ValueError("the loss of a row changes with the rows beside it: expected it to depend on its own scores")
