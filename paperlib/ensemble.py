"""Many small models at once: seeds, and settings of the optimiser, as one batched program.

A step of a model with a dozen units is over before Python has asked for the next, so a loop over models pays for the
asking. Here models are stacked and take each step together: one batched product a layer, the loss on all rows, one
call of the optimiser. Nothing connects them: each has the initial weights, the data order, the noise, the gradient and
the schedules that ``train.train`` gives its seed, so both end in the same weights, up to rounding.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paperlib import data, environment, losses, models, schedules
from paperlib.checkpoint import Checkpoint, State
from paperlib.config import PROTOCOL, RunConfig
from paperlib.counts import decode_counts
from paperlib.data import Arrays, Normalizer, Splits
from paperlib.engine import Engine, Loss
from paperlib.evaluation import digits, evaluate
from paperlib.models.stack import Part, Stack, stacked
from paperlib.parts import (
    FOLLOWS,
    TRACKING_RATE,
    TrainingDivergedError,
    TrainingInterruptedError,
    check_resolution,
    classes_ahead,
    make_loss,
    make_optimizer,
    set_learning_rate,
    strength_now,
    summarize_timing,
    torch_threads,
)
from paperlib.progress import Progress
from paperlib.records import SCHEMA, Record
from paperlib.seeding import derive, generator

#: What the configurations of models that are trained together may differ in.
OWN = ("seed", "lr", "momentum", "weight_decay", "bias_lr_factor", "warmup", "loss_options")


def train_many(config: RunConfig, **options: Any) -> Record:
    """Train one model for each seed of ``config.seed`` and evaluate them; ``options`` as for :func:`trained_many`."""
    return trained_many(config, **options)[0]


def trained_many(config: RunConfig, *, device: torch.device | str | None = None, checkpoint: Path | str | None = None,
                 stop: Callable[[], bool] | None = None, commit: str | None = None, threads: int = 1,
                 compile: bool | None = None, deterministic: bool = False, keep: Path | str | None = None,
                 quiet: bool = False) -> tuple[Record, list[nn.Module], Splits]:
    """Train the models of one configuration; return their record, the networks, one a seed, and the data.

    The record holds lists, one entry a model, and an entry of history for each epoch with validation: set
    ``evaluate_every`` so that there are few.

    Args:
        config: ``seed`` lists the models. Data set "synthetic", or "digits" without augmentation; model "mlp" or
            "polynomial"; precision "fp32".
        device: None for the CPU: models this small gain little elsewhere.
        checkpoint: file to resume from and to save to; None: never saved.
        stop: asked after every step; True saves a checkpoint and stops.
        commit: stands in for git in the record.
        threads: of torch on the CPU.
        compile: True is refused: these programs run eagerly.
        deterministic: as for :func:`paperlib.train.trained`.
        keep: refused: the record of such a run has what can be kept of so many models.
        quiet: print nothing.

    Raises:
        ValueError: ``compile`` is True, ``keep`` a folder, ``seed`` no list, or the configuration asks for what models
            cannot do together.
        TrainingDivergedError: no model is left; see :func:`fit`.
        TrainingInterruptedError: ``stop`` said so.
    """
    if compile:
        raise ValueError("compile=True with a list of seeds: expected None or False, models at once run eagerly")
    if keep:
        raise ValueError(f"predictions in {keep} with a list of seeds: expected a run of one seed; of models at once "
                         "the record keeps what there is")
    place, loss = environment.find_device(device or "cpu"), make_loss(config)
    engine = Engine(deterministic=deterministic)
    _check(config)
    with torch_threads(threads), engine.settings(place):
        splits = data.splits(config)
        normalizer = Normalizer(splits.mean, splits.std, place)
        train, validation, test = (Arrays(normalizer(part.inputs.to(place)), part.labels.to(place))
                                   for part in (splits.train, splits.validation, splits.test))
        networks = _networks(config, train.inputs, splits.num_classes, place)
        saved = Checkpoint(checkpoint, config.run_id) if checkpoint else None
        state = fit(networks, loss, train, validation,
                    [config.replace(seed=seed) for seed in config.seeds], checkpoint=saved, stop=stop, quiet=quiet)
        stacks = stacked(networks, config.batch_size)
        record = Record(
            schema=SCHEMA, run_id=config.run_id, protocol=PROTOCOL, config=config.to_dict(),
            code=environment.code(commit),
            environment={**environment.describe(place), **engine.describe(place, False),
                         "chunks": [stack.models for stack in stacks]},
            data={"checksum": splits.checksum, "train": len(splits.train), "validation": len(splits.validation),
                  "test": len(splits.test), "num_classes": splits.num_classes, "label_flips": splits.label_flips},
            history=state.history, timing=summarize_timing(state.timing), validation=state.validation,
            test=evaluate(stacks, loss, test, config) if config.evaluate_test else None)
    return record, networks, splits


def fit(networks: Sequence[nn.Module], loss: Loss, train: Arrays, validation: Arrays, configs: Sequence[RunConfig], *,
        checkpoint: Checkpoint | None = None, stop: Callable[[], bool] | None = None, quiet: bool = False) -> State:
    """Train ``networks`` in place, each by its own configuration, resuming from ``checkpoint`` if that exists.

    A model whose logits leave the finite numbers is out: its weights become NaN, it is named under ``diverged`` in the
    history, its results are None, and the others go on as if nothing had happened.

    Args:
        networks: of one form, ``mlp`` or ``polynomial``, float32 or float64.
        loss: called as ``loss(logits, labels, reduction="none")`` on the rows of all models.
        train: inputs of the networks' dtype, normalised, (n, ...), and labels (n,).
        validation: likewise.
        configs: one a network, which differ in the keys of ``OWN`` alone, and of ``loss_options`` in ``strength``.
            Neighbours with equal settings but for the seed share a call of the optimiser, so put those side by side.
        checkpoint: written by time; with it a killed run goes on exactly where it was.
        stop: asked after every step; True saves a checkpoint and stops.
        quiet: print nothing.

    Returns:
        The final state: lists with an entry a model in ``history``, and ``validation`` as in a record.

    Raises:
        ValueError: networks or configurations that cannot be trained together.
        TrainingDivergedError: no model is left.
        TrainingInterruptedError: ``stop`` said so.
    """
    config = _common(configs, len(networks))
    if len(train) < 1:
        raise ValueError("expected at least one training sample, got none")
    batch = min(config.batch_size, len(train))
    steps, device = len(train) // batch, train.labels.device
    total = config.epochs * steps
    stacks = stacked(networks, config.batch_size)
    chunks = chunked(stacks, configs)
    features = stacks[0].features(train.inputs)
    holder, optimizers = nn.ModuleList(stacks), _Optimizers(chunks)
    state = checkpoint.restore(holder, optimizers) if checkpoint else State()
    if state.sums.dim() == 1:  # fresh, and of one model
        state.sums, state.tracked = state.sums.new_zeros(3, len(configs)), state.tracked.new_zeros(len(configs))
    state.to(device)
    run_id = configs[0].replace(seed=sorted({seed for each in configs for seed in each.seeds})).run_id
    progress = Progress(f"{config.loss} {run_id}, {len(configs)} models", total * len(chunks),
                        state.epoch * steps * len(chunks) + state.step, quiet=quiet)
    for epoch in range(state.epoch, config.epochs):
        for number, chunk in enumerate(chunks):
            order = chunk.order(epoch, len(train))
            for step in range(max(0, state.step - number * steps), steps):
                started = time.perf_counter(), time.process_time()
                chunk.step(loss, features, train.labels, order, state, epoch, step, steps)
                state.step += 1
                state.timing["train_seconds"] += time.perf_counter() - started[0]
                state.timing["train_cpu_seconds"] += time.process_time() - started[1]
                state.timing["timed_images"] += batch * chunk.stack.models
                progress.step()
                stopping = stop is not None and stop()
                if checkpoint and (checkpoint.due or stopping):
                    checkpoint.save(holder, optimizers, state)
                if stopping:
                    progress.close()
                    raise TrainingInterruptedError(f"run {run_id} stopped as asked, in epoch {epoch + 1}")
        if _due(config, epoch):
            state.history.append(_epoch_results(chunks, loss, validation, state, epoch, steps, batch))
            progress.epoch(_means(state.history[-1]), config.epochs)
        if not any(bool(stack.alive.any()) for stack in stacks):
            raise TrainingDivergedError({"run_id": run_id, "loss": config.loss, "epoch": epoch + 1,
                                         "models": len(configs)})
        state.epoch, state.step, state.sums = epoch + 1, 0, torch.zeros_like(state.sums)
    progress.close()
    for chunk in chunks:
        chunk.stack.unload(networks[chunk.place])
    return state


class Chunk:
    """The models of one stack with what each of them is trained by."""

    def __init__(self, stack: Stack, configs: Sequence[RunConfig], place: slice) -> None:
        self.stack, self.configs, self.place = stack, configs, place
        self.parts: list[tuple[RunConfig, slice, nn.Module, torch.optim.Optimizer]] = []
        first = 0
        for settings, group in itertools.groupby(config.replace(seed=0) for config in configs):
            rows = slice(first, first + len(list(group)))
            part = stack.part(rows)
            self.parts.append((settings, rows, part, make_optimizer(part, settings)))
            first = rows.stop
        options = losses.options(configs[0].loss) | configs[0].loss_options
        self.shares: Tensor | None = None  # of each row in its model's gradient, (M * B,)
        self.noise = options["num_samples"] if options.get("eps") and "noise" in options else 0

    def order(self, epoch: int, n: int) -> Tensor:
        """The data order of each model in an epoch, int64 (M, n), as ``TrainLoader`` draws it."""
        device = self.stack.alive.device
        return torch.stack([torch.randperm(n, generator=generator(config.seeds[0], "order", epoch, device=device),
                                           device=device) for config in self.configs])

    def step(self, loss: Loss, features: Tensor, labels: Tensor, order: Tensor, state: State, epoch: int, step: int,
             steps: int) -> None:
        """One step of every model on its own batch of features (n, D) and labels (n,), in its order."""
        stack, done, total = self.stack, epoch * steps + step, self.configs[0].epochs * steps
        batch, tracked = min(self.configs[0].batch_size, len(labels)), state.tracked[self.place]
        index = order[:, step * batch : (step + 1) * batch].reshape(-1)
        labels, inputs = labels.index_select(0, index), features.index_select(0, index).unflatten(0, (-1, batch))
        logits = stack(inputs)
        if not all(math.isfinite(bound) for bound in logits.detach().aminmax()):
            self.drop(~logits.isfinite().flatten(1).all(dim=1))
            logits = stack(inputs)
        rows = logits.flatten(0, 1)
        changes = self.changes((done + 0.5) / total, tracked, rows.shape[1], batch, epoch, step)
        values = loss(rows, labels, reduction="none", **changes)
        stack.zero_grad()
        if self.shares is None or len(self.shares) != len(values):
            self.shares = (stack.alive.to(values.dtype) / batch).repeat_interleave(batch)
        values.backward(self.shares)
        for settings, _, part, optimizer in self.parts:
            set_learning_rate(optimizer, schedules.learning_rate(settings, done, total))
            if isinstance(part, Part):
                part.lend_gradients()
            optimizer.step()
        if not _due(settings, epoch) and settings.strength_schedule not in FOLLOWS:
            return  # nobody asks for averages of this epoch
        with torch.no_grad():
            ahead = classes_ahead(rows, labels).unflatten(0, (-1, batch))
            hits = torch.stack([(ahead < k).sum(dim=1) for k in (1, settings.shown_k)]).double()
            state.sums[0, self.place] += values.detach().double().unflatten(0, (-1, batch)).sum(dim=1)
            state.sums[1:, self.place] += hits
            tracked += TRACKING_RATE * (hits[FOLLOWS.get(settings.strength_schedule, 1)] / batch - tracked)

    def changes(self, progress: float, tracked: Tensor, num_classes: int, batch: int, epoch: int,
                step: int) -> dict[str, Tensor]:
        """What the loss is told in this step: its strength now, its noise."""
        device, found = tracked.device, {}
        strength = self.strengths(progress, tracked)
        if strength is not None:
            alike = len(self.parts) == 1 and self.configs[0].strength_schedule not in FOLLOWS
            found["strength"] = strength[0] if alike else strength.repeat_interleave(batch)
        if self.noise:
            shape = (self.noise, batch, num_classes)
            draws = [torch.randn(shape, generator=generator(config.seeds[0], "loss noise", epoch, step, device=device),
                                 device=device) for config in self.configs]
            found["noise"] = torch.cat(draws, dim=1)
        return found

    def strengths(self, progress: float, tracked: Tensor) -> Tensor | None:
        """Strength of the transition for each model, (M,); None where the loss has none."""
        parts = [strength_now(settings, progress, tracked[rows]) for settings, rows, _, _ in self.parts]
        return None if parts[0] is None else torch.cat([part for part in parts if part is not None])

    def drop(self, lost: Tensor) -> None:
        """Take models, bool (M,), out: all zeros, they cannot hurt the others or themselves."""
        self.stack.drop(lost)
        self.shares = None
        for _, rows, _, optimizer in self.parts:
            for values in optimizer.state.values():
                for value in values.values():
                    if isinstance(value, Tensor) and value.dim():
                        value.view(rows.stop - rows.start, -1)[lost[rows]] = 0


def chunked(stacks: Sequence[Stack], configs: Sequence[RunConfig]) -> list[Chunk]:
    """Each stack with its share of the configurations."""
    ends = list(itertools.accumulate(stack.models for stack in stacks))
    return [Chunk(stack, configs[end - stack.models : end], slice(end - stack.models, end))
            for stack, end in zip(stacks, ends, strict=True)]


class _Optimizers:
    """All optimisers as one, for the checkpoint."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.all = [optimizer for chunk in chunks for _, _, _, optimizer in chunk.parts]

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.all]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.all, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)


def _epoch_results(chunks: Sequence[Chunk], loss: Loss, validation: Arrays, state: State, epoch: int, steps: int,
                   batch: int) -> dict[str, Any]:
    """An entry of history: training averages of the epoch and validation, each a list with an entry a model."""
    started, config = time.perf_counter(), chunks[0].configs[0]
    found = evaluate([chunk.stack for chunk in chunks], loss, validation, config)
    lost = torch.tensor([value is None for value in found["loss"]])
    for chunk in chunks:  # the last step may have spoilt the weights
        chunk.drop(lost[chunk.place].to(state.tracked.device))
    if epoch + 1 == config.epochs:
        state.validation = found
    reached = decode_counts(found["counts"], found["num_classes"]).cumsum(axis=1) / found["n"]
    done, total = (epoch + 1) * steps - 1, config.epochs * steps
    strengths = [chunk.strengths((done + 0.5) / total, state.tracked[chunk.place]) for chunk in chunks]
    strength = None if strengths[0] is None else torch.cat([part for part in strengths if part is not None]).tolist()
    trained = (state.sums / (steps * batch)).tolist()
    lists = {"train_loss": trained[0], "train_top1": trained[1], "train_topk": trained[2],
             "validation_loss": found["loss"], "validation_top1": reached[:, 0].tolist(),
             "validation_topk": reached[:, min(config.shown_k, found["num_classes"]) - 1].tolist()}
    state.timing["evaluation_seconds"] += time.perf_counter() - started
    return {"epoch": epoch + 1, "progress": (epoch + 1) / config.epochs,
            "lr": schedules.learning_rate(config, done, total), "strength": strength,
            "resolution": schedules.resolution(config, epoch),
            **{key: [None if gone else digits(value) for value, gone in zip(values, lost.tolist(), strict=True)]
               for key, values in lists.items()},
            "diverged": [each.seeds[0] for chunk in chunks for each, gone in
                         zip(chunk.configs, lost[chunk.place].tolist(), strict=True) if gone]}


def _due(config: RunConfig, epoch: int) -> bool:
    """Whether a 0-based epoch ends with validation."""
    return (epoch + 1) % config.evaluate_every == 0 or epoch + 1 == config.epochs


def _networks(config: RunConfig, inputs: Tensor, num_classes: int, device: torch.device) -> list[nn.Module]:
    """One network a seed, initialised from it, as ``train`` makes it."""
    check_resolution(config, tuple(inputs.shape[1:]))
    networks = [models.build(config.model, tuple(inputs.shape[1:]), num_classes, width=config.width,
                             depth=config.depth, seed=derive(seed, "initialisation")).to(device)
                for seed in config.seeds]
    models.prepare(networks[0], inputs[:2000])
    for network in networks[1:]:  # what the data decides is the same for all
        for own, first in zip(network.buffers(), networks[0].buffers(), strict=True):
            own.copy_(first)
    return networks


def _check(config: RunConfig) -> None:
    """Refuse what models that are trained at once cannot do."""
    if not isinstance(config.seed, tuple):
        raise ValueError(f"seed={config.seed!r}: expected a list of seeds, one a model; one seed is for train.train")
    augmented = config.dataset == "digits" and config.augment
    for name, value, fine, expected in (
            ("dataset", config.dataset, config.dataset in ("synthetic", "digits"), "'synthetic' or 'digits'"),
            ("model", config.model, config.model in ("mlp", "polynomial"), "'mlp' or 'polynomial'"),
            ("precision", config.precision, config.precision == "fp32", "'fp32'"),
            ("augment", config.augment, not augmented, "False"),
            ("loss_options", config.loss_options, "ignore_index" not in config.loss_options, "no ignore_index")):
        if not fine:
            raise ValueError(f"{name}={value!r} with {len(config.seed)} seeds: expected {expected}, for models that "
                             "are trained at once; one seed a run has no such limit")


def _common(configs: Sequence[RunConfig], networks: int) -> RunConfig:
    """The first of configurations that differ only in what models may have of their own."""
    if len(configs) != networks or not networks:
        raise ValueError(f"{len(configs)} configurations for {networks} networks: expected one each, at least one")
    first = configs[0].to_dict()
    for config in configs:
        other = config.to_dict()
        for key in first:
            same = other[key] == first[key]
            if key == "loss_options":
                same = other[key] | {"strength": None} == first[key] | {"strength": None}
            if not same and (key not in OWN or key == "loss_options"):
                raise ValueError(f"{key}={other[key]!r} and {first[key]!r}: expected one value, since only "
                                 f"{', '.join(OWN[:-1])} and the loss's strength may differ among models")
    return configs[0]


def _means(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of history with the means over the models that are left, for people."""
    def mean(values: list[float | None]) -> float:
        left = [value for value in values if value is not None]
        return math.fsum(left) / len(left) if left else math.nan

    return {key: mean(value) if isinstance(value, list) else value for key, value in entry.items()}
