"""Trains cells of the synthetic study to convergence, in several ways: ``python experiments/convergence.py``.

It takes some minutes of one core. A killed run goes on where it was. ``--smoke --out FILE`` shows in
seconds that everything runs.
"""

import copy
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paperlib import bayes, documents, environment, losses, models, optimisation, paths
from paperlib.config import RunConfig
from paperlib.data import Normalizer, Splits
from paperlib.data.synthetic import FAMILIES
from paperlib.ensemble import trained_many
from paperlib.models.stack import Stack
from paperlib.seeding import derive

FAMILY = "capacity_competition"
CE, TRANSITION, GROUPED = "cross_entropy", "topk_transition", "topk_grouped"
SETTINGS: dict[str, Any] = {
    "family": FAMILY, "k": 2, "restarts": 32,
    "options": {"top2_stripes": 4, "common": 0.6, "n": 4000},
    "ways": {"short": {"lr": 0.5, "epochs": 60}, "recipe": {"lr": 4.0, "epochs": 120},
             "long": {"lr": 0.5, "epochs": 200}},
    "adam": {"steps": 2500, "batch": 400, "lr": 0.05},
    "bfgs": {"steps": 500, "tolerance": 1e-7},
    "cells": {
        "stripes8-width4": {"stripes": 8, "model": "mlp", "width": 4, "depth": 1},
        "stripes8-degree3": {"stripes": 8, "model": "polynomial", "width": None, "depth": 3},
        "stripes8-width6": {"stripes": 8, "model": "mlp", "width": 6, "depth": 1},
        "stripes8-width3": {"stripes": 8, "model": "mlp", "width": 3, "depth": 1},
    }}
SMOKE: dict[str, Any] = {
    "restarts": 2, "options": {"top2_stripes": 4, "common": 0.6, "n": 200},
    "ways": {"short": {"lr": 0.5, "epochs": 1}, "recipe": {"lr": 4.0, "epochs": 2}, "long": {"lr": 0.5, "epochs": 2}},
    "adam": {"steps": 5, "batch": 20, "lr": 0.05}, "bfgs": {"steps": 5, "tolerance": 1e-7},
    "cells": {name: SETTINGS["cells"][name] for name in ("stripes8-width3", "stripes8-degree3")}}


class Cell:
    """One cell: its data, its networks, and what every way of training them came to."""

    def __init__(self, settings: dict[str, Any], what: dict[str, Any]) -> None:
        self.settings, self.model = settings, {key: what[key] for key in ("model", "width", "depth")}
        self.options = {"stripes": what["stripes"], **settings["options"]}
        self.rows: list[dict[str, Any]] = []
        self.splits: Splits
        self.normalize: Normalizer

    def config(self, loss: str, way: str) -> RunConfig:
        """A run of the study's kind: plain SGD, a triangle of rates, batches of 100."""
        return RunConfig(
            dataset="synthetic", family=FAMILY, family_options=self.options, **self.model, loss=loss,
            k=self.settings["k"] if loss != CE else None, seed=tuple(range(self.settings["restarts"])),
            **self.settings["ways"][way], batch_size=100, weight_decay=0.0, bias_lr_factor=1.0, precision="fp32",
            low_resolution=None, evaluate_every=1_000_000)

    def sgd(self, loss: str, way: str) -> list[nn.Module]:
        """Networks trained by the study's loop."""
        _, networks, self.splits = trained_many(self.config(loss, way), quiet=True)
        self.normalize = Normalizer(self.splits.mean, self.splits.std, torch.device("cpu"))
        self.note(loss, way, networks)
        return networks

    def fresh(self) -> list[nn.Module]:
        """The untrained networks that every way starts from, a seed each."""
        inputs = self.normalize(self.splits.train.inputs)
        networks = [models.build(self.model["model"], tuple(inputs.shape[1:]), self.splits.num_classes,
                                 width=self.model["width"], depth=self.model["depth"],
                                 seed=derive(seed, "initialisation")) for seed in range(self.settings["restarts"])]
        for network in networks:
            models.prepare(network, inputs[:2000])
        return networks

    def adam(self, loss: str) -> None:
        """Networks trained by Adam with batches four times as large."""
        networks = self.fresh()
        stack = Stack(networks)
        optimisation.adam(stack, self.loss(loss), stack.features(self.normalize(self.splits.train.inputs)),
                          self.splits.train.labels, **self.settings["adam"])
        stack.unload(networks)
        self.note(loss, "adam", networks)

    def bfgs(self, start: str, networks: Sequence[nn.Module]) -> None:
        """Cross entropy followed down to the end from where networks are."""
        networks = doubled(networks)
        stack = Stack(networks)
        found = optimisation.bfgs(self.objective(stack, CE), optimisation.weights(stack), **self.settings["bfgs"])
        optimisation.load(stack, found.points)
        stack.unload(networks)
        self.note(CE, f"{start} + bfgs", networks, steps=found.steps.tolist())

    def loss(self, name: str) -> losses.BoundLoss:
        """A loss of the library with the study's k."""
        return losses.get(name, **({} if name == CE else {"k": self.settings["k"]}))

    def objective(self, stack: Stack, loss: str) -> optimisation.Objective:
        """The mean of a loss over the training set, for networks in double precision."""
        features = stack.features(self.normalize(self.splits.train.inputs).double())
        return optimisation.mean_loss(stack, self.loss(loss), features, self.splits.train.labels)

    def note(self, loss: str, way: str, networks: Sequence[nn.Module], **more: Any) -> None:
        """Write down what networks came to: losses on the training set, and exact accuracies at test points."""
        stack = Stack(doubled(networks))
        points, every = optimisation.weights(stack), torch.arange(len(networks))
        values, slopes = self.objective(stack, CE)(points, every)
        own, own_slopes = (values, slopes) if loss == CE else self.objective(stack, loss)(points, every)
        inputs = self.splits.test.inputs
        options = {name: value for name, value in self.options.items() if name != "n"}
        probabilities = FAMILIES[FAMILY](inputs.double(), **options)
        logits = stack.predict(self.normalize(inputs).double())
        reached = np.array([bayes.expected_topk(rows, probabilities) for rows in logits])
        expected = -(probabilities * logits.log_softmax(dim=2)).sum(dim=2).mean(dim=1)
        self.rows.append({
            "loss": loss, "way": way, "cross_entropy": digits(values), "own_loss": digits(own),
            "gradient": digits(own_slopes.norm(dim=1)), "expected_cross_entropy": digits(expected),
            "top1": digits(reached[:, 0]), "topk": digits(reached[:, self.settings["k"] - 1]), **more})


def doubled(networks: Sequence[nn.Module]) -> list[nn.Module]:
    """Copies in double precision."""
    return [copy.deepcopy(network).double() for network in networks]


def digits(values: Tensor | NDArray[np.float64]) -> list[float]:
    return list(documents.digits(values.tolist(), 8))


def measure(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """One cell as the document holds it."""
    cell, started = Cell(settings, settings["cells"][name]), time.process_time()
    cell.sgd(CE, "short")
    recipe = {loss: cell.sgd(loss, "recipe") for loss in (CE, TRANSITION, GROUPED)}
    cell.sgd(CE, "long")
    for loss in (CE, TRANSITION):
        cell.adam(loss)
    cell.bfgs("random", cell.fresh())
    for loss, networks in recipe.items():
        cell.bfgs(loss, networks)
    print(f"{name}: {time.process_time() - started:.0f} core-seconds", flush=True)
    return {"what": settings["cells"][name], "restarts": settings["restarts"], "rows": cell.rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cells and write the document."""
    chosen = documents.options(__doc__, paths.CONVERGENCE, arguments)
    torch.set_num_threads(1)
    settings = SETTINGS | (SMOKE if chosen.smoke else {})
    head = {"settings": settings, **environment.provenance(chosen.commit)}
    documents.collect(chosen.out, head, lambda name: measure(settings, name))
    print(chosen.out)


if __name__ == "__main__":
    main()
