"""How fast training is on this machine, and how fast it could be: ``measure(device)``.

Every rate stands beside its ceiling, and both take turns in the same run: on a machine that does other things as well,
ratios hold and absolute rates do not. On a CPU time is CPU time of the process, on CUDA wall time. A rate is images
a second; GFLOP count convolutions and linear layers only, 2 for each multiply-accumulate, and three forward passes
for a training step.
"""

import json
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from paperlib import environment, train
from paperlib.benchmark import _nets, _parts
from paperlib.benchmark._nets import PARTS, QUICK, Effort
from paperlib.config import RunConfig
from paperlib.records import write_atomically

__all__ = ["PARTS", "SECTIONS", "Effort", "measure", "networks", "write"]

#: Version of the document that :func:`measure` gives.
SCHEMA = 1
PRECISIONS = ("bf16", "fp32")


def networks(device: torch.device, quick: bool = False) -> list[RunConfig]:
    """What is measured: the recipe's network and its neighbours, in the order of their importance.

    Large networks take smaller batches on a CPU, where a step would last seconds otherwise.
    """
    recipe = RunConfig()
    base = recipe.replace(low_resolution=None)
    if quick:
        tiny = base.replace(width=16, batch_size=32)
        return [tiny.replace(model="speednet"), tiny.replace(model="resnet18", width=8),
                tiny.replace(model="speednet", low_resolution=16, low_resolution_until=1.0)]
    fast = [base.replace(model="speednet", width=width) for width in (64, 32)]
    if recipe.low_resolution:  # the smaller images with which the recipe begins
        fast.insert(1, fast[0].replace(low_resolution=recipe.low_resolution, low_resolution_until=1.0))
    sizes = {64: (512, 1024, 128), 32: (512,), 16: (512,)} if device.type == "cuda" else {16: (128,), 32: (64,),
                                                                                         64: (32,)}
    deep = [base.replace(model="resnet18", width=width, batch_size=size)
            for width, batches in sizes.items() for size in batches]
    return deep + fast if device.type == "cuda" else fast + deep


def _peaks(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> list[dict[str, Any]]:
    return [row for precision in PRECISIONS for row in _parts.peak(bench.device, precision, effort)]


def _rates(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> list[dict[str, Any]]:
    return [_nets.rate(bench, net.replace(precision=precision), effort) for net in nets for precision in PRECISIONS]


def _profiles(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> list[dict[str, Any]]:
    return [row for net in nets for row in _nets.profile(bench, net.replace(precision="bf16"), effort)]


def _losses(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> list[dict[str, Any]]:
    return _parts.loss_shares(bench, _fast(nets), effort)


def _augmentation(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> list[dict[str, Any]]:
    return _parts.augmentation(bench, _fast(nets), effort)


def _determinism(bench: _nets.Bench, nets: list[RunConfig], effort: Effort) -> list[dict[str, Any]]:
    chosen = {net.model: net for net in reversed(nets)}  # the first of each model
    return [_nets.determinism(bench, net.replace(precision="bf16"), effort) for net in chosen.values()]


def _fast(nets: list[RunConfig]) -> RunConfig:
    return next(net for net in nets if net.model == "speednet").replace(precision="bf16")


#: What is measured, by the name of its rows in the document.
SECTIONS: dict[str, Callable[[_nets.Bench, list[RunConfig], Effort], list[dict[str, Any]]]] = {
    "peaks": _peaks, "rates": _rates, "profiles": _profiles, "losses": _losses, "augmentation": _augmentation,
    "determinism": _determinism}


def measure(device: torch.device | str, *, quick: bool = False, sections: Iterable[str] = tuple(SECTIONS),
            effort: Effort | None = None, threads: int = 1,
            report: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measure this machine; minutes, or seconds for ``quick``.

    Args:
        device: where to train.
        quick: tiny networks and few rounds, to see that it works: its numbers mean nothing.
        sections: some of ``SECTIONS``.
        effort: how long each row is measured; None for the usual.
        threads: of torch on the CPU.
        report: told which section begins.

    Returns:
        ``schema``, ``quick``, ``device`` (cpu, cuda), ``environment``, the rows of every section under its name,
        ``seconds`` and ``cpu_seconds`` of the whole, ``finished`` (UTC): numbers, strings and lists only.

    Raises:
        ValueError: an unknown section.
    """
    wanted = list(sections)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        raise ValueError(f"sections hold {', '.join(map(repr, unknown))}: expected some of {', '.join(SECTIONS)}")
    place, effort = torch.device(device), effort or (QUICK if quick else Effort())
    started, cpu_started = time.perf_counter(), time.process_time()
    with train.torch_threads(threads):
        document: dict[str, Any] = {"schema": SCHEMA, "quick": quick, "device": place.type,
                                    "environment": environment.describe(place)}
        bench = _nets.Bench.make(place, effort.images)
        for name in wanted:
            if report:
                report(name)
            document[name] = SECTIONS[name](bench, networks(place, quick), effort)
    return document | {"seconds": round(time.perf_counter() - started, 1),
                       "cpu_seconds": round(time.process_time() - cpu_started, 1),
                       "finished": datetime.now(UTC).isoformat(timespec="seconds")}


def write(document: dict[str, Any], folder: Path | str) -> Path:
    """Write a document of :func:`measure` as ``folder/<device>.json``: one file for each kind of machine."""
    name = re.sub(r"[^a-z0-9]+", "-", document["environment"]["device"].lower()).strip("-")
    path = Path(folder) / f"{name}.json"
    write_atomically(path, json.dumps(document, indent=1) + "\n")
    return path
