"""How much faster models are trained at once than one after the other: ``compare()``, for this machine."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from paperlib import ensemble, models
from paperlib.checkpoint import State
from paperlib.config import RunConfig
from paperlib.data import Arrays
from paperlib.models import stacked
from paperlib.parts import make_loss, make_optimizer, torch_threads


class Speedup(NamedTuple):
    """Medians over rounds in which both sides took turns; CPU time of this process, one thread."""

    loop: float  #: microseconds that a step of one model takes in a plain loop over models
    batched: float  #: and as one of many
    ratio: float
    low: float  #: smallest and largest ratio of a single round
    high: float


def compare(number: int = 100, batch_size: int = 32, width: int = 16, depth: int = 1, loss: str = "cross_entropy",
            k: int | None = None, *, rounds: int = 7, seconds: float = 0.2) -> Speedup:
    """Time steps of :func:`paperlib.ensemble.fit` against the shortest loop that does the same.

    The loop is forward pass, loss, backward pass and fused optimiser on batches that lie ready, and nothing else. The
    batched side is charged for all it does: it also gathers batches, looks for models that diverged, sets schedules.

    Args:
        number: models.
        batch_size: of each.
        width: hidden units.
        depth: hidden layers; 2 inputs, 5 classes.
        loss: name.
        k: of the loss, where it takes one.
        rounds: turns of both sides.
        seconds: CPU time of one turn, about.
    """
    config = RunConfig(dataset="synthetic", model="mlp", width=width, depth=depth, loss=loss, k=k, precision="fp32",
                       batch_size=batch_size, epochs=1_000_000, evaluate_every=1_000_000)
    draws = torch.Generator().manual_seed(0)
    data = Arrays(torch.rand(40 * batch_size, 2, generator=draws) * 2 - 1,
                  torch.randint(5, (40 * batch_size,), generator=draws))
    with torch_threads(1):
        sides = _loop(config, data), _batched(config, data, number)
        steps = [_calibrated(side, seconds) for side in sides]
        times = [[_timed(side, count) for side, count in zip(sides, steps, strict=True)] for _ in range(rounds)]
    ratios = [loop / batched for loop, batched in times]
    loop, batched = (statistics.median(side) for side in zip(*times, strict=True))
    return Speedup(loop, batched, statistics.median(ratios), min(ratios), max(ratios))


def _networks(config: RunConfig, number: int) -> list[nn.Module]:
    return [models.build("mlp", (2,), 5, width=config.width, depth=config.depth, seed=seed) for seed in range(number)]


class _Side(NamedTuple):
    step: Callable[[int], None]
    models: int  #: that one call trains by a step


def _loop(config: RunConfig, data: Arrays, number: int = 10) -> _Side:
    """So few models that they stay in the cache: a kinder loop than one over all."""
    networks = _networks(config, number)
    optimizers, loss = [make_optimizer(network, config) for network in networks], make_loss(config)
    batches = list(zip(data.inputs.split(config.batch_size), data.labels.split(config.batch_size), strict=True))

    def step(count: int) -> None:
        inputs, labels = batches[count % len(batches)]
        for network, optimizer in zip(networks, optimizers, strict=True):
            value = loss(network(inputs), labels)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

    return _Side(step, number)


def _batched(config: RunConfig, data: Arrays, number: int) -> _Side:
    networks = _networks(config, number)
    configs = [config.replace(seed=seed) for seed in range(number)]
    chunks, state = ensemble.chunked(stacked(networks, config.batch_size), configs), State()
    state.sums, state.tracked = torch.zeros(3, number).double(), torch.zeros(number).double()
    orders, loss = [chunk.order(0, len(data)) for chunk in chunks], make_loss(config)
    steps = len(data) // config.batch_size

    def step(count: int) -> None:
        for chunk, order in zip(chunks, orders, strict=True):
            chunk.step(loss, data.inputs, data.labels, order, state, 0, count % steps, steps)

    return _Side(step, number)


def _calibrated(side: _Side, seconds: float) -> int:
    """After some steps of warm-up, how many take about so many seconds."""
    for count in range(5):
        side.step(count)
    return max(1, round(seconds / (_timed(side, 3) * side.models * 1e-6)))


def _timed(side: _Side, count: int) -> float:
    """Microseconds of CPU a model and step."""
    started = time.process_time()
    for number in range(count):
        side.step(number)
    return (time.process_time() - started) / count / side.models * 1e6
