"""Batches from tensors that already lie on the training device. No worker, no PIL, no Python loop over images."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paperlib.data.arrays import Arrays
from paperlib.seeding import generator

#: Reflected pixels on each side, out of which a random window is cropped.
PADDING = 2


class Normalizer:
    """Images uint8 (B, H, W, channels) to float32 (B, channels, H, W), channels_last, mean 0 and sd 1 per channel.

    Features pass through as they are.
    """

    def __init__(self, mean: Tensor, std: Tensor, device: torch.device) -> None:
        self.scale = (1 / (255 * std)).float().to(device)
        self.offset = (-mean / std).float().to(device)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Normalise one batch."""
        if inputs.dim() == 2:
            return inputs
        # A row of pixels at a time: as its last dimension, three channels alone would be too short to vectorise.
        width = inputs.shape[2]
        rows = torch.addcmul(self.offset.repeat(width), inputs.float().flatten(2), self.scale.repeat(width))
        return rows.unflatten(2, (width, -1)).permute(0, 3, 1, 2)


def scaled_down(images: Tensor, side: int) -> Tensor:
    """Images (B, channels, H, W), channels_last, to ``side`` pixels, with antialiasing."""
    if images.device.type == "cpu":  # the same numbers; torch's channels_last path is the slower one there
        images = images.contiguous()
    images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    return images.contiguous(memory_format=torch.channels_last)


class EvaluationLoader:
    """All samples once, in order, never augmented."""

    def __init__(self, arrays: Arrays, normalizer: Normalizer, device: torch.device, batch_size: int = 500) -> None:
        self.inputs, self.labels = arrays.inputs.to(device), arrays.labels.to(device)
        self.normalizer, self.batch_size = normalizer, batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.labels), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield self.normalizer(self.inputs[rows]), self.labels[rows]


class TrainLoader:
    """Shuffled, augmented batches of one size; what the last batch would lack is left out of that epoch.

    The order depends on (seed, epoch), the augmentation of a batch on (seed, epoch, step), and on nothing else: an
    epoch can be entered at any step and goes on exactly as if it had been run from its beginning.
    """

    def __init__(self, arrays: Arrays, normalizer: Normalizer, device: torch.device, *, batch_size: int, seed: int,
                 augment: bool, flip: bool) -> None:
        if len(arrays) < 1:
            raise ValueError("expected at least one training sample, got none")
        self.batch_size = min(batch_size, len(arrays))
        self.labels, self.normalizer, self.device, self.seed = arrays.labels.to(device), normalizer, device, seed
        self.images = arrays.inputs.dim() == 4
        self.augment, self.flip = augment and self.images, flip
        inputs = arrays.inputs
        if self.augment:
            # Every window is a view into the padded images: (N, offsets, offsets, H, W, channels), nothing copied.
            _, height, width, _ = inputs.shape
            sides = (PADDING, PADDING)
            padded = torch.from_numpy(np.pad(inputs.numpy(), ((0, 0), sides, sides, (0, 0)), mode="reflect"))
            windows = padded.to(device).unfold(1, height, 1).unfold(2, width, 1)
            self.inputs = windows.permute(0, 1, 2, 4, 5, 3)
        else:
            self.inputs = inputs.to(device)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.labels) // self.batch_size

    def epoch(self, epoch: int, start: int = 0, resolution: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches ``start``, ``start + 1``, ... of an epoch, scaled down to ``resolution`` pixels if one is given."""
        order = torch.randperm(len(self.labels), generator=self._draws("order", epoch), device=self.device)
        for step in range(start, len(self)):
            index = order[step * self.batch_size : (step + 1) * self.batch_size]
            inputs = self.normalizer(self._augmented(index, epoch, step))
            if self.images and resolution is not None and resolution < inputs.shape[-1]:
                inputs = scaled_down(inputs, resolution)
            yield inputs, self.labels[index]

    def _augmented(self, index: Tensor, epoch: int, step: int) -> Tensor:
        if not self.augment:
            return self.inputs[index]
        draws = self._draws("augment", epoch, step)
        dy, dx = torch.randint(2 * PADDING + 1, (2, len(index)), generator=draws, device=self.device)
        images = self.inputs[index, dy, dx]
        if self.flip:
            mirrored = torch.rand(len(index), generator=draws, device=self.device) < 0.5
            # Modulo 256 this chooses as torch.where does, which takes three times as long for bytes.
            images = images + (images.flip(2) - images) * mirrored.to(images.dtype)[:, None, None, None]
        return images

    def _draws(self, *address: int | str) -> torch.Generator:
        return generator(self.seed, *address, device=self.device)
