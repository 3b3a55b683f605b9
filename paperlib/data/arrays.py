"""Whole data sets as tensors: splits, label noise and checksums."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paperlib.seeding import generator


class DataError(OSError):
    """A data set that is missing, incomplete or corrupt; the message says what to do."""


@dataclass(frozen=True)
class Arrays:
    """Inputs and labels, one row a sample: images uint8 (N, H, W, channels) or features float32 (N, D)."""

    inputs: Tensor
    labels: Tensor  #: int64 (N,)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> "Arrays":
        """The rows at ``index``."""
        return Arrays(self.inputs[index], self.labels[index])


@dataclass(frozen=True)
class Source:
    """A data set before it is split. ``validation`` is None where it is to be taken out of ``train``."""

    train: Arrays
    test: Arrays
    class_names: tuple[str, ...]
    validation_share: float = 0.1
    validation: Arrays | None = None
    flip: bool = True  #: whether a mirrored image keeps its class
    superclass: Tensor | None = None  #: int64 (C,): the superclass of each class


def checksum(arrays: Sequence[Arrays]) -> str:
    """SHA-256 over shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for tensor in (tensor for pair in arrays for tensor in (pair.inputs, pair.labels)):
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def stratified(labels: Tensor, share: float, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """Two sorted index tensors that part the samples: the first holds ``share`` of every class, rounded.

    Args:
        labels: int64 (N,).
        share: in [0, 1].
        seed: with ``name`` the address of the draw.
        name: what the split is for.
    """
    order = torch.randperm(len(labels), generator=generator(seed, "split", name))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = order[labels[order] == label]
        chosen[members[: round(share * len(members))]] = True
    return chosen.nonzero().squeeze(1), (~chosen).nonzero().squeeze(1)


def noisy_labels(labels: Tensor, num_classes: int, rate: float, kind: str, seed: int,
                 superclass: Tensor | None = None) -> Tensor:
    """Labels of which each is, with probability ``rate``, replaced by another class.

    ``"symmetric"`` draws uniformly from all other classes, ``"superclass"`` from the others of the same superclass.
    Depends on the labels, the rate, the kind and the seed only, not on what was drawn before.

    Raises:
        ValueError: superclass noise on a data set without superclasses.
    """
    if kind == "superclass" and superclass is None:
        raise ValueError("label_noise_kind='superclass': expected a data set with superclasses (cifar100)")
    draws = generator(seed, "label noise")
    flipped = torch.rand(len(labels), generator=draws) < rate
    offset = torch.rand(len(labels), generator=draws)
    if kind == "symmetric" or superclass is None:
        other = (labels + 1 + (offset * (num_classes - 1)).long()) % num_classes
    else:
        others = superclass.unsqueeze(0) == superclass.unsqueeze(1)
        others.fill_diagonal_(False)
        number = others.sum(dim=1)  # 0 for a class alone in its superclass: it stays
        candidates = (~others).long().argsort(dim=1, stable=True)  # row c: the others of c, ascending, then the rest
        drawn = candidates[labels, (offset.double() * number[labels]).long()]
        other = torch.where(number[labels] > 0, drawn, labels)
    return torch.where(flipped, other, labels)
