"""A small network that trains in minutes on one CPU core, shaped after airbench, :cite:t:`jordan2024airbench`."""

import torch
from torch import Tensor, nn

from paperlib.models._common import Head, conv3x3


def check_side(shape: tuple[int, ...]) -> None:
    """Refuse images (channels, H, W) that three halvings would leave with nothing."""
    if min(shape[1:]) < 9:
        raise ValueError("model 'speednet' halves its input three times after a 2 x 2 convolution: expected images of "
                         f"at least 9 x 9 pixels, got shape {shape}")


class Group(nn.Module):
    """``depth`` convolutions, which start as the identity on their first inputs; the image is halved after the first.

    With three there is a shortcut around the last two. They see a quarter of the pixels, so depth is cheap there.
    """

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        first = conv3x3(inputs, outputs)
        nn.init.dirac_(first.weight.data[:inputs])
        self.first = nn.Sequential(first, nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU())
        rest: list[nn.Module] = []
        for _ in range(depth - 1):
            conv = conv3x3(outputs, outputs)
            nn.init.dirac_(conv.weight.data)
            rest += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
        self.rest = nn.Sequential(*rest[:-1])  # the last ReLU follows the shortcut
        self.shortcut = depth > 2

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, outputs, H / 2, W / 2)."""
        x = self.first(x)
        y = self.rest(x)
        return torch.relu(x + y if self.shortcut else y)


class SpeedNet(nn.Module):
    """Frozen 2 x 2 whitening, three groups of ``depth`` (3, or 2) convolutions, global maximum, linear head.

    Channels are half of ``width`` (64), twice and four times it: where the image is largest, a channel costs most.
    Call :meth:`prepare` with training images before training.
    """

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, width: int | None = None,
                 depth: int | None = None) -> None:
        super().__init__()
        depth = 3 if depth is None else depth
        if depth not in (2, 3):
            raise ValueError(f"model 'speednet' with depth={depth!r}: expected 2 or 3 convolutions a group")
        check_side(input_shape)
        channels = input_shape[0]
        width = 64 if width is None else width
        filters = 2 * 4 * channels  # every principal direction of a 2 x 2 patch, and its negative
        self.whiten = nn.Conv2d(channels, filters, 2, bias=False)
        self.whiten.weight.requires_grad_(False)
        sizes = [filters, max(1, width // 2), 2 * width, 4 * width]
        self.groups = nn.Sequential(*[Group(a, b, depth) for a, b in zip(sizes[:-1], sizes[1:], strict=True)])
        # Features after a global maximum are large; a ninth keeps the first logits near zero.
        self.head = Head(sizes[-1], num_classes, bias=False, scale=1 / 9)

    @torch.no_grad()
    def prepare(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the whitening filters to the principal directions of the 2 x 2 patches of ``images``.

        Args:
            images: normalised training images, float32 (B, channels, H, W).
            eps: added to the variances, so that flat directions are not blown up.
        """
        patches = images.float().unfold(2, 2, 1).unfold(3, 2, 1)  # (B, channels, H - 1, W - 1, 2, 2)
        flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * 4).double()
        covariance = flat.T @ flat / len(flat)
        variances, directions = torch.linalg.eigh(covariance)
        # eigh leaves the sign open; fixing it keeps a run the same across LAPACK versions.
        directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
        filters = (directions / (variances + eps).sqrt()).T.reshape(-1, images.shape[1], 2, 2)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, channels, H, W), of any size from 9 x 9 on."""
        check_side(tuple(images.shape[1:]))  # training may scale images down
        return self.head(self.groups(torch.relu(self.whiten(images))).amax(dim=(2, 3)))
