"""What a practitioner is to do, in short: each step stands there only while an interval of the records carries it."""

from collections.abc import Iterator

from paperlib import analysis
from paperlib.analysis.comparisons import PRIMARY_GRID
from paperlib.analysis.study import AGAIN_GRID, SEARCHED_GRID
from paperlib.grids import Grid
from paperlib.tables._text import points, rows, signed

TARGET = 0.99


def advice() -> str:
    """The answer of the study on CIFAR-100 as a numbered list in MyST; empty while nothing of it has finished.

    Differences of accuracy are in percentage points with 95 % t intervals over seeds, those of adjusted scores jointly
    over k; differences in candidates have 95 % intervals over seeds and images.
    """
    main = analysis.finished(PRIMARY_GRID)
    if main is None:
        return ""
    steps = [*_nothing_to_gain(main), *_rate(), *_transition(), *_scores(), *_smoothing(main)]
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _nothing_to_gain(main: Grid) -> Iterator[str]:
    memorises = analysis.memorisation(main).set_index("setup")["memorises"]
    still = [analysis.labels(main)[setup] for setup in analysis.idle(main) if not memorises[setup]]
    if still:
        yield ("**See whether cross entropy memorises its training images** ({doc}`03-plan` says what counts). "
               f"Where it did not, with {' and '.join(still)}, the transition that validation images chose never "
               "started: stay with cross entropy.")


def _rate() -> Iterator[str]:
    part = analysis.rate_part()
    if part is None or "ce-searched" not in part.variants:
        return
    found = analysis.differences(part, ks=(1, 5))
    if found.query("variant == 'ce-searched' and k == 5")["low"].item() > 0:
        yield f"**Where it does, search its learning rate first.** {_changed(part, 'ce-searched', 'The one found')}"


def _transition() -> Iterator[str]:
    """At the searched rate, with the setting that was chosen for it as soon as that has run."""
    for name, variant in ((AGAIN_GRID, "again"), (SEARCHED_GRID, "transition")):
        part = analysis.beyond_main(name)
        if part is None or variant not in analysis.acting(part, variant).variants:
            continue
        gain = analysis.differences(part, ks=(5,)).query("variant == @variant").iloc[0]
        head = ("Then try the transition" if gain["low"] > 0 else "The transition then costs accuracy in lists"
                if gain["high"] < 0 else "The transition then shows no gain")
        yield f"**{head}.** {_changed(part, variant, 'At that rate it')}"
        return


def _changed(part: Grid, variant: str, subject: str) -> str:
    """A sentence: what a variant changes against cross entropy in the only setup of a grid."""
    setup = next(iter(part.setups))
    found, saved = analysis.differences(part, ks=(1, 5)), analysis.candidate_differences(part, targets=(TARGET,))
    row = saved[saved["variant"] == variant].iloc[0]
    return (f"{subject} changed top-5 by {points(found, setup, variant, 5, 2)} points, top-1 by "
            f"{points(found, setup, variant, 1, 2)}, and the number of candidates for {100 * TARGET:g} % by "
            f"{signed(row['difference'], row['low'], row['high'])}.")


def _scores() -> Iterator[str]:
    found = analysis.posthoc_differences(SEARCHED_GRID)
    for row in rows(found.query("variant == 'ce' and method == 'chosen' and k == 5 and low > 0")):
        gain = signed(100 * row.mean, 100 * row.low, 100 * row.high, 2)
        yield ("**Change the scores afterwards, if you have labelled images to spare.** Fitted to validation images, "
               f"that changed top-5 of cross entropy by {gain} points at the same rate, and no network was trained "
               "({doc}`03-posthoc`).")


def _smoothing(main: Grid) -> Iterator[str]:
    found = analysis.candidate_differences(main, targets=(TARGET,))
    costs = [f"{signed(row.difference, row.low, row.high)} with {analysis.labels(main)[row.setup]}"
             for row in rows(found.query("variant == 'smoothed' and low > 0"))]
    if costs:
        yield ("**Leave out label smoothing if you show long lists.** It changed the number of candidates for "
               f"{100 * TARGET:g} % by {' and by '.join(costs)}.")
