"""Tidy frames of a grid's records, and what may be averaged.

Setups and variants stand in the order of the grid. Losses are compared within a setup, over common seeds. A record of
many models counts as that many runs, one a seed; what needs the ranks of single images is an error for it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from paperlib import grids, metrics, paths, records, stats
from paperlib.grids import Cell, Grid, GridLike
from paperlib.records import Record

Ranks = dict[tuple[str, str], NDArray[np.int64]]
Curves = dict[tuple[str, str], NDArray[np.float64]]
Gaps = dict[tuple[str, str], NDArray[np.float64]]

#: Accuracies and targets that every table of runs carries.
KS = (1, 2, 5, 10, 20)
TARGETS = (0.9, 0.95, 0.99)


def labels(grid_name: GridLike) -> dict[str, str]:
    """What to call the grid's setups and variants in figures and tables, by name.

    Raises:
        ValueError: a setup and a variant share a name but not a label.
    """
    grid = grids.load(grid_name)
    found: dict[str, str] = {}
    for name, keys in [*grid.setups.items(), *grid.variants.items()]:
        if found.setdefault(name, keys["label"]) != keys["label"]:
            raise ValueError(f"grid {grid_name!r}: {name!r} names a setup and a variant; expected names of their own")
    return found


def require_comparable(pairs: Sequence[tuple[Cell, Record]]) -> None:
    """Refuse records that must not be averaged or compared.

    One schema and protocol throughout; one data checksum and one test set in a setup; within a setup and
    variant one configuration but for the seed, each record being that of its cell; in a setup records of one model or
    of many. Versions and devices may differ: :func:`environments` lists them.

    Raises:
        ValueError: names the two runs and what differs.
    """
    first: dict[tuple[Any, ...], tuple[str, Any]] = {}
    for cell, record in pairs:
        expected = cell.config.to_dict()
        if record.config != expected:
            key = next(key for key in expected if record.config.get(key) != expected[key])
            raise ValueError(f"record {record.run_id} was trained with {key}={record.config.get(key)!r}, "
                             f"its cell {cell.setup}/{cell.variant} expects {expected[key]!r}")
        must_agree = {("schema",): record.schema, ("protocol",): record.protocol,
                      ("data checksum", cell.setup): record.data["checksum"],
                      ("number of classes", cell.setup): record.validation["num_classes"],
                      ("number of test images", cell.setup): (record.test or {}).get("n"),
                      ("a list of seeds", cell.setup): record.many}
        must_agree |= {(f"configuration key {key!r}", cell.setup, cell.variant): value
                       for key, value in record.config.items() if key != "seed"}
        for (what, *where), value in must_agree.items():
            run_id, other = first.setdefault((what, *where), (record.run_id, value))
            if other != value:
                place = f" in {'/'.join(where)}" if where else ""
                raise ValueError(f"cannot compare runs {run_id} and {record.run_id}{place}: {what} is {other!r} and "
                                 f"{value!r}, expected one value. Run the older ones again.")


def joined(grid_name: GridLike) -> tuple[Grid, list[tuple[Cell, Record]]]:
    """The grid and its cells with their records, all present and comparable.

    Raises:
        records.MissingRecordsError: a run of the grid has no record; names it and the command that makes it.
        ValueError: see :func:`require_comparable`.
    """
    grid, found = grids.load(grid_name), records.require(grid_name)
    pairs = [(cell, found[cell.config.run_id]) for cell in grid.cells]
    require_comparable(pairs)
    order = [(setup, variant) for setup in grid.setups for variant in grid.variants]
    return grid, sorted(pairs, key=lambda pair: order.index((pair[0].setup, pair[0].variant)))


def rank_arrays(grid_name: GridLike, split: str = "test") -> tuple[Ranks, dict[str, int]]:
    """Ranks (S, n) by setup and variant, seeds in the grid's order, and the number of classes by setup.

    Raises:
        ValueError: variants of a setup have different seeds.
    """
    rows: dict[tuple[str, str], list[NDArray[np.int64]]] = {}
    classes: dict[str, int] = {}
    grid, pairs = joined(grid_name)
    require_paired(grid.name, pairs)
    for cell, record in pairs:
        rows.setdefault((cell.setup, cell.variant), []).append(record.ranks(split))
        classes[cell.setup] = record.validation["num_classes"]
    return {key: np.stack(value) for key, value in rows.items()}, classes


def curve_arrays(grid_name: GridLike, split: str = "test") -> Curves:
    """Accuracy at every k, (S, C), by setup and variant, seeds in the grid's order, the same in a setup.

    Raises:
        ValueError: variants of a setup have different seeds, or a model diverged.
    """
    rows: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    grid, pairs = joined(grid_name)
    require_paired(grid.name, pairs)
    for cell, record in pairs:
        rows.setdefault((cell.setup, cell.variant), []).append(model_curves(record, split))
    return {key: np.concatenate(value) for key, value in rows.items()}


def require_paired(grid_name: str, pairs: Sequence[tuple[Cell, Record]]) -> None:
    """Refuse variants of a setup with different seeds, since comparisons are paired by seed.

    Raises:
        ValueError: names the setup, the two variants and their seeds.
    """
    seeds: dict[tuple[str, str], list[int]] = {}
    for cell, record in pairs:
        seeds.setdefault((cell.setup, cell.variant), []).extend(record.seeds)
    first: dict[str, tuple[str, list[int]]] = {}
    for (setup, variant), own in seeds.items():
        other, expected = first.setdefault(setup, (variant, own))
        if own != expected:
            raise ValueError(f"grid {grid_name!r}, setup {setup!r}: {other!r} has seeds {expected} and {variant!r} "
                             f"{own}: expected the same, since comparisons are paired by seed")


def model_curves(record: Record, split: str) -> NDArray[np.float64]:
    """Accuracy of each model of a record at every k, (M, C).

    A mean without the models that diverged flatters the loss, so they are an error; :func:`diverged` lists them.

    Raises:
        ValueError: a model diverged.
    """
    if lost := record.diverged(split):
        raise ValueError(f"record {record.run_id}: {len(lost)} of its {len(record.seeds)} models diverged (seeds "
                         f"{', '.join(map(str, lost))}) and have no results. Averages need all of them: train with a "
                         "lower lr or a longer warmup, or leave these seeds out of the whole grid.")
    return np.cumsum(record.counts(split), axis=1) / record.evaluation(split)["n"]


def runs(grid_name: GridLike, split: str = "test") -> pd.DataFrame:
    """One row a run, or a model of a run of many.

    Columns: setup, variant, seed, run_id, n (images), top1, top2, top5, top10, top20 (accuracies; NaN where there
    are not that many classes), k90, k95, k99 (smallest k for that accuracy), nll (nats), ece, train_top1 (of
    the last epoch), minutes (wall clock, as if alone; a model's share), device.
    """
    rows = []
    for cell, record in joined(grid_name)[1]:
        curves, evaluation = model_curves(record, split), record.evaluation(split)
        minutes = (record.timing["train_seconds"] + record.timing["evaluation_seconds"]) / 60 / len(curves)
        for place, (seed, curve) in enumerate(zip(record.seeds, curves, strict=True)):
            rows.append({
                "setup": cell.setup, "variant": cell.variant, "seed": seed, "run_id": record.run_id,
                "n": evaluation["n"], **{f"top{k}": curve[k - 1] if k <= len(curve) else np.nan for k in KS},
                **{f"k{round(100 * target)}": metrics.smallest_k(curve, target) for target in TARGETS},
                "nll": _of(evaluation["nll"], place), "ece": _of(evaluation["ece"], place),
                "train_top1": _of(record.history[-1]["train_top1"], place), "minutes": minutes,
                "device": record.environment["device"]})
    return pd.DataFrame(rows)


def _of(value: Any, place: int) -> Any:
    """One model's part of what is a list in a record of many."""
    return value[place] if isinstance(value, list) else value


def summary(grid_name: GridLike, columns: Sequence[str] = ("top1", "top5", "top10", "top20", "k95", "k99"),
            split: str = "test") -> pd.DataFrame:
    """Mean, sample standard deviation and number of seeds of columns of :func:`runs`.

    Columns: setup, variant, quantity, mean, sd (NaN for one seed), n.
    """
    frame = runs(grid_name, split)
    if unknown := set(columns) - set(frame.select_dtypes("number")):
        raise ValueError(f"unknown column {sorted(unknown)[0]!r}: expected one of "
                         f"{', '.join(frame.select_dtypes('number'))}")
    long = frame.melt(["setup", "variant"], list(columns), "quantity")
    grouped = long.groupby(["setup", "variant", "quantity"], sort=False)["value"]
    table = grouped.agg(mean="mean", sd="std", n="count").reset_index()
    rank = {name: place for place, name in enumerate([*frame["setup"].unique(), *frame["variant"].unique(), *columns])}
    return table.sort_values(["setup", "variant", "quantity"], key=lambda c: c.map(rank), ignore_index=True)


def curves(grid_name: GridLike, split: str = "test") -> pd.DataFrame:
    """Accuracy at every k of every run. Columns: setup, variant, seed, k (1..C), accuracy."""
    frames = []
    for cell, record in joined(grid_name)[1]:
        frames += [pd.DataFrame({"setup": cell.setup, "variant": cell.variant, "seed": seed,
                                 "k": np.arange(1, len(curve) + 1), "accuracy": curve})
                   for seed, curve in zip(record.seeds, model_curves(record, split), strict=True)]
    return pd.concat(frames, ignore_index=True)


def history(grid_name: GridLike) -> pd.DataFrame:
    """One row a model and epoch: setup, variant, seed, then the keys of a record's history.

    A model that diverged has None from then on; :func:`diverged` lists them.
    """
    return pd.DataFrame([{"setup": cell.setup, "variant": cell.variant, "seed": seed,
                          **{key: _of(value, place) for key, value in epoch.items() if key != "diverged"}}
                         for cell, record in joined(grid_name)[1] for place, seed in enumerate(record.seeds)
                         for epoch in record.history])


def paired_differences(curves: Curves, baseline: str) -> Gaps:
    """Accuracy minus the baseline's at every k, (S, C), by setup and variant, from :func:`curve_arrays`.

    Raises:
        ValueError: there is no such variant.
    """
    require_variant(curves, baseline)
    return {(setup, variant): rows - curves[setup, baseline]
            for (setup, variant), rows in curves.items() if variant != baseline}


def differences(grid_name: GridLike, baseline: str = "ce", ks: Sequence[int] = (1, 5, 10, 25), level: Any = 0.95,
                comparisons: int = 1, split: str = "test") -> pd.DataFrame:
    """Accuracy minus the baseline's, paired by seed, with t intervals.

    Args:
        grid_name: the grid.
        baseline: variant to subtract.
        ks: values of k.
        level: confidence of the intervals.
        comparisons: how many are read together (Bonferroni); 1: each stands alone.
        split: "test" or "validation".

    Returns:
        Columns: setup, variant, k, mean, sd, n (seeds), low, high, p (sign flips over seeds, adjusted for the
        values of k of the row's setup and variant; never below 2 / 2**seeds).

    Raises:
        ValueError: unknown baseline, or a k outside 1..number of classes.
    """
    rows: list[dict[str, Any]] = []
    for (setup, variant), gaps in paired_differences(curve_arrays(grid_name, split), baseline).items():
        if not all(1 <= k <= gaps.shape[1] for k in ks):
            raise ValueError(f"ks={tuple(ks)}: expected values in 1..{gaps.shape[1]}, the classes of setup {setup!r}")
        p = stats.max_t_sign_flips(gaps[:, [k - 1 for k in ks]])
        rows += [{"setup": setup, "variant": variant, "k": k,
                  **stats.paired_t_interval(gaps[:, k - 1], level, comparisons)._asdict(), "p": chance}
                 for k, chance in zip(ks, p, strict=True)]
    return pd.DataFrame(rows)


def curve_bands(grid_name: GridLike, level: Any = 0.95, draws: int = 1000, seed: int = 0,
                split: str = "test") -> pd.DataFrame:
    """Mean accuracy at every k with a band that holds for all k at once (two-way bootstrap).

    Columns: setup, variant, k, accuracy, low, high.
    """
    ranks, classes = rank_arrays(grid_name, split)
    return _bands({key: (rows,) for key, rows in ranks.items()}, classes, "accuracy", level, draws, seed)


def difference_bands(grid_name: GridLike, baseline: str = "ce", level: Any = 0.95, draws: int = 1000, seed: int = 0,
                     split: str = "test") -> pd.DataFrame:
    """Mean difference to the baseline at every k with a band for all k at once (paired two-way bootstrap).

    Columns: setup, variant, k, difference, low, high.
    """
    ranks, classes = rank_arrays(grid_name, split)
    require_variant(ranks, baseline)
    pairs = {key: (rows, ranks[key[0], baseline]) for key, rows in ranks.items() if key[1] != baseline}
    return _bands(pairs, classes, "difference", level, draws, seed)


def _bands(arrays: Mapping[tuple[str, str], tuple[NDArray[np.int64], ...]], classes: dict[str, int], name: str,
           level: Any, draws: int, seed: int) -> pd.DataFrame:
    frames = []
    for (setup, variant), parts in arrays.items():
        curve = _curve_statistic(classes[setup])
        replicates = stats.two_way_bootstrap(curve, *parts, draws=draws, seed=seed)
        estimate = np.mean([curve(*rows) for rows in zip(*parts, strict=True)], axis=0)
        band = stats.sup_t_band(estimate, replicates, level)
        frames.append(pd.DataFrame({"setup": setup, "variant": variant, "k": np.arange(1, len(estimate) + 1),
                                    name: estimate, "low": band.low, "high": band.high}))
    return pd.concat(frames, ignore_index=True)


def _curve_statistic(num_classes: int) -> Callable[..., NDArray[np.float64]]:
    """Accuracy over k of one seed, or the first loss's minus the second's."""
    def statistic(ranks: NDArray[np.int64], other: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        counts = np.bincount(ranks, minlength=num_classes + 1)[1:]
        if other is not None:
            counts = counts - np.bincount(other, minlength=num_classes + 1)[1:]
        return np.cumsum(counts) / len(ranks)

    return statistic


def candidates(grid_name: GridLike, targets: Sequence[float] = TARGETS, level: Any = 0.95, draws: int = 1000,
               seed: int = 0, split: str = "test") -> pd.DataFrame:
    """How many candidates each loss needs: smallest k for a target, averaged over seeds.

    Columns: setup, variant, target, k (mean over seeds), sd, n (seeds), low, high (percentiles of the two-way
    bootstrap).
    """
    rows: list[dict[str, Any]] = []
    statistic = stats.smallest_k_statistic(targets)
    for (setup, variant), ranks in rank_arrays(grid_name, split)[0].items():
        band = stats.mean_interval(statistic, ranks, level=level, draws=draws, seed=seed)
        sd = np.std([statistic(row) for row in ranks], axis=0, ddof=1) if len(ranks) > 1 else [np.nan] * len(targets)
        rows += [{"setup": setup, "variant": variant, "target": target, "k": band.estimate[i], "sd": sd[i],
                  "n": len(ranks), "low": band.low[i], "high": band.high[i]} for i, target in enumerate(targets)]
    return pd.DataFrame(rows)


def certificates(grid_name: GridLike, targets: Sequence[float] = TARGETS, level: Any = 0.95,
                 split: str = "test") -> pd.DataFrame:
    """Smallest k of each trained network with its exact interval over images, and the k certified for it.

    Columns: setup, variant, seed, target, k, low, high (NA: so few images bound nothing), certified (likewise).
    """
    rows = []
    for cell, record in joined(grid_name)[1]:
        ranks = record.ranks(split)
        for target, k in zip(targets, stats.smallest_k_statistic(targets)(ranks), strict=True):
            low, high = stats.smallest_k_interval(ranks, target, level)
            rows.append({"setup": cell.setup, "variant": cell.variant, "seed": cell.seed, "target": target, "k": k,
                         "low": low, "high": high, "certified": stats.certified_k(ranks, target, level)})
    return pd.DataFrame(rows).astype(dict.fromkeys(["k", "low", "high", "certified"], "Int64"))


def candidate_differences(grid_name: GridLike, baseline: str = "ce", targets: Sequence[float] = TARGETS,
                          level: Any = 0.95, draws: int = 1000, seed: int = 0, split: str = "test") -> pd.DataFrame:
    """How many candidates more than the baseline; negative is fewer. Paired two-way bootstrap.

    Columns: setup, variant, target, difference, low, high, n (seeds).
    """
    ranks, _ = rank_arrays(grid_name, split)
    require_variant(ranks, baseline)
    rows: list[dict[str, Any]] = []
    for (setup, variant), own in ranks.items():
        if variant != baseline:
            band = stats.smallest_k_differences(own, ranks[setup, baseline], targets, level, draws, seed)
            rows += [{"setup": setup, "variant": variant, "target": target, "difference": band.estimate[i],
                      "low": band.low[i], "high": band.high[i], "n": len(own)} for i, target in enumerate(targets)]
    return pd.DataFrame(rows)


def require_variant(ranks: Iterable[tuple[str, str]], variant: str) -> None:
    """Refuse a baseline that is no variant."""
    names = list(dict.fromkeys(name for _, name in ranks))
    if variant not in names:
        raise ValueError(f"baseline={variant!r}: expected one of the variants {', '.join(names)}")


def present(grid_name: GridLike) -> list[tuple[Cell, Record]]:
    """The cells that have a record, however many; for the status page and for claims nobody tested yet.

    None where the grid waits for a preset.
    """
    grid = grids.load_filled(grid_name)
    if grid is None:
        return []
    found = {record.run_id: record for record in (records.load() if paths.RECORDS.exists() else [])}
    return [(cell, found[cell.config.run_id]) for cell in grid.cells if cell.config.run_id in found]


def status(grid_names: Sequence[str] | None = None) -> pd.DataFrame:
    """What was run, without demanding that it is complete.

    Columns: grid, title, runs, missing (count), missing_runs (run ids), protocol (versions found), core_hours. A grid
    that waits for a preset has no runs, and says so as its title. Steps that two runs shared are spent once.
    """
    rows = []
    for name in grids.names() if grid_names is None else grid_names:
        grid = grids.load_filled(name)
        if grid is None:
            rows.append({"grid": name, "title": "waits for a setting that other runs choose", "runs": 0,
                         "missing": "–", "missing_runs": "", "protocol": "", "core_hours": 0.0})
            continue
        pairs = present(name)
        absent = [cell.config.run_id for cell in records.missing(grid.cells, [record for _, record in pairs])]
        rows.append({"grid": name, "title": grid.title, "runs": len(pairs), "missing": len(absent),
                     "missing_runs": ", ".join(absent),
                     "protocol": ", ".join(map(str, sorted({record.protocol for _, record in pairs}))),
                     "core_hours": sum(_own_cpu_seconds(record) for _, record in pairs) / 3600})
    return pd.DataFrame(rows)


def _own_cpu_seconds(record: Record) -> float:
    """Of training; steps that another run made for this one, too, are counted there."""
    timing = record.timing
    return float(timing["train_cpu_seconds"]) - timing.get("shared_cpu_seconds", 0.0)


def environments(grid_names: Sequence[str] | None = None) -> pd.DataFrame:
    """Versions, device and code that the runs were made with: one row for each combination.

    Columns: grid, those of a record's environment, how steps ran as "engine", commit, dirty, runs (count), first, last
    (dates, UTC), machine (a number for each environment, the first that was used being 1).
    """
    keys = ["device", "threads", "cpu_capability", "platform", "engine", "python", "torch", "torchvision", "numpy",
            "paperlib"]
    rows = [{"grid": name, **record.environment, "engine": _engine(record), **record.code,
             "date": record.timing["finished"][:10]}
            for name in (grids.names() if grid_names is None else grid_names) for _, record in present(name)]
    frame = pd.DataFrame(rows, columns=["grid", *keys, "commit", "dirty", "date"])
    groups = frame.groupby(["grid", *keys, "commit", "dirty"], sort=False, dropna=False)["date"]
    found = groups.agg(runs="size", first="min", last="max").reset_index()
    numbers = found.sort_values("first", kind="stable").groupby(keys, sort=False, dropna=False).ngroup() + 1
    return found.assign(machine=numbers)


def _engine(record: Record) -> str:
    """How the run's steps ran; the oldest records do not say, and ran eagerly."""
    names = {"compiled": "compiled", "cuda_graphs": "CUDA graphs", "deterministic": "deterministic",
             "widened": "products of bfloat16 in float32"}
    return ", ".join(name for key, name in names.items() if record.environment.get(key)) or "eager"
