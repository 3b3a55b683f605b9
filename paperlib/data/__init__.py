"""Data sets as tensors: ``splits(config)`` gives training, validation and test arrays of one run."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from paperlib.config import RunConfig
from paperlib.data import images
from paperlib.data.arrays import Arrays, DataError, Source, checksum, noisy_labels, stratified
from paperlib.data.loader import EvaluationLoader, Normalizer, TrainLoader
from paperlib.data.synthetic import synthetic

__all__ = ["DATASETS", "Arrays", "DataError", "EvaluationLoader", "Normalizer", "Source", "Splits", "TrainLoader",
           "channel_statistics", "splits"]

#: Data sets by name. A builder takes the run's configuration.
DATASETS: dict[str, Callable[[RunConfig], Source]] = {
    "synthetic": lambda config: synthetic(config.family, config.family_options, config.seed_split),
    "digits": lambda config: images.digits(),
    "cifar100": lambda config: images.cifar100(),
    "cifar100_superclasses": lambda config: images.cifar100_superclasses(),
    "cifar10": lambda config: images.cifar10(),
}


@dataclass(frozen=True)
class Splits:
    """What one run trains on, is chosen by, and is finally judged by."""

    train: Arrays
    validation: Arrays
    test: Arrays
    class_names: tuple[str, ...]
    mean: Tensor  #: per channel, in [0, 1]; of the training split alone
    std: Tensor
    flip: bool
    checksum: str  #: of the data set as published, before splits and noise
    label_flips: int  #: labels of this run's training and validation samples that noise changed

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)


def splits(config: RunConfig) -> Splits:
    """Load, add label noise, take validation out of training, take the run's share of the rest.

    Validation is stratified and noisy like training; test labels are always clean.

    Raises:
        ValueError: unknown data set, family or option.
        DataError: the files are missing or corrupt.
    """
    if config.dataset not in DATASETS:
        near = difflib.get_close_matches(config.dataset, DATASETS, n=1)
        raise ValueError(f"unknown data set {config.dataset!r}{f': did you mean {near[0]!r}?' if near else '.'} "
                         f"Valid data sets: {', '.join(DATASETS)}")
    source = DATASETS[config.dataset](config)
    published = [part for part in (source.train, source.validation, source.test) if part is not None]
    digest = checksum(published)
    train, clean = _with_noise(source.train, source, config, "train"), source.train.labels
    if source.validation is None:
        chosen, rest = stratified(clean, source.validation_share, config.seed_split, "validation")
        validation, clean_validation = train.take(chosen), clean[chosen]
        train, clean = train.take(rest), clean[rest]
    else:
        validation = _with_noise(source.validation, source, config, "validation")
        clean_validation = source.validation.labels
    if config.train_fraction < 1:
        chosen, _ = stratified(clean, config.train_fraction, config.seed_split, "train fraction")
        train, clean = train.take(chosen), clean[chosen]
    flips = int((train.labels != clean).sum() + (validation.labels != clean_validation).sum())
    mean, std = channel_statistics(train.inputs)
    return Splits(train, validation, source.test, source.class_names, mean, std, source.flip, digest, flips)


def channel_statistics(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, float64, of uint8 images (N, H, W, channels) scaled to [0, 1].

    Features give 0 and 1: they are used as they are.
    """
    if inputs.dim() == 2:
        return torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    # From counts of the 256 values: exact, and no float copy of the images.
    counts = torch.stack([torch.bincount(inputs[..., c].reshape(-1), minlength=256)
                          for c in range(inputs.shape[-1])]).double()
    levels = torch.arange(256, dtype=torch.float64) / 255
    total = counts.sum(dim=1)
    mean = (counts * levels).sum(dim=1) / total
    return mean, ((counts * (levels - mean.unsqueeze(1)) ** 2).sum(dim=1) / total).sqrt()


def _with_noise(arrays: Arrays, source: Source, config: RunConfig, part: str) -> Arrays:
    if config.label_noise == 0:
        return arrays
    seed = config.seed_noise if part == "train" else config.seed_noise + 2**31
    labels = noisy_labels(arrays.labels, len(source.class_names), config.label_noise, config.label_noise_kind, seed,
                          source.superclass)
    return Arrays(arrays.inputs, labels)
