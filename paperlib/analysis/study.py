"""The verdicts on C2 to C5 from the CIFAR-100 study, by the rules of the chapter "The plan".

They can be computed while the study runs: a setup counts as soon as its first four seeds are complete, and with eight
when all of those are; no number between, so that nobody stops where it suits.
"""

from collections.abc import Container, Mapping, Sequence, Set
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from paperlib import grids, stats
from paperlib.analysis import claims, frames
from paperlib.analysis.comparisons import PRIMARY_GRID
from paperlib.grids import Grid, GridLike
from paperlib.stats import Interval

#: Every setup with all seeds; the other grids of the study share its runs.
SETUPS_GRID = "cifar-more"
FIRST_LOOK = "first-study"
#: Losses at searched rates; its runs are the evidence on whether a gain survives them.
SEARCHED_GRID = "cifar-entropy"
#: More losses at searched rates, with fewer seeds.
RIVALS_GRID = "cifar-rivals"
#: Cross entropy and the transition at the recipe's rate and at the searched one.
RATE_GRID = "cifar-rate"
#: The transition with the setting that was chosen again at the searched rate.
AGAIN_GRID = "cifar-again"
RIVALS = ("transition", "smoothed")
#: The setups that C5 speaks of: the second one where the transition never starts in the first.
RESNET, RESNET_FIFTH = "resnet", "resnet-fifth"
RESNET_GRID = "cifar-resnet"
#: What is said of a setup in which the transition stayed at strength 0.
SAME = "the transition never started"
#: The fewest seeds of a grid of many that count.
FEWEST = 4

Pair = tuple[NDArray[np.int64], NDArray[np.int64]]


def finished(grid_name: GridLike, variants: Sequence[str] | None = None, baseline: str = "ce",
             counts: Sequence[int] | None = None, held: Container[str] | None = None,
             alone: bool = False) -> Grid | None:
    """The part of a grid that can be compared already: in each setup whole blocks of its first seeds.

    Args:
        grid_name: the grid.
        variants: that are asked for; None: all.
        baseline: variant that they are compared with.
        counts: how many of the grid's first seeds may be taken, the most wanted number first; None: all of them or,
            of more than four, the first four.
        held: ids of the runs that count; None: all that have a record.
        alone: a setup may also have the baseline and no other variant.

    Returns:
        In each setup the baseline and all variants that are complete at one number of seeds: the most wanted one at
        which most of them are, so that a loss that has more seeds to run takes none of the others away. None: no
        setup has any, or the grid waits for a preset.
    """
    grid = grids.load_filled(grid_name)
    if grid is None:
        return None
    if counts is None:
        counts = [len(grid.seeds), *([FEWEST] if len(grid.seeds) > FEWEST else [])]
    asked = [name for name in grid.variants if name != baseline and (variants is None or name in variants)]
    done = {(cell.setup, cell.variant, cell.seed) for cell, record in frames.present(grid)
            if held is None or record.run_id in held}
    chosen: dict[tuple[str, str], Any] = {}
    for setup in grid.setups:
        blocks = {}
        for seeds in (grid.seeds[:count] for count in counts if count <= len(grid.seeds)):
            complete = [name for name in (baseline, *asked) if all((setup, name, seed) in done for seed in seeds)]
            if complete[:1] == [baseline] and (alone or len(complete) > 1):
                blocks[seeds] = complete
        if blocks:
            seeds, complete = max(blocks.items(), key=lambda block: len(block[1]))  # the first of the longest
            chosen |= {(setup, name): seeds for name in complete}
    return grid.part(lambda cell: cell.seed in chosen.get((cell.setup, cell.variant), ())) if chosen else None


def beyond_main(grid_name: GridLike) -> Grid | None:
    """As :func:`finished`, but only setups in which a loss has finished whose runs the grid does not borrow.

    The grids of the study share runs: that cross entropy and the transition are there says nothing of the others.
    Borrowed are the runs of the main comparison and of the one at searched rates, which lends to all but the grid
    that sets the two beside each other.
    """
    part = finished(grid_name)
    if part is None:
        return None
    lenders = [PRIMARY_GRID, *([SEARCHED_GRID] if part.name not in (SEARCHED_GRID, RATE_GRID) else [])]
    borrowed = {cell.config.run_id for name in lenders if (grid := grids.load_filled(name)) for cell in grid.cells}
    own = {cell.setup for cell in part.cells if cell.variant != "ce" and cell.config.run_id not in borrowed}
    return part.part(lambda cell: cell.setup in own) if own else None


def answer_grid() -> tuple[Grid, str]:
    """Where the report's first answer comes from, and which variant of it is the transition.

    The study's main comparison as soon as the transition has finished where it acts; before that the first look.
    """
    study = finished(PRIMARY_GRID)
    if study and "transition" in acting(study).variants:
        return study, "transition"
    return grids.load(FIRST_LOOK), "ramp"


def rate_part() -> Grid | None:
    """What has finished of the comparison of rates, without a transition that never started at one of them."""
    part = beyond_main(RATE_GRID)
    for variant in ("transition", "transition-searched", "again-searched"):
        part = part and acting(part, variant)
    return part


def again_part() -> Grid | None:
    """What has finished of the transition chosen again at the searched rate; None also where it never started."""
    part = beyond_main(AGAIN_GRID)
    return part if part and not idle(part, "again") else None


def answer_bands() -> tuple[pd.DataFrame, dict[str, str]]:
    """What the figure of the first answer shows, with what to call its setups and variants.

    Bands as :func:`difference_bands` gives them: those of :func:`answer_grid` and, beside the study, those of the
    losses at searched rates where they act and have run, with the transition that was chosen again.
    """
    shown = [answer_grid()[0]]
    searched = beyond_main(SEARCHED_GRID) if shown[0].name == PRIMARY_GRID else None
    if searched and len((part := acting(searched)).variants) > 1:
        shown.append(part)
        if again := again_part():
            shown.append(again.part(lambda cell: cell.variant in ("ce", "again")))
    names = {key: label for grid in reversed(shown) for key, label in frames.labels(grid).items()}
    return pd.concat(map(frames.difference_bands, shown), ignore_index=True), names


def primary_part() -> Grid | None:
    """The main comparison of the transition in all its setups with the same seeds: all, else the first four.

    None: they have not run yet.
    """
    grid = grids.load_filled(PRIMARY_GRID)
    if grid is None:
        return None
    parts = [finished(grid, ["transition"], counts=[count]) for count in (len(grid.seeds), FEWEST)]
    return next((part for part in parts if part and len(part.setups) == len(grid.setups)), None)


def complete_pairs(grid_name: GridLike = SETUPS_GRID, variant: str = "transition", baseline: str = "ce",
                   counts: Sequence[int] | None = None, split: str = "test") -> dict[str, Pair]:
    """Ranks of a loss and of the baseline for the setups that :func:`finished` finds, in the grid's order.

    Returns:
        By setup: ranks (S, n) of the loss and of the baseline, the same seeds.
    """
    grid = finished(grid_name, [variant], baseline, counts)
    ranks = frames.rank_arrays(grid, split)[0] if grid else {}
    return {setup: (ranks[setup, variant], ranks[setup, baseline]) for setup in (grid.setups if grid else ())}


def idle(grid_name: GridLike, variant: str = "transition") -> list[str]:
    """Setups in which a loss never left cross entropy: its strength was 0 after every epoch of every run.

    Its networks are then those of cross entropy, but for what differs from one machine to the next, and there is
    nothing to compare.
    """
    return [setup for setup, (same, seeds) in idle_seeds(grid_name, variant).items() if same == seeds]


def idle_seeds(grid_name: GridLike, variant: str = "transition") -> dict[str, tuple[int, int]]:
    """In how many runs of each setup a loss never left cross entropy, and of how many."""
    acts: dict[str, list[bool]] = {}
    for cell, record in frames.joined(grid_name)[1]:
        if cell.variant == variant:
            acts.setdefault(cell.setup, []).append(any(row["strength"] != 0 for row in record.history))
    return {setup: (own.count(False), len(own)) for setup, own in acts.items()}


def acting(grid_name: GridLike, variant: str = "transition") -> Grid:
    """A grid without the runs of a loss in the setups where it is :func:`idle`, which are those of cross entropy."""
    grid, still = grids.load(grid_name), set(idle(grid_name, variant))
    return grid.part(lambda cell: cell.variant != variant or cell.setup not in still)


def strengths(grid_name: GridLike, variants: Sequence[str] = ("transition",)) -> pd.DataFrame:
    """How far transitions had come after each epoch: means over seeds.

    Columns: setup, variant, epoch, progress (share of the epochs), strength, train_top1 (accuracy of that epoch),
    resolution (side of the training images in pixels; none: their own).
    """
    found = frames.history(grid_name)
    own = found[found["variant"].isin(variants)].groupby(["setup", "variant", "epoch"], sort=False)
    table = own[["strength", "train_top1"]].mean().reset_index()
    table.insert(3, "progress", table["epoch"] / table.groupby("setup")["epoch"].transform("max"))
    table["resolution"] = own["resolution"].first().to_numpy()
    return table


def unseen(grid_name: GridLike, searches: Sequence[str]) -> Grid:
    """A grid without the seeds whose runs chose its setting on validation images, in the grids ``searches``."""
    seen = {cell.seed for name in searches for cell in grids.load(name).cells}
    return grids.load(grid_name).part(lambda cell: cell.seed not in seen)


def study_verdicts(level: Any = 0.95, draws: int = 1000) -> pd.DataFrame:
    """C2 to C5 with what the study's records say of them today.

    Columns: id, claim, paper, ours, verdict, change (what would change it), evidence ("the study", "the study so far"
    while setups or seeds of the plan are missing, empty before any has run).
    """
    part = finished(SETUPS_GRID, ["transition"])
    pairs = complete_pairs()
    labels = frames.labels(SETUPS_GRID) | frames.labels(PRIMARY_GRID) if part else {}
    few = finished(RESNET_GRID, ["transition"])
    still = {setup for grid in (part, few) if grid for setup in idle(grid)}
    resnets = {**pairs, **complete_pairs(RESNET_GRID)}
    waits = grids.load_filled(SETUPS_GRID) is None  # what is planned is not known then
    rivals = {rival: {} if waits else complete_pairs(PRIMARY_GRID, rival) for rival in RIVALS}
    found = claims.verdict_frame({
        "C2": _c2(rivals, still, labels, level), "C3": _c3(pairs, still, labels, level),
        "C4": _c4(pairs, still, labels, level, draws), "C5": _c5(resnets, still, level, draws)})
    main = all(_all_seeds(own) for own in rivals.values())
    done = {"C2": main, "C3": main and len(pairs) == _planned(SETUPS_GRID)}
    done["C5"] = RESNET in pairs and (RESNET not in still or (
        few is not None and len(few.seeds) == len(grids.load(RESNET_GRID).seeds)))
    done["C4"] = done["C3"]
    return found.assign(evidence=[("the study" if done[key] else "the study so far") if part else ""
                                  for key in found["id"]])


def _all_seeds(pairs: Mapping[str, Pair]) -> bool:
    """Whether the main comparison of a loss is complete."""
    if not pairs:
        return False
    grid = grids.load(PRIMARY_GRID)
    return [len(pairs[setup][0]) for setup in grid.setups if setup in pairs] == [len(grid.seeds)] * len(grid.setups)


def verdicts_today(level: Any = 0.95, draws: int = 1000) -> pd.DataFrame:
    """All five claims: C1 by the synthetic study, the others by the CIFAR-100 study as far as it can say.

    Until the study has begun they show what the first look found, which decides nothing.

    Columns: those of :func:`study_verdicts`, and evidence (what it rests on).
    """
    study = study_verdicts(level, draws).set_index("id", drop=False)
    rows = []
    for row in claims.verdicts(level=level, draws=draws).to_dict("records"):
        evidence = "the synthetic study"
        if row["id"] in study.index:
            evidence = study.loc[row["id"], "evidence"] or "the first look"
            if study.loc[row["id"], "evidence"]:
                row = study.loc[row["id"]].to_dict()
            elif row["verdict"] != claims.NOTHING.verdict:
                row["change"] = f"the study, which decides. In the first look: {row['change']}"
        rows.append(row | {"evidence": evidence if row["ours"] != claims.NOTHING.ours else "nothing yet"})
    return pd.DataFrame(rows)


def _planned(grid_name: GridLike) -> int:
    """How many setups a claim will be about: intervals hold together over all of them, also before all have run."""
    return len(grids.load(grid_name).setups)


def _gap(pair: Pair, k: int) -> NDArray[np.float64]:
    """Accuracy at k of the loss minus the baseline's, one a seed."""
    own, other = pair
    return (own <= k).mean(axis=1) - (other <= k).mean(axis=1)


def _c2(rivals: Mapping[str, Mapping[str, Pair]], still: Container[str], labels: Mapping[str, str],
        level: Any) -> claims.Finding:
    setups = [setup for setup in next(iter(rivals.values())) if all(setup in pairs for pairs in rivals.values())]
    if not setups:
        return claims.NOTHING
    parts, texts = {}, []
    for setup in setups:
        leads = {rival: stats.paired_t_interval(-_gap(pairs[setup], 1), level, _planned(PRIMARY_GRID) * len(rivals))
                 for rival, pairs in rivals.items() if rival != "transition" or setup not in still}
        if leads:
            parts[labels.get(setup, setup)] = claims.part_status(list(leads.values()))
        texts.append(f"{labels.get(setup, setup)}: " + ", ".join(
            f"lead {_points(leads[rival])} over “{labels[rival]}”" if rival in leads else SAME for rival in rivals))
    missing = _planned(PRIMARY_GRID) - len(parts)
    return claims.over_setups(_text(texts, setups), parts, cap=_to_come(missing) if missing else "")


def _to_come(missing: int) -> str:
    return f"{missing} {'setup' if missing == 1 else 'setups'} of the plan still to come"


def _all_but_one(texts: Sequence[str], parts: Mapping[str, claims.Status], still: Set[str],
                 pairs: Mapping[str, Pair]) -> claims.Finding:
    """A claim about all setups but one needs them all, and the loss to act in all of them but one."""
    same, missing = len(still & pairs.keys()), _planned(SETUPS_GRID) - len(pairs) if pairs else 0
    cap = f"more than partly needs a transition that starts in more setups: in {same} it never did" if same > 1 else ""
    found = claims.over_setups(_text(texts, pairs), parts, exceptions=1, cap=cap)
    if pairs and not parts:
        found = found._replace(change="a setup in which it starts")
    return found._replace(change=f"{found.change}; {_to_come(missing)}") if missing else found


def _c3(pairs: Mapping[str, Pair], still: Set[str], labels: Mapping[str, str], level: Any) -> claims.Finding:
    gains = {setup: stats.paired_t_interval(_gap(pair, 5), level, _planned(SETUPS_GRID))
             for setup, pair in pairs.items() if setup not in still}
    return _all_but_one(
        [f"{labels[setup]}: {_points(gains[setup]) if setup in gains else SAME}" for setup in pairs],
        {labels[setup]: claims.part_status([gain]) for setup, gain in gains.items()}, still, pairs)


def _c4(pairs: Mapping[str, Pair], still: Set[str], labels: Mapping[str, str], level: Any,
        draws: int) -> claims.Finding:
    parts, texts = {}, []
    for setup, (own, other) in pairs.items():
        if setup in still:
            texts.append(f"{labels[setup]}: {SAME}")
            continue

        def curve(mine: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.float64]:
            most = claims.C4_KS[-1] + 1
            gap = np.bincount(np.minimum(mine, most), minlength=most + 1)
            gap -= np.bincount(np.minimum(theirs, most), minlength=most + 1)
            return np.cumsum(gap)[list(claims.C4_KS)] / len(mine)

        estimate = np.mean([curve(*rows) for rows in zip(own, other, strict=True)], axis=0)
        replicates = stats.two_way_bootstrap(curve, own, other, draws=draws)
        band = stats.sup_t_band(estimate, replicates, 1 - (1 - float(level)) / _planned(SETUPS_GRID))
        gains = [Interval(mean, np.nan, len(own), low, high)
                 for mean, low, high in zip(estimate, band.low, band.high, strict=True)]
        parts[labels[setup]] = claims.part_status(gains, sign="mean")
        texts.append(f"{labels[setup]}: {_sign(100 * estimate.mean())} points on average, lower end of the band above "
                     f"0 at {int(np.sum(band.low > 0))} of {len(estimate)} k ({len(own)} seeds)")
    return _all_but_one(texts, parts, still, pairs)


def _c5(pairs: Mapping[str, Pair], still: Container[str], level: Any, draws: int) -> claims.Finding:
    if RESNET not in pairs:
        return claims.Finding("no runs of ResNet-18", "not yet tested", "the runs")
    setup = RESNET if RESNET not in still else RESNET_FIFTH
    text = "" if setup == RESNET else f"all images: {SAME}"
    if setup not in pairs:
        return claims.Finding(text, "not yet tested", f"a setup in which ResNet-18 memorises, the grid {RESNET_GRID}")
    if setup in still:
        return claims.Finding(f"{text}, nor with a fifth of them", "not yet tested", "a setup in which it starts")
    band = stats.smallest_k_difference(*pairs[setup], 0.99, level, draws)
    text += "; a fifth of them: " if text else ""
    text += f"{_sign(band.estimate, 1)} [{_sign(band.low, 1)}, {_sign(band.high, 1)}] candidates"
    means = ["no difference is shown"] if band.low <= 0 <= band.high else []
    means += [] if band.low <= claims.C5_SIZE <= band.high else [f"the paper's {_sign(claims.C5_SIZE, 0)} is excluded"]
    return claims.Finding("; ".join([f"{text}, {len(pairs[setup][0])} seeds", *means]), claims.size_verdict(*band),
                          claims.size_change(*band))


def _text(texts: Sequence[str], setups: Any) -> str:
    return "; ".join(texts) if setups else "no runs"


def _points(interval: Interval) -> str:
    low, high = _sign(100 * interval.low), _sign(100 * interval.high)
    return f"{_sign(100 * interval.mean)} [{low}, {high}] points ({interval.n} seeds)"


def _sign(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
