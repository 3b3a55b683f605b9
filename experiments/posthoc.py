"""Adjusts the scores of trained networks after training: ``python experiments/posthoc.py --predictions FOLDER``.

The folder holds the logits that a sweep kept (``--predictions``). About a core-minute a run. Runs that it has no
logits of are left for another time: what an earlier call found stays in the document.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paperlib import documents, environment, grids, losses, metrics, paths, posthoc, predictions, records
from paperlib.analysis.posthoc import digest
from paperlib.grids import Cell
from paperlib.records import Record

#: How each method is fitted. Those of cross entropy compete for "chosen"; see the chapter "The plan".
SETTINGS: dict[str, Any] = {
    "folds": 5, "penalties": [str(penalty) for penalty in posthoc.PENALTIES],
    "methods": {
        "temperature": {"kind": "temperature", "loss": "cross_entropy", "options": {}},
        "bias": {"kind": "bias", "loss": "cross_entropy", "options": {}},
        "vector": {"kind": "vector", "loss": "cross_entropy", "options": {}},
        "matrix": {"kind": "matrix", "loss": "cross_entropy", "options": {}},
        "bias-topk": {"kind": "bias", "loss": "topk_entropy", "options": {"k": 5}}}}
#: What is adjusted unless --variants says otherwise.
VARIANTS = ("ce", "transition", "smoothed")


def kept_runs(grid_name: str, variants: Sequence[str] | None, folder: Path) -> tuple[list[tuple[Cell, Record]], int]:
    """The grid's runs with a record and with logits in the folder, and how many of the variants lack either.

    Raises:
        ValueError: a variant that the grid does not have, or no run at all.
    """
    grid = grids.load(grid_name)
    variants = [name for name in VARIANTS if name in grid.variants] if variants is None else variants
    if unknown := [name for name in variants if name not in grid.variants]:
        raise ValueError(f"grid {grid.name!r} has no variant {unknown[0]!r}: expected some of "
                         f"{', '.join(grid.variants)}")
    known = {record.run_id: record for record in (records.load() if paths.RECORDS.exists() else [])}
    asked = [cell for cell in grid.cells if cell.variant in variants]
    found = [(cell, known[cell.config.run_id]) for cell in asked
             if cell.config.run_id in known and predictions.place(folder, cell.config.run_id).exists()]
    if not found:
        raise ValueError(f"{folder} holds logits of no run of grid {grid.name!r} that has a record, in the variants "
                         f"{', '.join(variants)}: expected some, kept by python -m paperlib.sweep {grid_name} "
                         f"--predictions {folder}")
    return found, len(asked) - len(found)


def tensors(record: Record, folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Logits and labels of a run."""
    found = predictions.recorded(folder, record, split)
    return torch.from_numpy(found.logits), torch.from_numpy(found.labels)


def measure(settings: dict[str, Any], record: Record, place: str, folder: Path) -> dict[str, Any]:
    """One run as the document holds it."""
    started = time.process_time()
    validation, test = (tensors(record, folder, split) for split in ("validation", "test"))
    results = {}
    for name, method in settings["methods"].items():
        found = posthoc.fit(*validation, method["kind"], loss=losses.get(method["loss"], **method["options"]),
                            penalties=list(map(float, settings["penalties"])), folds=settings["folds"])
        scores = found(test[0])
        ranks: NDArray[np.int64] = metrics.label_ranks(scores, test[1]).numpy()
        results[name] = {
            "penalty": str(found.penalty), "temperature": digits(found.temperature),
            "gradient": digits(found.gradient), "largest_bias": digits(float(found.bias.abs().max())),
            "held_out": {str(penalty): digits(value) for penalty, value in found.held_out.items()},
            "nll": digits(metrics.negative_log_likelihood(scores, test[1])),
            "ece": digits(metrics.expected_calibration_error(scores, test[1])),
            "ranks": None if np.array_equal(ranks, record.ranks()) else records.encode_ranks(ranks)}
    competing = [name for name, method in settings["methods"].items() if method["loss"] == "cross_entropy"]
    chosen = min(competing, key=lambda name: min(results[name]["held_out"].values()))
    print(f"{place}: {chosen}, {time.process_time() - started:.0f} core-seconds", flush=True)
    return {"place": place, "chosen": chosen, "methods": results}


def digits(value: float) -> float:
    return float(documents.digits(value, 8))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the runs and write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=Path, required=True, help="folder of the logits")
    parser.add_argument("--grid", default="cifar-main")
    parser.add_argument("--variants", nargs="+", help=f"by default those of {', '.join(VARIANTS)} that the grid has")
    parser.add_argument("--out", type=Path, default=paths.POSTHOC)
    parser.add_argument("--commit", help="of the code, where there is no git")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        runs, lacking = kept_runs(chosen.grid, chosen.variants, chosen.predictions)
        pairs = {cell.config.run_id: (cell, record) for cell, record in runs}
        cells = documents.kept(chosen.out, "experiments/posthoc.py", json.loads(json.dumps(SETTINGS)))
        cells |= {run_id: {"results": digest(record)} for run_id, (_, record) in pairs.items()}
        head = {"settings": json.loads(json.dumps({**SETTINGS, "cells": cells})),
                **environment.provenance(chosen.commit)}
        documents.collect(chosen.out, head, lambda run_id: measure(
            SETTINGS, pairs[run_id][1], pairs[run_id][0].place, chosen.predictions))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{chosen.out}: {len(cells)} runs" + (f"; {lacking} of the grid have no logits there" if lacking else ""))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
