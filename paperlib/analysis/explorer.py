"""What the explorer page of the report shows: curves, differences and candidates needed, as one small document."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from paperlib import grids, stats
from paperlib.analysis import study
from paperlib.analysis.comparisons import PRIMARY_GRID
from paperlib.analysis.frames import joined, present, rank_arrays, status
from paperlib.grids import Grid, GridLike

#: Accuracies, in percent, whose smallest k the page can show.
EXPLORER_TARGETS = (80, 90, 95, 98, 99, 99.5)


def explorer_grids() -> pd.DataFrame:
    """The grids whose results the explorer shows, or would show if they had run.

    These are the grids on CIFAR-100 that evaluate the test images; with few classes nobody asks for candidates. A grid
    that waits for a preset does not describe its runs yet, and is left out.
    Columns: grid, title, missing (count of runs without a record), shown ("whole", "part", "elsewhere" where other
    grids show all that has finished of it, or "no").
    """
    names = _names()
    found, finished = status(names)[["grid", "title", "missing"]], _finished(names)
    parts = _parts(finished)
    found["shown"] = ["no" if row.grid not in finished else "elsewhere" if row.grid not in parts else
                      "part" if row.missing else "whole" for row in found.itertuples()]
    return found


def listed() -> dict[str, Grid]:
    """Every recorded run on CIFAR-100 that was shown the test images, once: by grid, the main comparison first."""
    runs = {name: {cell.config.run_id for cell, _ in present(name)}
            for name in sorted(_names(), key=lambda name: name != PRIMARY_GRID)}
    return {name: _only(grids.load(name), new) for name, new in _once(runs).items()}


def _only(grid: Grid, run_ids: set[str]) -> Grid:
    return grid.part(lambda cell: cell.config.run_id in run_ids)


def _names() -> list[str]:
    """Grids on CIFAR-100 that evaluate the test images and wait for no preset."""
    return [name for name in grids.names() if (grid := grids.load_filled(name))
            and all(cell.config.dataset == "cifar100" and cell.config.evaluate_test for cell in grid.cells)]


def _finished(names: Sequence[str]) -> dict[str, Grid]:
    """What has finished of the grids of which anything has: the main comparison, then the larger."""
    found = {name: part for name in names if (part := study.finished(name))}
    return dict(sorted(found.items(), key=lambda item: (item[0] != PRIMARY_GRID, -len(item[1].cells))))


def _parts(finished: Mapping[str, Grid]) -> dict[str, Grid]:
    """Those that show a run which none before them shows: runs of another grid are no reason to show one."""
    runs = {name: {cell.config.run_id for cell in part.cells} for name, part in finished.items()}
    return {name: finished[name] for name in _once(runs)}


def _once(runs: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The runs of each grid that those before it do not have; grids share runs. One without any is left out."""
    found: dict[str, set[str]] = {}
    for name, own in runs.items():
        if new := own.difference(*found.values()):
            found[name] = new
    return found


def explorer_document(grid_names: Sequence[GridLike] | None = None, targets: Sequence[float] = EXPLORER_TARGETS,
                      baseline: str = "ce", level: float = 0.95, draws: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Grids as plain lists and numbers, ready for JSON, rounded as they are shown.

    The numbers are those of :func:`~paperlib.analysis.curve_bands`, :func:`~paperlib.analysis.difference_bands`,
    :func:`~paperlib.analysis.candidates` and :func:`~paperlib.analysis.candidate_differences` with the same level,
    draws and seed; here one resampling of a setup serves them all.

    Args:
        grid_names: which grids; what :func:`explorer_grids` says is shown if not given.
        targets: accuracies in percent.
        baseline: variant that differences are taken to.
        level: confidence of bands and intervals.
        draws: bootstrap replicates.
        seed: of the resampling.

    Returns:
        ``level`` and ``targets`` (percent), ``baseline``, ``draws``, and ``grids``, a list: ``name``, ``title``,
        ``setups``, a list: ``name``, ``label``, ``seeds`` and ``images`` (counts), ``idle`` (labels of the losses that
        never left the baseline there, as :func:`~paperlib.analysis.idle` says), ``losses``, a list: ``name``,
        ``label``, and four tables of three rows, [estimate, low, high]: ``accuracy`` (percent, a column for each
        k = 1..C, the band simultaneous over k), ``candidates`` (smallest k, a column a target), ``difference``
        (percentage points) and ``more_candidates`` to the baseline, which are None for the baseline itself and where
        a grid has none.

    Raises:
        records.MissingRecordsError: a named grid is not complete.
        ValueError: a target or level out of range; records that must not be compared.
    """
    if not all(0 < target <= 100 for target in targets):
        raise ValueError(f"targets={tuple(targets)}: expected percentages above 0 and up to 100")
    if grid_names is None:
        grid_names = list(_parts(_finished(_names())).values())
    return {"level": 100 * level, "targets": list(targets), "baseline": baseline, "draws": draws,
            "grids": [_grid(name, targets, baseline, level, draws, seed) for name in grid_names]}


def _grid(name: GridLike, targets: Sequence[float], baseline: str, level: float, draws: int,
          seed: int) -> dict[str, Any]:
    grid, _ = joined(name)
    ranks, classes = rank_arrays(name)
    idle = {variant: study.idle(grid, variant) for variant in grid.variants}
    setups = []
    for setup, keys in grid.setups.items():
        rows = {variant: ranks[setup, variant] for variant in grid.variants if (setup, variant) in ranks}
        shape = next(iter(rows.values())).shape
        setups.append({"name": setup, "label": keys["label"], "seeds": shape[0], "images": shape[1],
                       "idle": [grid.variants[variant]["label"] for variant, where in idle.items() if setup in where],
                       "losses": [{"name": variant, "label": grid.variants[variant]["label"], **tables}
                                  for variant, tables in
                                  _losses(rows, classes[setup], targets, baseline, level, draws, seed).items()]})
    return {"name": grid.name, "title": grid.title, "setups": setups}


def _losses(rows: dict[str, NDArray[np.int64]], num_classes: int, targets: Sequence[float], baseline: str,
            level: float, draws: int, seed: int) -> dict[str, dict[str, Any]]:
    """The four tables of each variant from its ranks (S, n)."""
    smallest = stats.smallest_k_statistic([Fraction(str(target)) / 100 for target in targets])  # 99.9 exactly

    def curve_and_candidates(*ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """A row a variant: accuracy at every k, then the smallest k of every target."""
        found = np.empty((len(ranks), num_classes + len(targets)))
        for own, row in zip(found, ranks, strict=True):
            own[:num_classes] = np.cumsum(np.bincount(row, minlength=num_classes + 1)[1:]) / len(row)
            own[num_classes:] = smallest(row)
        return found

    replicates = stats.two_way_bootstrap(curve_and_candidates, *rows.values(), draws=draws, seed=seed)
    estimates = np.mean([curve_and_candidates(*ranks) for ranks in zip(*rows.values(), strict=True)], axis=0)
    tail = (1 - level) / 2

    def tables(estimate: NDArray[np.float64], sample: NDArray[np.float64]) -> tuple[Any, Any]:
        band = stats.sup_t_band(estimate[:num_classes], sample[:, :num_classes], level)
        low, high = np.quantile(sample[:, num_classes:], [tail, 1 - tail], axis=0)
        return 100 * np.array(band), np.array([estimate[num_classes:], low, high])

    found = {}
    places = {variant: place for place, variant in enumerate(rows)}
    for variant, place in places.items():
        curve, candidates = tables(estimates[place], replicates[:, place])
        difference = more = None
        if baseline in places and variant != baseline:
            base = places[baseline]
            # Differences of means are means of paired differences, replicate by replicate.
            difference, more = tables(estimates[place] - estimates[base], replicates[:, place] - replicates[:, base])
        found[variant] = {"accuracy": _rounded(np.clip(curve, 0, 100), 1), "candidates": _rounded(candidates, 1),
                          "difference": _rounded(difference, 2), "more_candidates": _rounded(more, 1)}
    return found


def _rounded(table: NDArray[np.float64] | None, digits: int) -> list[list[float]] | None:
    """Rounded as text is, so that the page shows what a chapter prints; zero has no sign."""
    return None if table is None else [[float(f"{value:.{digits}f}") + 0.0 for value in row] for row in table]
