"""Tables of the CIFAR-100 study."""

import math
from collections.abc import Sequence

import pandas as pd

from paperlib import analysis, grids
from paperlib.analysis.study import SEARCHED_GRID
from paperlib.grids import Grid, GridLike
from paperlib.tables._text import in_points, listed, named, points, rows, seeds_of, sign, signed, starts, values_tried


def verdicts(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """The five claims with the paper's figure, ours, the verdict and what it rests on, and what would change it."""
    found = analysis.verdicts_today() if frame is None else frame
    return pd.DataFrame({
        "the paper's claim and figure": [f"**{row.id}** {row.claim}: {row.paper}." for row in rows(found)],
        "ours": found["ours"],
        "verdict": [f"**{row.verdict}**" + (f", {row.evidence}" if row.verdict != "not yet tested" else "")
                    for row in rows(found)],
        "what would change it": found["change"]})


def answer(grid_name: GridLike, differences: pd.DataFrame, hold: str = "each of which stands alone") -> str:
    """What the differences of one loss to cross entropy say in each setup, and what they come to, as MyST.

    Args:
        grid_name: the grid.
        differences: rows of the loss as :func:`paperlib.analysis.differences` gives them. Of one that is ahead, the
            interval lies above 0.
        hold: what the intervals are, in words.
    """
    labels = analysis.labels(grid_name)
    still = set(analysis.idle(grid_name, differences["variant"].iloc[0]))
    memorises = analysis.memorisation(grid_name).set_index("setup")["memorises"]
    lines, gains, top1 = [], [], set()
    for setup, own in differences.groupby("setup", sort=False):
        does = "memorises" if memorises[setup] else "does not memorise"
        head = f"- **{labels[setup]}**: cross entropy {does} its training images; the transition "
        if setup in still:
            lines.append(head + "never started, so that nothing is lost, nothing won and nothing tested.")
            continue
        sides = {"ahead": own.loc[own["low"] > 0, "k"], "behind": own.loc[own["high"] < 0, "k"]}
        parts = [f"{side} at k = {', '.join(map(str, ks))}" for side, ks in sides.items() if len(ks)]
        lines.append(head + f"is {' and '.join(parts) or 'ahead at no length, and behind at none'}.")
        if (sides["ahead"] > 1).any() and not (sides["behind"] > 1).any():
            gains.append(labels[setup])
        top1 |= {side for side, ks in sides.items() if (ks == 1).any()}
    end = f"By these intervals, {hold}, longer lists gain {'with ' + '; '.join(gains) if gains else 'in no setup'}"
    return "\n".join([*lines, "", end + (_price(top1) if gains else ".")])


def _price(sides: set[str]) -> str:
    """What becomes of top-1 while longer lists gain."""
    if sides == {"behind"}:
        return ", at a price in top-1: if the first candidate matters most, stay with cross entropy."
    if sides == {"ahead"}:
        return ", and top-1 gains with them: no trade-off is seen."
    return ", and top-1 gains in one setup and loses in another." if sides else (
        ", at no price in top-1 that can be told from zero.")


def idle(grid_name: GridLike, variant: str = "transition") -> str:
    """Sentences that name the setups in which a loss never left cross entropy; empty where there are none."""
    labels, counts = analysis.labels(grid_name), analysis.idle_seeds(grid_name, variant)
    never = "; ".join(f"**{labels[setup]}**" for setup, (same, seeds) in counts.items() if same == seeds)
    texts = [f"{never}: the transition never started, because the running average of the accuracy on training images "
             "that it follows stayed below where it would; its runs are cross entropy's."] if never else []
    texts += [f"**{labels[setup]}**: the transition never started in {same} of {seeds} runs, which are cross "
              "entropy's." for setup, (same, seeds) in counts.items() if 0 < same < seeds]
    return " ".join(texts)


def longer_lists(grid_name: GridLike, variant: str, target: float = 0.99, frame: pd.DataFrame | None = None) -> str:
    """A sentence: how many candidates more (+) or fewer than cross entropy a loss needs for a target, in each setup.

    Args:
        grid_name: the grid.
        variant: the loss.
        target: accuracy to reach.
        frame: of :func:`paperlib.analysis.candidate_differences`.
    """
    found = analysis.candidate_differences(grid_name) if frame is None else frame
    labels = analysis.labels(grid_name)
    own = found[(found["variant"] == variant) & (found["target"] == target)]
    parts = [f"by {signed(row.difference, row.low, row.high)} with {labels[row.setup]}" for row in rows(own)]
    name = labels[variant]
    return (f"{name[0].upper()}{name[1:]}: against plain cross entropy the number of candidates for "
            f"{100 * target:g} % changes {' and '.join(parts)}.")


def rates(grid_name: str) -> pd.DataFrame:
    """What a search for learning rates found: top-5 (top-1) on validation in percent, the chosen rate in bold."""
    found = analysis.rates(grid_name)
    found["text"] = [f"{100 * row.top5:.1f} ({100 * row.top1:.1f})" for row in rows(found)]
    found["column"] = [f"rate {lr:g}" for lr in found["lr"]]
    return values_tried(found, grid_name).assign(seeds=found["seeds"].min())


def settings(grid_name: str) -> pd.DataFrame:
    """What settings of the transition change against cross entropy on validation, as means over seeds, in points."""
    found = analysis.transition_map([grid_name])
    found = found[found["variant"] != "ce"]
    return pd.DataFrame({
        "setting": found["label"],
        **{f"top-{k}": [sign(100 * value, 2) for value in found[f"top{k}"]] for k in (1, 5, 10)},
        "training top-1 (%)": [f"{100 * value:.1f}" for value in found["train_top1"]], "seeds": found["seeds"]})


def better_rate() -> str:
    """What a better learning rate gains, and whether the transition adds to it, as MyST; empty before that has run."""
    both, searched = analysis.rate_part(), analysis.finished(SEARCHED_GRID, ["transition"])
    if not both or not searched or "ce-searched" not in both.variants:
        return ""
    peak = {name: next(cell.config.lr for cell in both.cells if cell.variant == name) for name in both.variants}
    over = analysis.differences(both, ks=(1, 5))
    text = (f"Trained with a peak learning rate of {peak['ce-searched']:g}, which a search on validation images "
            f"chose for it where it memorises (the recipe has {peak['ce']:g}), cross entropy gains "
            f"{points(over, 'fifth', 'ce-searched', 5, 2)} points of top-5 and "
            f"{points(over, 'fifth', 'ce-searched', 1, 2)} of top-1 over itself at the recipe's rate")
    if "transition" in both.variants:
        text += f"; at that rate the transition gains {points(over, 'fifth', 'transition', 5, 2)} of top-5"
    text += ". At the searched rate the transition "
    text += "never started." if analysis.idle(searched) else _added(searched, "transition")
    again = analysis.again_part()
    if again:
        text += (f" With the setting that validation images chose at that rate, {starts(again, 'again')}, it "
                 f"{_added(again, 'again')}")
    return text


def _added(grid: Grid, variant: str) -> str:
    """What a transition adds to cross entropy at its searched rate, by the plan's rule: the rest of a sentence."""
    found = analysis.differences(grid, ks=(1, 5))
    gain = found[(found["variant"] == variant) & (found["k"] == 5)].iloc[0]
    answer = "a gain remains" if gain.low > 0 else "a loss" if gain.high < 0 else "no gain is shown"
    return (f"changes top-5 by {points(found, 'searched', variant, 5, 2)} and top-1 by "
            f"{points(found, 'searched', variant, 1, 2)} points against cross entropy at the same rate: **{answer}** "
            f"(95 % t intervals over seeds, for these test images; {seeds_of(grid)}).")


def primary(grid_name: GridLike, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """The primary tests: differences with joint intervals, and p-values of sign flips."""
    found = analysis.primary(grid_name) if frame is None else frame
    labels = analysis.labels(grid_name)
    return pd.DataFrame({
        "setup": found["setup"].map(labels), "k": found["k"].astype(str), "difference": in_points(found, "mean"),
        "p": [f"{row.p:.4f}" for row in rows(found)], "n": found["n"]})


def equivalences(grid_name: GridLike, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Whether each loss costs top-1 accuracy, by two one-sided tests."""
    found = analysis.equivalences(grid_name) if frame is None else frame
    found = found.assign(text=in_points(found, "mean"), answer=[_equivalence(row) for row in rows(found)])
    return named(found[["setup", "variant", "text", "answer", "n"]], grid_name).rename(
        columns={"text": "top-1 (90 % interval)", "answer": "no loss?"})


def _equivalence(row: "pd.Series[float]") -> str:
    if row.equivalent:
        return "the same"
    if row.no_loss:
        return "no loss"
    return "a loss" if row.high < 0 else "open"


def crossings(grid_name: GridLike, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """From which k on each loss is ahead of cross entropy."""
    found = analysis.crossings(grid_name) if frame is None else frame
    found = found.assign(text=[f"{_k(row.k)} [{_k(row.low)}, {_k(row.high)}]" for row in rows(found)])
    return named(found[["setup", "variant", "text", "n"]], grid_name).rename(columns={"text": "ahead from k ="})


def _k(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:g}"


def memorisation(grid_name: GridLike, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """How far cross entropy's training accuracy is ahead of validation, in each setup."""
    found = analysis.memorisation(grid_name) if frame is None else frame
    labels = analysis.labels(grid_name)
    return pd.DataFrame({
        "setup": found["setup"].map(labels), **{name: [f"{100 * value:.1f}" for value in found[key]] for name, key in [
            ("training top-1 (%)", "train_top1"), ("validation top-1 (%)", "validation_top1"), ("ahead by", "gap")]},
        "memorises": found["memorises"].map({True: "yes", False: "no"}), "n": found["n"]})


def aim(grid_name: GridLike, frame: pd.DataFrame | None = None, variant: str | None = None) -> pd.DataFrame:
    """The aim for practice, setup by setup; with a column for the loss where a variant is named."""
    found = analysis.aim(grid_name, variant or "transition") if frame is None else frame
    labels = analysis.labels(grid_name)
    return pd.DataFrame({
        "setup": found["setup"].map(labels), **({"loss": labels[variant]} if variant else {}),
        "memorises": found["memorises"].map({True: "yes", False: "no"}),
        "strength at the end": [f"{value:.2f}" for value in found["strength"]],
        "top-5": in_points(found, "top5", "top5_"), "top-1 (90 % interval)": in_points(found, "top1", "top1_"),
        "aim": found["aim"], "n": found["n"]})


def hypothesis(found: pd.DataFrame) -> str:
    """Whether memorising decides what there is to gain, and what became of the aim; rows of ``analysis.aim``."""
    own = found[found["memorises"]]
    if own.empty:
        return ""
    count = {"gained top-5 in": (own["top5_low"] > 0).sum(), "never started in": (~own["started"]).sum()}
    count["started without a gain that is shown in"] = len(own) - sum(count.values())
    met = (found["aim"] == "met").sum()
    return (f"Cross entropy memorises in {len(own)} setups here; of these the transition "
            + listed([f"{what} {number}" for what, number in count.items() if number]) + ". "
            + ("Memorising alone does not decide: the training accuracy has to be high for long enough that the "
               "transition comes far. " if (own["top5_low"] > 0).sum() < len(own) else "")
            + (f"The aim is met in all {met}: a setting that one can simply switch on." if met == len(found) else
               f"The aim is met in {met} of {len(found)} setups: this is no setting that one can simply switch on."))


def growth(grid_name: GridLike, variant: str = "transition") -> str:
    """What becomes of a transition when images grow during training, as a sentence; empty where it does not fall."""
    grid, found, labels = grids.load(grid_name), analysis.strengths(grid_name, (variant,)), analysis.labels(grid_name)
    changes: dict[str, list[str]] = {}
    for setup, own in found.groupby("setup", sort=False):
        config = next(cell.config for cell in grid.cells if cell.setup == setup)
        small = own["resolution"] == config.low_resolution
        if small.all() or not small.any():
            continue
        before, after = own.loc[small, "strength"].iloc[-1], own.loc[~small, "strength"]
        if f"{after.min():.2f}" < f"{before:.2f}":
            grows = f"from {config.low_resolution} pixels, at {100 * config.low_resolution_until:g} % of training"
            changes.setdefault(grows, []).append(
                f"from {before:.2f} to {after.min():.2f} with {labels[setup]}, and ends at {after.iloc[-1]:.2f}")
    return " ".join(f"When images grow {grows}, training images are harder for a while: the strength of the "
                    f"transition falls {'; '.join(texts)}." for grows, texts in changes.items())


def unseen(grid_name: GridLike, searches: Sequence[str], variant: str = "transition") -> str:
    """What a loss changes with the seeds that had no part in choosing its setting: the rest of a sentence."""
    part = analysis.unseen(grid_name, searches)
    found, labels, still = analysis.differences(part, ks=(1, 5)), analysis.labels(part), analysis.idle(part, variant)
    setups = [setup for setup in found.loc[found["variant"] == variant, "setup"].unique() if setup not in still]
    texts = [f"top-5 by {points(found, setup, variant, 5, 2)} and top-1 by {points(found, setup, variant, 1, 2)} with "
             f"{labels[setup]}" for setup in setups]
    return f"changes {'; '.join(texts)} ({len(part.seeds)} seeds)"
