"""What only runs of many models have: models that diverged, and the regret under exact class probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from paperlib import grids
from paperlib.analysis.frames import joined, model_curves, present


def diverged(grid_names: Sequence[str] | None = None) -> pd.DataFrame:
    """Models of runs of many seeds that diverged.

    Columns: grid, setup, variant, seed, run_id, epoch (the first with validation that they were not in).
    """
    rows = [{"grid": name, "setup": cell.setup, "variant": cell.variant, "seed": seed, "run_id": record.run_id,
             "epoch": next(entry["epoch"] for entry in record.history if seed in entry["diverged"])}
            for name in (grids.names() if grid_names is None else grid_names) for cell, record in present(name)
            for seed in record.diverged()]
    return pd.DataFrame(rows, columns=["grid", "setup", "variant", "seed", "run_id", "epoch"])


def regrets(grid_name: str, split: str = "test") -> pd.DataFrame:
    """What each model falls short of the best possible, under the exact class probabilities of synthetic data.

    Columns: setup, variant, seed, k (1..C), expected (accuracy under the probabilities), bayes (the best possible),
    regret (bayes - expected).

    Raises:
        records.RecordError: a record holds no expected accuracies.
        ValueError: a model diverged.
    """
    # Thousands of networks: columns are put together from whole blocks.
    blocks: dict[str, list[Any]] = {key: [] for key in ("setup", "variant", "seed", "k", "expected", "bayes")}
    for cell, record in joined(grid_name)[1]:
        model_curves(record, split)  # refuses models that diverged
        expected = record.expected(split)
        models, classes = expected.shape
        blocks["setup"] += [cell.setup] * expected.size
        blocks["variant"] += [cell.variant] * expected.size
        blocks["seed"].append(np.repeat(record.seeds, classes))
        blocks["k"].append(np.tile(np.arange(1, classes + 1), models))
        blocks["expected"].append(expected.ravel())
        blocks["bayes"].append(np.tile(record.evaluation(split)["bayes"], models))
    frame = pd.DataFrame({key: values if key in ("setup", "variant") else np.concatenate(values)
                          for key, values in blocks.items()})
    return frame.assign(regret=frame["bayes"] - frame["expected"])
