"""What a configuration makes of a loss, an optimiser and a schedule, whether one model is trained or many at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from paperlib import losses, schedules
from paperlib.config import RunConfig

#: Weight of one batch in the running accuracy that the schedules of :data:`FOLLOWS` go by.
TRACKING_RATE = 0.01
#: Schedules that follow the network instead of the clock, and what they follow: 0 is top-1, 1 top-k accuracy. "fitted"
#: moves from ``ramp_start`` to ``ramp_end`` of top-1 accuracy on training images: only what is memorised is grouped.
FOLLOWS = {"tracked": 1, "fitted": 0}


class TrainingDivergedError(ArithmeticError, ValueError):
    """Logits or loss left the finite numbers; ``where`` says in which run, epoch and step."""

    def __init__(self, where: dict[str, Any]) -> None:
        super().__init__("training diverged: " + ", ".join(f"{key} {value}" for key, value in where.items())
                         + ". Expected finite logits and loss; a lower lr or a longer warmup usually helps.")
        self.where = where


class TrainingInterruptedError(RuntimeError):
    """Asked to stop before the end; the checkpoint holds everything up to now."""


def make_loss(config: RunConfig) -> losses.BoundLoss:
    """The configuration's loss with its options; k is required exactly where the loss takes one."""
    if "reduction" in config.loss_options:
        raise ValueError(f"loss_options holds reduction={config.loss_options['reduction']!r}: expected none, since "
                         "training takes the mean of a batch")
    takes_k = "k" in losses.options(config.loss)
    if takes_k != (config.k is not None):
        raise ValueError(f"k={config.k!r} with loss {config.loss!r}: expected "
                         + ("a whole number" if takes_k else "None, since this loss takes no k"))
    return losses.get(config.loss, **({"k": config.k} if takes_k else {}), **config.loss_options)


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; matrices and filters decay, biases and normalisation learn faster instead."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay, "factor": 1.0},
              {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0,
               "factor": config.bias_lr_factor}]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)


def classes_ahead(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes are not behind the label, itself left out: its rank less 1, ties and NaN counting against it.

    As :func:`paperlib.metrics.label_ranks` without its checks, which would wait for a GPU in every step.

    Args:
        scores: float, (B, C).
        labels: int64, (B,).

    Returns:
        int64, (B,).
    """
    return scores.shape[1] - 1 - (scores < scores.gather(1, labels.unsqueeze(1))).sum(dim=1)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> float:
    """Set every group to ``lr`` times its factor; returns ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    return lr


def strength_now(config: RunConfig, progress: float, tracked: Tensor) -> Tensor | None:
    """Strength of the transition at this step, 0-d on the device of ``tracked``; None where the loss has none."""
    if config.loss != "topk_transition":
        return None
    full = config.loss_options.get("strength", losses.options(config.loss)["strength"])
    if config.strength_schedule == "tracked":
        return full * tracked
    if config.strength_schedule == "fitted":
        return full * ((tracked - config.ramp_start) / (config.ramp_end - config.ramp_start)).clamp(0, 1)
    return torch.full_like(tracked, full * schedules.strength_factor(config, progress, 0.0))


def check_resolution(config: RunConfig, shape: tuple[int, ...]) -> None:
    """Refuse to scale images (channels, H, W) down for a model that has a weight for each pixel."""
    side = config.low_resolution if config.low_resolution_until > 0 else None
    if config.model in ("mlp", "polynomial") and len(shape) == 3 and side is not None and side < shape[-1]:
        raise ValueError(f"low_resolution={side} with model {config.model!r} and images of {shape[-1]} pixels: "
                         "expected None, since this model takes images of one size")


def summarize_timing(timing: dict[str, float]) -> dict[str, Any]:
    """The record's timing: seconds of the timed steps, the rate in images per second, and when the run ended (UTC)."""
    seconds = timing["train_seconds"]
    return {**timing, "images_per_second": timing["timed_images"] / seconds if seconds else None,
            "finished": datetime.now(UTC).isoformat(timespec="seconds")}


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Set torch's CPU threads and put them back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
