"""Keeps the weights of a few networks whose decision regions the report draws: ``python experiments/networks.py``.

It trains whole cells of a phase diagram again, half a minute in all, and keeps of each the network whose top-k
accuracy is the median of its cell: neither the best nor the worst. ``--smoke --out FILE`` trains two networks for two
epochs.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from paperlib import documents, environment, grids, paths, records
from paperlib.config import RunConfig
from paperlib.ensemble import trained_many

GRID = "phase-competition"
SETUP = "stripes2-width2"
VARIANTS = ("ce", "transition")


def kept(config: RunConfig, commit: str | None = None) -> dict[str, Any]:
    """The median network of a cell as the document holds it."""
    record, networks, _ = trained_many(config, commit=commit, quiet=True)
    expected = record.expected("test")
    k = config.k or 2
    middle = int(np.argsort(expected[:, k - 1], kind="stable")[len(expected) // 2])
    layers = [module for module in networks[middle].modules() if isinstance(module, torch.nn.Linear)]
    return {"run_id": record.run_id, "seed": record.seeds[middle], "expected": expected[middle].tolist(),
            "layers": [{"weight": layer.weight.tolist(), "bias": layer.bias.tolist()} for layer in layers]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the cells and write the document."""
    chosen = documents.options(__doc__, paths.NETWORKS, arguments)
    started = time.process_time()
    smoke = {"seed": [0, 1], "epochs": 2, "evaluate_every": 2} if chosen.smoke else {}
    found = {cell.variant: kept(cell.config.replace(**smoke), chosen.commit) for cell in grids.load(GRID).cells
             if cell.setup == SETUP and cell.variant in VARIANTS}
    document = {"grid": GRID, "setup": SETUP, **environment.provenance(chosen.commit), "networks": found,
                "core_seconds": round(time.process_time() - started, 1)}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    records.write_atomically(chosen.out, json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
