"""The one training loop: ``fit`` for objects that exist, ``train`` for a configuration."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paperlib import data, ensemble, environment, losses, metrics, models, predictions, schedules
from paperlib.branches import Branches, Run, open_runs
from paperlib.checkpoint import Checkpoint, State
from paperlib.config import PROTOCOL, RunConfig
from paperlib.data import EvaluationLoader, Normalizer, Splits, TrainLoader
from paperlib.engine import Engine, Loss, autocast, widened
from paperlib.parts import TRACKING_RATE as TRACKING_RATE
from paperlib.parts import TrainingDivergedError as TrainingDivergedError
from paperlib.parts import TrainingInterruptedError as TrainingInterruptedError
from paperlib.parts import check_resolution as check_resolution
from paperlib.parts import classes_ahead as classes_ahead
from paperlib.parts import make_loss as make_loss
from paperlib.parts import make_optimizer as make_optimizer
from paperlib.parts import set_learning_rate as set_learning_rate
from paperlib.parts import strength_now as strength_now
from paperlib.parts import summarize_timing as summarize_timing
from paperlib.parts import torch_threads as torch_threads
from paperlib.progress import Progress
from paperlib.records import SCHEMA, Record, encode_ranks
from paperlib.seeding import derive, generator

#: Steps after a start, a resume or a recompilation that no rate counts: allocators and kernel caches fill, graphs are
#: compiled and recorded.
WARMUP_STEPS = 5


@dataclass(frozen=True)
class Loaders:
    """What ``fit`` may see. The test images are not among it."""

    train: TrainLoader
    validation: EvaluationLoader


def fit(model: nn.Module, loss: Loss, loaders: Loaders, config: RunConfig, *, checkpoint: Checkpoint | None = None,
        stop: Callable[[], bool] | None = None, engine: Engine | None = None, quiet: bool = False,
        branches: Sequence[Run] = ()) -> State:
    """Train ``model`` in place, resuming from ``checkpoint`` if that exists.

    Args:
        model: on the device to train on; logits (B, C) for a batch of inputs.
        loss: ``loss(logits, labels)``; where the schedule moves it, also ``strength=`` as a 0-d tensor, and where it
            takes noise, ``noise=``.
        loaders: training and validation batches.
        config: optimiser, schedules, epochs and precision are read from it.
        checkpoint: written by time; with it a killed run goes on exactly where it was.
        stop: asked after every step; True saves a checkpoint and stops.
        engine: None: what :meth:`paperlib.engine.Engine.choose` takes for the device, compiled on CUDA.
        quiet: print nothing.
        branches: runs that may be this one until their losses part; each then has a checkpoint to go on from, see
            :mod:`paperlib.branches`. Compiled, they would be another graph with other bits: they do not go along then.

    Returns:
        The final state, with one history entry an epoch.

    Raises:
        TrainingDivergedError: a logit or the loss is not finite (seen at once on CPU, at the end of the epoch on CUDA,
            where looking earlier would stall the device).
        TrainingInterruptedError: ``stop`` said so.
    """
    device = next(model.parameters()).device
    engine = engine or Engine.choose(device, loaders.train.batch_size)
    optimizer = make_optimizer(model, config)
    state = (checkpoint.restore(model, optimizer) if checkpoint else State()).to(device)
    forward, draws = engine.step(model, loss, config.precision == "bf16"), loss_draws(model, loaders, config)
    trunk = Run(config, loss, state, checkpoint)
    if engine.compiled:
        for run in branches:
            run.left()
    along = Branches(trunk, [] if engine.compiled else branches)
    steps = len(loaders.train)
    total = config.epochs * steps
    progress = Progress(f"{config.loss} {config.run_id}", total, state.epoch * steps + state.step, quiet=quiet)
    clock = Clock(device, state.timing, loaders.train.batch_size)
    with engine.settings(device):
        for epoch in range(state.epoch, config.epochs):
            resolution = schedules.resolution(config, epoch)
            if engine.compiled and resolution != schedules.resolution(config, epoch - 1):
                clock.warm_up()  # another shape, another graph
            model.train()
            for inputs, labels in loaders.train.epoch(epoch, state.step, resolution):
                done = epoch * steps + state.step
                lr = set_learning_rate(optimizer, schedules.learning_rate(config, done, total))
                strength = trunk.strength((done + 0.5) / total)
                if leaving := along.leaving(strength, (done + 0.5) / total):
                    clock.pause()
                    along.let_go(leaving, model, optimizer)
                changes = draws(epoch, state.step) if strength is None else {"strength": strength}
                look = partial(check_finite, config=config, epoch=epoch, step=state.step, lr=lr)
                optimizer.zero_grad()
                logits, value = forward(inputs, labels, changes, look)
                look(value)
                value.backward()
                optimizer.step()
                ahead = classes_ahead(logits.detach(), labels)
                for run in (trunk, *along.runs):
                    run.count(ahead, value.detach())
                clock.tick()
                progress.step()
                stopping = stop is not None and stop()
                if checkpoint and (checkpoint.due or stopping):
                    clock.pause()
                    checkpoint.save(model, optimizer, state)
                if stopping:
                    progress.close()
                    raise TrainingInterruptedError(f"run {config.run_id} stopped as asked, in epoch {epoch + 1}")
            clock.pause()
            # Again as in the last step: a run that was stopped right after it resumes here, without a step.
            done = (epoch + 1) * steps - 1
            lr = schedules.learning_rate(config, done, total)
            last = {"epoch": epoch + 1, "progress": (epoch + 1) / config.epochs, "lr": lr}
            checked = validated(model, loaders, trunk)
            for run in (trunk, *along.runs):
                strength = run.strength((done + 0.5) / total)
                now = {"strength": None if strength is None else float(strength), "resolution": resolution}
                run.state.history.append(last | now | epoch_results(run, steps * loaders.train.batch_size, checked))
                run.state.epoch, run.state.step, run.state.sums = epoch + 1, 0, torch.zeros_like(state.sums)
            progress.epoch(state.history[-1], config.epochs)
    along.let_go(along.runs, model, optimizer)
    progress.close()
    return state


def train(config: RunConfig, **options: Any) -> Record:
    """Train and evaluate one configuration; ``options`` as for :func:`trained`.

    A list of seeds goes to :func:`paperlib.ensemble.train_many`.
    """
    return ensemble.train_many(config, **options) if isinstance(config.seed, tuple) else trained(config, **options)[0]


def trained(config: RunConfig, *, device: torch.device | str | None = None, checkpoint: Path | str | None = None,
            stop: Callable[[], bool] | None = None, commit: str | None = None, threads: int = 1,
            compile: bool | None = None, deterministic: bool = False, keep: Path | str | None = None,
            quiet: bool = False,
            branches: Mapping[RunConfig, Path | str] | None = None,
            left: Callable[[RunConfig], None] = lambda config: None) -> tuple[Record, nn.Module, Splits]:
    """Train one configuration and return the record, the network and the data.

    Args:
        config: the run.
        device: None for CUDA where there is one, else the CPU.
        checkpoint: file to resume from and to save to; None: never saved.
        stop: asked after every step; True saves a checkpoint and stops.
        commit: stands in for git in the record.
        threads: of torch on the CPU. One: on shared cores more threads wait for each other.
        compile: forward pass and loss by ``torch.compile``; None: on CUDA.
        deterministic: the same bits again on the same GPU, at some cost in speed; a CPU repeats itself anyway.
        keep: folder that takes the logits of the evaluated splits; see :mod:`paperlib.predictions`.
        quiet: print nothing.
        branches: runs still to be trained, with where their checkpoints go; those that begin as this one does need
            not begin again, see :func:`fit`.
        left: told of each of them when it does not, or no longer, go along.

    Raises:
        ValueError: data set, model, loss or one of their options is unknown or out of range, or ``deterministic`` and
            CUDA in use without the workspace that cuBLAS then needs.
        data.DataError: the data set is missing or corrupt.
        TrainingDivergedError: see :func:`fit`.
        TrainingInterruptedError: see :func:`fit`.
    """
    started = time.perf_counter()
    if isinstance(config.seed, tuple):
        raise ValueError(f"seed={list(config.seed)!r}: expected one seed, since one network is returned; several are "
                         "for train, or for paperlib.ensemble.trained_many")
    place = environment.find_device(device)
    loss = make_loss(config)
    engine = Engine.choose(place, config.batch_size, compile=compile, deterministic=deterministic)
    with torch_threads(threads), engine.settings(place):
        splits = data.splits(config)
        normalizer = Normalizer(splits.mean, splits.std, place)
        loaders = Loaders(
            TrainLoader(splits.train, normalizer, place, batch_size=config.batch_size, seed=config.seeds[0],
                        augment=config.augment, flip=splits.flip),
            EvaluationLoader(splits.validation, normalizer, place))
        model = make_model(config, splits, normalizer, place)
        saved = Checkpoint(checkpoint, config.run_id) if checkpoint else None
        along = open_runs(branches or {}, splits.num_classes, left)
        state = fit(model, loss, loaders, config, checkpoint=saved, stop=stop, engine=engine, quiet=quiet,
                    branches=along)
        test = EvaluationLoader(splits.test, normalizer, place) if config.evaluate_test else None
        record = Record(
            schema=SCHEMA, run_id=config.run_id, protocol=PROTOCOL, config=config.to_dict(),
            code=environment.code(commit),
            environment=environment.describe(place) | engine.describe(place, config.precision == "bf16"),
            data={"checksum": splits.checksum, "train": len(splits.train), "validation": len(splits.validation),
                  "test": len(splits.test), "num_classes": splits.num_classes, "label_flips": splits.label_flips},
            history=state.history, timing=summarize_timing(state.timing),
            validation=state.validation,  # of the last epoch, which always has one
            test=evaluate(model, loss, test, config) if test else None)
        if keep:
            loads = {"validation": loaders.validation} | ({"test": test} if test else {})
            predictions.save(keep, config.run_id, {split: kept(model, load, config) for split, load in loads.items()})
    timing = {**record.timing, "wall_seconds": time.perf_counter() - started}  # loading and compiling included
    return replace(record, timing=timing), model, splits


def make_model(config: RunConfig, splits: Splits, normalizer: Normalizer, device: torch.device) -> nn.Module:
    """The configuration's network, initialised from its seed, on ``device`` in channels_last."""
    sample = normalizer(splits.train.inputs[:2000].to(device))
    check_resolution(config, tuple(sample.shape[1:]))
    model = models.build(config.model, tuple(sample.shape[1:]), splits.num_classes, width=config.width,
                         depth=config.depth, seed=derive(config.seeds[0], "initialisation"))
    model = model.to(device)
    if sample.dim() == 4:
        model = model.to(memory_format=torch.channels_last)
    models.prepare(model, sample)
    return model


def loss_draws(model: nn.Module, loaders: Loaders, config: RunConfig) -> Callable[[int, int], dict[str, Tensor]]:
    """What the loss draws at random in a step, by (epoch, step): its ``noise``, where it takes one.

    Left to torch's default generator, a resumed run would draw something else.
    """
    options = losses.options(config.loss) | config.loss_options
    if "noise" not in options or not options["eps"]:
        return lambda epoch, step: {}
    with torch.no_grad():
        sample = next(iter(loaders.validation))[0][:1]
        num_classes = model.eval()(sample).shape[1]
    shape = (options["num_samples"], loaders.train.batch_size, num_classes)

    def draw(epoch: int, step: int) -> dict[str, Tensor]:
        draws = generator(config.seeds[0], "loss noise", epoch, step, device=sample.device)
        return {"noise": torch.randn(shape, generator=draws, device=sample.device)}

    return draw


def check_finite(value: Tensor, config: RunConfig, epoch: int, step: int, lr: float) -> None:
    """Stop at the first number that is not finite; on CUDA only :func:`check_sums` looks."""
    if value.device.type == "cpu" and not bool(value.isfinite().all()):
        raise TrainingDivergedError({"run_id": config.run_id, "loss": config.loss, "epoch": epoch + 1,
                                     "step": step + 1, "lr": lr})


def validated(model: nn.Module, loaders: Loaders, run: Run) -> tuple[Tensor, Tensor] | None:
    """Logits (n, C) and labels (n,) of the validation images, where they are due after this epoch."""
    epoch, config = run.state.epoch + 1, run.config
    check_sums(run)
    if epoch % config.evaluate_every and epoch != config.epochs:
        return None
    started = time.perf_counter()
    logits, labels = predict(model, loaders.validation, config)
    if not bool(logits.isfinite().all()):  # the last step of the epoch may have spoilt the weights
        raise TrainingDivergedError({"run_id": config.run_id, "loss": config.loss, "epoch": epoch})
    run.state.timing["evaluation_seconds"] += time.perf_counter() - started
    return logits, labels


def check_sums(run: Run) -> None:
    """Where a device is not asked in every step, the epoch's sum tells whether one was not finite."""
    if not math.isfinite(run.state.sums[0]):
        raise TrainingDivergedError({"run_id": run.config.run_id, "loss": run.config.loss,
                                     "epoch": run.state.epoch + 1})


@torch.no_grad()  # a loss with noise repeats itself then
def epoch_results(run: Run, seen: int, checked: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
    """Training averages of the epoch over the ``seen`` images and, where it was due, validation."""
    mean_loss, top1, topk = (run.state.sums / seen).tolist()
    entry: dict[str, Any] = {"train_loss": mean_loss, "train_top1": top1, "train_topk": topk, "validation_loss": None,
                             "validation_top1": None, "validation_topk": None}
    if checked:
        started = time.perf_counter()
        logits, labels = checked
        ranks = metrics.label_ranks(logits, labels)
        entry |= {"validation_loss": float(run.loss(logits, labels)),
                  "validation_top1": float((ranks <= 1).double().mean()),
                  "validation_topk": float((ranks <= run.config.shown_k).double().mean())}
        if run.state.epoch + 1 == run.config.epochs:
            run.state.validation = summarize(logits, labels, run.loss)
        run.state.timing["evaluation_seconds"] += time.perf_counter() - started
    return entry


@torch.no_grad()
def predict(model: nn.Module, loader: EvaluationLoader, config: RunConfig) -> tuple[Tensor, Tensor]:
    """Logits (n, C) float32 and labels (n,) of every sample, in order."""
    model.eval()
    logits, bf16 = [], config.precision == "bf16"
    for inputs, _ in loader:
        with autocast(inputs.device, bf16), widened(inputs.device, bf16):
            logits.append(model(inputs).float())
    return torch.cat(logits), loader.labels


def kept(model: nn.Module, loader: EvaluationLoader, config: RunConfig) -> predictions.Predictions:
    """:func:`predict`, as arrays."""
    logits, labels = predict(model, loader, config)
    return predictions.Predictions(logits.cpu().numpy(), labels.cpu().numpy())


@torch.no_grad()
def evaluate(model: nn.Module, loss: Loss, loader: EvaluationLoader, config: RunConfig) -> dict[str, Any]:
    """What a record keeps of a split: the label's rank for every image, losses and calibration."""
    return summarize(*predict(model, loader, config), loss)


def summarize(logits: Tensor, labels: Tensor, loss: Loss) -> dict[str, Any]:
    """:func:`evaluate` of logits that are already there."""
    return {"n": len(labels), "num_classes": logits.shape[1], "loss": float(loss(logits, labels)),
            "nll": metrics.negative_log_likelihood(logits, labels),
            "ece": metrics.expected_calibration_error(logits, labels),
            "ranks": encode_ranks(metrics.label_ranks(logits, labels).cpu().numpy())}


class Clock:
    """Wall and CPU seconds of training steps, first steps left out. On CUDA the device keeps the time, unasked.

    A step there is over when the device says so, and waiting for that after each one would stall it: events are left
    in its queue instead and read when an epoch is over.
    """

    def __init__(self, device: torch.device, timing: dict[str, float], batch_size: int) -> None:
        self.device, self.timing, self.batch_size = device, timing, batch_size
        self.left, self.images, self.started = WARMUP_STEPS, 0, None  # type: int, int, tuple[Any, float] | None

    def warm_up(self) -> None:
        """Leave out the next steps as well."""
        self.left = WARMUP_STEPS

    def tick(self) -> None:
        """A step ended."""
        if self.left:
            self.left -= 1
            self.timing["warmup_steps"] += 1
        elif self.started is not None:
            self.images += self.batch_size
        if self.started is None and not self.left:
            self.started = self._now()

    def pause(self) -> None:
        """Add what ran since the last pause; the next tick starts again."""
        if self.started is not None:
            (before, cpu_before), (now, cpu_now) = self.started, self._now()
            if self.device.type == "cuda":
                now.synchronize()
                self.timing["train_seconds"] += before.elapsed_time(now) / 1000
            else:
                self.timing["train_seconds"] += now - before
            self.timing["train_cpu_seconds"] += cpu_now - cpu_before
            self.timing["timed_images"] += self.images
        self.images, self.started = 0, None

    def _now(self) -> tuple[Any, float]:
        if self.device.type != "cuda":
            return time.perf_counter(), time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event, time.process_time()
