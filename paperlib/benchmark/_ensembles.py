"""Many small models: one batched program against a loop over models."""

import itertools
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from paperlib import ensemble, losses, models
from paperlib.benchmark._nets import Effort
from paperlib.benchmark._timing import Turns, clock, spread, timed
from paperlib.config import RunConfig
from paperlib.data import Arrays
from paperlib.models.stack import stacked
from paperlib.parts import TrainingInterruptedError, make_optimizer

CLASSES, SAMPLES = 5, 4096
#: Models, batch, hidden units of both layers.
SIZES = ((10, 32, 16), (100, 32, 16), (1000, 32, 16), (100, 128, 32))


def ensembles(device: torch.device, effort: Effort, sizes: tuple[tuple[int, int, int], ...] = SIZES
              ) -> list[dict[str, Any]]:
    """One row a size: seconds of a model's step in :func:`paperlib.ensemble.fit` and in a plain loop, in turns.

    The plain loop is what one would write: models that exist, batches that lie ready, cross entropy, backward pass,
    fused optimiser; no shuffling, no counts. ``times`` is how many times faster the batched program is, with all that
    it does beside.
    """
    return [_race(device, effort, *size) for size in sizes]


def _race(device: torch.device, effort: Effort, count: int, batch: int, hidden: int) -> dict[str, Any]:
    now, draws = clock(device), torch.Generator().manual_seed(0)
    points = torch.randn(SAMPLES, 2, generator=draws).to(device)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=draws).to(device)
    data, few = Arrays(points, labels), Arrays(points[:8], labels[:8])
    config = RunConfig(dataset="synthetic", model="mlp", width=hidden, depth=2, batch_size=batch, precision="fp32",
                       lr=0.1, epochs=10_000, evaluate_every=10_000)

    def networks(number: int) -> list[nn.Module]:
        return [models.build("mlp", (2,), CLASSES, width=hidden, depth=2, seed=seed).to(device)
                for seed in range(number)]

    # A model's step costs the same whatever their number: twenty stand for all, and do not crowd out the cache.
    alone = [(model, make_optimizer(model, config)) for model in networks(min(count, 20))]
    batches = itertools.cycle(list(zip(points.split(batch), labels.split(batch), strict=True))[:-1])

    def loop() -> None:
        for model, optimizer in alone:
            inputs, answers = next(batches)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), answers).backward()
            optimizer.step()

    plain: list[float] = []
    many = networks(count)
    together = count / len(stacked(many, batch))  # models in a step of the program
    turns = Turns(now, lambda _: plain.append(timed(loop, now) / len(alone)), seconds=effort.seconds / 2, warmup=3,
                  block_seconds=effort.block_seconds / 4, rounds=effort.rounds)
    with suppress(TrainingInterruptedError):
        ensemble.fit(many, losses.get("cross_entropy"), data, few,
                     [config.replace(seed=seed) for seed in range(count)], stop=turns, quiet=True)
    batched, plain = [seconds / together for seconds in turns.times], plain[-len(turns.times):]
    return {"models": count, "batch_size": batch, "hidden": hidden, "rounds": len(batched),
            **spread(batched, "batched"), **spread(plain, "plain"),
            **spread([one / all_ for one, all_ in zip(plain, batched, strict=True)], "times")}
