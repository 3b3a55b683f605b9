"""Grids and records made up for tests of analysis, figures and tables: known differences, no training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paperlib import grids, paths, records
from paperlib.grids import Cell
from paperlib.records import Record


def variant(name: str, label: str, **keys: object) -> str:
    """A loss of a grid, as its file has it."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in {"name": name, "label": label, **keys}.items())
    return f"[[variant]]\n{lines}"


def two_losses(name: str = "transition", label: str = "transition", k: int = 5) -> str:
    """Cross entropy and a transition, as the file of a grid has them."""
    return variant("ce", "cross entropy") + variant(name, label, loss="topk_transition", k=k)


STUDY = """
title = "A study"
seeds = [0, 1, 2]
[base]
evaluate_test = true
epochs = 2
[[setup]]
name = "all"
label = "all images"
[[setup]]
name = "fifth"
label = "a fifth of the images"
train_fraction = 0.2
[[variant]]
name = "ce"
label = "cross entropy"
[[variant]]
name = "ramp"
label = "transition, late ramp"
loss = "topk_transition"
k = 5
strength_schedule = "ramp"
[[variant]]
name = "grouped"
label = "grouped from the start"
loss = "topk_grouped"
k = 5
"""

MAP = """
title = "A map"
seeds = [0, 1, 2]
[base]
dataset = "synthetic"
model = "mlp"
evaluate_test = true
SETUPS
""" + two_losses(k=2)

#: Ranks (n,) of one cell's test images.
Ranks = Callable[[Cell], np.ndarray]


def geometric_ranks(cell: Cell, rate: float, *, n: int = 800, num_classes: int = 60) -> np.ndarray:
    """Ranks whose spread shrinks with ``rate``; images of one seed are shared by all variants of a setup."""
    uniform = np.random.default_rng(cell.seed).random(n)
    return np.clip(np.ceil(np.log(uniform) / np.log(1 - rate)), 1, num_classes).astype(np.int64)


def ranks_with_accuracy(curve: dict[int, float], *, n: int = 1000, num_classes: int = 60) -> np.ndarray:
    """Ranks with exactly the given accuracies at the given k, whatever lies between at the next of them."""
    ranks, done = np.full(n, num_classes, dtype=np.int64), 0
    for k, accuracy in sorted(curve.items()):
        ranks[done:round(n * accuracy)], done = k, round(n * accuracy)
    return ranks


def make_record(cell: Cell, ranks: np.ndarray, num_classes: int = 60) -> Record:
    """A valid record of a cell."""
    evaluation = {"n": len(ranks), "num_classes": num_classes, "loss": 1.0, "nll": 1.25, "ece": 0.03,
                  "ranks": records.encode_ranks(ranks)}
    history = [{"epoch": epoch, "progress": epoch / cell.config.epochs, "lr": 0.1,
                "strength": epoch / 4 if cell.config.loss == "topk_transition" else None, "resolution": 32,
                "train_loss": 3 - epoch, "train_top1": 0.2 * epoch, "train_topk": 0.4 * epoch,
                "validation_loss": 3.1 - epoch if epoch % 2 == 0 else None,
                "validation_top1": 0.19 * epoch if epoch % 2 == 0 else None,
                "validation_topk": 0.39 * epoch if epoch % 2 == 0 else None}
               for epoch in range(1, cell.config.epochs + 1)]
    return Record(
        schema=1, run_id=cell.config.run_id, protocol=0, config=cell.config.to_dict(),
        code={"commit": "c0ffee", "dirty": False},
        environment={"python": "3.11", "torch": "2.14", "torchvision": "0.29", "numpy": "2.4", "paperlib": "0.1.0",
                     "device": "a CPU", "threads": 1, "cpu_capability": "AVX2", "platform": "Linux x86_64"},
        data={"checksum": "abc", "train": 100, "validation": len(ranks), "test": len(ranks),
              "num_classes": num_classes, "label_flips": 0},
        history=history,
        timing={"train_seconds": 90.0, "train_cpu_seconds": 80.0, "evaluation_seconds": 30.0,
                "images_per_second": 100.0, "warmup_steps": 5, "timed_images": 9000,
                "finished": "2026-01-02T03:04:05+00:00"},
        validation=evaluation, test=evaluation)


class Study:
    """Grids and records in a folder of their own, which paperlib reads instead of the project's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.grids, self.records = folder / "grids", folder / "records"
        self.grids.mkdir(parents=True)
        self.records.mkdir()
        monkeypatch.setattr(paths, "GRIDS", self.grids)
        monkeypatch.setattr(paths, "RECORDS", self.records)

    def grid(self, name: str, text: str) -> None:
        (self.grids / f"{name}.toml").write_text(text)

    def write(self, name: str, ranks: Ranks, num_classes: int = 60) -> None:
        """A record for every cell of a grid."""
        (self.records / name).mkdir(exist_ok=True)
        for cell in grids.load(name).cells:
            record = make_record(cell, ranks(cell), num_classes)
            (self.records / name / f"{record.run_id}.json").write_text(record.to_json())

    def cell(self, name: str, setup: str, variant: str, seed: int = 0) -> Cell:
        return next(c for c in grids.load(name).cells if (c.setup, c.variant, c.seed) == (setup, variant, seed))

    def change(self, name: str, cell: Cell, **changes: object) -> None:
        """Write one record anew with some keys changed."""
        record = records.read(self.records / name / f"{cell.config.run_id}.json")
        records.write(dataclasses.replace(record, **changes), self.records / name)
