"""DenseNet-BC for 32 x 32 images, :cite:t:`huang2017densely`."""

import torch
from torch import Tensor, nn

from paperlib.models._common import Head, conv3x3, he_initialise


class DenseLayer(nn.Module):
    """A 1 x 1 convolution to four times ``growth`` channels, a 3 x 3 one to ``growth``, put beside the input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(4 * growth), conv3x3(4 * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, inputs + growth, H, W)."""
        y = self.conv1(torch.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.bn2(y)))], dim=1)


class Transition(nn.Sequential):
    """Half of the channels, a quarter of the pixels."""

    def __init__(self, inputs: int) -> None:
        super().__init__(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, inputs // 2, 1, bias=False),
                         nn.AvgPool2d(2))


class DenseNet(nn.Module):
    """DenseNet-BC with three blocks and compression 0.5; ``depth`` 100 and growth rate ``width`` 12 by default.

    ``width`` is the number of channels that each layer adds; ``depth`` = 6 n + 4 counts convolutions, n layers (two
    each) a block.
    """

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, width: int | None = None,
                 depth: int | None = None) -> None:
        super().__init__()
        growth, depth = 12 if width is None else width, 100 if depth is None else depth
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"model 'densenet' with depth={depth!r}: expected 6 n + 4 with n >= 1, such as 40 or 100")
        if min(input_shape[1:]) < 4:
            raise ValueError("model 'densenet' halves its input twice: expected images of at least 4 x 4 pixels, got "
                             f"shape {input_shape}")
        channels = 2 * growth
        self.stem = conv3x3(input_shape[0], channels)
        parts: list[nn.Module] = []
        for block in range(3):
            for _ in range((depth - 4) // 6):
                parts.append(DenseLayer(channels, growth))
                channels += growth
            if block < 2:
                parts.append(Transition(channels))
                channels //= 2
        self.blocks = nn.Sequential(*parts)
        self.norm = nn.BatchNorm2d(channels)
        self.head = Head(channels, num_classes)
        he_initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, channels, H, W)."""
        return self.head(torch.relu(self.norm(self.blocks(self.stem(images)))).mean(dim=(2, 3)))
