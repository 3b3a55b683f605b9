"""How fast training is on this machine, and how fast it could be: ``measure(device)``.

Every rate stands beside its ceiling, and both take turns in the same run: on a machine that does other things as well,
ratios hold and absolute rates do not. On a CPU time is CPU time of the process, on CUDA wall time. A rate is images
a second; GFLOP count convolutions and linear layers only, 2 for each multiply-accumulate, and three forward passes
for a training step.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from paperlib import environment, train
from paperlib.benchmark import _ensembles, _nets, _parts
from paperlib.benchmark._nets import PARTS, QUICK, Effort
from paperlib.config import RunConfig
from paperlib.engine import WORKSPACE, WORKSPACE_SIZES, Engine
from paperlib.records import write_atomically

__all__ = ["PARTS", "SECTIONS", "Effort", "measure", "networks", "write"]

#: Version of the document that :func:`measure` gives.
SCHEMA = 1


def networks(device: torch.device, quick: bool = False) -> list[RunConfig]:
    """What is measured: the recipe's network and its neighbours in bf16, the most important first.

    Large networks take smaller batches on a CPU, where a step would last seconds otherwise.
    """
    recipe = RunConfig(precision="bf16")
    base = recipe.replace(low_resolution=None)
    if quick:
        tiny = base.replace(width=16, batch_size=32)
        return [tiny.replace(model="speednet"), tiny.replace(model="resnet18", width=8),
                tiny.replace(model="speednet", low_resolution=16, low_resolution_until=1.0)]
    fast = [base.replace(model="speednet", width=width) for width in (64, 32)]
    if recipe.low_resolution:  # the smaller images with which the recipe begins
        fast.insert(1, fast[0].replace(low_resolution=recipe.low_resolution, low_resolution_until=1.0))
    batches = {64: (512, 1024, 128)} if device.type == "cuda" else {16: (128,), 32: (64,), 64: (32,)}
    deep = [base.replace(model="resnet18", width=width, batch_size=size)
            for width, sizes in batches.items() for size in sizes]
    return deep + fast if device.type == "cuda" else fast + deep


def _peaks(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> Iterator[dict[str, Any]]:
    return (row for precision in ("bf16", "fp32") for row in _parts.peak(bench.device, precision, effort))


def _rates(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> Iterator[dict[str, Any]]:
    # On CUDA every row is compiled, which takes longer than to measure it: one in fp32 is enough.
    single = [net.replace(precision="fp32") for net in (nets[:1] if bench.device.type == "cuda" else nets)]
    return (_nets.rate(bench, net, effort) for net in [*nets, *single])


def _profiles(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> Iterator[dict[str, Any]]:
    return (row for net in nets for row in _nets.profile(bench, net, effort))


def _losses(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> list[dict[str, Any]]:
    return _parts.loss_shares(bench, _first(nets)["speednet"], effort)


def _augmentation(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> list[dict[str, Any]]:
    return _parts.augmentation(bench, _first(nets)["speednet"], effort)


def _choices(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> list[dict[str, Any]]:
    return _parts.choices(bench, _first(nets)["speednet"], effort)


def _determinism(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> list[dict[str, Any]]:
    if bench.device.type == "cuda" and os.environ.get(WORKSPACE) not in WORKSPACE_SIZES:
        return []  # cuBLAS repeats itself only where the variable was set before CUDA started
    return [_nets.determinism(bench, net, effort) for net in _first(nets).values()]


def _ensemble_rows(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> list[dict[str, Any]]:
    return _ensembles.ensembles(bench.device, effort, _ensembles.SIZES if effort.compiled else ((20, 32, 16),))


def _first(nets: list[RunConfig]) -> dict[str, RunConfig]:
    """The first of each model."""
    return {net.model: net for net in reversed(nets)}


_ROWS: dict[str, Callable[[_nets.Bench, list[RunConfig], Effort], Iterable[dict[str, Any]]]] = {
    "peaks": _peaks, "rates": _rates, "profiles": _profiles, "losses": _losses, "augmentation": _augmentation,
    "choices": _choices, "determinism": _determinism, "ensembles": _ensemble_rows}
#: What is measured, by the name of its rows in the document.
SECTIONS = tuple(_ROWS)


def measure(device: torch.device | str, *, quick: bool = False, sections: Iterable[str] = SECTIONS,
            effort: Effort | None = None, threads: int = 1,
            report: Callable[[dict[str, Any]], None] = lambda document: None) -> dict[str, Any]:
    """Measure this machine; minutes, or seconds for ``quick``.

    Args:
        device: where to train.
        quick: tiny networks and few rounds, to see that it works: its numbers mean nothing.
        sections: some of ``SECTIONS``.
        effort: how long each row is measured; None for the usual.
        threads: of torch on the CPU.
        report: told the document after every row, so that what was measured can be kept if time runs out.

    Returns:
        ``schema``, ``quick``, ``device`` (cpu, cuda), ``environment``, the rows of every section under its name,
        ``seconds`` and ``cpu_seconds`` of the whole, ``finished`` (UTC): numbers, strings and lists only.

    Raises:
        ValueError: an unknown section, or no such device.
    """
    wanted = list(sections)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        raise ValueError(f"sections hold {', '.join(map(repr, unknown))}: expected some of {', '.join(SECTIONS)}")
    place, effort = environment.find_device(device), effort or (QUICK if quick else Effort())
    started, cpu_started = time.perf_counter(), time.process_time()
    with train.torch_threads(threads), Engine.choose(place, RunConfig().batch_size).settings(place):
        document: dict[str, Any] = {"schema": SCHEMA, "quick": quick, "device": place.type,
                                    "environment": environment.describe(place)}
        bench = _nets.Bench.make(place, effort.images)
        for name in wanted:
            document[name] = []
            for row in _ROWS[name](bench, networks(place, quick), effort):
                document[name].append(row)
                report(document)
    return document | {"seconds": round(time.perf_counter() - started, 1),
                       "cpu_seconds": round(time.process_time() - cpu_started, 1),
                       "finished": datetime.now(UTC).isoformat(timespec="seconds")}


def write(document: dict[str, Any], folder: Path | str) -> Path:
    """Write a document of :func:`measure` as ``folder/<device>.json``: one file for each kind of machine."""
    name = re.sub(r"[^a-z0-9]+", "-", document["environment"]["device"].lower()).strip("-")
    path = Path(folder) / f"{name}.json"
    write_atomically(path, json.dumps(document, indent=1) + "\n")
    return path
