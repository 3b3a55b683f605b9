"""Synthetic families whose class probabilities are known in closed form.

Each has one knob for the complexity of the best single answer, one for that of the best k answers, and one for the
ambiguity of the labels; ``group`` is the k that it is made for. Call ``FAMILIES[name](x, **options)`` for the class
probabilities (N, C) at points x (N, d).
"""

from typing import Any

import torch

from paperlib.data.arrays import Arrays, Source
from paperlib.data.synthetic._family import Family
from paperlib.data.synthetic.competition import CAPACITY_COMPETITION, SPIRALS, capacity_competition, spirals
from paperlib.data.synthetic.nested import GAUSSIAN_MIXTURE, RINGS, gaussian_mixture, rings
from paperlib.seeding import generator

__all__ = ["EVALUATION_SIZE", "FAMILIES", "Family", "capacity_competition", "gaussian_mixture", "rings", "spirals",
           "synthetic"]

#: Samples drawn for validation and for test; training takes ``n`` from the family's options.
EVALUATION_SIZE = 20_000

#: Families by name.
FAMILIES: dict[str, Family] = {
    "capacity_competition": CAPACITY_COMPETITION,
    "spirals": SPIRALS,
    "rings": RINGS,
    "gaussian_mixture": GAUSSIAN_MIXTURE,
}


def synthetic(family: str | None, options: dict[str, Any], seed: int) -> Source:
    """Fresh draws from a family for training (``n``, default 4,000), validation and test.

    Raises:
        ValueError: unknown family or family option, or an option's value is off.
    """
    if family not in FAMILIES:
        raise ValueError(f"family={family!r}: expected one of {', '.join(map(repr, FAMILIES))}")
    options = dict(options)
    n = options.pop("n", 4_000)
    valid = FAMILIES[family].options
    if unknown := [key for key in options if key not in valid]:
        raise ValueError(f"unknown option {unknown[0]!r} of family {family!r}: expected n, {', '.join(valid)}")
    draws = [_draw(FAMILIES[family], options, size, seed, part)
             for part, size in (("train", n), ("validation", EVALUATION_SIZE), ("test", EVALUATION_SIZE))]
    num_classes = FAMILIES[family](draws[0].inputs[:1], **options).shape[1]
    return Source(draws[0], draws[2], tuple(map(str, range(num_classes))), validation=draws[1], flip=False)


def _draw(family: Family, options: dict[str, Any], size: int, seed: int, part: str) -> Arrays:
    source = generator(seed, "synthetic", part)
    x = family.points(size, source, **options)
    labels = torch.multinomial(family(x, **options), 1, generator=source).squeeze(1)
    return Arrays(x, labels)
