"""What a family of synthetic data is, the places of points, and the checks of options that the families share."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Family:
    """Data whose class probabilities are known at every point: ``family(x, **options) -> (N, C)``.

    Attributes:
        probabilities: class probabilities (N, C) at points x (N, d), in the dtype of x, by the family's options.
        points: ``points(n, generator, **options) -> (n, d)``, float32: fresh draws of x.
        knobs: the options that set the top-1 complexity, the top-k complexity and the ambiguity of the labels.
    """

    probabilities: Callable[..., Tensor]
    points: Callable[..., Tensor]
    knobs: tuple[str, str, str]

    def __call__(self, x: Tensor, **options: Any) -> Tensor:
        """Class probabilities (N, C) at points x (N, d)."""
        return self.probabilities(x, **options)

    @property
    def options(self) -> list[str]:
        """Names of the options that the family takes."""
        return list(inspect.signature(self.probabilities).parameters)[1:]


def square(n: int, source: torch.Generator, **options: Any) -> Tensor:
    """Uniform draws from [-1, 1]^2, (n, 2)."""
    return torch.rand(n, 2, generator=source) * 2 - 1


def disc(n: int, source: torch.Generator, **options: Any) -> Tensor:
    """Uniform draws from the unit disc, (n, 2)."""
    radius, angle = torch.rand(2, n, generator=source)
    radius, angle = radius.sqrt(), 2 * math.pi * angle
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)


def polar(x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared radius and angle of points (N, 2): both uniform on [0, 1] for uniform draws from the unit disc."""
    return x.square().sum(dim=1), (torch.atan2(x[:, 1], x[:, 0]) / (2 * math.pi)) % 1.0


def cell(position: Tensor, number: int) -> Tensor:
    """Which of ``number`` equal cells of [0, 1] a position lies in, int64; beyond the ends, the last one counts."""
    return (position * number).floor().clamp(0, number - 1).long()


def whole(name: str, value: Any, least: int) -> int:
    """A whole number of at least ``least``; 2.0 counts as 2, as in the hash of a run's configuration."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < least:
        raise ValueError(f"{name}={value!r}: expected a whole number of at least {least}")
    return int(value)


def between(name: str, value: Any, low: float, high: float) -> float:
    """A number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name}={value!r}: expected a number in [{low:g}, {high:g}]")
    return float(value)


def check_points(x: Tensor, dimension: int) -> None:
    """Points are floats of shape (N, dimension)."""
    if x.dim() != 2 or x.shape[1] != dimension or not x.is_floating_point():
        raise ValueError(f"x has shape {tuple(x.shape)}, {x.dtype}: expected floats of shape (N, {dimension})")
