"""The five claims of the paper, and a verdict on each computed from records.

The rules were written down before the results. A claim about several comparisons is read through intervals
that hold together (Bonferroni over setups, rivals and values of k), paired by seed. The transition loss of the first
look is the late ramp, the reading stated beforehand; that of the study is chosen on validation images.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from paperlib import grids, stats
from paperlib.analysis import frames, phase
from paperlib.analysis.frames import Gaps, Ranks
from paperlib.grids import Grid
from paperlib.stats import Interval

Verdict = Literal["reproduced", "partly", "not reproduced", "not yet tested"]
Status = Literal["holds", "leans", "fails"]


class Finding(NamedTuple):
    """What records say of a claim: our numbers, the verdict, and what would change it."""

    ours: str
    verdict: Verdict
    change: str


NOTHING = Finding("no runs", "not yet tested", "the runs")

BASELINE = "ce"
#: Names of the variant that stands for the transition loss, first found first.
TRANSITION = ("ramp", "transition")
#: C4 says "k > 10"; beyond 50 of 100 classes every loss is near 100 %.
C4_KS = range(11, 51)
#: C5: how many candidates fewer.
C5_SIZE = -8
SIZE_CHANGE = f"reproduced needs an interval below 0 that holds the paper's {abs(C5_SIZE)} fewer"
BY_SIGN = (f"partly by the sign alone: the interval holds 0 and leaves out the paper's {abs(C5_SIZE)} fewer; another "
           "network or training rather than more seeds")

CLAIMS = {
    "C1": ("On synthetic data cross entropy fails to optimise top-2 where the data is too complex for the model "
           "to represent the best top-1 prediction", "stated without a figure"),
    "C2": ("On CIFAR-100 cross entropy has the best top-1 accuracy", "stated without a figure"),
    "C3": ("On CIFAR-100 with k = 5 the transition loss beats cross entropy in top-5 accuracy",
           "in all setups but one"),
    "C4": ("At k > 10 the transition loss beats cross entropy", "stated without a figure"),
    "C5": ("With ResNet18 the transition loss needs fewer candidates for 99 % accuracy",
           "k = 25 instead of 33, 8 fewer"),
}


def part_status(intervals: Sequence[Interval], sign: Literal["every", "mean"] = "every") -> Status:
    """What a family of comparisons says about "all differences are above 0".

    Args:
        intervals: simultaneous intervals.
        sign: what counts as the claimed sign where some interval covers 0: ``"every"`` difference above 0, or
            their ``"mean"`` (for neighbouring values of k, whose differences are nearly one quantity).

    Returns:
        ``"holds"``: every lower end is above 0. ``"fails"``: some interval lies below 0, or the sign is wrong.
        ``"leans"``: the sign is right, some interval covers 0.
    """
    if all(interval.low > 0 for interval in intervals):
        return "holds"
    means = [interval.mean for interval in intervals]
    right = min(means) > 0 if sign == "every" else float(np.mean(means)) > 0
    return "leans" if right and all(interval.high >= 0 for interval in intervals) else "fails"


def setups_verdict(parts: Sequence[Status], exceptions: int = 0) -> Verdict:
    """Verdict on a claim about all setups but at most ``exceptions``.

    A claim that allows an exception needs at least two setups that hold: one of two is "partly", since one
    success and one exception cannot be told from chance.

    Returns:
        "reproduced": enough setups hold. "partly": one holds, or all but the exceptions lean.
        "not reproduced" otherwise; "not yet tested" without setups.
    """
    if not parts:
        return "not yet tested"
    needed = max(len(parts) - exceptions, 2) if exceptions else len(parts)
    holds, leans = parts.count("holds"), parts.count("leans")
    if holds >= needed:
        return "reproduced"
    return "partly" if holds or leans >= max(len(parts) - exceptions, 1) else "not reproduced"


def what_would_change(parts: Mapping[str, Status], exceptions: int = 0, leaning: str = "More seeds may settle",
                      failing: str = "The sign is wrong, or an interval below 0", cap: str = "") -> str:
    """What it would take for another verdict of :func:`setups_verdict`, in words.

    Args:
        parts: status of each setup, by its label.
        exceptions: as for the verdict.
        cap: why the verdict is "partly" at most, and so what more than that would need.
        leaning: what to say of setups in which the claim neither holds nor fails.
        failing: what to say of those in which it fails.
    """
    verdict = setups_verdict(list(parts.values()), exceptions)
    if verdict == "not yet tested":
        return "the runs"
    needed = max(len(parts) - exceptions, 2) if exceptions else len(parts)
    missing = needed - list(parts.values()).count("holds")
    if verdict == "reproduced" and not cap:
        return f"an interval that reaches 0 in {_setups(1 - missing)} where it lies above now"
    open_ones = [name for name, status in parts.items() if status == "leans"]
    against = [name for name, status in parts.items() if status == "fails"]
    texts = [cap or f"reproduced needs {_setups(missing)} more"]
    if open_ones:
        texts.append(f"{leaning}: " + "; ".join(open_ones))
    if against:
        texts.append(f"{failing}: " + "; ".join(against))
    return ". ".join(texts)


def _setups(count: int) -> str:
    return f"{count} setup{'' if count == 1 else 's'}"


def size_change(difference: float, low: float, high: float, size: float = C5_SIZE) -> str:
    """What would change :func:`size_verdict`, in words."""
    return BY_SIGN if difference < 0 <= high and low > size else SIZE_CHANGE


def size_verdict(difference: float, low: float, high: float, size: float = C5_SIZE) -> Verdict:
    """Verdict on C5 from an interval of the difference in candidates.

    Returns:
        "reproduced": the interval lies below 0 (direction) and holds the claimed size. "partly": fewer candidates,
        but the interval holds 0 or misses the size. "not reproduced": not fewer.
    """
    if high < 0 and low <= size <= high:
        return "reproduced"
    return "partly" if difference < 0 else "not reproduced"


def verdicts(grid_name: str = "first-study", phases: Sequence[str] | None = None, level: Any = 0.95,
             draws: int = 1000) -> pd.DataFrame:
    """The five claims with the paper's figure, ours, and the verdict.

    A grid none of whose runs has a record leaves its claims "not yet tested"; one that misses some is an error.

    Args:
        grid_name: CIFAR-100 runs, for C2 to C5.
        phases: phase diagrams of synthetic data, a family each, for C1; None: those of
            ``paperlib.analysis.PHASES`` whose grids exist.
        level: joint confidence.
        draws: bootstrap replicates for C5.

    Returns:
        Columns: id, claim, paper, ours, verdict, change (what would change it).

    Raises:
        records.MissingRecordsError: some but not all runs of a grid have a record.
        ValueError: records that cannot be compared, or a grid without the variants that a claim compares.
    """
    found: dict[str, Finding] = dict.fromkeys(CLAIMS, NOTHING)
    phases = [name for name in phase.PHASES if name in grids.names()] if phases is None else phases
    if run := [name for name in phases if frames.present(name)]:
        found["C1"] = _c1(run, level)
    if frames.present(grid_name):
        grid, names = grids.load(grid_name), frames.labels(grid_name)
        ours = _transition(grid)
        ranks = frames.rank_arrays(grid_name)[0]
        gaps = frames.paired_differences(frames.curve_arrays(grid_name), BASELINE)
        setups = [name for name in grid.setups if _config(grid, name)["dataset"] == "cifar100"]
        if setups:
            found |= {"C2": _c2(gaps, setups, names, level), "C3": _c3(gaps, setups, ours, names, level),
                      "C4": _c4(gaps, setups, ours, names, level),
                      "C5": _c5(grid, ranks, setups, ours, names, level, draws)}
    return verdict_frame(found)


def verdict_frame(found: Mapping[str, Finding]) -> pd.DataFrame:
    """One row a claim. Columns: id, claim, paper, ours, verdict, change (what would change it)."""
    return pd.DataFrame([{"id": key, "claim": CLAIMS[key][0], "paper": CLAIMS[key][1], **finding._asdict()}
                         for key, finding in found.items()])


def over_setups(ours: str, parts: Mapping[str, Status], exceptions: int = 0, cap: str = "") -> Finding:
    """The finding on a claim about setups, by their labels; with a ``cap``, not more than "partly"."""
    verdict = setups_verdict(list(parts.values()), exceptions)
    if cap and verdict == "reproduced":
        verdict = "partly"
    return Finding(ours, verdict, what_would_change(parts, exceptions, cap=cap))


def _c1(grid_names: Sequence[str], level: Any) -> Finding:
    """Every family of data is a setup of the claim; :func:`paperlib.analysis.phase.overview` says what each shows."""
    parts, texts = {}, []
    for name in grid_names:
        found = phase.overview(name, level=level)
        largest = _signed(f"{100 * found['largest']:+.2f}") if found["poor"] else "none"
        title = grids.load(name).title.split(": ")[-1].split(", k = ")[0]
        texts.append(f"{title}: gain in {found['gained']} of {found['poor']} cells that no network solves, {largest} "
                     f"points at most; in {found['exceptions']} of {found['rich']} that cross entropy solves")
        if found["status"]:
            parts[title] = found["status"]
    change = what_would_change(parts, leaning="It gains also where cross entropy solves the data, or in one cell only",
                               failing="It gains nowhere")
    return Finding("; ".join(texts), setups_verdict(list(parts.values())), change)


def _c2(gaps: Gaps, setups: Sequence[str], names: dict[str, str], level: Any) -> Finding:
    rivals = list(dict.fromkeys(variant for _, variant in gaps))
    parts, texts = {}, []
    for setup in setups:
        leads = {rival: stats.paired_t_interval(-gaps[setup, rival][:, 0], level, len(setups) * len(rivals))
                 for rival in rivals}
        nearest = min(leads, key=lambda rival: leads[rival].mean)
        parts[names[setup]] = part_status(list(leads.values()))
        won = sum(lead.low > 0 for lead in leads.values())
        texts.append(f"{names[setup]}: lead over the nearest rival ({names[nearest]}) {_points(leads[nearest])} "
                     f"points, lower bound above 0 for {won} of {len(leads)} rivals")
    return over_setups("; ".join(texts), parts)


def _c3(gaps: Gaps, setups: Sequence[str], ours: str, names: dict[str, str], level: Any) -> Finding:
    gain = {setup: stats.paired_t_interval(gaps[setup, ours][:, 4], level, len(setups)) for setup in setups}
    text = "; ".join(f"{names[setup]}: {_points(interval)} points" for setup, interval in gain.items())
    return over_setups(text, {names[setup]: part_status([interval]) for setup, interval in gain.items()}, exceptions=1)


def _c4(gaps: Gaps, setups: Sequence[str], ours: str, names: dict[str, str], level: Any) -> Finding:
    parts, texts = {}, []
    for setup in setups:
        own, comparisons = gaps[setup, ours], len(setups) * len(C4_KS)
        gain = [stats.paired_t_interval(own[:, k - 1], level, comparisons) for k in C4_KS]
        parts[names[setup]] = part_status(gain, sign="mean")
        mean = _signed(f"{100 * np.mean([interval.mean for interval in gain]):+.2f}")
        texts.append(f"{names[setup]}: {mean} points on average over k = {C4_KS[0]} to {C4_KS[-1]}, above 0 at "
                     f"{sum(interval.mean > 0 for interval in gain)} of {len(gain)}, lower bound above 0 at "
                     f"{sum(interval.low > 0 for interval in gain)}")
    return over_setups("; ".join(texts), parts, exceptions=1)


def _c5(grid: Grid, ranks: Ranks, setups: Sequence[str], ours: str, names: dict[str, str], level: Any,
        draws: int) -> Finding:
    bands = {setup: stats.smallest_k_difference(ranks[setup, ours], ranks[setup, BASELINE], 0.99, level, draws)
             for setup in setups}
    found = {setup: size_verdict(*bands[setup]) for setup in setups if _config(grid, setup)["model"] == "resnet18"}
    numbers = {setup: _signed(f"{band.estimate:+.1f} [{band.low:+.1f}, {band.high:+.1f}]")
               for setup, band in bands.items()}
    text = "; ".join(f"{_config(grid, setup)['model']}, {names[setup]}: {number} candidates"
                     for setup, number in numbers.items())
    if not found:
        return Finding(text + "; no resnet18 runs", "not yet tested", "the runs")
    verdict = next(iter(found.values())) if len(set(found.values())) == 1 else "partly"
    return Finding(text, verdict, SIZE_CHANGE)


def _transition(grid: Grid) -> str:
    for name in TRANSITION:
        if name in grid.variants and BASELINE in grid.variants:
            return name
    raise ValueError(f"grid {grid.name!r} has variants {', '.join(grid.variants)}: a verdict compares {BASELINE!r} "
                     f"with one of {', '.join(TRANSITION)}")


def _config(grid: Grid, setup: str) -> dict[str, Any]:
    return next(cell.config.to_dict() for cell in grid.cells if cell.setup == setup and cell.variant == BASELINE)


def _points(interval: Interval) -> str:
    """Mean and interval in percentage points."""
    return _signed(f"{100 * interval.mean:+.2f} [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]")


def _signed(text: str) -> str:
    """Typographic minus signs."""
    return text.replace("-", "\N{MINUS SIGN}")
