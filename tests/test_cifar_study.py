"""The verdicts of the CIFAR-100 study on records made up with known gains, and while half of them is missing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from chapter_cells import run_page
from grids_for_tests import Study, make_record, two_losses, variant

from paperlib import analysis, grids, presets, records, tables
from paperlib.analysis import comparisons
from paperlib.analysis import study as study_module

SETUP = '[[setup]]\nname = "NAME"\nlabel = "NAME of it"\nKEYS\n'
SETUPS = {"fifth": "train_fraction = 0.2", "all": "", "resnet": 'model = "resnet18"'}
HEAD = """
title = "A study"
seeds = [0, 1, 2, 3, 4, 5, 6, 7]
[base]
evaluate_test = true
"""
HOW = "(95 % t intervals over seeds, for these test images"
FEW = HEAD.replace(", 3, 4, 5, 6, 7", "")
VARIANTS = two_losses()
SMOOTHED = """
[[variant]]
name = "smoothed"
label = "smoothed"
loss_options = { label_smoothing = 0.1 }
"""
N, CLASSES = 2000, 100


def ranks(seed: int, top1: float, top5: float, top10: float, most: float, k: int, last: int) -> np.ndarray:
    """Ranks with these accuracies at 1, 5 and 10, ``most`` of them right at k, the others at rank ``last``.

    Each seed has an order of the images of its own, which all losses share.
    """
    edges = np.round(N * np.array([0, top1, top5, top10, most, 1])).astype(int)
    return np.random.default_rng(seed).permutation(np.repeat([1, 5, 10, k, last], np.diff(edges)))


#: What cross entropy reaches, and the transition where it is ahead from 5 on. In "resnet" the last hundredth of the
#: images comes right after k, so that 99 % takes 33 or 34 candidates with the one and 25 or 26 with the other.
CE = {"fifth": (0.60, 0.85, 0.91, 0.985, 33, 100), "all": (0.60, 0.85, 0.91, 0.985, 33, 100),
      "resnet": (0.60, 0.85, 0.91, 0.99, 33, 34)}
AHEAD = {"fifth": (0.55, 0.88, 0.94, 0.998, 25, 100), "all": (0.55, 0.88, 0.94, 0.998, 25, 100),
         "resnet": (0.55, 0.88, 0.94, 0.99, 25, 26)}
BEHIND = {"fifth": (0.55, 0.82, 0.88, 0.97, 33, 100), "all": (0.55, 0.82, 0.88, 0.97, 33, 100),
          "resnet": (0.55, 0.82, 0.88, 0.99, 40, 41)}


@pytest.fixture
def study(tmp_path, monkeypatch):
    study = Study(tmp_path, monkeypatch)
    parts = [SETUP.replace("NAME", name).replace("KEYS", keys) for name, keys in SETUPS.items()]
    study.grid("cifar-more", HEAD + "".join(parts) + VARIANTS)
    study.grid("cifar-main", HEAD + "".join(parts[:2]) + VARIANTS + SMOOTHED)
    rates = [SETUP.replace("NAME", f"rate{place}").replace("KEYS", f"lr = {rate}\nepochs = 7")
             for place, rate in enumerate((0.25, 0.75))]
    study.grid("search-all", FEW + "".join(rates) + variant("ce", "cross entropy"))
    budgets = SETUP.replace("NAME", "short").replace("KEYS", SETUPS["fifth"] + "\nepochs = 5")
    study.grid("cifar-budget", FEW + "".join(parts[:2]) + budgets + variant("ce", "cross entropy"))
    few = 'model = "resnet18"\ntrain_fraction = 0.2'
    study.grid("cifar-resnet", HEAD + SETUP.replace("NAME", "resnet-fifth").replace("KEYS", few) + VARIANTS)
    return study


def run(study: Study, changes: dict[str, tuple] | None = None, seeds: int = 8,
        setups: tuple = tuple(SETUPS)) -> None:
    """Records of the study's runs; what the transition reaches is AHEAD but for the changes."""
    jitter = np.random.default_rng(0).normal(0, 0.001, 8)
    for grid in ("cifar-more", "cifar-main"):
        for cell in grids.load(grid).cells:
            if cell.seed < seeds and cell.setup in setups:
                reached = (CE if cell.variant == "ce" else AHEAD | (changes or {}))[cell.setup]
                move = jitter[cell.seed] if cell.variant != "ce" else 0
                record = make_record(cell, ranks(cell.seed, reached[0] + move, *reached[1:]), CLASSES)
                records.write(record, study.records / grid)


def stay_still(study: Study, *setups: str) -> None:
    """Records as they are where the transition never leaves cross entropy."""
    for grid in ("cifar-more", "cifar-main"):
        for cell in grids.load(grid).cells:
            if cell.variant == "transition" and cell.setup in setups:
                made = make_record(cell, ranks(cell.seed, *CE[cell.setup]), CLASSES)
                history = [{**row, "strength": 0.0} for row in made.history]
                records.write(dataclasses.replace(made, history=history), study.records / grid)


def verdicts() -> dict[str, str]:
    return analysis.study_verdicts(draws=60).set_index("id")["verdict"].to_dict()


def test_without_runs_nothing_is_tested(study):
    table = analysis.study_verdicts()
    assert table["id"].tolist() == ["C2", "C3", "C4", "C5"] and set(table["verdict"]) == {"not yet tested"}
    waiting = HEAD + SETUP.replace("KEYS", "") + '[[variant]]\nname = "ce"\nlabel = "x"\npreset = "p"\n'
    study.grid("cifar-more", waiting)
    (study.grids / "presets.json").write_text('{"p": null}')
    assert analysis.complete_pairs() == {} and set(analysis.study_verdicts()["verdict"]) == {"not yet tested"}


def test_while_the_setups_wait_for_a_preset_no_verdict_is_given(study):
    run(study)
    waiting = SETUP.replace("NAME", "noise").replace("KEYS", 'preset = "p"') + VARIANTS
    study.grid("cifar-more", HEAD + waiting)
    (study.grids / "presets.json").write_text('{"p": null}')
    assert set(analysis.study_verdicts()["verdict"]) == {"not yet tested"}


def test_clear_gains_reproduce_every_claim(study):
    run(study)
    assert verdicts() == dict.fromkeys(["C2", "C3", "C4", "C5"], "reproduced")
    ours = analysis.study_verdicts(draws=60).set_index("id")["ours"]
    assert "+5.0" in ours["C2"] and "over “smoothed”" in ours["C2"] and "fifth of it: +3.00" in ours["C3"]
    assert "8 seeds" in ours["C3"] and ours["C5"].startswith("\N{MINUS SIGN}8.0 [")
    assert "all of it: " in ours["C4"] and "above 0 at 40 of 40 k (8 seeds); resnet" in ours["C4"]


def test_one_setup_may_fail_and_two_may_not(study):
    # Of long lists resnet is the exception already: both losses are right at every k from 34 on.
    run(study, {"resnet": BEHIND["resnet"]})
    assert (verdicts()["C3"], verdicts()["C4"], verdicts()["C5"]) == ("reproduced", "reproduced", "not reproduced")
    run(study, {name: BEHIND[name] for name in ("resnet", "fifth")})
    assert (verdicts()["C3"], verdicts()["C4"]) == ("partly", "partly")
    run(study, BEHIND)
    assert (verdicts()["C3"], verdicts()["C4"]) == ("not reproduced", "not reproduced")


def test_a_transition_that_wins_top1_contradicts_c2(study):
    run(study, {name: (0.65, *reached[1:]) for name, reached in AHEAD.items()})
    assert verdicts()["C2"] == "not reproduced"


def test_fewer_candidates_of_another_number_are_half_of_c5(study):
    run(study, {"resnet": (0.55, 0.88, 0.94, 0.99, 30, 31)})
    found = analysis.study_verdicts(draws=60).set_index("id").loc["C5"]
    assert found["verdict"] == "partly" and found["ours"].endswith("; the paper's \N{MINUS SIGN}8 is excluded")


def test_a_setup_counts_with_four_seeds_or_eight_and_nothing_between(study):
    run(study, seeds=3)
    assert analysis.complete_pairs() == {}
    run(study, seeds=6, setups=("all",))
    pairs = analysis.complete_pairs()
    assert list(pairs) == ["all"] and pairs["all"][0].shape == (4, N)
    run(study, setups=("fifth",))
    pairs = analysis.complete_pairs()
    assert {setup: own.shape[0] for setup, (own, _) in pairs.items()} == {"fifth": 8, "all": 4}
    np.testing.assert_array_equal(pairs["all"][1][2], ranks(2, *CE["all"]))
    assert verdicts()["C5"] == "not yet tested"


def test_what_has_finished_is_a_grid_of_its_own(study):
    assert analysis.finished("cifar-main") is None
    run(study, seeds=6, setups=("all",))
    run(study, setups=("fifth",))
    part = analysis.finished("cifar-main")
    assert analysis.runs(part).groupby("setup")["seed"].nunique().to_dict() == {"all": 4, "fifth": 8}
    assert list(part.variants) == ["ce", "transition", "smoothed"] and repr(part) == "Grid('cifar-main')"
    assert analysis.differences(part).groupby("setup")["n"].first().to_dict() == {"all": 4, "fifth": 8}
    asked = analysis.finished("cifar-main", ["smoothed"], counts=(6,))
    assert set(asked.variants) == {"ce", "smoothed"} and asked.seeds == tuple(range(6))


def test_no_loss_that_has_four_seeds_is_lost_while_others_have_eight(study):
    run(study)
    lacking = [cell for cell in grids.load("cifar-main").cells if (cell.setup, cell.variant, cell.seed) in (
        ("fifth", "transition", 6), ("all", "smoothed", 6))]
    for cell in lacking:
        for grid in ("cifar-main", "cifar-more"):
            (study.records / grid / f"{cell.config.run_id}.json").unlink(missing_ok=True)
    counts = tables.accuracies(analysis.finished("cifar-main")).groupby(["setup", "loss"])["n"].first()
    assert counts.loc["fifth of it"].tolist() == [4, 4, 4] and counts.loc["all of it"].tolist() == [4, 4, 4]
    assert {setup: len(own) for setup, (own, _) in analysis.complete_pairs().items()} == {
        "fifth": 4, "all": 8, "resnet": 8}, "a verdict is about one loss"


def test_runs_that_do_not_count_and_a_baseline_alone(study):
    run(study)
    some = {cell.config.run_id for cell in grids.load("cifar-main").cells
            if cell.variant == "ce" or (cell.setup == "fifth" and cell.seed < 5)}
    part = analysis.finished("cifar-main", held=some)
    assert {(cell.setup, cell.variant) for cell in part.cells} == {
        ("fifth", name) for name in ("ce", "transition", "smoothed")} and part.seeds == (0, 1, 2, 3)
    both = analysis.finished("cifar-main", held=some, alone=True)
    assert analysis.runs(both).groupby("setup")["seed"].nunique().to_dict() == {"fifth": 4, "all": 8}
    assert analysis.finished("cifar-main", held=set(), alone=True) is None


def test_a_loss_that_has_no_block_yet_costs_the_others_nothing(study):
    run(study)
    for cell in grids.load("cifar-main").cells:
        if cell.variant == "smoothed" and cell.setup == "all" and cell.seed == 3:
            (study.records / "cifar-main" / f"{cell.config.run_id}.json").unlink()
    part = analysis.finished("cifar-main")
    assert {(cell.setup, cell.variant) for cell in part.cells} == {
        ("all", "ce"), ("all", "transition"), ("fifth", "ce"), ("fifth", "transition"), ("fifth", "smoothed")}
    assert tables.accuracies(part)["n"].tolist() == [8] * 5
    with pytest.raises(records.MissingRecordsError, match="misses 1 of 48 runs"):
        analysis.runs("cifar-main")


def test_the_first_look_speaks_until_the_study_does(study):
    first = VARIANTS.replace('name = "transition"', 'name = "ramp"')
    study.grid("first-study", HEAD.replace("seeds = [0, 1, 2, 3, 4, 5, 6, 7]", "seeds = [10, 11]")
               + SETUP.replace("NAME", "fifth").replace("KEYS", SETUPS["fifth"]) + first)
    empty = analysis.verdicts_today(draws=60)
    assert empty["id"].tolist() == ["C1", "C2", "C3", "C4", "C5"] and set(empty["evidence"]) == {"nothing yet"}
    for cell in grids.load("first-study").cells:
        record = make_record(cell, ranks(cell.seed, *(CE if cell.variant == "ce" else BEHIND)["fifth"]), CLASSES)
        records.write(record, study.records / "first-study")
    looked = analysis.verdicts_today(draws=60).set_index("id")
    assert looked.loc["C3", ["verdict", "evidence"]].tolist() == ["not reproduced", "the first look"]
    assert looked.loc["C3", "change"].startswith("the study, which decides. In the first look: reproduced needs 2")
    assert looked.loc["C5", "verdict"] == "not yet tested"
    run(study)
    now = analysis.verdicts_today(draws=60).set_index("id")
    assert now["verdict"].tolist()[1:] == ["reproduced"] * 4 and set(now["evidence"][1:]) == {"the study"}
    assert now.loc["C3", "change"] == "an interval that reaches 0 in 2 setups where it lies above now"


def other_grids(study: Study) -> None:
    """The grids of rivals that the chapter asks for; nothing of them has run."""
    fifth = SETUP.replace("NAME", "fifth").replace("KEYS", SETUPS["fifth"])
    for name in ("cifar-entropy", "cifar-rate", "cifar-again", "cifar-resnet", "cifar-rivals", "cifar-clock",
                 "cifar-train-k", "cifar-finetune", "cifar-losses"):
        study.grid(name, HEAD + fifth + VARIANTS + variant("entropy", "e", preset="entropy"))
    for name in ("map", "map-finalists", "map-searched"):
        study.grid(name, FEW + fifth + VARIANTS)
    (study.grids / "presets.json").write_text('{"entropy": null}')


def test_the_chapter_shows_what_has_finished_and_says_what_has_not(study, monkeypatch):
    other_grids(study)
    monkeypatch.setattr(presets, "document", lambda: {"transition": None, "entropy": None})
    _, text = run_page("03-results", monkeypatch)
    assert text.count("Not yet complete") == 14 and "{table}" not in text
    assert "The transition is not chosen yet." in text
    run(study, seeds=4, setups=("fifth",))
    _, text = run_page("03-results", monkeypatch)
    assert "tab-study-accuracy" in text and "tab-aim" in text and text.count("Not yet complete") == 8
    run(study, seeds=7)
    _, text = run_page("03-results", monkeypatch)
    assert "**Interim**: 4 of 8 seeds, with which no p-value gets below 0.125." in text
    run(study)
    _, text = run_page("03-results", monkeypatch)
    assert "tab-primary" in text and "Interim" not in text and text.count("Not yet complete") == 7
    assert tables.longer_lists("cifar-main", "transition", frame=pd.DataFrame([
        {"setup": setup, "variant": "transition", "target": 0.99, "difference": gap, "low": gap - 1, "high": gap + 1}
        for setup, gap in (("fifth", -3.0), ("all", 0.0))])) == (
        "Transition: against plain cross entropy the number of candidates for 99 % changes by \N{MINUS SIGN}3.0 "
        "[\N{MINUS SIGN}4.0, \N{MINUS SIGN}2.0] with fifth of it and by 0.0 [\N{MINUS SIGN}1.0, +1.0] with all of it.")


def test_what_goes_beyond_the_main_comparison_waits_for_its_own_runs(study, monkeypatch):
    other_grids(study)
    run(study)
    assert analysis.beyond_main("cifar-rivals") is None, "it waits for a preset"
    fifth = SETUP.replace("NAME", "fifth").replace("KEYS", SETUPS["fifth"])
    late = VARIANTS + variant("late", "late", loss="topk_grouped", k=5)
    study.grid("cifar-finetune", HEAD.replace("3, 4, 5, 6, 7", "3") + fifth + late)
    assert analysis.finished("cifar-finetune") and analysis.beyond_main("cifar-finetune") is None
    for cell in grids.load("cifar-finetune").cells:
        if cell.variant == "late":
            made = make_record(cell, ranks(cell.seed, *AHEAD["fifth"]), CLASSES)
            records.write(made, study.records / "cifar-finetune")
    assert list(analysis.beyond_main("cifar-finetune").variants) == ["ce", "transition", "late"]
    monkeypatch.setattr(presets, "document", lambda: {"transition": None, "entropy": None})
    _, text = run_page("03-results", monkeypatch)
    assert "tab-cifar-finetune" in text and text.count("Not yet complete") == 6


def searched_grids(study: Study, gain: float, seeds: int, idle: bool = False) -> None:
    """The main comparison, and it again at a searched rate, where cross entropy is better and the transition gains."""
    fifth, searched = (SETUP.replace("NAME", name).replace("KEYS", SETUPS["fifth"] + more)
                       for name, more in (("fifth", ""), ("searched", '\npreset = "ce"')))
    (study.grids / "presets.json").write_text('{"ce": {"keys": {"loss": "cross_entropy", "lr": 0.75}}}')
    at_rate = [variant(f"{name}-searched", name, preset="ce", **keys) for name, keys in {
        "ce": {}, "transition": {"loss": "topk_transition", "k": 5, "strength_schedule": "ramp"}}.items()]
    study.grid("cifar-entropy", HEAD + searched + VARIANTS)
    at_rate.append(variant("again-searched", "again", preset="ce", loss="topk_transition", k=5,
                           strength_schedule="fitted"))
    study.grid("cifar-rate", HEAD + fifth + VARIANTS + "".join(at_rate))
    study.grid("cifar-rivals", FEW + searched + VARIANTS + SMOOTHED + "".join(
        variant(name, name, loss="topk_grouped", k=k) for name, k in (("entropy", 4), ("grouped", 5))))
    study.grid("cifar-again", HEAD + searched + variant("ce", "cross entropy") + variant(
        "again", "again", loss="topk_transition", k=5, strength_schedule="fitted"))
    run(study)
    jitter = np.random.default_rng(1).normal(0, 0.001, 8)
    for cell in grids.load("cifar-entropy").cells:
        if cell.seed < seeds:
            own = cell.variant == "transition"
            top5 = 0.87 + (gain + jitter[cell.seed] if own else 0)
            made = make_record(cell, ranks(cell.seed, 0.62, top5, 0.94, 0.99, 25, 100), CLASSES)
            history = [{**row, "strength": 0.0 if idle else row["strength"]} for row in made.history]
            records.write(dataclasses.replace(made, history=history), study.records / "cifar-entropy")


@pytest.mark.parametrize(("gain", "seeds", "says"), [
    (0.01, 8, f"same rate: **a gain remains** {HOW}; 8 seeds)."),
    (0.01, 7, "**interim**: 4 of 8 seeds)."), (0.0, 8, "same rate: **no gain is shown**"),
    (-0.01, 8, "same rate: **a loss**"),
])
def test_whether_a_gain_survives_a_better_rate(study, gain, seeds, says):
    searched_grids(study, gain, seeds)
    text = tables.better_rate()
    assert says in text and ("interim" in text) is (seeds < 8)
    assert text.startswith("Trained with a peak learning rate of 0.75") and "(the recipe has 0.25)" in text
    assert "cross entropy gains +2.00 [+2.00, +2.00] points of top-5 and +2.00" in text
    assert "at that rate the transition gains +3.00 [+3.00, +3.00] of top-5." in text


def test_a_transition_that_is_chosen_again_is_read_by_the_same_rule(study):
    searched_grids(study, 0.01, 8)
    before = tables.better_rate()
    assert "chose at that rate" not in before
    run_again(study, 0.62, 0.86, seeds=4)
    added = tables.better_rate().removeprefix(before)
    assert " chose at that rate, from 50 % training accuracy on, it changes top-5 by \N{MINUS SIGN}1." in added
    assert added.endswith(f"**a loss** {HOW}; **interim**: 4 of 8 seeds).")


def memorise(monkeypatch, margin: float) -> None:
    """As if a setup memorised from this gap of accuracies on."""
    monkeypatch.setattr(comparisons.memorisation, "__defaults__", ("ce", margin))


def smooth(study: Study) -> None:
    """Records of label smoothing where it makes lists longer."""
    for grid in ("cifar-more", "cifar-main"):
        for cell in grids.load(grid).cells:
            if cell.setup == "fifth" and (k := {"ce": 25, "smoothed": 60}.get(cell.variant)):
                made = make_record(cell, ranks(cell.seed, 0.6, 0.85, 0.92, 0.998, k, 100), CLASSES)
                records.write(made, study.records / grid)


def no_map(monkeypatch) -> None:
    """As if no setting of the map had run."""
    columns = ["setup", "variant", "seeds", "top1"]
    monkeypatch.setattr(analysis, "transition_map", lambda: pd.DataFrame(columns=columns))


def run_again(study: Study, top1: float, top5: float, seeds: int = 8, idle: bool = False) -> None:
    """Records of the transition that was chosen again at the searched rate."""
    for cell in grids.load("cifar-again").cells:
        if cell.variant == "again" and cell.seed < seeds:
            made = make_record(cell, ranks(cell.seed, top1, top5, 0.94, 0.99, 25, 100), CLASSES)
            history = [{**row, "strength": 0.0 if idle else row["strength"]} for row in made.history]
            records.write(dataclasses.replace(made, history=history), study.records / "cifar-again")


def test_the_advice_is_what_the_intervals_carry(study, monkeypatch):
    assert tables.advice() == ""
    memorise(monkeypatch, -2.0)
    searched_grids(study, 0.0, 8)
    look, rate, transition = tables.advice().splitlines()
    assert look.startswith("1. **See whether") and "never started" not in look
    assert rate.startswith("2. **Where it memorises, search its learning rate first.")
    assert "0.75 in place of 0.25, changed top-5 by +2.00 [+2.00, +2.00] points" in rate and "(8 seeds)" in rate
    assert transition.startswith("3. **Leave the transition out at") and "chose at the recipe's rate" in transition
    memorise(monkeypatch, 2.0)
    assert len(tables.advice().splitlines()) == 1, "nothing memorises: no step for where it does"


def test_the_advice_names_where_the_transition_waits_in_vain(study, monkeypatch):
    searched_grids(study, 0.0, 8)
    stay_still(study, "resnet")
    no_map(monkeypatch)
    memorise(monkeypatch, 2.0)
    look, = tables.advice().splitlines()
    assert "in vain" not in look and "(resnet of it), the transition" in look and "stay with" not in look
    memorise(monkeypatch, -2.0)
    step = tables.advice().splitlines()[-1]
    assert step.startswith("4. **Watch the training accuracy") and "in vain with “resnet of it” (accuracy of " in step
    assert "It acts from " in step and "sure to gain" not in step
    run(study, {"all": CE["all"]}, setups=("all",))
    step = tables.advice().splitlines()[-1]
    assert step.endswith("top-5 by 0.00 [0.00, 0.00] points with “all of it” (strength 2.50 at the end; 8 seeds).")


@pytest.mark.parametrize(("at_recipe", "stays"), [(0.86, True), (0.84, False)])
def test_where_cross_entropy_does_not_memorise_the_rate_stays_if_the_search_kept_it(
        study, monkeypatch, at_recipe, stays):
    memorise(monkeypatch, 2.0)
    searched_grids(study, 0.0, 8)
    no_map(monkeypatch)
    stay_still(study, "all")
    for cell in grids.load("search-all").cells:
        top5 = at_recipe if cell.config.lr == 0.25 else 0.85
        records.write(make_record(cell, ranks(cell.seed, 0.6, top5, 0.92, 0.99, 25, 100), CLASSES),
                      study.records / "search-all")
    assert ("no higher one did better" in tables.advice().splitlines()[0]) is stays


@pytest.mark.parametrize(("top1", "top5", "seeds", "head"), [
    (0.62, 0.88, 8, "Try the transition"), (0.62, 0.873, 8, "Expect little of the transition"),
    (0.60, 0.88, 8, "The transition trades top-1 for top-5"), (0.62, 0.86, 8, "Leave the transition out"),
    (0.62, 0.88, 4, "Try the transition"),
])
def test_the_setting_that_was_chosen_at_the_rate_is_the_one_advised(study, monkeypatch, top1, top5, seeds, head):
    memorise(monkeypatch, -2.0)
    searched_grids(study, 0.0, 8)
    run_again(study, top1, top5, seeds)
    step = tables.advice().splitlines()[-1]
    assert step.startswith(f"3. **{head} at the searched rate.**") and "chose at the searched rate, from" in step
    assert ("**interim**: 4 of 8 seeds" in step) is (seeds == 4)


def test_the_advice_on_what_never_acted_on_scores_and_on_smoothing(study, monkeypatch):
    searched_grids(study, 0.0, 8, idle=True)
    run_again(study, 0.62, 0.87, idle=True)
    stay_still(study, "all")
    smooth(study)
    memorises = pd.DataFrame({"setup": ["fifth", "all"], "memorises": [True, False], "train_top1": [0.9, 0.7]})
    monkeypatch.setattr(analysis, "memorisation", lambda grid: memorises)
    settings = pd.DataFrame({"setup": "all", "variant": ["ce", "early", "late", "still", "open"], "seeds": 1,
                             "top1": [0.0, -0.03, -0.01, 0.0, np.nan]})
    monkeypatch.setattr(analysis, "transition_map", lambda: settings)
    look, rate, watch, smoothing = tables.advice().splitlines()
    assert "Where it did not (all of it), the transition" in look and "search" in rate
    assert "in vain with “all of it” (accuracy of the last epoch: 70.0 %)" in watch
    assert "raised the number of candidates for 99 % from" in smoothing and "(fifth of it; +" in smoothing
    adjusted = pd.DataFrame([{"variant": "ce", "method": "chosen", "k": 5, "mean": 0.01, "low": 0.005, "high": 0.015,
                              "target": 0.99, "difference": -3.0}])
    nothing = adjusted.assign(setup="all", mean=0.0, low=-0.001, high=0.001)
    monkeypatch.setattr(analysis, "posthoc_differences", lambda grid=None, **_: adjusted if grid else nothing)
    monkeypatch.setattr(analysis, "posthoc_scores", lambda grid: pd.DataFrame(
        {"variant": ["ce", "ce"], "method": ["bias", "matrix"], "chosen": [0.0, 1.0]}))
    monkeypatch.setattr(analysis, "posthoc_candidates", lambda grid, **_: adjusted.head(1))
    monkeypatch.setattr(analysis, "posthoc_part", analysis.finished)
    adjusted.loc[1] = {**adjusted.loc[0], "method": "bias", "mean": 0.002, "low": -0.001, "high": 0.005}
    scores = tables.advice().splitlines()[2]
    assert "Every run chose a matrix" in scores and "(a bias +0.20 [\N{MINUS SIGN}0.10, +0.50]" in scores
    assert "top-5 by +1.00 [+0.50, +1.50] points" in scores and "by \N{MINUS SIGN}3.0 [" in scores
    assert scores.endswith("at the recipe's rate it changed top-5 by 0.00 [\N{MINUS SIGN}0.10, +0.10] with all of it.")
    assert "did start cost 1.0 to 3.0 points of top-1 on validation images (one seed" in tables.advice()
    settings.loc[2, "top1"] = 0.01
    assert "did start" not in tables.advice()
    adjusted["low"] = -0.005
    assert len(tables.advice().splitlines()) == 4


@pytest.mark.parametrize(("entropy", "grouped", "head", "nearly"), [
    ((0.60, 0.90), (0.60, 0.85), "For top-5, entropy did better than the transition", ""),
    ((0.60, 0.90), (0.60, 0.91), "For top-5, entropy and grouped did better than the transition", ""),
    ((0.62, 0.881), (0.64, 0.85), "No other loss is shown to do better than the transition",
     "Ahead without that certainty: entropy by +0."),
])
def test_the_advice_on_other_losses_says_what_they_cost(study, monkeypatch, entropy, grouped, head, nearly):
    memorise(monkeypatch, -2.0)
    searched_grids(study, 0.01, 8)
    before = tables.advice().splitlines()
    reached = {"entropy": (*entropy, 25), "grouped": (*grouped, 25), "smoothed": (0.62, 0.87, 60)}
    for cell in grids.load("cifar-rivals").cells:
        if cell.variant in reached:
            top1, top5, k = reached[cell.variant]
            made = make_record(cell, ranks(cell.seed, top1, top5, 0.94, 0.99, k, 100), CLASSES)
            records.write(made, study.records / "cifar-rivals")
    *steps, step = tables.advice().splitlines()
    assert steps == before and step.startswith(f"4. **{head}.**") and "jointly for all" in step
    gain = f"{100 * (grouped[1] - 0.87):+.2f}".replace("-", "\N{MINUS SIGN}")
    assert f"grouped changed top-5 by {gain} [" in step
    assert step.count("(3 seeds)") == 2 + bool(nearly) and "smoothed" not in step
    assert nearly in step and bool(nearly) is ("without that certainty" in step)
    smooth(study)
    added = tables.advice().splitlines()[-1].split("At the searched rate")[1]
    assert added.startswith(" it changed that number by +35.0 [") and added.endswith("(3 seeds).")


@pytest.mark.parametrize(("k", "says"), [
    (25, "in 0.50 of the time (2 seeds; {doc}`04-candidates`). Where it memorises, no smaller budget is shown to "),
    (60, "5 epochs changed it by +35.0 [+35.0, +35.0] in 0.50 of the time (2 seeds; {doc}`04-candidates`)."),
])
def test_the_advice_on_budgets(study, monkeypatch, k, says):
    memorise(monkeypatch, -2.0)
    searched_grids(study, 0.0, 8)
    smooth(study)
    before = tables.advice()
    cells = [cell for cell in grids.load("cifar-budget").cells if cell.setup == "short"]
    for number, cell in enumerate(cells[:2], 1):
        made = make_record(cell, ranks(cell.seed, 0.60, 0.85, 0.92, 0.998, k, 100), CLASSES)
        records.write(made, study.records / "cifar-budget")
        assert (number < 2) is (tables.advice() == before), "one seed gives no advice"
    *steps, step = tables.advice().splitlines()
    assert steps == before.splitlines() and f"{len(steps) + 1}. **Find out what more" in step and says in step
    assert step.endswith("`).") is (k == 60)
    memorise(monkeypatch, 2.0)
    assert "Where it memorises, no" not in tables.advice()


def test_steps_that_overlap_or_do_not_carry_over_say_so(study, monkeypatch):
    memorise(monkeypatch, -2.0)
    searched_grids(study, 0.0, 8)
    run_again(study, 0.62, 0.88)
    assert "on top of changed scores" not in tables.advice() and "ResNet-18" not in tables.advice()
    both = pd.DataFrame([{"variant": "transition", "method": "chosen", "k": 5, "mean": 0.002, "low": -0.001,
                          "high": 0.005}])
    monkeypatch.setattr(analysis, "posthoc_differences", lambda grid=None, **_: both)
    monkeypatch.setattr(analysis, "posthoc_part", analysis.finished)
    assert tables.advice().endswith(
        "changed top-5 by +0.20 [\N{MINUS SIGN}0.10, +0.50] points, and this setting was not tried with them.")
    for cell in grids.load("cifar-resnet").cells:
        made = make_record(cell, ranks(cell.seed, 0.60, 0.85, 0.91, 0.99, 25, 26), CLASSES)
        records.write(made, study.records / "cifar-resnet")
    assert grids.load("cifar-resnet").cells[0].config.lr == 0.25
    assert tables.advice().splitlines()[1].endswith("(no lower one was tried): search, do not copy the number.")


def test_a_better_rate_at_which_the_transition_never_starts(study):
    searched_grids(study, 0.0, 8, idle=True)
    assert tables.better_rate().endswith("At the searched rate the transition never started.")
    run_again(study, 0.62, 0.88)
    assert tables.better_rate().endswith(f"**a gain remains** {HOW}; 8 seeds).")
    assert set(analysis.rate_part().variants) == {"ce", "transition", "ce-searched", "again-searched"}
    run_again(study, 0.62, 0.88, idle=True)
    assert set(analysis.rate_part().variants) == {"ce", "transition", "ce-searched"}


def test_a_grid_shows_no_setup_of_which_all_is_borrowed(study):
    searched_grids(study, 0.01, 8)
    main, searched = ((study.grids / f"{name}.toml").read_text() for name in ("cifar-main", "cifar-entropy"))
    fifth, late = main[main.index("[[setup]]"):main.index("[[setup]]", main.index("[[setup]]") + 1)], (
        variant("late", "late", loss="topk_grouped", k=5))
    study.grid("cifar-finetune", searched.replace("[[variant]]", fifth + "[[variant]]", 1) + late)
    assert len(analysis.finished("cifar-finetune").setups) == 2 and analysis.beyond_main("cifar-finetune") is None
    for cell in grids.load("cifar-finetune").cells:
        if cell.variant == "late" and cell.setup == "searched":
            made = make_record(cell, ranks(cell.seed, 0.62, 0.87, 0.94, 0.99, 25, 100), CLASSES)
            records.write(made, study.records / "cifar-finetune")
    part = analysis.beyond_main("cifar-finetune")
    assert (list(part.setups), list(part.variants)) == (["searched"], ["ce", "transition", "late"])
    assert list(analysis.beyond_main("cifar-entropy").setups) == ["searched"]


def test_nothing_is_said_of_a_better_rate_before_it_has_run(study):
    searched_grids(study, 0.01, 3)
    assert tables.better_rate() == ""


def test_tables_of_the_study(study):
    run(study)
    primary = tables.primary("cifar-main")
    assert primary["k"].tolist() == ["1", "5", "10", "25"] * 2 and primary["n"].tolist() == [8] * 8
    assert primary["setup"].tolist() == ["all of it"] * 4 + ["fifth of it"] * 4
    assert all(float(p) >= 0.0078 for p in primary["p"]) and "+3.00 [" in primary["difference"][1]
    costs = tables.equivalences("cifar-main")
    assert costs["no loss?"].tolist() == ["a loss"] * 4 and costs["loss"].tolist() == ["transition", "smoothed"] * 2
    crossing = tables.crossings("cifar-main")
    assert crossing[crossing["loss"] == "transition"]["ahead from k ="].tolist() == ["5 [5, 5]"] * 2
    found = tables.memorisation("cifar-main")
    assert found["memorises"].isin(["yes", "no"]).all() and found["setup"].tolist() == ["fifth of it", "all of it"]


@pytest.mark.parametrize(("reached", "memorises", "aim"), [
    ((0.60, 0.88), True, "met"), ((0.60, 0.852), True, "missed"), ((0.60, 0.852), False, "met"),
    ((0.55, 0.88), False, "missed"), ((0.55, 0.88), True, "missed"),
])
def test_the_aim_for_practice(study, monkeypatch, reached, memorises, aim):
    monkeypatch.setattr(comparisons, "MEMORISES", -2.0 if memorises else 2.0)
    monkeypatch.setattr(comparisons.memorisation, "__defaults__", ("ce", comparisons.MEMORISES))
    run(study, {"fifth": (*reached, 0.94, 0.998, 25, 100)}, setups=("fifth",))
    table = analysis.aim(analysis.finished("cifar-more"))
    assert table["aim"].tolist() == [aim] and table["memorises"].tolist() == [memorises] and table["n"].tolist() == [8]
    assert table["top5"].item() == pytest.approx(reached[1] - 0.85, abs=1e-3)
    assert table["started"].tolist() == [True] and table["strength"].tolist() == [2.5]


def test_what_became_of_the_hypothesis_is_counted():
    columns = ["memorises", "top5_low", "started", "aim"]
    rows = [(True, 0.01, True, "met"), (True, -0.01, True, "missed"), (True, 0.0, False, "missed"),
            (False, 0.0, False, "met")]
    text = tables.hypothesis(pd.DataFrame(rows, columns=columns))
    assert "memorises in 3 setups here; of these the transition gained top-5 in 1, never started in 1 and sta" in text
    assert "Memorising alone does not decide" in text and "met in 2 of 4 setups: this is no setting" in text
    text = tables.hypothesis(pd.DataFrame(rows[:1], columns=columns))
    assert "gained top-5 in 1. The aim is met in all 1" in text
    assert tables.hypothesis(pd.DataFrame(rows[3:], columns=columns)) == ""


def test_seeds_that_chose_a_setting_can_be_left_out(study):
    run(study)
    study.grid("search", HEAD.replace("[0, 1, 2, 3, 4, 5, 6, 7]", "[0, 1]") + SETUP.replace("KEYS", "") + VARIANTS)
    part = analysis.finished("cifar-main", ["transition"])
    assert analysis.unseen(part, ["search"]).seeds == (2, 3, 4, 5, 6, 7)
    text = tables.unseen(part, ["search"])
    assert text.startswith("changes top-5 by +3.00 [+3.00, +3.00] and top-1 by ") and text.endswith("(6 seeds)")
    assert "with fifth of it; top-5 by" in text
    stay_still(study, "all")
    assert "with all of it" not in tables.unseen(part, ["search"])


@pytest.mark.parametrize(("strengths", "says"), [
    ([0.2, 0.9, 0.1, 0.8], "When images grow from 24 pixels, at 50 % of training, training images are harder for a "
     "while: the strength of the transition falls from 0.90 to 0.10 with fifth of it, and ends at 0.80."),
    ([0.2, 0.3, 0.3, 0.8], ""), ([0.2, 0.3, 0.4, 0.8], ""),
])
def test_what_becomes_of_the_transition_when_images_grow(study, strengths, says):
    small, whole = (HEAD + SETUP.replace("NAME", "fifth").replace("KEYS", f"{SETUPS['fifth']}\n{keys}") + VARIANTS
                    for keys in ("low_resolution_until = 0.5", 'low_resolution = "none"'))
    for name, grid, text in (("cifar-small", small, says), ("cifar-whole", whole, "")):
        study.grid(name, grid)
        for cell in grids.load(name).cells:
            made = make_record(cell, ranks(cell.seed, *CE["fifth"]), CLASSES)
            sizes = [24, 24, None, None] if name == "cifar-small" else 4 * [None]
            history = [{**made.history[0], "epoch": epoch, "strength": strength, "resolution": size}
                       for epoch, (strength, size) in enumerate(zip(strengths, sizes, strict=True), 1)]
            records.write(dataclasses.replace(made, history=history), study.records / name)
        assert tables.growth(name) == text


def test_strengths_are_means_over_seeds(study):
    run(study)
    table = analysis.strengths("cifar-main").query("setup == 'fifth'")
    assert set(table["variant"]) == {"transition"} and table["progress"].iloc[-1] == 1
    assert table["strength"].tolist() == [epoch / 4 for epoch in table["epoch"]]


def test_an_aim_that_few_seeds_do_not_settle_is_open(study):
    rng = np.random.default_rng(1)
    for cell in grids.load("cifar-more").cells:
        if cell.setup == "fifth" and cell.seed < 4:
            top1 = 0.6 + (0.01 * rng.normal() if cell.variant != "ce" else 0)
            reached = (top1, 0.88 if cell.variant != "ce" else 0.85, *CE["fifth"][2:])
            records.write(make_record(cell, ranks(cell.seed, *reached), CLASSES), study.records / "cifar-more")
    table = analysis.aim(analysis.finished("cifar-more"))
    assert table["aim"].tolist() == ["open"] and table["top1_low"].item() < -0.005
    assert tables.aim(analysis.finished("cifar-more"))["aim"].tolist() == ["open"]


@pytest.mark.parametrize(("gains", "says", "end"), [
    ({"fifth": 0.03, "all": -0.03}, ["ahead at k = 5", "behind at k = 5"], "gain with fifth of it, "),
    ({"fifth": 0.03, "all": None}, ["ahead at k = 5", "never started"], "gain with fifth of it, "),
    ({"fifth": -0.03, "all": 0.03}, ["behind at k = 5", "ahead at k = 5"], "gain with all of it, "),
    ({"fifth": 0.03, "all": 0.03}, ["ahead at k = 5", "ahead at k = 5"], "gain with fifth of it; all of it, "),
    ({"fifth": 0.0, "all": 0.0}, ["ahead at no length", "ahead at no length"], "gain in no setup."),
])
def test_the_first_answer_in_words(study, monkeypatch, gains, says, end):
    study.grid("first-study", (study.grids / "cifar-main.toml").read_text())
    assert analysis.answer_grid()[1] == "ramp"
    run(study)
    grid, ours = analysis.answer_grid()
    assert (grid.name, ours) == ("cifar-main", "transition")
    monkeypatch.setattr(analysis, "memorisation", lambda name: pd.DataFrame(
        {"setup": ["fifth", "all"], "memorises": [True, False]}))
    rows = pd.DataFrame([{"setup": setup, "variant": ours, "k": k, "mean": gain, "low": gain - width,
                          "high": gain + width}
                         for setup, top5 in gains.items() for width in [0.01 if top5 is not None else 0.0]
                         for k, gain in ((1, 0.0), (5, top5 or 0.0))])
    stay_still(study, *(setup for setup, top5 in gains.items() if top5 is None))
    first, second, _, last = tables.answer(grid, rows).split("\n")
    assert first.startswith("- **fifth of it**: cross entropy memorises") and says[0] in first and says[1] in second
    assert "does not memorise" in second and end in last
    for place, side in ((-0.02, "at a price in top-1: if the first"), (0.02, "no trade-off is seen.")):
        moved = rows.assign(**{key: rows[key] + place * (rows["k"] == 1) for key in ("mean", "low", "high")})
        assert (side in tables.answer(grid, moved)) == (" gain in no setup" not in last)


def test_a_transition_that_never_left_cross_entropy_tests_nothing(study):
    run(study)
    assert analysis.idle("cifar-more") == [] and tables.idle("cifar-more") == ""
    stay_still(study, "resnet", "all")
    assert analysis.idle("cifar-more") == ["all", "resnet"]
    assert tables.idle("cifar-more").startswith("**all of it**; **resnet of it**: the transition never started, ")
    assert analysis.idle("cifar-main", "smoothed") == []
    moved = next(cell for cell in grids.load("cifar-more").cells
                 if (cell.setup, cell.variant) == ("all", "transition"))
    for grid in ("cifar-more", "cifar-main"):
        records.write(make_record(moved, ranks(moved.seed, *CE["all"]), CLASSES), study.records / grid)
    assert analysis.idle("cifar-more") == ["resnet"] and analysis.idle_seeds("cifar-more")["all"] == (7, 8)
    assert tables.idle("cifar-more").endswith(
        "**all of it**: the transition never started in 7 of 8 runs, which are cross entropy's.")
    stay_still(study, "all")
    acting = analysis.acting("cifar-main")
    assert {(cell.setup, cell.variant) for cell in acting.cells} == {
        ("fifth", "ce"), ("fifth", "transition"), ("fifth", "smoothed"), ("all", "ce"), ("all", "smoothed")}
    found = analysis.study_verdicts(draws=60).set_index("id")
    assert found["verdict"].to_dict() == {"C2": "reproduced", "C3": "partly", "C4": "partly", "C5": "not yet tested"}
    assert found.loc["C3", "change"] == (
        "more than partly needs a transition that starts in more setups: in 2 it never did")
    assert found["evidence"].tolist() == ["the study"] * 3 + ["the study so far"]
    assert "all of it: the transition never started, lead +" in found.loc["C2", "ours"]
    assert all(f"{setup} of it: the transition never started" in found.loc[key, "ours"]
               for key in ("C3", "C4") for setup in ("all", "resnet"))
    assert "memorises" in found.loc["C5", "change"]
    study.grid("first-study", (study.grids / "cifar-main.toml").read_text())
    today = analysis.verdicts_today(draws=60).set_index("id")
    assert today.loc["C5", "ours"] == "all images: the transition never started"


@pytest.mark.parametrize(("k", "seeds", "still", "verdict", "ours"), [
    (25, 8, False, "reproduced", "a fifth of them: \N{MINUS SIGN}8.0 ["),
    (33, 8, False, "not reproduced", "a fifth of them: "), (25, 4, False, "reproduced", "4 seeds"),
    (25, 3, False, "not yet tested", "all images: the transition never started"),
    (33, 8, True, "not yet tested", "nor with a fifth of them"),
])
def test_c5_is_decided_with_few_images_where_all_of_them_decide_nothing(study, k, seeds, still, verdict, ours):
    run(study)
    for cell in grids.load("cifar-resnet").cells:
        if cell.seed < seeds:
            last = 33 if cell.variant == "ce" else k
            made = make_record(cell, ranks(cell.seed, 0.60, 0.85, 0.91, 0.99, last, last + 1), CLASSES)
            history = [{**row, "strength": 0.0 if still else row["strength"]} for row in made.history]
            records.write(dataclasses.replace(made, history=history), study.records / "cifar-resnet")
    planned = [study.records / "cifar-more" / f"{cell.config.run_id}.json" for cell in grids.load("cifar-more").cells
               if cell.setup == "resnet"]
    kept = {path: path.read_text() for path in planned if path.exists()}
    for path in kept:
        path.unlink()
    without = analysis.study_verdicts(draws=60).set_index("id").loc["C5"]
    assert (without["verdict"], without["evidence"]) == ("not yet tested", "the study so far"), "all images come first"
    for path, text in kept.items():
        path.write_text(text)
    before = analysis.study_verdicts(draws=60).set_index("id").loc["C5"]
    assert (before["verdict"], before["evidence"]) == ("reproduced", "the study") and "fifth" not in before["ours"]
    stay_still(study, "resnet")
    found = analysis.study_verdicts(draws=60).set_index("id").loc["C5"]
    assert found["verdict"] == verdict and ours in found["ours"]
    assert found["evidence"] == ("the study" if seeds == 8 else "the study so far")


def test_the_chapter_on_candidates_shows_setups_without_a_loss_to_compare(study, monkeypatch):
    for name in ("cifar-budget", "cifar-setups"):
        study.grid(name, (study.grids / "cifar-more.toml").read_text())
    for name in ("cifar-rate", "cifar-again", "cifar-entropy", "cifar-rivals", "first-study"):
        study.grid(name, (study.grids / "cifar-main.toml").read_text())
    run(study)
    stay_still(study, "resnet", "all")
    _, text = run_page("04-candidates", monkeypatch)
    assert "**resnet of it**: the transition never started" in text and "tab-certified-setups" in text
    assert "tab-saved-setups" not in text and "finished; `python" not in text


def test_the_chapter_shows_a_transition_that_never_left_cross_entropy(study, monkeypatch):
    other_grids(study)
    monkeypatch.setattr(presets, "document", lambda: {"transition": None, "entropy": None})
    run(study)
    for grid in ("cifar-more", "cifar-main"):
        for cell in grids.load(grid).cells:
            if cell.variant == "transition" and cell.setup == "all":
                records.write(make_record(cell, ranks(cell.seed, *CE["all"]), CLASSES), study.records / grid)
    _, text = run_page("03-results", monkeypatch)
    assert "0.00 [0.00, 0.00]" in text and "never" in text and "nan" not in text.lower()


def test_reproduced_takes_the_setups_of_the_plan(study):
    run(study, setups=("fifth",))
    found = analysis.study_verdicts(draws=60).set_index("id")
    assert found.loc["C2", ["verdict", "change"]].tolist() == ["partly", "1 setup of the plan still to come"]


CAPPED = "more than partly needs a transition that starts in more setups: in 2 it never did"
ENOUGH = "an interval that reaches 0 in 1 setup where it lies above now"


@pytest.mark.parametrize(("statuses", "still", "planned", "verdict", "change"), [
    ({"a": "holds", "c": "holds"}, "b", 3, "reproduced", ENOUGH),
    ({"a": "holds", "c": "holds"}, "b", 4, "reproduced", f"{ENOUGH}; 1 setup of the plan still to come"),
    ({"a": "holds", "c": "holds"}, "bd", 3, "reproduced", ENOUGH),  # d is no setup of the claim
    ({"a": "holds"}, "bc", 3, "partly", CAPPED),
    ({"a": "leans"}, "bc", 3, "partly", f"{CAPPED}. More seeds may settle: a"),
    ({"a": "fails"}, "bc", 3, "not reproduced", f"{CAPPED}. The sign is wrong, or an interval below 0: a"),
    ({}, "abc", 3, "not yet tested", "a setup in which it starts"),
])
def test_a_claim_about_all_setups_needs_the_loss_to_act_in_all_but_one(monkeypatch, statuses, still, planned, verdict,
                                                                       change):
    pairs = dict.fromkeys("abc", (np.ones((4, 9)), np.ones((4, 9))))
    monkeypatch.setattr(study_module, "_planned", lambda name: planned)
    found = study_module._all_but_one(list("abc"), statuses, set(still), pairs)
    assert (found.verdict, found.change) == (verdict, change)
