"""Wide residual networks for 32 x 32 images, :cite:t:`zagoruyko2016wide`."""

import torch
from torch import Tensor, nn

from paperlib.models._common import Conv1x1, Head, conv3x3, he_initialise


class WideBlock(nn.Module):
    """Normalisation and ReLU before each of two 3 x 3 convolutions; a 1 x 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv3x3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv3x3(outputs, outputs)
        self.shortcut = Conv1x1(inputs, outputs, stride) if stride != 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, outputs, H / stride, W / stride)."""
        y = torch.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(y)
        return kept + self.conv2(torch.relu(self.bn2(self.conv1(y))))


class WideResNet(nn.Module):
    """WRN-``depth``-``width``, without dropout; 28 and 10 by default, as in the paper's best.

    ``width`` is the factor by which the three stages of 16, 32 and 64 channels are widened, not a number of channels;
    ``depth`` = 6 n + 4 counts convolutions, n blocks a stage.
    """

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, width: int | None = None,
                 depth: int | None = None) -> None:
        super().__init__()
        width, depth = 10 if width is None else width, 28 if depth is None else depth
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"model 'wrn' with depth={depth!r}: expected 6 n + 4 with n >= 1, such as 16, 28 or 40")
        self.stem = conv3x3(input_shape[0], 16)
        blocks, inputs = [], 16
        for stage in range(3):
            outputs = 16 * 2**stage * width
            for place in range((depth - 4) // 6):
                blocks.append(WideBlock(inputs, outputs, stride=2 if stage and not place else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inputs)
        self.head = Head(inputs, num_classes)
        he_initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, channels, H, W)."""
        return self.head(torch.relu(self.norm(self.blocks(self.stem(images)))).mean(dim=(2, 3)))
