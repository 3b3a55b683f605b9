"""What a machine has to get right before it is given runs: ``run(configs, device)``.

The data are there; every loss has the CPU's values and gradients; compiled is like eager; the same run twice, and once
more with a stop in between, gives the same bits in deterministic mode. What that mode costs is measured on the way.
"""

import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paperlib import data, environment, losses, models, train
from paperlib.config import RunConfig
from paperlib.engine import Engine
from paperlib.records import Record
from paperlib.seeding import generator

#: Version of the document that :func:`run` gives.
SCHEMA = 1
ROWS, CLASSES, K = 64, 100, 5
#: A device may round this many times worse than a CPU does in the same precision, or this much of the largest value.
WORSE, ROUNDING = 10, 1e-5
#: Of a compiled step: the first runs, the second records, the third replays.
CALLS = 3
#: Steps after which the run is stopped that then goes on.
STOP_AFTER = 3


class CheckFailedError(Exception):
    """What was found, and what was expected."""


def run(configs: Sequence[RunConfig], device: torch.device, *, commit: str | None = None,
        report: Callable[[dict[str, Any]], None] = lambda document: None) -> dict[str, Any]:
    """Check a device for some runs.

    Args:
        configs: the runs, at least one; the first stands for all where one must be trained, for an epoch.
        device: to check.
        commit: stands in for git.
        report: told the document after every check.

    Returns:
        ``schema``, ``code`` and ``environment`` as in a record, ``passed``, ``complete``, and ``checks``: a list of
        ``name``, ``passed``, ``seconds``, ``found`` (numbers by name) and, where it failed, ``error``.
    """
    document: dict[str, Any] = {"schema": SCHEMA, "code": environment.code(commit),
                                "environment": environment.describe(device), "passed": False, "complete": False,
                                "checks": []}
    for name, check in _checks(configs, device):
        started, entry = time.perf_counter(), {"name": name, "passed": False, "found": {}}
        try:
            entry |= {"found": check(), "passed": True}
        except Exception as error:  # whatever goes wrong is what was looked for
            detail = {} if isinstance(error, CheckFailedError) else {"traceback": traceback.format_exc()}
            entry |= {"error": f"{type(error).__name__}: {error}", **detail}
        document["checks"].append(entry | {"seconds": round(time.perf_counter() - started, 2)})
        report(document)
    document |= {"complete": True, "passed": all(entry["passed"] for entry in document["checks"])}
    report(document)
    return document


def _checks(configs: Sequence[RunConfig], device: torch.device) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for dataset in dict.fromkeys(config.dataset for config in configs):
        config = next(config for config in configs if config.dataset == dataset)
        yield f"data set {dataset}", partial(data_are_there, config)
    for name in losses.names():
        yield f"loss {name} as on the CPU", partial(loss_agrees, name, device)
    engine = Engine.choose(device, ROWS)
    bound = {repr(loss): loss for loss in map(train.make_loss, configs)}
    if engine.compiled:
        for loss in bound.values():
            yield f"loss {loss.name} compiled as eager", partial(compiled_agrees, loss, device)
    yield "deterministic runs repeat and resume", partial(runs_repeat, configs[0], device)


def data_are_there(config: RunConfig) -> dict[str, Any]:
    """The run's data can be loaded."""
    splits = data.splits(config)
    return {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)}


def loss_agrees(name: str, device: torch.device) -> dict[str, Any]:
    """Values and gradients of a loss in float32 on the device against those of a CPU in float64.

    Raises:
        CheckFailedError: the device is much further away from them than a CPU in float32.
    """
    options = losses.options(name)
    loss = losses.get(name, **({"k": K} if "k" in options else {}))
    draws = generator(0, "checks", name)
    logits = 3 * torch.randn(ROWS, CLASSES, generator=draws)
    labels = torch.randint(CLASSES, (ROWS,), generator=draws)
    changes = {}
    if "noise" in options:
        changes = {"noise": torch.randn(options["num_samples"], ROWS, CLASSES, generator=draws)}
    exact = _value_and_gradient(loss, logits.double(), labels, {key: x.double() for key, x in changes.items()})
    rounded = _value_and_gradient(loss, logits, labels, changes)
    found = _value_and_gradient(loss, logits.to(device), labels.to(device),
                                {key: x.to(device) for key, x in changes.items()})
    return {what: _near(f"{what} of {name}", *parts)
            for what, *parts in zip(("value", "gradient"), found, rounded, exact, strict=True)}


def compiled_agrees(loss: losses.BoundLoss, device: torch.device) -> dict[str, Any]:
    """Logits, loss and gradient of a small network by the compiled and by the eager step.

    Raises:
        CheckFailedError: they differ by more than rounding.
    """
    draws = generator(0, "checks", "compiled")
    inputs = torch.randn(ROWS, 2, generator=draws).to(device)
    labels = torch.randint(CLASSES, (ROWS,), generator=draws).to(device)
    parts = []
    for engine in (Engine(), Engine.choose(device, ROWS, compile=True)):
        model = models.build("mlp", (2,), CLASSES, width=16, seed=0).to(device)
        with engine.settings(device):
            step = engine.step(model, loss, False)
            for _ in range(CALLS):
                model.zero_grad()
                logits, value = step(inputs, labels, _changes(loss, device), lambda logits: None)
                value.backward()
        parts.append((logits.detach().clone(), value.detach().clone(), _gradient(model)))
    eager, compiled = parts
    return {what: _near(f"{what} with compiled {loss.name}", new, old, old.double())
            for what, new, old in zip(("logits", "loss", "gradient"), compiled, eager, strict=True)}


def runs_repeat(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """An epoch of a run, again, and with a stop and a resume, in deterministic mode; then as fast as it goes.

    Raises:
        CheckFailedError: two of the first three differ in any bit of their results.
    """
    short = config.replace(epochs=1, evaluate_test=False)

    def once(deterministic: bool = True, **options: Any) -> Record:
        return train.train(short, device=device, deterministic=deterministic, commit="", quiet=True, **options)

    first, again = once(), once()
    with tempfile.TemporaryDirectory() as folder:
        path, steps = Path(folder) / "run.pt", iter(range(STOP_AFTER - 1))
        try:
            once(checkpoint=path, stop=lambda: next(steps, None) is None)
        except train.TrainingInterruptedError:
            resumed = once(checkpoint=path)
        else:
            raise CheckFailedError(f"a run that was to stop after {STOP_AFTER} steps went on")
    for what, other in (("again", again), ("with a stop and a resume", resumed)):
        if different := [key for key in ("history", "validation") if asdict(first)[key] != asdict(other)[key]]:
            raise CheckFailedError(f"the same run {what} differs in its {' and '.join(different)}: expected the same "
                                   "bits in deterministic mode")
    rates = {"deterministic": again.timing["images_per_second"],
             "fast": once(deterministic=False).timing["images_per_second"]}
    return {"train_loss": first.history[-1]["train_loss"], "images_per_second": rates}


def _value_and_gradient(loss: losses.BoundLoss, logits: Tensor, labels: Tensor,
                        changes: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    values = loss(logits, labels, reduction="none", **changes)
    return values.detach(), torch.autograd.grad(values.sum(), logits)[0]


def _changes(loss: losses.BoundLoss, device: torch.device) -> dict[str, Tensor]:
    """Arguments of the loss that the loop changes from step to step."""
    options = losses.options(loss.name) | loss.options
    changes = {"strength": torch.tensor(0.5, dtype=torch.float64)} if "strength" in options else {}
    if "noise" in options:
        changes["noise"] = torch.randn(options["num_samples"], ROWS, CLASSES, generator=generator(0, "noise"))
    return {key: value.to(device) for key, value in changes.items()}


def _gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _near(what: str, found: Tensor, rounded: Tensor, exact: Tensor) -> float:
    """Largest distance to ``exact``, allowed to be that of ``rounded`` some times over, and some rounding."""
    distance, usual = (float((x.double().cpu() - exact.cpu()).abs().max()) for x in (found, rounded))
    allowed = max(WORSE * usual, ROUNDING * max(1.0, float(exact.abs().max())))
    if not distance <= allowed:
        raise CheckFailedError(f"{what} is {distance:.3g} away from that of a CPU in double precision or of the eager "
                               f"step: expected at most {allowed:.3g}")
    return distance
