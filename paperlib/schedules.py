"""Everything that changes over training, as pure functions of the step or of training progress."""

from paperlib.config import RunConfig


def learning_rate(config: RunConfig, step: int, total: int) -> float:
    """A triangle: from 0 up to ``lr`` over the share ``warmup`` of all steps, then down to 0, linearly.

    Args:
        config: with ``lr`` and ``warmup``.
        step: 0-based, < total.
        total: steps of the whole run.
    """
    progress = (step + 0.5) / total  # mid-step: neither the first nor the last step is wasted on 0
    up = progress / config.warmup if config.warmup else 1.0
    down = (1 - progress) / (1 - config.warmup) if config.warmup < 1 else 1.0
    return config.lr * min(up, down, 1.0)


def ramp(progress: float, start: float = 0.5, end: float = 1.0) -> float:
    """0 up to ``start``, then linearly to 1 at ``end``; what a late transition's ``strength`` follows.

    Args:
        progress: share of all steps that are done, in [0, 1].
        start: progress at which the ramp leaves 0.
        end: progress at which it reaches 1, > ``start``.

    Raises:
        ValueError: ``start`` is not below ``end``.
    """
    if not start < end:
        raise ValueError(f"start={start!r}, end={end!r}: expected start < end")
    return min(max((progress - start) / (end - start), 0.0), 1.0)


def strength_factor(config: RunConfig, progress: float, tracked: float) -> float:
    """What the transition loss's ``strength`` is multiplied with.

    Args:
        config: with ``strength_schedule``, ``ramp_start`` and ``ramp_end``.
        progress: share of all steps that are done, in [0, 1].
        tracked: running average of the batches' top-k accuracy, for "fitted" of their top-1 accuracy, in [0, 1].
    """
    if config.strength_schedule == "ramp":
        return ramp(progress, config.ramp_start, config.ramp_end)
    if config.strength_schedule == "fitted":
        return ramp(tracked, config.ramp_start, config.ramp_end)
    return tracked if config.strength_schedule == "tracked" else 1.0


def resolution(config: RunConfig, epoch: int) -> int | None:
    """Image side in pixels to train with in a 0-based epoch; None for the images' own."""
    return config.low_resolution if epoch < round(config.low_resolution_until * config.epochs) else None
