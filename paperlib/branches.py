"""Runs that are one run until their losses part: cross entropy, and transitions that have not begun.

A transition of strength 0 is cross entropy, bit by bit. So of runs that differ in the transition alone one is trained,
and the others go along: they keep counts of their own, and get a checkpoint where their strength leaves 0, or at the
end. From there they go on by themselves, as a run does that was stopped there, and end as if they had been alone.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paperlib.checkpoint import Checkpoint, State, Stateful
from paperlib.config import RunConfig
from paperlib.parts import FOLLOWS, TRACKING_RATE, make_loss, strength_now

#: What may differ between runs that begin alike.
_PARTING = ("loss", "k", "loss_options", "strength_schedule", "ramp_start", "ramp_end")
#: Schedules whose strength is 0 in the beginning.
_LATE = ("ramp", "fitted")


def stem(config: RunConfig) -> RunConfig | None:
    """The run of cross entropy that ``config`` is while its strength is 0; None: it differs from the first step on."""
    plain = config.loss == "cross_entropy" and not config.loss_options
    late = config.loss == "topk_transition" and config.strength_schedule in _LATE
    if isinstance(config.seed, tuple) or not (plain or late):
        return None
    return replace(config, **{name: getattr(RunConfig(), name) for name in _PARTING})


def begin_alike(config: RunConfig, other: RunConfig) -> bool:
    """Whether two runs are the same until a strength leaves 0."""
    return stem(config) is not None and stem(config) == stem(other)


@dataclass
class Run:
    """One of the runs that a training loop serves: what it counts, in its own terms."""

    config: RunConfig
    loss: Any  #: ``loss(logits, labels)``, see :data:`paperlib.engine.Loss`
    state: State = field(default_factory=State)
    checkpoint: Checkpoint | None = None

    def strength(self, progress: float) -> Tensor | None:
        """Of the transition at this step, 0-d; None where the loss has none."""
        return strength_now(self.config, progress, self.state.tracked)

    def count(self, logits: Tensor, labels: Tensor, value: Tensor) -> None:
        """Add one batch to the epoch's sums, and its top-1 or top-k hits to what is tracked; never waits."""
        follows = FOLLOWS.get(self.config.strength_schedule, 1)
        ahead = (logits > logits.gather(1, labels.unsqueeze(1))).sum(dim=1)
        hits = torch.stack([(ahead < 1).sum(), (ahead < self.config.shown_k).sum()]).double()
        self.state.sums += torch.cat([value.double().reshape(1) * len(labels), hits])
        self.state.tracked += TRACKING_RATE * (hits[follows] / len(labels) - self.state.tracked)
        self.state.step += 1

    def save(self, model: nn.Module, optimizer: Stateful) -> None:
        """Write the checkpoint, where there is one."""
        if self.checkpoint:
            self.checkpoint.save(model, optimizer, self.state)


class Branches:
    """The runs that go along with ``trunk``, each of which has a checkpoint."""

    def __init__(self, trunk: Run, runs: list[Run], model: nn.Module) -> None:
        self.trunk = trunk
        self.runs = [run for run in runs if begin_alike(trunk.config, run.config) and _joins(run, trunk, model)]

    def leaving(self, progress: float) -> list[Run]:
        """Those for which the step to come is another one than the trunk's."""
        return [run for run in self.runs if _acts(self.trunk.strength(progress)) or _acts(run.strength(progress))]

    def part(self, leaving: list[Run], model: nn.Module, optimizer: Stateful) -> None:
        """Leave ``leaving`` to themselves."""
        self.save(model, optimizer, leaving)
        self.runs = [run for run in self.runs if not any(run is other for other in leaving)]

    def save(self, model: nn.Module, optimizer: Stateful, runs: list[Run] | None = None) -> None:
        """Write the checkpoints of ``runs``, of all by default. What the steps cost is known of the trunk alone."""
        for run in self.runs if runs is None else runs:
            timing = copy.deepcopy(self.trunk.state.timing)
            run.state.timing = timing | {"shared_cpu_seconds": timing["train_cpu_seconds"]}
            run.save(model, optimizer)


def open_runs(checkpoints: Mapping[RunConfig, Path | str], num_classes: int, device: torch.device) -> list[Run]:
    """Runs for :class:`Branches`, without those whose loss cannot be had: they say so when it is their turn."""
    runs = []
    for config, path in checkpoints.items():
        try:
            loss = make_loss(config)
            loss(torch.zeros(1, num_classes), torch.zeros(1, dtype=torch.int64))
        except ValueError:
            continue
        runs.append(Run(config, loss, State().to(device), Checkpoint(path, config.run_id)))
    return runs


def _acts(strength: Tensor | None) -> bool:
    return strength is not None and bool(strength > 0)


def _joins(run: Run, trunk: Run, model: nn.Module) -> bool:
    """Whether ``run`` stands where the trunk does: both at the start, or with the same weights. It gets its state."""
    assert run.checkpoint
    try:
        saved = run.checkpoint.read()
    except ValueError:
        return False
    if saved is None:
        return (trunk.state.epoch, trunk.state.step) == (0, 0)
    run.state = State(**saved["state"]).to(trunk.state.sums.device)
    same_step = (run.state.epoch, run.state.step) == (trunk.state.epoch, trunk.state.step)
    weights = model.state_dict()
    return same_step and all(torch.equal(value.cpu(), saved["model"][name]) for name, value in weights.items())
