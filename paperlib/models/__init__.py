"""Networks by name: ``build(name, input_shape, num_classes, width=, depth=)``."""

import difflib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from paperlib.models.densenet import DenseNet
from paperlib.models.mlp import MLP
from paperlib.models.polynomial import Polynomial
from paperlib.models.resnet import ResNet18
from paperlib.models.speednet import SpeedNet
from paperlib.models.stack import Stack, stacked
from paperlib.models.wrn import WideResNet

__all__ = ["MLP", "MODELS", "DenseNet", "Polynomial", "ResNet18", "SpeedNet", "Stack", "WideResNet", "build",
           "prepare", "stacked"]

#: Models by name: ``(input_shape, num_classes, width, depth) -> Module`` with logits (B, C) as output.
MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "polynomial": Polynomial, "resnet18": ResNet18,
                                             "wrn": WideResNet, "densenet": DenseNet, "speednet": SpeedNet}


def build(name: str, input_shape: tuple[int, ...], num_classes: int, *, width: int | None = None,
          depth: int | None = None, seed: int | None = None) -> nn.Module:
    """A freshly initialised network.

    Args:
        name: one of ``MODELS``.
        input_shape: of one sample: (channels, H, W) for images, (D,) for features.
        num_classes: C.
        width: None for the model's default.
        depth: None for the model's default.
        seed: of the initialisation; None draws from torch's default generator.

    Raises:
        ValueError: unknown model, a setting that the model does not have, or an input shape it cannot take.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        raise ValueError(f"unknown model {name!r}{f': did you mean {near[0]!r}?' if near else '.'} "
                         f"Valid models: {', '.join(MODELS)}")
    if name not in ("mlp", "polynomial") and len(input_shape) != 3:
        raise ValueError(f"model {name!r} takes images: expected an input shape (channels, H, W), got {input_shape}; "
                         "for features use 'mlp' or 'polynomial'")
    for setting, value, least in (("width", width, 1), ("depth", depth, 0)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"model {name!r} with {setting}={value!r}: expected a whole number of at least {least}")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return MODELS[name](input_shape, num_classes, width, depth)


def prepare(model: nn.Module, inputs: Tensor) -> None:
    """Let a model that has data-dependent initialisation see normalised training inputs."""
    if isinstance(model, SpeedNet | Polynomial):
        model.prepare(inputs)
