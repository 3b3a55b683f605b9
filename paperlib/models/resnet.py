"""ResNet for 32 x 32 images, :cite:t:`he2016deep`."""

from torch import Tensor, nn
from torch.nn.functional import relu

from paperlib.models._common import Conv1x1, Head, conv3x3, reject


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut; 1 x 1 convolution in the shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(Conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, outputs, H / stride, W / stride)."""
        y = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 with a 3 x 3 stem and no pooling before the first stage; ``width`` channels there (64: the original).

    Stages have width, 2, 4 and 8 times width channels.
    """

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, width: int | None = None,
                 depth: int | None = None) -> None:
        super().__init__()
        reject("resnet18", depth=depth)
        width = 64 if width is None else width
        self.stem = nn.Sequential(conv3x3(input_shape[0], width), nn.BatchNorm2d(width), nn.ReLU())
        blocks, inputs = [], width
        for stage in range(4):
            outputs = width * 2**stage
            blocks += [BasicBlock(inputs, outputs, stride=1 if stage == 0 else 2), BasicBlock(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = Head(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, channels, H, W)."""
        return self.head(self.blocks(self.stem(images)).mean(dim=(2, 3)))
