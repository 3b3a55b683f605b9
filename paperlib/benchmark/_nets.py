"""Networks under way: the real loop against its ceiling, where a step's time goes, what determinism costs."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from paperlib import schedules, train
from paperlib.benchmark._timing import Turns, Watch, clock, spread, timed
from paperlib.config import RunConfig
from paperlib.data import Arrays, EvaluationLoader, Normalizer, Splits, TrainLoader, channel_statistics
from paperlib.engine import Engine, autocast, widened

#: Where the time of a step goes, in the order of the loop. Bookkeeping is all that is none of the others: learning
#: rate, checks for finite numbers, counts for the history, clock, progress.
PARTS = ("augmentation", "forward", "loss", "backward", "optimiser", "bookkeeping")
SIDE, CLASSES = 32, 100
Loader = TypeVar("Loader", bound=TrainLoader)
Loss = Callable[..., Tensor]
#: Steps before anything counts. More on CUDA, where kernels are chosen, compiled and captured.
WARMUP = {"cpu": 3, "cuda": 12}


@dataclass(frozen=True)
class Effort:
    """How long to measure: ``seconds`` for a row, ``images`` of random data, ``rounds`` least and most.

    ``compiled``: whether compiled steps are measured as well, which takes a compiler and a minute.
    """

    seconds: float = 14.0
    images: int = 20_000
    rounds: tuple[int, int] = (8, 60)
    block_seconds: float = 0.08
    compiled: bool = True


QUICK = Effort(seconds=0.2, images=512, rounds=(3, 6), block_seconds=0.01, compiled=False)


@dataclass(frozen=True)
class Bench:
    """Random images of CIFAR's shape, and what the loop needs to train on them."""

    splits: Splits
    device: torch.device

    @classmethod
    def make(cls, device: torch.device, images: int) -> "Bench":
        """``images`` images (32, 32, 3) of ``CLASSES`` classes."""
        draws = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (images, SIDE, SIDE, 3), dtype=torch.uint8, generator=draws)
        labels = torch.randint(0, CLASSES, (images,), generator=draws)
        arrays, few = Arrays(pixels, labels), Arrays(pixels[:8], labels[:8])
        mean, std = channel_statistics(pixels)
        return cls(Splits(arrays, few, few, tuple(map(str, range(CLASSES))), mean, std, True, "random", 0), device)

    def normalizer(self) -> Normalizer:
        """As a run makes it."""
        return Normalizer(self.splits.mean, self.splits.std, self.device)

    def loader(self, config: RunConfig, kind: type[Loader] = TrainLoader) -> Loader:  # type: ignore[assignment]
        """As a run makes it."""
        return kind(self.splits.train, self.normalizer(), self.device, batch_size=config.batch_size,
                           seed=0, augment=config.augment, flip=self.splits.flip)

    def model(self, config: RunConfig) -> nn.Module:
        """As a run makes it."""
        return train.make_model(config, self.splits, self.normalizer(), self.device)

    def run(self, config: RunConfig, stop: Callable[[], bool], *, model: nn.Module | None = None,
            loader: TrainLoader | None = None, loss: Loss | None = None, engine: Engine | None = None) -> None:
        """The real loop, :func:`paperlib.train.fit`, until ``stop`` says so."""
        validation = EvaluationLoader(self.splits.validation, self.normalizer(), self.device)
        with suppress(train.TrainingInterruptedError):
            train.fit(model or self.model(config), loss or train.make_loss(config),
                      train.Loaders(loader or self.loader(config), validation), config, stop=stop, engine=engine,
                      quiet=True)


def endless(config: RunConfig) -> RunConfig:
    """The same run, so long that it neither ends nor validates while it is timed."""
    return config.replace(epochs=10_000, evaluate_every=10_000)


def pixels(config: RunConfig) -> int:
    """Side of the images that the network sees at the beginning of training."""
    return schedules.resolution(config, 0) or SIDE


def bare_step(bench: Bench, config: RunConfig, layout: torch.memory_format = torch.channels_last,
              compiled: bool | None = None) -> Callable[[], None]:
    """The ceiling: forward, backward and optimiser step on one resident random batch; no loss, nothing else.

    The batch has the network's precision and layout, the gradient of the logits is given, and the learning rate is 0,
    so the weights stay where they are, at the same cost. ``compiled`` is None for what the loop does on the device.
    """
    engine = Engine.choose(bench.device, config.batch_size, compile=compiled)
    model = bench.model(config).train().to(memory_format=layout)
    optimizer = train.make_optimizer(model, config)
    mode = "reduce-overhead" if engine.cuda_graphs else "default"
    forward = torch.compile(model, dynamic=False, mode=mode) if engine.compiled else model
    train.set_learning_rate(optimizer, 0.0)
    bf16 = config.precision == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    images = torch.randn(config.batch_size, 3, pixels(config), pixels(config), device=bench.device, dtype=dtype)
    images = images.contiguous(memory_format=layout)
    gradient = torch.randn(config.batch_size, CLASSES, device=bench.device) / config.batch_size

    def step() -> None:
        if engine.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with autocast(bench.device, bf16), widened(bench.device, bf16):
            logits = forward(images)
        optimizer.zero_grad()
        logits.backward(gradient)
        optimizer.step()

    return step


def forward_macs(bench: Bench, config: RunConfig) -> int:
    """Multiply-accumulates of convolutions and linear layers in the forward pass of one image."""
    model = copy.deepcopy(bench.model(config)).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, pixels(config), pixels(config), device=bench.device))
    return counter.get_total_flops() // 2


def rate(bench: Bench, config: RunConfig, effort: Effort) -> dict[str, Any]:
    """One row: images a second of the loop and of its ceiling, taken in turns, and their ratio within a round."""
    config, now = endless(config), clock(bench.device)
    step, ceiling = bare_step(bench, config), []

    def between(steps: int) -> None:
        ceiling.append(timed(step, now, steps))

    turns = Turns(now, between, seconds=effort.seconds, warmup=WARMUP[bench.device.type],
                  block_seconds=effort.block_seconds, rounds=effort.rounds)
    bench.run(config, turns)
    loop, ceiling = turns.times, ceiling[-len(turns.times):]
    macs, size = forward_macs(bench, config), config.batch_size
    rates = {**spread([size / seconds for seconds in loop], "loop"),
             **spread([size / seconds for seconds in ceiling], "ceiling")}
    return {**described(config), "macs": macs, "rounds": len(loop), "steps": turns.block, **rates,
            **spread([bare / real for bare, real in zip(ceiling, loop, strict=True)], "ratio"),
            "gflops": 6e-9 * macs * rates["loop"]}


def described(config: RunConfig) -> dict[str, Any]:
    """The columns that name a network."""
    return {"model": config.model, "width": config.width, "precision": config.precision,
            "batch_size": config.batch_size, "pixels": pixels(config)}


class WatchedLoader(TrainLoader):
    """Tells a watch when a batch was asked for and when it was ready."""

    watch: Watch

    def epoch(self, epoch: int, start: int = 0, resolution: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """As :meth:`paperlib.data.TrainLoader.epoch`."""
        batches = super().epoch(epoch, start, resolution)
        while True:
            self.watch.mark("bookkeeping")
            batch = next(batches, None)
            self.watch.mark("augmentation")
            if batch is None:
                return
            yield batch


@contextmanager
def optimiser_marks(watch: Watch) -> Iterator[None]:
    """Between these marks every optimiser steps; what came before was the backward pass."""
    hooks = [register_optimizer_step_pre_hook(lambda *_: watch.mark("backward")),
             register_optimizer_step_post_hook(lambda *_: watch.mark("optimiser"))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def profile(bench: Bench, config: RunConfig, effort: Effort, loss: Loss | None = None) -> list[dict[str, Any]]:
    """Share of each part in a step of the real loop, one row a part: median over steps, with quartiles.

    The marks are hooks around the loop's own calls, so it is the loop that is timed, not a copy. On CUDA each mark
    waits for the device, and nothing is compiled: parts do not overlap there, although they do in training.
    """
    config, now = endless(config), clock(bench.device)
    watch = Watch(now, PARTS)
    model, computed = bench.model(config), loss or train.make_loss(config)
    loader = bench.loader(config, WatchedLoader)
    loader.watch = watch
    model.register_forward_pre_hook(lambda *_: watch.mark("bookkeeping"))
    model.register_forward_hook(lambda *_: watch.mark("forward"))

    def watched(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
        watch.mark("bookkeeping")
        value = computed(logits, labels, **options)
        value.register_hook(lambda _: watch.mark("bookkeeping"))  # the backward pass begins
        watch.mark("loss")
        return value

    warmup, begun = WARMUP[bench.device.type], now()

    def stop() -> bool:
        nonlocal begun
        watch.mark("bookkeeping")
        watch.end_step()
        if len(watch.steps) == warmup:
            begun = now()
        counted = len(watch.steps) - warmup
        return counted >= effort.rounds[1] or (counted >= effort.rounds[0] and now() - begun > effort.seconds / 2)

    with optimiser_marks(watch):
        bench.run(config, stop, model=model, loader=loader, loss=watched, engine=Engine())
    steps = watch.steps[warmup:]
    return [{**described(config), "part": part, "steps": len(steps),
             **spread([step[part] for step in steps], "seconds"),
             **spread([step[part] / sum(step.values()) for step in steps], "share")} for part in PARTS]


def determinism(bench: Bench, config: RunConfig, effort: Effort) -> dict[str, Any]:
    """One row: time of a step with torch's deterministic algorithms over the time without, in turns."""
    config = endless(config)
    pairs = (_separate_runs if bench.device.type == "cuda" else _switched_run)(bench, config, effort)
    return {**described(config), "rounds": len(pairs), **spread([bound / free for free, bound in pairs], "cost")}


def _separate_runs(bench: Bench, config: RunConfig, effort: Effort) -> list[tuple[float, float]]:
    """Seconds a step without and with: what was compiled or captured cannot be switched, so runs take turns."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(3):
        for on, times in found.items():
            turns = Turns(clock(bench.device), lambda _: None, seconds=effort.seconds / 6,
                          warmup=WARMUP[bench.device.type], block_seconds=effort.block_seconds, rounds=effort.rounds)
            bench.run(config, turns, engine=Engine.choose(bench.device, config.batch_size, deterministic=on))
            times.append(spread(turns.times, "step")["step"])
    return list(zip(found[False], found[True], strict=True))


def _switched_run(bench: Bench, config: RunConfig, effort: Effort) -> list[tuple[float, float]]:
    """Seconds a step without and with, block by block within one eager run."""
    before, blocks = torch.are_deterministic_algorithms_enabled(), 0

    def between(_: int) -> None:
        nonlocal blocks
        blocks += 1
        torch.use_deterministic_algorithms(blocks % 2 == 1)

    warmup = WARMUP[bench.device.type] // 2 * 2 + 2  # even: the first block that counts is without
    turns = Turns(clock(bench.device), between, seconds=effort.seconds, warmup=warmup,
                  block_seconds=effort.block_seconds, rounds=(2 * effort.rounds[0], 2 * effort.rounds[1]))
    torch.use_deterministic_algorithms(False)
    try:
        bench.run(config, turns)
    finally:
        torch.use_deterministic_algorithms(before)
    return list(zip(turns.times[0::2], turns.times[1::2], strict=False))
