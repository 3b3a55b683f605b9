"""What a practitioner is to do, in short, as far as the study has come; the words of a step follow its intervals."""

from collections.abc import Iterator

import pandas as pd

from paperlib import analysis, grids
from paperlib.analysis.budget import BUDGET_GRIDS
from paperlib.analysis.comparisons import MARGIN, MEMORISES, PRIMARY_GRID
from paperlib.analysis.study import RESNET_GRID, RIVALS_GRID, SEARCHED_GRID, SETUPS_GRID
from paperlib.grids import Grid
from paperlib.tables._text import in_points, listed, points, rows, seeds_of, signed, starts
from paperlib.tables.budget import other_budgets

TARGET = 0.99
BUDGET_GRID = BUDGET_GRIDS[0]
#: The search for the rate where it does not.
STAY_GRID = "search-all"
#: Where cross entropy memorises, if it does: all steps that are about that rest on this setup.
SETUP = "fifth"


def advice() -> str:
    """The answer of the study on CIFAR-100 as a numbered list in MyST; empty while nothing of it has finished.

    Differences of accuracy are in percentage points with 95 % t intervals over seeds, differences in candidates have
    95 % intervals over seeds and images; each stands alone.
    """
    main = analysis.finished(PRIMARY_GRID)
    if main is None:
        return ""
    memorises = analysis.memorisation(main).set_index("setup")["memorises"]
    steps = [_look(analysis.finished(SETUPS_GRID, ["transition"]) or main)]
    if memorises.get(SETUP, False):
        steps += [*_rate(), *_scores(), *_transition()]
    steps += [*_watch(), *_rivals(), *_smoothing(main), *_budget(memorises.get(SETUP, False))]
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _look(part: Grid) -> str:
    memorises = analysis.memorisation(part).set_index("setup")["memorises"]
    still = [setup for setup in analysis.idle(part) if not memorises[setup]]
    text = ("**See whether cross entropy memorises**: whether its top-1 accuracy on its own training images ends at "
            f"least {100 * MEMORISES:g} points above that on validation images.")
    names = "; ".join(analysis.labels(part)[setup] for setup in still)
    return text + (f" Where it did not ({names}), the transition that validation images chose never started, since it "
                   f"waits for the training accuracy to rise: nothing was lost there, and nothing tested."
                   f"{_started()}{_stay()}" if still else "")


def _watch() -> Iterator[str]:
    """Where cross entropy memorises, but the chosen transition never started, or is not shown to gain."""
    part = analysis.finished(SETUPS_GRID, ["transition"])
    if part is None:
        return
    found, labels = analysis.aim(part).query("memorises"), analysis.labels(part)
    still = found["setup"].isin(analysis.idle(part))
    names = "; ".join(f"“{labels[setup]}”" for setup in found[still]["setup"])
    reached = analysis.memorisation(part).set_index("setup")["train_top1"]
    last = " and ".join(f"{100 * reached[setup]:.1f} %" for setup in found[still]["setup"])
    texts = [f"It acts {starts(part, 'transition')}, by a running average that lags behind, and waited in vain with "
             f"{names} (accuracy of the last epoch: {last})."] if names else []
    own = found[~still & (found["top5_low"] <= 0)]
    changes = [f"by {gain} points with “{labels[row.setup]}” (strength {row.strength:.2f} at the end; {row.n} seeds)"
               for gain, row in zip(in_points(own, "top5", "top5_"), rows(own), strict=True)]
    texts += [f"It is not sure to gain where it starts: it changed top-5 {' and '.join(changes)}."] if changes else []
    if texts:
        yield f"**Watch the training accuracy, not the gap alone, if you try the transition.** {' '.join(texts)}"


def _started() -> str:
    """What the settings that did start changed where cross entropy does not memorise, on validation images."""
    found = analysis.transition_map().dropna(subset="top1")
    tried = found[(found["setup"] == "all") & (found["variant"] != "ce") & (found["top1"] != 0)]
    if tried.empty or tried["top1"].max() > 0:
        return ""
    least, most = (f"{-100 * value:.1f}" for value in (tried["top1"].max(), tried["top1"].min()))
    seeds = "one seed" if (count := tried["seeds"].max()) == 1 else f"{count} seeds"
    return (f" The settings that did start cost {least} to {most} points of top-1 on validation images ({seeds}; "
            "{doc}`03-plan`).")


def _stay() -> str:
    """What the search for the rate says where cross entropy does not memorise."""
    if len(analysis.present(STAY_GRID)) < len(grids.load(STAY_GRID).cells):
        return ""
    found = analysis.rates(STAY_GRID)
    rate = found[found["chosen"]].iloc[0]
    higher = (found["lr"] > rate["lr"]).any() and not (found["lr"] < rate["lr"]).any()
    return (" With all images stay with cross entropy and its rate: on validation images no higher one did better."
            if higher else "")


def _rate() -> Iterator[str]:
    part = analysis.rate_part()
    if part is None or "ce-searched" not in part.variants:
        return
    rates = {cell.variant: cell.config.lr for cell in part.cells}
    if analysis.differences(part, ks=(5,)).query("variant == 'ce-searched'")["low"].item() > 0:
        yield ("**Where it memorises, search its learning rate first.** The rate that validation images chose, "
               f"{rates['ce-searched']:g} in place of {rates['ce']:g}, {_changed(part, 'ce-searched')}, against cross "
               f"entropy at the old rate ({seeds_of(part)}).{_kept(rates['ce'])}")


def _kept(rate: float) -> str:
    """Of the other network, if it memorises and its search, which tried higher rates alone, changed nothing."""
    part = analysis.beyond_main(RESNET_GRID)
    if part is None or part.cells[0].config.lr != rate or not analysis.memorisation(part)["memorises"].all():
        return ""
    return (" For a ResNet-18, which memorises too, no higher rate than the old one was better (no lower one was "
            "tried): search, do not copy the number.")


def _scores() -> Iterator[str]:
    found = analysis.posthoc_differences(SEARCHED_GRID, comparisons=1)
    own = found.query("variant == 'ce' and method == 'chosen' and k == 5 and low > 0")
    part = analysis.posthoc_part(SEARCHED_GRID)
    if part is None or own.empty:
        return
    [gain], record = in_points(own), analysis.present(part)[0][1]
    [saved] = rows(analysis.posthoc_candidates(SEARCHED_GRID, targets=(TARGET,), methods=("chosen",),
                                               variants=("ce",)))
    yield ("**If you have labelled images to spare, change the scores of the trained network.** "
           f"{_methods(found)}Fitted to {record.validation['n']:,} validation images, beside {record.data['train']:,} "
           f"for training, that changed top-5 by {gain} points and the number of candidates for {100 * TARGET:g} % by "
           f"{signed(saved.difference, saved.low, saved.high)}, against cross entropy at the searched rate "
           f"({seeds_of(part)}; {{doc}}`03-posthoc`).{_elsewhere()}")


def _methods(differences: pd.DataFrame) -> str:
    """Which method the runs of cross entropy chose, and what simpler ones changed, if that is less."""
    found = analysis.posthoc_scores(SEARCHED_GRID).query("variant == 'ce' and chosen > 0")
    own = differences.query("variant == 'ce' and k == 5")
    simple = own[own["method"].isin(["bias", "vector"]) & ~own["method"].isin(found["method"])]
    if len(found) != 1 or simple.empty or simple["mean"].max() >= own.query("method == 'chosen'")["mean"].item():
        return ""
    texts = [f"a {row.method} {gain}" for gain, row in zip(in_points(simple), rows(simple), strict=True)]
    return (f"Every run chose a {found['method'].item()}, with a penalty, on left-out validation images; simpler ones "
            f"change top-5 less ({', '.join(texts)} points). ")


def _elsewhere() -> str:
    """Where changed scores are not shown to gain."""
    found, labels = analysis.posthoc_differences(comparisons=1), analysis.labels(PRIMARY_GRID)
    own = found[(found["variant"] == "ce") & (found["method"] == "chosen") & (found["k"] == 5) & (found["low"] <= 0)]
    texts = [f"by {gain} with {labels[setup]}" for gain, setup in zip(in_points(own), own["setup"], strict=True)]
    return f" Not everywhere: at the recipe's rate it changed top-5 {' and '.join(texts)}." if texts else ""


def _transition() -> Iterator[str]:
    """At the searched rate, with the setting that was chosen for it as soon as that has run and acts."""
    searched = analysis.beyond_main(SEARCHED_GRID)
    for part, variant, setting in ((analysis.again_part(), "again", "the searched rate"),
                                   (searched and analysis.acting(searched), "transition", "the recipe's rate")):
        if part is None or variant not in part.variants:
            continue
        aim = analysis.aim(part, variant).iloc[0]
        head = ("Leave the transition out" if aim["top5_low"] <= 0 else
                "Expect little of the transition" if aim["top5"] < MARGIN else
                "The transition trades top-1 for top-5" if aim["aim"] == "missed" else "Try the transition")
        yield (f"**{head} at the searched rate.** With the setting that validation images chose at {setting}, "
               f"{starts(part, variant)}, it {_changed(part, variant)}, against cross entropy at the searched rate "
               f"({seeds_of(part)}).{_on_top(variant)}")
        return


def _on_top(variant: str) -> str:
    """What the transition adds to changed scores; of one setting only those were kept that this takes."""
    found = analysis.posthoc_differences(SEARCHED_GRID, scores="chosen", comparisons=1)
    own = found.query("variant == 'transition' and method == 'chosen' and k == 5")
    part = analysis.posthoc_part(SEARCHED_GRID)
    if part is None or own.empty:
        return ""
    [gain] = in_points(own)
    untried = ", and this setting was not tried with them" if variant != "transition" else ""
    return (" Changing the scores may have part of that already: on top of changed scores a transition "
            f"{starts(part, 'transition')} changed top-5 by {gain} points{untried}.")


def _rivals() -> Iterator[str]:
    """The losses that are neither cross entropy nor made of it, each from the grid with the most seeds of it."""
    found: dict[str, tuple[Grid, str]] = {}
    for part in filter(None, map(analysis.beyond_main, (SEARCHED_GRID, RIVALS_GRID))):
        for variant in part.variants:
            if variant not in ("ce", "transition", "smoothed") and "transition" in part.variants:
                found.setdefault(analysis.labels(part)[variant], (part, variant))
    shown, better, nearly = [], [], []
    for loss, (part, variant) in found.items():
        setup, changed = next(iter(part.setups)), analysis.differences(part, ks=(1, 5))
        top1, top5 = (points(changed, setup, variant, k, 2) for k in (1, 5))
        shown.append(f"{loss} changed top-5 by {top5} points and top-1 by {top1} ({seeds_of(part)})")
        lead = analysis.differences(part, "transition", (5,), comparisons=len(found)).query("variant == @variant")
        if lead["low"].item() > 0:
            better.append(loss)
        elif lead["mean"].item() > 0:
            nearly.append(f"{loss} by {in_points(lead)[0]} ({seeds_of(part)})")
    if shown:
        start = starts(part, "transition")
        head = (f"For top-5, {listed(better)} did better than the transition" if better else
                "No other loss is shown to do better than the transition")
        yield (f"**{head}.** Each at the rate that validation images chose for it, against cross entropy at its own: "
               f"{'; '.join(shown)}. A loss does better if the interval of its top-5 minus that of the "
               f"transition {start}, at that rate, lies above 0"
               f"{', jointly for all of them' if len(shown) > 1 else ''}."
               + (f" Ahead without that certainty: {listed(nearly)}." if nearly else "")
               + " {doc}`03-results` has longer lists.")


def _changed(part: Grid, variant: str) -> str:
    """What a variant changes against cross entropy in the only setup of a grid: the rest of a sentence."""
    setup, part = next(iter(part.setups)), _beside_ce(part, variant)
    found, saved = analysis.differences(part, ks=(1, 5)), analysis.candidate_differences(part, targets=(TARGET,))
    row = saved.iloc[0]
    return (f"changed top-5 by {points(found, setup, variant, 5, 2)} points, top-1 by "
            f"{points(found, setup, variant, 1, 2)}, and the number of candidates for {100 * TARGET:g} % by "
            f"{signed(row['difference'], row['low'], row['high'])}")


def _beside_ce(part: Grid, variant: str) -> Grid:
    return part.part(lambda cell: cell.variant in ("ce", variant))


def _smoothing(main: Grid) -> Iterator[str]:
    if "smoothed" not in main.variants:
        return
    part = _beside_ce(main, "smoothed")
    found, needed = (of(part, targets=(TARGET,)) for of in (analysis.candidate_differences, analysis.candidates))
    length = needed.set_index(["setup", "variant"])["k"]
    costs = [f"from {length[row.setup, 'ce']:.1f} to {length[row.setup, 'smoothed']:.1f} "
             f"({analysis.labels(main)[row.setup]}; {signed(row.difference, row.low, row.high)})"
             for row in rows(found.query("low > 0"))]
    if costs:
        yield ("**Leave out label smoothing if you show long lists.** At the recipe's rate it raised the number of "
               f"candidates for {100 * TARGET:g} % {' and '.join(costs)}.{_smoothed()}")


def _budget(memorises: bool) -> Iterator[str]:
    """What cross entropy needs with other numbers of epochs and channels, from two seeds on."""
    found, labels = analysis.budget_trades([BUDGET_GRID], targets=(TARGET,)), analysis.labels(BUDGET_GRID)
    own = other_budgets(found, TARGET).query("timed > 0")
    if own.empty:
        return
    texts = [f"with {labels[setup]}, " + listed([
        f"{row.label} changed it by {signed(-row.saved, -row.high, -row.low)} in {row.time:.2f} of the time"
        for row in rows(changes)]) for setup, changes in own.groupby("setup", sort=False)]
    less = own[(own["setup"] == SETUP) & (own["time"] < 1)]
    seeds = " to ".join(dict.fromkeys(str(number) for number in (own["n"].min(), own["n"].max())))
    yield ("**Find out what more training or a larger network buys before you pay for it.** Against the number of "
           f"candidates for {100 * TARGET:g} % of cross entropy at the recipe's rate: {'; '.join(texts)} "
           f"({seeds} seeds; {{doc}}`04-candidates`)."
           + (f" Where it memorises, no smaller budget is shown to need a longer list for {100 * TARGET:g} %."
              if memorises and len(less) and (less["high"] >= 0).all() else ""))


def _smoothed() -> str:
    """What label smoothing does to long lists at the searched rate."""
    part = analysis.beyond_main(RIVALS_GRID)
    if part is None or "smoothed" not in part.variants:
        return ""
    [row] = rows(analysis.candidate_differences(_beside_ce(part, "smoothed"), targets=(TARGET,)))
    return (f" At the searched rate it changed that number by {signed(row.difference, row.low, row.high)} "
            f"({seeds_of(part)}).")
