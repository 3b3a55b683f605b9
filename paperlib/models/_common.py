"""Parts that the networks share."""

from typing import Any

import torch
from torch import Tensor, nn


class Head(nn.Linear):
    """A linear classifier that stays in float32 under autocast.

    bfloat16 logits have 8 significant bits: among 100 classes many would tie, and the ranks with them.
    """

    def __init__(self, inputs: int, num_classes: int, *, bias: bool = True, scale: float = 1.0) -> None:
        super().__init__(inputs, num_classes, bias=bias)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C), float32 as the weights, of features (B, inputs)."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.to(self.weight.dtype)) * self.scale


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution without bias, padded to keep the size at stride 1."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class Conv1x1(nn.Conv2d):
    """A 1 x 1 convolution without bias.

    Few channels are strided before it instead of by it: there oneDNN, which torch uses on CPUs, computes the weights'
    gradient beyond the end of its buffer (issue 6035 of uxlfoundation/oneDNN), with wrong numbers or a crash.
    """

    BLOCK = 16  #: channels from which that is right, for every instruction set

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, outputs, H / stride, W / stride)."""
        if self.in_channels >= self.BLOCK:
            return super().forward(x)
        down, across = self.stride
        return nn.functional.conv2d(x[:, :, ::down, ::across], self.weight)


def he_initialise(model: nn.Module) -> None:
    """Convolutions from a normal distribution whose variance is 2 over their outputs' fan, the head's bias at 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def reject(model: str, **given: Any) -> None:
    """Refuse settings that a model does not have, instead of ignoring them."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"model {model!r} takes no {name}: expected None, got {value!r}")
