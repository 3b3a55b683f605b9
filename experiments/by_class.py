"""Counts, for every run of some grids, how often it is right for each class: ``python experiments/by_class.py``.

It needs the data, of which it keeps no label of a single image, and takes seconds. Where ``--predictions`` names a
folder of logits that sweeps kept, it also measures how far the scores can be trusted. Runs that the document holds are
kept, and grids can be added later: ``python experiments/by_class.py cifar-setups``.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paperlib import analysis, data, documents, environment, paths, predictions, records, reliability
from paperlib.config import RunConfig
from paperlib.documents import digits
from paperlib.records import Record

#: Those that the chapter on classes shows.
GRIDS = ("first-study", "cifar-main")
#: Of ``hits`` and of the calibration errors; the list whose mass and superclasses are looked at; bins of reliability.
KS, SCORE_KS, LIST, BINS = (1, 5, 10, 25), (1, 5, 10), 5, 15


class Images:
    """The test images of a data set: their labels, and what may be said of the classes."""

    def __init__(self, config: RunConfig) -> None:
        splits = data.splits(config)
        groups = data.DATASETS[config.dataset](config).superclass
        coarse = data.DATASETS.get(f"{config.dataset}_superclasses")
        self.labels = splits.test.labels.numpy()
        self.ks = [k for k in KS if k < splits.num_classes]
        self.classes = splits.num_classes
        # Every second image of a class is of one half, the others of the other: what one half's chance favours, the
        # other's does not.
        self.half = np.zeros(len(self.labels), dtype=np.int64)
        for label in range(self.classes):
            self.half[self.labels == label] = np.arange(np.sum(self.labels == label)) % 2
        self.about: dict[str, Any] = {
            "dataset": config.dataset, "checksum": splits.checksum, "classes": list(splits.class_names),
            "superclasses": list(coarse(config).class_names) if coarse else None,
            "superclass_of": None if groups is None else groups.tolist(),
            "images": self.by_class(np.ones(len(self.labels), dtype=bool))}

    def by_class(self, chosen: np.ndarray) -> list[list[int]]:
        """How many of the chosen images each class has, for each half: (2, C)."""
        return [np.bincount(self.labels[chosen & (self.half == half)], minlength=self.classes).tolist()
                for half in (0, 1)]


def hits(record: Record, images: Images) -> dict[str, list[list[int]]]:
    """How many images of each half and class have their label among the first k, by k."""
    ranks = record.ranks("test")
    return {str(k): images.by_class(ranks <= k) for k in images.ks}


def scores(record: Record, images: Images, folder: Path) -> dict[str, Any]:
    """What the logits of a run say.

    Raises:
        ValueError: they are not those of the record, or not of these images.
    """
    kept = predictions.recorded(folder, record, "test")
    if not np.array_equal(kept.labels, images.labels):
        raise ValueError(f"{predictions.place(folder, record.run_id)}: its labels are not those of the test images of "
                         f"{images.about['dataset']}")
    ranks = record.ranks("test")
    tables = {k: reliability.reliability(kept.logits, ranks, k, BINS) for k in SCORE_KS if k < kept.logits.shape[1]}
    found: dict[str, Any] = {
        "calibration_error": {str(k): digits(reliability.calibration_error(table)) for k, table in tables.items()},
        "calibration_floor": {str(k): digits(reliability.calibration_floor(table)) for k, table in tables.items()},
        "reliability": {str(k): {key: digits(value.tolist()) for key, value in tables[k]._asdict().items()}
                        for k in (1, LIST)}}
    if images.about["superclass_of"] is not None:
        found |= {key: digits(value) for key, value in reliability.groups(
            kept.logits, kept.labels, images.about["superclass_of"], LIST)._asdict().items()}
    return found


def wanted(found: Sequence[Record], folder: Path | None, before: dict[str, Any]) -> dict[str, Any]:
    """What each run's cell is made from; a run whose record was made anew has another."""
    cells = {}
    for record in found:
        digest = hashlib.sha256(record.ranks("test").tobytes()).hexdigest()[:16]
        # Logits lie elsewhere, perhaps no longer: what was measured from them stays as long as the record does.
        kept = before.get(record.run_id) == {"ranks": digest, "scores": True}
        cells[record.run_id] = {"ranks": digest, "scores": kept or bool(
            folder and predictions.place(folder, record.run_id).exists())}
    return cells


def to_count(grid_names: Sequence[str]) -> list[Record]:
    """The records of the grids' runs that were shown the test images.

    Raises:
        ValueError: there are none, or they are of several data sets.
    """
    found = {}
    for name in grid_names:
        pairs = analysis.present(name)
        print(f"{name}: {len(pairs)} records", flush=True)
        found |= {record.run_id: record for _, record in pairs if record.test is not None}
    if not found:
        raise ValueError(f"grids {', '.join(grid_names)}: expected at least one run with a record and test images")
    if len(sets := sorted({record.config["dataset"] for record in found.values()})) > 1:
        raise ValueError(f"grids {', '.join(grid_names)} are of the data sets {', '.join(sets)}: expected one")
    return list(found.values())


def check(found: Sequence[Record], images: Images) -> None:
    """Refuse records of other data than those at hand, whose labels would be another's."""
    for record in found:
        if record.data["checksum"] != images.about["checksum"]:
            raise ValueError(f"record {record.run_id} was made with data of checksum {record.data['checksum']}, and "
                             f"the {images.about['dataset']} at hand has {images.about['checksum']}: expected the "
                             "same data, which PAPERLIB_DATA points at")


def main(arguments: Sequence[str] | None = None) -> None:
    """Count and write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grids", nargs="*", default=GRIDS, help=f"names of grids (default: {' '.join(GRIDS)})")
    parser.add_argument("--predictions", type=Path, help="folder of the logits that a sweep kept")
    parser.add_argument("--out", type=Path, default=paths.CLASSES)
    parser.add_argument("--commit", help="of the code, where there is no git")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = to_count(chosen.grids)
    images = Images(RunConfig.from_dict(found[0].config))
    check(found, images)
    shared = {"ks": images.ks, "list": LIST, "bins": BINS, "data": images.about}
    before = documents.kept(chosen.out, "experiments/by_class.py", shared)
    asked = {record.run_id for record in found}
    found += [record for record in records.load() if record.run_id in before and record.run_id not in asked]
    by_id = {record.run_id: record for record in found}

    def measure(run_id: str) -> dict[str, Any]:
        record = by_id[run_id]
        return {"hits": hits(record, images),
                "scores": scores(record, images, chosen.predictions) if cells[run_id]["scores"] else None}

    cells = wanted(found, chosen.predictions, before)
    head = {"settings": {**shared, "cells": cells}, **environment.provenance(chosen.commit)}
    documents.collect(chosen.out, head, measure)
    print(f"{len(cells)} runs, {sum(cell['scores'] for cell in cells.values())} with scores: {chosen.out}")


if __name__ == "__main__":
    main()
