"""A multi-layer perceptron for features and tiny images."""

import math

from torch import Tensor, nn

from paperlib.models._common import Head


class MLP(nn.Module):
    """``depth`` hidden layers of ``width`` tanh units each; ``depth`` 0 is a linear model."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, width: int | None = None,
                 depth: int | None = None) -> None:
        super().__init__()
        width, depth = 64 if width is None else width, 1 if depth is None else depth
        sizes = [math.prod(input_shape)] + [width] * depth
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.head = Head(sizes[-1], num_classes)

    def features(self, inputs: Tensor) -> Tensor:
        """What the first layer with weights sees of inputs (B, ...): (B, D)."""
        return inputs.flatten(1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, C) of inputs (B, ...)."""
        return self.head(self.layers(inputs))
