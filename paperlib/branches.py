"""Runs that are one run until their losses part: cross entropy, and transitions that have not begun.

A transition of strength 0 is cross entropy, bit by bit. So of runs that differ in the transition alone one is trained,
the trunk, and the others go along: they keep counts of their own, and get a checkpoint where their strength leaves 0,
or at the end. From there they go on by themselves, as a run does that was stopped there, and end as if they had been
alone. The states of those that go along are part of the trunk's checkpoint, so that a killed sweep goes on with them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
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
#: Options of the transition that say nothing while its strength is 0.
_AT_REST = {"strength", "gate", "tau", "margin", "detach_gate", "blend"}


@lru_cache(maxsize=1024)
def stem(config: RunConfig) -> RunConfig | None:
    """The run of cross entropy that ``config`` is while its strength is 0; None: it differs from the first step on."""
    plain = config.loss == "cross_entropy" and not config.loss_options
    late = (config.loss == "topk_transition" and config.strength_schedule in _LATE
            and config.loss_options.keys() <= _AT_REST)
    if isinstance(config.seed, tuple) or not (plain or late):
        return None
    return replace(config, **{name: getattr(RunConfig(), name) for name in _PARTING})


def begin_alike(config: RunConfig, other: RunConfig) -> bool:
    """Whether two runs are the same until a strength leaves 0."""
    return stem(config) is not None and stem(config) == stem(other)


@dataclass(eq=False)
class Run:
    """One of the runs that a training loop serves: what it counts, in its own terms."""

    config: RunConfig
    loss: Any  #: ``loss(logits, labels)``
    state: State = field(default_factory=State)
    checkpoint: Checkpoint | None = None
    left: Callable[[], None] = lambda: None  #: told when a run does not, or no longer, go along

    def strength(self, progress: float) -> Tensor | None:
        """Of the transition at this step, 0-d; None where the loss has none."""
        return strength_now(self.config, progress, self.state.tracked)

    def count(self, ahead: Tensor, value: Tensor) -> None:
        """Add one batch to the epoch's sums, and its top-1 or top-k hits to what is tracked; never waits.

        Args:
            ahead: as :func:`paperlib.parts.classes_ahead` counts them, int64, (B,).
            value: the batch's loss, 0-d.
        """
        follows = FOLLOWS.get(self.config.strength_schedule, 1)
        hits = torch.stack([(ahead < 1).sum(), (ahead < self.config.shown_k).sum()]).double()
        self.state.sums += torch.cat([value.double().reshape(1) * len(ahead), hits])
        self.state.tracked += TRACKING_RATE * (hits[follows] / len(ahead) - self.state.tracked)
        self.state.step += 1


class Branches:
    """Those of ``runs`` that are still the same as ``trunk``; the others are let go at once.

    One goes along if it has no checkpoint of its own, and the trunk is at its start or has it in its own checkpoint.
    """

    def __init__(self, trunk: Run, runs: Sequence[Run]) -> None:
        saved = {run_id: State(**state) for run_id, state in trunk.state.along.items()}
        start = (trunk.state.epoch, trunk.state.step) == (0, 0)
        self.trunk, self.runs = trunk, list[Run]()
        for run in runs:
            state = saved.get(run.config.run_id, State() if start else None)
            if state is None or _has_begun(run) or not begin_alike(trunk.config, run.config):
                run.left()
                continue
            run.state = state.to(trunk.state.sums.device)
            self.runs.append(run)
        self._note()

    def leaving(self, strength: Tensor | None, progress: float) -> list[Run]:
        """Those for which the step to come, at the trunk's ``strength``, is another one."""
        return [run for run in self.runs if _acts(strength) or _acts(run.strength(progress))]

    def let_go(self, leaving: Sequence[Run], model: nn.Module, optimizer: Stateful) -> None:
        """Give them checkpoints to go on from. What the steps have cost is known of the trunk alone."""
        for run in leaving:
            timing = self.trunk.state.timing
            run.state.timing = timing | {"shared_cpu_seconds": timing["train_cpu_seconds"]}
            if run.checkpoint:
                with suppress(OSError):  # no reason for the trunk to fail: this one then begins anew
                    run.checkpoint.save(model, optimizer, run.state)
            run.left()
        self.runs = [run for run in self.runs if run not in leaving]
        self._note()

    def _note(self) -> None:
        self.trunk.state.along = {run.config.run_id: run.state for run in self.runs}


def open_runs(checkpoints: Mapping[RunConfig, Path | str], num_classes: int,
              left: Callable[[RunConfig], None]) -> list[Run]:
    """Runs for :class:`Branches`, without those whose loss cannot be had: they say so when it is their turn."""
    runs = []
    for config, path in checkpoints.items():
        try:
            loss = make_loss(config)
            loss(torch.zeros(1, num_classes), torch.zeros(1, dtype=torch.int64))
        except ValueError:
            left(config)
            continue
        runs.append(Run(config, loss, State(), Checkpoint(path, config.run_id), partial(left, config)))
    return runs


def _has_begun(run: Run) -> bool:
    return run.checkpoint is not None and run.checkpoint.path.exists()


def _acts(strength: Tensor | None) -> bool:
    return strength is not None and bool(strength > 0)
