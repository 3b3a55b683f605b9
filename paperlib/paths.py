"""Where things lie. Every path follows from this file's place, so the working directory never matters."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
EXPERIMENTS = ROOT / "experiments"
GRIDS = EXPERIMENTS / "grids"
#: Committed evidence: one folder per grid. ``PAPERLIB_RECORDS`` points analysis at another copy.
RECORDS = Path(os.environ.get("PAPERLIB_RECORDS", EXPERIMENTS / "records"))
#: Runs of committed records that were made again, to compare (:mod:`paperlib.reruns`).
RERUNS = EXPERIMENTS / "reruns"
#: The torchvision root. Git-ignored; ``PAPERLIB_DATA`` puts it elsewhere.
DATA = Path(os.environ.get("PAPERLIB_DATA", ROOT / "data"))
#: What each loss costs, by ``experiments/benchmark_losses.py``.
LOSS_COSTS = EXPERIMENTS / "tables" / "losses.json"
#: What every loss's test for top-k calibration found, by ``experiments/calibration_table.py``.
CALIBRATION = EXPERIMENTS / "tables" / "calibration.json"
#: Where training to convergence ends, by ``experiments/convergence.py``.
CONVERGENCE = EXPERIMENTS / "tables" / "convergence.json"
#: How robust the boundaries of trained networks are, by ``experiments/robust_boundary.py``.
ROBUST_BOUNDARY = EXPERIMENTS / "tables" / "robust_boundary.json"
#: What changing scores after training is worth, by ``experiments/posthoc.py``.
POSTHOC = EXPERIMENTS / "tables" / "posthoc.json"
#: How fast training is, one file a machine, by ``experiments/performance.md``.
PERFORMANCE = EXPERIMENTS / "tables" / "performance"
#: The first measurement of bare steps, on another machine.
EARLIER_RATES = EXPERIMENTS / "tables" / "earlier_rates.json"
#: Weights of networks whose decision regions are drawn, by ``experiments/networks.py``.
NETWORKS = EXPERIMENTS / "tables" / "networks.json"
#: How often each run is right for each class, by ``experiments/by_class.py``.
CLASSES = EXPERIMENTS / "tables" / "classes.json"
