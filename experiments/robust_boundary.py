"""Measures how robust the top-k boundaries of trained networks are: ``python experiments/robust_boundary.py``.

It takes some minutes of one core. A killed run goes on where it was. ``--smoke --out FILE`` shows in seconds that
everything runs.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from paperlib import documents, environment, paths, robustness
from paperlib.config import RunConfig
from paperlib.data import Normalizer, Splits
from paperlib.data.synthetic import FAMILIES
from paperlib.ensemble import trained_many
from paperlib.models.stack import Stack

SETTINGS: dict[str, Any] = {
    "k": 2, "seeds": 32, "n": 4000, "lr": 4.0, "epochs": 120, "batch_size": 100, "side": 240, "reach": 1.5,
    "noise": [0.0, 0.025, 0.05, 0.075, 0.1, 0.125],
    "radii": [0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2],
    "margin_shares": [0.05, 0.25, 0.5, 0.75],
    "losses": {
        "ce": {"loss": "cross_entropy"},
        "grouped": {"loss": "topk_grouped"},
        "transition": {"loss": "topk_transition"},
        "linear": {"loss": "topk_transition", "loss_options": {"gate": "linear"}},
        "ramp": {"loss": "topk_transition", "loss_options": {"gate": "none"}, "strength_schedule": "ramp"},
        "entropy": {"loss": "topk_entropy"},
    },
    "cells": {
        "competition-width4": {"family": "capacity_competition", "width": 4,
                               "options": {"stripes": 8, "top2_stripes": 4, "common": 0.6}},
        "competition-width8": {"family": "capacity_competition", "width": 8,
                               "options": {"stripes": 8, "top2_stripes": 4, "common": 0.6}},
        "rings-width8": {"family": "rings", "width": 8,
                         "options": {"sectors": 4, "top2_rings": 4, "certainty": 0.8}},
    }}
SMOKE: dict[str, Any] = {
    "seeds": 2, "n": 200, "epochs": 2, "side": 60, "noise": [0.0, 0.1], "radii": [0.0, 0.1],
    "losses": {name: SETTINGS["losses"][name] for name in ("ce", "transition", "ramp")},
    "cells": {name: SETTINGS["cells"][name] for name in ("competition-width4", "rings-width8")}}


def config(settings: dict[str, Any], cell: dict[str, Any], loss: dict[str, Any]) -> RunConfig:
    """The run of all seeds with one loss."""
    return RunConfig.from_dict({
        "dataset": "synthetic", "family": cell["family"], "family_options": {**cell["options"], "n": settings["n"]},
        "model": "mlp", "width": cell["width"], "depth": 1,
        "k": None if loss["loss"] == "cross_entropy" else settings["k"],
        "seed": list(range(settings["seeds"])), "lr": settings["lr"], "epochs": settings["epochs"],
        "batch_size": settings["batch_size"], "weight_decay": 0.0, "bias_lr_factor": 1.0, "precision": "fp32",
        "low_resolution": None, "evaluate_every": settings["epochs"], **loss})


def population(settings: dict[str, Any], cell: dict[str, Any]) -> robustness.Plane:
    """The cell's data on the lattice."""
    family = FAMILIES[cell["family"]]
    return robustness.plane(lambda points: family(torch.from_numpy(points), **cell["options"]).numpy(),
                            disc=cell["family"] != "capacity_competition", side=settings["side"],
                            reach=settings["reach"])


def boundary(settings: dict[str, Any], data: robustness.Plane, clouds: dict[float, NDArray[np.float64]],
             members: NDArray[np.bool_]) -> dict[str, Any]:
    """What one predictor's sets of k are worth: under noise, within radii, and how far labels are inside."""
    far = robustness.distances(members, data)
    inside = np.where(members, data.joint, 0.0)
    return {"noise": list(robustness.noisy_topk(members, clouds).values()),
            "certain": list(robustness.certain_topk(far, data, settings["radii"]).values()),
            "radius": robustness.weighted_quantiles(far, inside, [0.5])[0]}


def trained(settings: dict[str, Any], data: robustness.Plane, clouds: dict[float, NDArray[np.float64]],
            networks: Sequence[nn.Module], splits: Splits) -> dict[str, Any]:
    """The measures of all networks, by k; lists have an entry a network."""
    normalize = Normalizer(splits.mean, splits.std, torch.device("cpu"))
    scores = Stack(networks).predict(normalize(torch.from_numpy(data.points).float())).double().numpy()
    found: dict[str, Any] = {}
    for k in (1, settings["k"]):
        rows = []
        for own in scores:
            depth = robustness.margins(own, k).reshape(data.joint.shape)
            rows.append({**boundary(settings, data, clouds, depth > 0), "margin": robustness.weighted_quantiles(
                depth, data.joint, settings["margin_shares"])})
        found[str(k)] = {key: documents.digits([row[key] for row in rows]) for key in rows[0]}
    return found


def measure(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """One cell as the document holds it."""
    cell, started = settings["cells"][name], time.process_time()
    data = population(settings, cell)
    clouds = robustness.smeared(data, settings["noise"])
    best = {str(k): boundary(settings, data, clouds, robustness.best_members(data, k)) for k in (1, settings["k"])}
    results = {}
    for loss, what in settings["losses"].items():
        record, networks, splits = trained_many(config(settings, cell, what), quiet=True)
        lost = record.history[-1]["diverged"]
        if lost:
            raise ArithmeticError(f"{name}, {loss}: seeds {lost} diverged, expected none")
        results[loss] = trained(settings, data, clouds, networks, splits)
    print(f"{name}: {time.process_time() - started:.0f} core-seconds", flush=True)
    return {"what": cell, "best": best, "losses": results}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cells and write the document."""
    chosen = documents.options(__doc__, paths.ROBUST_BOUNDARY, arguments)
    torch.set_num_threads(1)
    settings = SETTINGS | (SMOKE if chosen.smoke else {})
    head = {"settings": settings, **environment.provenance(chosen.commit)}
    documents.collect(chosen.out, head, lambda name: measure(settings, name))
    print(chosen.out)


if __name__ == "__main__":
    main()
