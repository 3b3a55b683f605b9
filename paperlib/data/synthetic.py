"""Synthetic families whose class probabilities are known in closed form."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from paperlib.data.arrays import Arrays, Source
from paperlib.seeding import generator

#: Samples drawn for validation and for test; training takes ``n`` from the family's options.
EVALUATION_SIZE = 20_000

Probabilities = Callable[..., Tensor]


def capacity_competition(x: Tensor, *, stripes: int = 2, top2_stripes: int = 4, common: float = 0.6) -> Tensor:
    """Class probabilities (N, 5) at points x (N, 2) of the square [-1, 1]^2.

    Left half: classes 0 and 1 alternate in ``stripes`` horizontal stripes, without noise: hard for top-1, while {0, 1}
    is always right for top-2. Right half: class 2 with probability ``common``, else the class that is due among 3
    and 4, which alternate in ``top2_stripes`` stripes: top-1 is always class 2, and top-2 needs those stripes, though
    they are worth little likelihood. A network with few units cannot serve both halves.
    """
    height = (x[:, 1] + 1) / 2
    left = (height * stripes).floor().clamp(max=stripes - 1).long() % 2
    right = 3 + (height * top2_stripes).floor().clamp(max=top2_stripes - 1).long() % 2
    probabilities = x.new_zeros((len(x), 5))
    is_left = x[:, 0] < 0
    rows = torch.arange(len(x))
    probabilities[rows, torch.where(is_left, left, 2)] = torch.where(is_left, 1.0, common)
    probabilities[rows[~is_left], right[~is_left]] = 1 - common
    return probabilities


#: Probabilities by family name.
FAMILIES: dict[str, Probabilities] = {"capacity_competition": capacity_competition}


def synthetic(family: str | None, options: dict[str, Any], seed: int) -> Source:
    """Fresh uniform draws from a family for training (``n``, default 4,000), validation and test.

    Raises:
        ValueError: unknown family or family option.
    """
    if family not in FAMILIES:
        raise ValueError(f"family={family!r}: expected one of {', '.join(map(repr, FAMILIES))}")
    options = dict(options)
    n = options.pop("n", 4_000)
    probabilities = FAMILIES[family]
    valid = list(inspect.signature(probabilities).parameters)[1:]
    if unknown := [key for key in options if key not in valid]:
        raise ValueError(f"unknown option {unknown[0]!r} of family {family!r}: expected n, {', '.join(valid)}")
    draws = [_draw(probabilities, options, size, seed, part)
             for part, size in (("train", n), ("validation", EVALUATION_SIZE), ("test", EVALUATION_SIZE))]
    num_classes = probabilities(torch.zeros(1, 2), **options).shape[1]
    return Source(draws[0], draws[2], tuple(map(str, range(num_classes))), validation=draws[1], flip=False)


def _draw(probabilities: Probabilities, options: dict[str, Any], size: int, seed: int, part: str) -> Arrays:
    source = generator(seed, "synthetic", part)
    x = torch.rand(size, 2, generator=source) * 2 - 1
    labels = torch.multinomial(probabilities(x, **options), 1, generator=source).squeeze(1)
    return Arrays(x, labels)
