"""Settings chosen on validation images: the rules, written down before the records that they read were complete.

The transition. A map of one seed names two finalists, a second seed decides between them. A setting's *shortfall* is
how far its top-1 difference to cross entropy lies below -0.5 points, summed over the setups; the smallest shortfall
goes first, then the largest gain in top-5 on a fifth of the images, where cross entropy memorises. Equal ones stay in
the map's order. At the rate that was searched for cross entropy two seeds choose once more, by the same rule.

Learning rates. Each loss is trained at several rates, in steps of three, with two seeds on a fifth of the images, for
20 of its 50 epochs; cross entropy also with all images, with wrong labels and with ResNet-18. It keeps the recipe's
rate, unless another one is better by more than 0.5 points of top-5 on average. While one chooses the highest rate,
nothing is chosen: the range has to grow.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from paperlib import grids, presets, records
from paperlib.analysis import frames
from paperlib.config import RunConfig

MAP, FINALISTS, MAP_AGAIN = "map", "map-finalists", "map-searched"
#: Where the gain in top-5 counts: cross entropy memorises there.
DECIDING_SETUP, DECIDING_AGAIN = "fifth", "searched"
#: How much top-1 a setting may cost, in any setup, before that counts against it (accuracy).
TOLERATED = 0.005
#: How much better in top-5 another rate must be than the recipe's (accuracy).
CLEARLY = 0.005
#: Presets of rates: the grids that they are chosen from, by the name of the variant in them.
SEARCHES = ("search-rivals", "search-all", "search-noise", "search-resnet", "search-others")

Choice = dict[str, Any]


def transition_map(grid_names: Sequence[str] = (MAP,), baseline: str = "ce", split: str = "validation",
                   ks: Sequence[int] = (1, 5, 10)) -> pd.DataFrame:
    """What each setting of the transition changes against cross entropy, however many runs have finished.

    Variants that differ in no key are one setting, in whichever grid they stand and whatever they are called.

    Args:
        grid_names: grids with the same setups and the variant ``baseline``; the first one names and orders settings.
        baseline: variant to subtract.
        split: "validation" or "test".
        ks: accuracies to compare.

    Returns:
        One row a setup and setting, the baseline last in its setup. Columns: setup, variant, label, gate, blend,
        tau, strength, schedule, start (of the ramp: training progress, for "fitted" training accuracy), seeds (runs
        that have their baseline), planned (runs), top1, top5, ... (difference of accuracies, mean over those seeds;
        NaN: none yet), train_top1 (accuracy in the last epoch).

    Raises:
        ValueError: records of several protocols.
    """
    first = grids.load(grid_names[0])
    names = {_setting(cell.config): cell.variant for cell in reversed(first.cells)}
    planned: dict[tuple[str, str], set[Any]] = {}
    curves: dict[tuple[str, str, Any], Any] = {}
    training: dict[tuple[str, str, Any], float] = {}
    pairs = []
    for grid_name in grid_names:
        cells = grids.load(grid_name).cells
        for cell in cells:
            if (name := names.get(_setting(cell.config))) is not None:
                planned.setdefault((cell.setup, name), set()).add(cell.seed)
        pairs += [(cell, record) for cell, record in frames.present(grid_name) if _setting(cell.config) in names]
    for cell, record in pairs:
        place = (cell.setup, names[_setting(cell.config)], cell.seed)
        curves[place] = frames.model_curves(record, split)[0]
        training[place] = record.history[-1]["train_top1"]
    if len(versions := {record.protocol for _, record in pairs}) > 1:
        raise ValueError(f"grids {', '.join(grid_names)}: records of protocols {sorted(versions)}, expected one")
    rows = []
    variants = [name for name in first.variants if name != baseline] + [baseline]
    for setup in first.setups:
        for variant in variants:
            config = next(cell.config for cell in first.cells if (cell.setup, cell.variant) == (setup, variant))
            transition, options = config.loss == "topk_transition", config.loss_options
            seeds = [seed for seed in sorted(planned[setup, variant])
                     if (setup, variant, seed) in curves and (setup, baseline, seed) in curves]
            gaps = [curves[setup, variant, seed] - curves[setup, baseline, seed] for seed in seeds]
            rows.append({
                "setup": setup, "variant": variant, "label": first.variants[variant]["label"],
                "gate": options.get("gate", "ratio") if transition else "",
                "blend": options.get("blend", "probability") if transition else "",
                "tau": options.get("tau", 1.0) if transition else np.nan,
                "strength": options.get("strength", 1.0) if transition else 0.0,
                "schedule": config.strength_schedule if transition else "",
                "start": config.ramp_start if config.strength_schedule in ("ramp", "fitted") else 0.0,
                "seeds": len(seeds), "planned": len(planned[setup, variant]),
                **{f"top{k}": np.mean([gap[k - 1] for gap in gaps]) if gaps else np.nan for k in ks},
                "train_top1": np.mean([training[setup, variant, seed] for seed in seeds]) if seeds else np.nan})
    return pd.DataFrame(rows)


def _setting(config: RunConfig) -> str:
    """What makes two runs the same setting of the same loss, in text."""
    window = (config.ramp_start, config.ramp_end) if config.strength_schedule in ("ramp", "fitted") else None
    return repr((config.loss, config.k, sorted(config.loss_options.items()), config.strength_schedule, window,
                 config.lr))


def ranking(table: pd.DataFrame, baseline: str = "ce", deciding: str = DECIDING_SETUP) -> pd.DataFrame:
    """The settings of a map, the best first, by the rule at the head of this module.

    Args:
        table: as :func:`transition_map` gives it; settings with a missing setup are left out.
        baseline: variant that is no candidate.
        deciding: setup in which the gain in top-5 counts.

    Returns:
        Columns: variant, shortfall (accuracy, >= 0), top5 (difference in the deciding setup), top1_SETUP for each
        setup.

    Raises:
        ValueError: the map has no such setup.
    """
    if deciding not in set(table["setup"]):
        raise ValueError(f"deciding={deciding!r}: expected one of {', '.join(table['setup'].unique())}")
    rows = []
    for variant, own in table[table["variant"] != baseline].groupby("variant", sort=False):
        if own["top1"].notna().all():
            cost = {row.setup: row.top1 for row in own.itertuples()}
            # Accuracies are counts over thousands: what lies on the border lies within, whatever the rounding.
            shortfall = sum(max(0.0, -TOLERATED - value) for value in cost.values())
            rows.append({"variant": variant, "shortfall": round(shortfall, 9),
                         "top5": round(own.loc[own["setup"] == deciding, "top5"].item(), 9),
                         **{f"top1_{setup}": value for setup, value in cost.items()}})
    columns = ["variant", "shortfall", "top5", *(f"top1_{setup}" for setup in table["setup"].unique())]
    found = pd.DataFrame(rows, columns=columns)
    return found.sort_values(["shortfall", "top5"], ascending=[True, False], kind="stable", ignore_index=True)


def choose_finalists() -> dict[str, Choice]:
    """The presets finalist-1 and finalist-2, from the whole map.

    Raises:
        records.MissingRecordsError: a run of the map has no record yet.
    """
    records.require(MAP)
    best = ranking(transition_map([MAP])).head(2)
    variants = grids.load(MAP).variants
    return {f"finalist-{place}": _choice(MAP, row, variants[row["variant"]])
            for place, row in enumerate(best.to_dict("records"), 1)}


def choose_transition() -> dict[str, Choice]:
    """The preset transition: the better finalist over both seeds.

    Raises:
        records.MissingRecordsError, presets.UnfilledPresetError: the finalists are not named, or not all run.
    """
    records.require(FINALISTS)
    both = transition_map([MAP, FINALISTS])
    best = ranking(both[both["planned"] > 1]).iloc[0].to_dict()
    return {"transition": _choice(FINALISTS, best, grids.load(MAP).variants[best["variant"]])}


def choose_again() -> dict[str, Choice]:
    """The preset transition-searched: the best setting at the rate that was searched for cross entropy.

    Raises:
        records.MissingRecordsError, presets.UnfilledPresetError: the rate is not chosen, or not all has run.
    """
    records.require(MAP_AGAIN)
    best = ranking(transition_map([MAP_AGAIN]), deciding=DECIDING_AGAIN).iloc[0].to_dict()
    return {"transition-searched": _choice(MAP_AGAIN, best, grids.load(MAP_AGAIN).variants[best["variant"]])}


def rates(grid_name: str) -> pd.DataFrame:
    """What a search for rates found: mean accuracies on validation of each loss at each rate.

    Columns: variant, lr, top1, top5 (means over seeds), seeds, chosen (by the rule), edge (chosen, at an end of the
    range).

    Raises:
        records.MissingRecordsError: a run of the search has no record yet.
        ValueError: the recipe's rate is not among those tried.
    """
    found = frames.runs(grid_name, "validation")
    tried = {cell.setup: cell.config.lr for cell in grids.load(grid_name).cells}
    found["lr"] = found["setup"].map(tried)
    table = found.groupby(["variant", "lr"], sort=False)[["top1", "top5"]].mean().reset_index()
    table["seeds"] = found.groupby(["variant", "lr"], sort=False)["seed"].nunique().to_numpy()
    standard = RunConfig().lr
    if standard not in set(table["lr"]):
        raise ValueError(f"grid {grid_name!r} tries lr {sorted(set(table['lr']))}: expected the recipe's {standard} "
                         "too")
    chosen = {}
    for variant, own in table.groupby("variant", sort=False):
        by_rate = own.set_index("lr")["top5"]
        best = by_rate.idxmax()
        chosen[variant] = best if by_rate[best] - by_rate[standard] > CLEARLY + 1e-12 else standard
    table["chosen"] = table["lr"] == table["variant"].map(chosen)
    table["edge"] = table["chosen"] & table["lr"].isin([table["lr"].min(), table["lr"].max()])
    return table


def choose_rates(grid_name: str) -> dict[str, Choice]:
    """A preset for each loss of a search: its variant with the chosen rate.

    Raises:
        presets.UnfilledPresetError: a loss chooses the highest rate, so that a higher one may be better still.
    """
    variants, table = grids.load(grid_name).variants, rates(grid_name)
    highest = table["lr"].max()
    if beyond := list(table.loc[table["chosen"] & (table["lr"] == highest), "variant"]):
        raise presets.UnfilledPresetError(f"grid {grid_name!r}: {', '.join(beyond)} chose the highest rate, "
                                          f"{highest:g}: add a higher one to its axis and run it")
    return {row["variant"]: _choice(grid_name, row, variants[row["variant"]] | {"lr": row["lr"]})
            for row in table.to_dict("records") if row["chosen"]}


def _choice(grid_name: str, row: Mapping[str, Any], variant: Mapping[str, Any]) -> Choice:
    """What presets.json keeps: the keys, and where they come from."""
    keys = {key: value for key, value in variant.items() if key != "label"}
    protocol = {record.protocol for _, record in frames.present(grid_name)}
    return {"keys": keys, "label": variant["label"], "grid": grid_name, "protocol": sorted(protocol),
            "found": {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}}


def choices() -> tuple[dict[str, Choice], list[str]]:
    """Every preset that the records can choose today, and a line for each that they cannot."""
    found: dict[str, Choice] = {}
    waiting = []
    steps: dict[str, Callable[[], dict[str, Choice]]] = {
        "finalist-1, finalist-2": choose_finalists, "transition": choose_transition,
        "transition-searched": choose_again,
        **{f"rates of {name}": partial(choose_rates, name) for name in SEARCHES}}
    for names, step in steps.items():
        try:
            found |= step()
        except (records.MissingRecordsError, presets.UnfilledPresetError) as error:
            waiting.append(f"{names}: {str(error).splitlines()[0]}")
    return found, waiting
