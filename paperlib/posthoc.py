r"""Scores changed after training: fitted on held-out logits, and no network is trained again.

With :math:`s` the logits of an image, :math:`x = (s - \bar s) / u` the same without their mean and in units of their
spread on the validation set, :math:`T > 0` a temperature and n validation images, the adjusted scores are

===============  =============================  ============================================================
kind             scores                         source
===============  =============================  ============================================================
``temperature``  :math:`s / T`                  :cite:t:`guo2017calibration`
``bias``         :math:`s / T + b`              logit adjustment, :cite:t:`menon2021longtail`
``vector``       :math:`s / T + a \odot x + b`  vector scaling, :cite:t:`guo2017calibration`
``matrix``       :math:`s / T + W x + b`        matrix scaling with its rest penalised, :cite:t:`kull2019beyond`
===============  =============================  ============================================================

A temperature changes no rank, so no accuracy at any k: it is for whoever shows the scores. The others contain it,
since the scores of an overconfident network would otherwise be fitted in the wrong units. Logit adjustment sets
:math:`b_j = -\tau \log \pi_j` for shares :math:`\pi` of the classes in training; here b is fitted, which also helps
where the shares are equal. A matrix tells classes apart that are taken for each other. T, a, b and W minimise the mean
loss plus

.. math::

    \frac{\lambda}{2n} \bigl(\|a\|^2 + \|b\|^2 + \|W\|^2\bigr),

so :math:`\lambda` is the precision of a normal prior around "leave it as it is". An infinite one is the temperature
alone, and it is among the penalties that are tried: where nothing helps, ranks stay as they are.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from paperlib import losses

Kind = Literal["temperature", "bias", "vector", "matrix"]
#: What can be fitted, from the fewest numbers to the most.
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Tried by default, from "leave it as it is" to hardly any: a prior's spread of 0.003 to 1 nats.
PENALTIES = (math.inf, *(10 ** (half / 2) for half in range(10, -1, -1)))
#: How many smaller penalties in a row must do worse before the rest is left out.
PATIENCE = 2

#: Of logits (n, C) and labels (n,), their mean; the losses of :mod:`paperlib.losses` with their defaults among them.
Loss = Callable[[Tensor, Tensor], Tensor]

_WIDEST = math.log(1e3)  # of the scale of x: keeps it finite where every label has the top score, and above 0 always


@dataclass(frozen=True, eq=False)
class Adjustment:
    """What was fitted, as a function: ``adjustment(logits)`` are the new scores.

    Attributes:
        kind: one of :data:`KINDS`.
        penalty: with which it was fitted.
        temperature: T.
        unit: u, the spread of the validation logits.
        bias: b, float64 (C,); zeros where the kind has none.
        weight: a, (C,), or W, (C, C), float64. None where the kind has none, and at an infinite penalty.
        gradient: largest entry that the objective's gradient has left: how near the minimum is.
        held_out: mean loss on images that were left out, by penalty tried; empty where the penalty was given.
    """

    kind: Kind
    penalty: float
    temperature: float
    unit: float
    bias: Tensor
    weight: Tensor | None = None
    gradient: float = 0.0
    held_out: dict[float, float] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, logits: Tensor) -> Tensor:
        """New scores of any images.

        Args:
            logits: float (N, C), finite.

        Returns:
            float64 (N, C), on the device of the logits. Where ranks are left as they are, that is exact.

        Raises:
            ValueError: another shape, another number of classes, or entries that are not finite.
        """
        _check_logits(logits)
        if logits.shape[1] != len(self.bias):
            raise ValueError(f"logits have shape {tuple(logits.shape)}: expected (N, {len(self.bias)}), the "
                             "classes of the logits it was fitted on")
        # The mean of a row is only taken off where it matters: a temperature alone must not round scores together.
        s = logits.double()
        scores = s / self.temperature
        if self.weight is None:
            return scores + self.bias.to(s.device)
        return scores + _changed(_centred(s) / self.unit, self.weight.to(s.device)) + self.bias.to(s.device)


def fit(logits: Tensor, labels: Tensor, kind: Kind = "bias", *, loss: Loss = losses.cross_entropy,
        penalty: float | None = None, penalties: Sequence[float] = PENALTIES, folds: int = 5) -> Adjustment:
    r"""Fit an adjustment to held-out images.

    The images must be new to the network: it is sure of those it was trained on. L-BFGS in double precision, from the
    identity on; convex for losses that are convex in the scores (``cross_entropy``, ``topk_entropy``), and so the
    minimum. A loss with a jump (``topk_grouped``) or with a detached gate may stop short of one, see
    :attr:`Adjustment.gradient`. The same input gives the same result: no chance is involved. A class that no label has
    keeps its own parameters at 0, as nothing was seen of it. Labels with noise in them are fitted as they are.

    Args:
        logits: float (n, C), finite, C >= 2.
        labels: int64 (n,), in 0..C-1.
        kind: see :mod:`paperlib.posthoc`.
        loss: what is minimised, and what the penalty is chosen by.
        penalty: :math:`\lambda \ge 0`, or infinity. None: the one of ``penalties`` with the least mean loss
            on left-out folds of these images; of equal ones the largest.
        penalties: tried from the largest on, until :data:`PATIENCE` in a row are worse than the best.
        folds: into how many parts, with all classes spread evenly over them, the images are divided for that.

    Raises:
        ValueError: shapes, dtypes, label range, numbers that are not finite, an unknown kind, or a penalty or number
            of folds that is out of range.
    """
    _check(logits, labels, kind, folds if penalty is None else None)
    tried = [math.inf] if kind == "temperature" else [_penalty(value) for value in (
        penalties if penalty is None else [penalty])]
    if not tried:
        raise ValueError("penalties is empty: expected at least one")
    s, y = logits.detach().double().cpu(), labels.cpu()
    if penalty is not None:
        return _Path(kind, s, y, loss).at(tried[0])
    held_out = _held_out(kind, s, y, loss, sorted(set(tried), reverse=True), folds)
    chosen = min(held_out, key=lambda value: (held_out[value], -value))
    path = _Path(kind, s, y, loss)
    for value in held_out:  # down to the chosen one, each from where the last one ended
        found = path.at(value)
        if value == chosen:
            break
    return replace(found, held_out=held_out)


def _held_out(kind: Kind, s: Tensor, y: Tensor, loss: Loss, tried: Sequence[float], folds: int) -> dict[float, float]:
    """Mean loss of left-out folds by penalty."""
    # Neighbours in the order of classes go to different folds, so every class is spread evenly.
    fold = torch.empty(len(y), dtype=torch.int64)
    fold[torch.sort(y, stable=True).indices] = torch.arange(len(y)) % folds
    paths = [_Path(kind, s[fold != part], y[fold != part], loss) for part in range(folds)]
    found: dict[float, float] = {}
    worse = 0
    for penalty in tried:
        total = 0.0
        for part, path in enumerate(paths):
            left = fold == part
            with torch.no_grad():
                total += float(loss(path.at(penalty)(s[left]), y[left])) * int(left.sum())
        worse = worse + 1 if found and total / len(y) >= min(found.values()) else 0
        found[penalty] = total / len(y)
        if worse >= PATIENCE:
            break
    return found


class _Path:
    """The fits to one set of images as the penalty falls, each begun where the last one ended.

    Parameters are one vector: the logarithm of the scale of x, then b, then a or W row by row.
    """

    def __init__(self, kind: Kind, s: Tensor, y: Tensor, loss: Loss) -> None:
        self.kind, self.s, self.y, self.loss = kind, s, y, loss
        centred = _centred(s)
        self.unit = float(centred.square().mean().sqrt()) or 1.0
        self.x = centred / self.unit
        classes = s.shape[1]
        self.shape = {"vector": (classes,), "matrix": (classes, classes)}.get(kind)
        seen = torch.zeros(classes, dtype=torch.bool)
        seen[y] = True
        rows = [seen] if self.shape is None else [seen, seen if kind == "vector" else seen.repeat_interleave(classes)]
        self.free = torch.cat(rows).tolist()
        self.point, self.left = self._minimum(np.zeros(1), 0.0)

    def at(self, penalty: float) -> Adjustment:
        """The fit with this penalty."""
        if math.isinf(penalty):
            none = torch.zeros(self.s.shape[1], dtype=torch.float64)
            return Adjustment(self.kind, penalty, self._temperature(), self.unit, none, None, self.left)
        start = np.append(self.point, np.zeros(len(self.free))) if len(self.point) == 1 else self.point
        self.point, self.left = self._minimum(start, penalty)
        bias, weight = self._parts(torch.from_numpy(self.point))
        return Adjustment(self.kind, penalty, self._temperature(), self.unit, bias, weight, self.left)

    def _temperature(self) -> float:
        return self.unit / math.exp(self.point[0])

    def _parts(self, point: Tensor) -> tuple[Tensor, Tensor | None]:
        classes = self.s.shape[1]
        weight = None if self.shape is None else point[1 + classes:].reshape(self.shape)
        return point[1:1 + classes], weight

    def _minimum(self, start: NDArray[np.float64], penalty: float) -> tuple[NDArray[np.float64], float]:
        """The best parameters, and the largest entry that their gradient has left where they may move."""
        def objective(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            with torch.enable_grad():
                point = torch.tensor(values, requires_grad=True)
                scores = point[0].exp() * self.x
                if len(point) > 1:
                    bias, weight = self._parts(point)
                    scores = scores + bias if weight is None else scores + bias + _changed(self.x, weight)
                value = self.loss(scores, self.y) + penalty / (2 * len(self.y)) * point[1:].square().sum()
                (gradient,) = torch.autograd.grad(value, point)
            return float(value.detach()), gradient.numpy()

        bounds: list[tuple[float | None, float | None]] = [(-_WIDEST, _WIDEST)]
        bounds += [(None, None) if free else (0, 0) for free in self.free[:len(start) - 1]]
        found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds,
                                  options={"maxiter": 2000, "maxfun": 4000, "maxcor": 20, "gtol": 1e-6, "ftol": 1e-13})
        if not np.isfinite(found.fun):
            raise ValueError("the loss is not finite on these images: expected one that is finite for finite logits")
        moving = [abs(found.x[0]) < _WIDEST, *self.free[:len(start) - 1]]
        return found.x, float(np.abs(np.where(moving, found.jac, 0.0)).max())


def _centred(s: Tensor) -> Tensor:
    """Scores are defined up to a constant for each image."""
    return s - s.mean(dim=1, keepdim=True)


def _changed(x: Tensor, weight: Tensor) -> Tensor:
    return x * weight if weight.dim() == 1 else x @ weight.t()


def _check_logits(logits: Tensor) -> None:
    if logits.dim() != 2 or not logits.is_floating_point() or logits.shape[1] < 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}, {logits.dtype}: expected floats of shape (N, C) "
                         "with C >= 2")
    if not bool(logits.isfinite().all()):
        raise ValueError(f"logits hold {int((~logits.isfinite()).sum())} entries that are not finite: expected finite "
                         "ones")


def _check(logits: Tensor, labels: Tensor, kind: Kind, folds: Any) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
    _check_logits(logits)
    if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, {labels.dtype}: expected torch.int64 of shape "
                         f"({logits.shape[0]},)")
    if not len(labels):
        raise ValueError("there are no images: expected at least one")
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"labels lie in {int(labels.min())}..{int(labels.max())}: expected 0..{logits.shape[1] - 1}")
    if folds is not None and (isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= len(labels)):
        raise ValueError(f"folds={folds!r}: expected a whole number in 2..{len(labels)}, the number of images")


def _penalty(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"penalty={value!r}: expected a number of at least 0, or infinity")
    return float(value)
