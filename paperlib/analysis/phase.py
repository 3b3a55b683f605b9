"""Maps over the complexity of synthetic data and the capacity of a model: where a loss beats cross entropy, and why.

A map is a grid with two axes, complexity and capacity, whose cells hold many models. Accuracies are exact, under the
known class probabilities of the test points. The rules of the verdict on C1 stand here; they were written down before
the grids were run.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from paperlib import grids, stats
from paperlib.analysis.many import regrets
from paperlib.grids import Grid

#: The grids that decide C1, a family of data each.
PHASES = ("phase-competition", "phase-spirals", "phase-rings", "phase-mixture")
#: A network represents the best top-1 prediction where it falls short of it by at most this (accuracy).
REPRESENTED = 0.02
#: A gain below this (accuracy) is too small to matter, however certain.
MATTERS = 0.0025

Kind = Literal["rich", "reachable", "poor"]


def gains(grid_name: str, baseline: str = "ce", draws: int = 100_000, level: Any = 0.95,
          split: str = "test") -> pd.DataFrame:
    """What each loss gains over the baseline in each setup, at k = 1 and at the k of the losses.

    Args:
        grid_name: a grid of synthetic data whose cells hold many models. One with two axes, the first of them
            complexity, is a map.
        baseline: variant to subtract.
        draws: random sign flips.
        level: joint confidence, over all rows (Holm).
        split: "test" or "validation".

    Returns:
        Columns: setup, complexity and capacity (of a map), variant, k, gain (mean over seeds, paired), sd, n, low and
        high (t interval, for this row alone), p (sign flips), holm (p adjusted for all rows), significant, regret (of
        the loss, mean), baseline (the baseline's regret).

    Raises:
        ValueError: a grid without the baseline.
        records.RecordError, records.MissingRecordsError: see :func:`paperlib.analysis.regrets`.
    """
    grid, ks = grids.load(grid_name), _ks(grid_name)
    frame = regrets(grid_name, split)
    if baseline not in grid.variants:
        raise ValueError(f"baseline={baseline!r}: expected one of {', '.join(grid.variants)}")
    table = frame[frame["k"].isin(ks)].pivot(index="seed", columns=["setup", "variant", "k"], values="regret")
    places = _places(grid) if len(grid.axes) == 2 else {}
    rows, columns = [], []
    for setup in grid.setups:
        for variant in grid.variants:
            for k in ks if variant != baseline else ():
                own, other = table[setup, variant, k].to_numpy(), table[setup, baseline, k].to_numpy()
                difference = other - own
                columns.append(difference)
                mean, sd, n, low, high = stats.paired_t_interval(difference, level)
                rows.append({"setup": setup, **places.get(setup, {}), "variant": variant, "k": k, "gain": mean,
                             "sd": sd, "n": n, "low": low, "high": high, "regret": own.mean(),
                             "baseline": other.mean()})
    found = pd.DataFrame(rows)
    found["p"] = stats.sign_flips(np.column_stack(columns), draws)
    found["holm"] = stats.holm(found["p"])
    found["significant"] = found["holm"] <= 1 - float(level)
    return found[[*(name for name in found if name not in ("regret", "baseline")), "regret", "baseline"]]


def richness(grid_name: str, baseline: str = "ce", split: str = "test") -> pd.DataFrame:
    """Whether the networks of each cell represent the best top-1 prediction, and whether training finds it.

    "rich": the baseline's networks do on average. "reachable": not on average, but one network does, whatever its
    loss: what is lacking is training. "poor": none does, as far as these restarts can tell.

    Columns: setup, complexity, capacity, regret (of the baseline at k = 1, mean), least (of any network), kind.
    """
    grid = _map(grid_name)
    frame = regrets(grid_name, split)
    first = frame[frame["k"] == 1]
    mean = first[first["variant"] == baseline].groupby("setup")["regret"].mean()
    least = first.groupby("setup")["regret"].min()
    return pd.DataFrame([{"setup": setup, **place, "regret": mean[setup], "least": least[setup],
                          "kind": _kind(mean[setup], least[setup])} for setup, place in _places(grid).items()])


def overview(grid_name: str, ours: str = "transition", baseline: str = "ce", split: str = "test",
             **options: Any) -> dict[str, Any]:
    """What C1 asks of one map; ``options`` are those of :func:`gains`.

    Keys: poor, rich, reachable (cells of each kind), gained (poor cells in which the loss beats the baseline at its k,
    significantly and by an amount that matters), region (the largest number of these that touch), lost (poor cells in
    which it is worse), exceptions (rich cells in which it gains), largest (gain in a poor cell, NaN without one),
    status ("holds": a region of at least two cells and no exception, "leans": gains but not so, "fails": none; None:
    the map has no poor or no rich cells).
    """
    found = gains(grid_name, baseline, split=split, **options)
    found = found[(found["variant"] == ours) & (found["k"] == max(_ks(grid_name)))]
    found = found.merge(richness(grid_name, baseline, split)[["setup", "kind"]], on="setup")
    matters = found["significant"] & (found["gain"].abs() >= MATTERS)
    better, worse = matters & (found["gain"] > 0), matters & (found["gain"] < 0)
    poor, rich = found["kind"] == "poor", found["kind"] == "rich"
    region, exceptions = _largest_region(_map(grid_name), found[better & poor]), int((better & rich).sum())
    status = None
    if poor.any() and rich.any():
        gained = bool((better & poor).any())
        status = "holds" if region >= 2 and not exceptions else "leans" if gained else "fails"
    return {"poor": int(poor.sum()), "rich": int(rich.sum()), "reachable": int((found["kind"] == "reachable").sum()),
            "gained": int((better & poor).sum()), "region": region, "lost": int((worse & poor).sum()),
            "exceptions": exceptions, "largest": float(found.loc[poor, "gain"].max()) if poor.any() else np.nan,
            "status": status}


def _kind(mean: float, least: float) -> Kind:
    return "rich" if mean <= REPRESENTED else "reachable" if least <= REPRESENTED else "poor"


def _map(grid_name: str) -> Grid:
    grid = grids.load(grid_name)
    if len(grid.axes) != 2:
        raise ValueError(f"grid {grid_name!r} has {len(grid.axes)} axes: expected two, complexity and capacity")
    if len(grid.setups) > math.prod(len(axis.values) for axis in grid.axes):
        raise ValueError(f"grid {grid_name!r} has several setups at each place of its map: expected at most one "
                         "[[setup]] beside the two axes")
    return grid


def _ks(grid_name: str) -> list[int]:
    """1, and the k of the grid's losses."""
    return sorted({1} | {cell.config.k for cell in grids.load(grid_name).cells if cell.config.k})


def _places(grid: Grid) -> dict[str, dict[str, Any]]:
    """Complexity and capacity of each setup."""
    configs = {cell.setup: cell.config for cell in grid.cells}
    return {setup: dict(zip(("complexity", "capacity"), (axis.of(configs[setup]) for axis in grid.axes), strict=True))
            for setup in grid.setups}


def _largest_region(grid: Grid, cells: pd.DataFrame) -> int:
    """The size of the largest set of cells that touch side by side on the map."""
    at = [sorted(axis.values).index for axis in grid.axes]  # neighbours as they are drawn
    left = {(at[0](row.complexity), at[1](row.capacity)) for row in cells.itertuples()}
    largest = 0
    while left:
        edge, size = [left.pop()], 0
        while edge:
            x, y = edge.pop()
            size += 1
            for place in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
                if place in left:
                    left.remove(place)
                    edge.append(place)
        largest = max(largest, size)
    return largest


def trade(grid_name: str, setup: str, split: str = "test") -> pd.DataFrame:
    """Top-1 and top-k accuracy of every network of a setup: columns variant, seed, top1, topk (exact, fractions)."""
    ks = _ks(grid_name)
    frame = regrets(grid_name, split)
    frame = frame[(frame["setup"] == setup) & frame["k"].isin((ks[0], ks[-1]))]
    if frame.empty:
        raise ValueError(f"setup={setup!r}: expected one of {', '.join(grids.load(grid_name).setups)}")
    table = frame.pivot(index=["variant", "seed"], columns="k", values="expected").reset_index()
    order = {name: place for place, name in enumerate(grids.load(grid_name).variants)}
    table = table.sort_values(["variant", "seed"], key=lambda c: c.map(order) if c.name == "variant" else c)
    return table.rename(columns={ks[0]: "top1", ks[-1]: "topk"}).rename_axis(columns=None).reset_index(drop=True)


def joint_regions(trades: pd.DataFrame, level: Any = 0.95) -> pd.DataFrame:
    r"""Mean top-1 and top-k of each loss with a joint confidence ellipse (Hotelling's :math:`T^2` over seeds).

    The ellipse holds :math:`\mu` with :math:`S (\bar x - \mu)^\top C^{-1} (\bar x - \mu) \le
    \frac{2 (S - 1)}{S - 2} F_{2, S - 2}`, with the sample covariance C of S seeds.

    Args:
        trades: as :func:`trade` gives them.
        level: of each ellipse.

    Returns:
        Columns: variant, top1, topk (means), n, a, b, angle (half axes and the first one's direction in radians),
        pareto (no other loss has both means higher).
    """
    rows = []
    for variant, part in trades.groupby("variant", sort=False):
        points: NDArray[np.float64] = part[["top1", "topk"]].to_numpy()
        n, mean = len(points), points.mean(axis=0)
        radius = stats.hotelling_radius(n, level)
        values, vectors = np.linalg.eigh(np.cov(points.T))
        axes = radius * np.sqrt(np.maximum(values[::-1], 0))
        rows.append({"variant": variant, "top1": mean[0], "topk": mean[1], "n": n, "a": axes[0], "b": axes[1],
                     "angle": float(np.arctan2(vectors[1, 1], vectors[0, 1]))})
    frame = pd.DataFrame(rows)
    means: Sequence[tuple[float, float]] = list(zip(frame["top1"], frame["topk"], strict=True))
    frame["pareto"] = [not any(x > own[0] and y > own[1] for x, y in means) for own in means]
    return frame


def search(grid_name: str) -> pd.DataFrame:
    """What a search over one axis found on validation, for each family of data: the exact accuracy at the losses' k.

    Columns: family, variant, value (of the axis), accuracy (mean over seeds), chosen (the best value for its family
    and variant).

    Raises:
        ValueError: a grid without exactly one axis.
    """
    grid = grids.load(grid_name)
    if len(grid.axes) != 1:
        raise ValueError(f"grid {grid_name!r} has {len(grid.axes)} axes: expected one, what is searched")
    configs = {cell.setup: cell.config for cell in grid.cells}
    frame = regrets(grid_name, "validation")
    frame = frame[frame["k"] == max(_ks(grid_name))]
    frame = frame.assign(value=[grid.axes[0].of(configs[setup]) for setup in frame["setup"]],
                         family=[configs[setup].family for setup in frame["setup"]])
    means = frame.groupby(["family", "variant", "value"], sort=False)["expected"].mean()
    found = means.rename("accuracy").reset_index()
    found["chosen"] = found["accuracy"] == found.groupby(["family", "variant"])["accuracy"].transform("max")
    return found
