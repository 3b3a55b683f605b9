"""What changes of training save and cost, on records made up with known ranks and times; and how promises hold."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from grids_for_tests import Study, make_record, variant
from scipy import stats as distributions

from paperlib import analysis, figures, grids, presets, records, stats, tables
from paperlib.analysis import budget

HEAD = """
title = "Budgets"
seeds = [0, 1, 2]
[base]
dataset = "cifar100"
evaluate_test = true
"""
STANDARD = """
[[setup]]
name = "all"
label = "all images, 10 epochs"
epochs = 10
[[setup]]
name = "fifth"
label = "a fifth, 50 epochs"
train_fraction = 0.2
epochs = 50
"""
OTHERS = """
[[setup]]
name = "all-twice"
label = "all images, 20 epochs"
epochs = 20
[[setup]]
name = "all-narrow"
label = "all images, 32 channels"
epochs = 10
width = 32
[[setup]]
name = "all-wide"
label = "all images, 96 channels"
epochs = 10
width = 96
"""
CE = """
[[variant]]
name = "ce"
label = "cross entropy"
"""
LOSSES = """
[[variant]]
name = "grouped"
label = "grouped from the start"
loss = "topk_grouped"
k = 5
[[variant]]
name = "smoothed"
label = "label smoothing"
loss_options = { label_smoothing = 0.1 }
"""
#: Smallest k for 99 %, and core-minutes, of each way of training; a seed adds to both.
WAYS = {("all", "ce"): (30, 10.0), ("all-twice", "ce"): (25, 20.0), ("all-narrow", "ce"): (36, 4.0),
        ("all-wide", "ce"): (30, 25.0), ("all", "grouped"): (22, 9.9), ("all", "smoothed"): (50, 10.1),
        ("fifth", "ce"): (50, 10.0), ("fifth", "grouped"): (51, 8.0), ("fifth", "smoothed"): (50, 10.0)}


def ranks(k: int, n: int = 1000, lost: int = 2) -> np.ndarray:
    """Half of the images right at once, the others at k, but for some that are lost: far fewer than 99 % allow."""
    return np.repeat([1, k, 60], [n // 2, n - n // 2 - lost, lost])


def write(study: Study, grid: str, seeds: tuple[int, ...] = (0, 1, 2), validation: int | None = None,
          **changes: tuple[int, float]) -> None:
    """Records of a grid, timed as stated: each seed's machine is slower than the one before, for every run alike."""
    for cell in grids.load(grid).cells:
        if cell.seed in seeds:
            k, minutes = changes.get(f"{cell.setup}_{cell.variant}", WAYS[cell.setup, cell.variant])
            record = make_record(cell, ranks(k + cell.seed), num_classes=60)
            # 100 images in batches of 100, but for a fifth of the steps, which nobody timed.
            timing = record.timing | {"timed_images": 80 * cell.config.epochs,
                                      "train_cpu_seconds": 60 * 0.8 * minutes * (1 + 0.5 * cell.seed)}
            checked = record.validation if validation is None else record.validation | {
                "n": 100, "ranks": records.encode_ranks(ranks(validation, 100, 1))}
            records.write(dataclasses.replace(record, timing=timing, validation=checked), study.records / grid)


@pytest.fixture
def study(tmp_path, monkeypatch):
    study = Study(tmp_path, monkeypatch)
    study.grid("cifar-budget", HEAD + STANDARD + OTHERS + CE)
    study.grid("cifar-main", HEAD + STANDARD + CE + LOSSES)
    return study


def trade(target: float = 0.99, **options) -> pd.DataFrame:
    found = analysis.budget_trades(draws=50, **options)
    return found[found["target"] == target].set_index(["setup", "change"])


# The ratio


def test_a_ratio_holds_what_the_t_test_does_not_reject():
    a, b = np.array([3.0, 5.0, 4.5]), np.array([9.0, 10.5, 10.2])
    found = stats.ratio_interval(a, b, 0.9)
    assert found.estimate == pytest.approx(a.mean() / b.mean())
    assert found.low < found.estimate < found.high
    for end in found[1:]:
        assert distributions.ttest_1samp(a - end * b, 0).pvalue == pytest.approx(0.1)
    scaled = stats.ratio_interval(1e6 * a, 1e-6 * b, 0.9)
    np.testing.assert_allclose(scaled, 1e12 * np.array(found))
    np.testing.assert_allclose(stats.ratio_interval(-a, b, 0.9), [-found.estimate, -found.high, -found.low])


def test_a_ratio_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2000, 2, 4))
    inside = sum(low <= 0.5 <= high for _, low, high in (
        stats.ratio_interval(2 + x, 4 + 0.8 * x + 0.6 * y, 0.8) for x, y in noise))
    assert inside / 2000 == pytest.approx(0.8, abs=0.03)


def test_a_ratio_by_what_may_be_zero_is_unbounded():
    assert stats.ratio_interval([1.0, 2.0], [-1.0, 1.5])[1:] == (-math.inf, math.inf)
    one = stats.ratio_interval([6.0], [3.0])
    assert one == (2.0, -math.inf, math.inf)
    assert math.isnan(stats.ratio_interval([1.0, 2.0], [-1.0, 1.0]).estimate)
    assert stats.ratio_interval([0, 0, 0], [2, 3, 4]) == (0, 0, 0)
    assert stats.ratio_interval([4, 4], [2, 2]) == (2, 2, 2)
    with pytest.raises(ValueError, match=r"numerators \(2,\) and denominators \(3,\): expected a pair"):
        stats.ratio_interval([1, 2], [1, 2, 3])


# Trades


def test_without_records_there_is_nothing(study):
    assert analysis.budget_points().empty and analysis.budget_trades().empty
    assert analysis.budget_order(analysis.budget_trades()).empty
    write(study, "cifar-main")
    assert set(analysis.budget_trades(draws=20)["kind"]) == {"loss"}


def test_savings_and_times_are_paired_by_seed(study):
    write(study, "cifar-budget", fifth_ce=(50, 10.0))
    write(study, "cifar-main")
    table = trade()
    assert list(table.index) == [("all", "epochs20"), ("all", "width32"), ("all", "width96"), ("all", "grouped"),
                                 ("all", "smoothed"), ("fifth", "grouped"), ("fifth", "smoothed")]
    twice = table.loc["all", "epochs20"]
    assert (twice.kind, twice.label, twice.n, twice.timed) == ("epochs", "20 epochs", 3, 3)
    assert (twice.saved, twice.low, twice.high) == (5, 5, 5), "each seed saves five"
    # The seeds' machines differ by half; the ratio does not, and the standard runs take 10, 15 and 20 core-minutes.
    assert (twice.time, twice.extra, twice.extra_low) == pytest.approx((2, 15, 15))
    assert (twice.rate, twice.rate_low, twice.rate_high) == pytest.approx((1 / 3,) * 3)
    assert twice.price == "dearer" and tables.price(twice) == "+0.33 [+0.33, +0.33]"
    assert trade(0.9).loc["all", "epochs20"].saved == 5


def test_a_cheaper_network_and_a_saving_of_nothing(study):
    write(study, "cifar-budget")
    table = trade()
    narrow, wide = table.loc["all", "width32"], table.loc["all", "width96"]
    assert (narrow.saved, narrow.price) == (-6, "cheaper") and narrow.extra == pytest.approx(-9)
    assert narrow.rate == pytest.approx(6 / 9)
    assert tables.price(narrow) == "+0.67 [+0.67, +0.67] lost"
    write(study, "cifar-budget", **{"all-narrow_ce": (28, 4.0)})
    assert tables.price(trade().loc["all", "width32"]) == "saves both"
    assert (wide.saved, wide.price, wide.rate, wide.rate_high) == (0, "dearer", 0, 0)


def test_a_loss_that_costs_about_as_much_is_free_and_one_far_below_is_cheaper(study):
    write(study, "cifar-main")
    table = trade()
    free = table.loc["all", "grouped"]
    assert (free.saved, free.price) == (8, "free") and free.extra == pytest.approx(-0.15) and math.isnan(free.rate)
    saving = table.loc["fifth", "grouped"]
    assert (saving.saved, saving.price) == (-1, "cheaper") and saving.extra == pytest.approx(-3)
    assert table.loc["fifth", "smoothed"].saved == 0 and table.loc["fifth", "smoothed"].price == "free"


def test_one_seed_has_no_price_and_noise_is_not_divided_by(study):
    write(study, "cifar-budget", seeds=(1,))
    one = trade().loc["all", "epochs20"]
    assert (one.n, one.saved, one.price, one.low > 0) == (1, 5, "dearer", True) and one.time == pytest.approx(2)
    assert one.extra_low == one.extra == one.extra_high, "epochs are counted, not timed"
    assert (one.rate_low, one.rate_high) == (-math.inf, math.inf)
    wide = trade().loc["all", "width96"]
    assert (wide.n, wide.price) == (1, "open") and tables.price(wide) == "not known yet"
    alone = analysis.budget_trades(draws=20)
    assert analysis.budget_order(alone).empty
    assert tables.budget_order(alone, {"all": "all of it"}) == (
        "- all of it: one seed so far, which orders nothing: 20 epochs.")
    write(study, "cifar-main")
    cell = study.cell("cifar-main", "all", "grouped", 2)
    timing = records.read(study.records / "cifar-main" / f"{cell.config.run_id}.json").timing
    study.change("cifar-main", cell, timing=timing | {"train_cpu_seconds": 2 * timing["train_cpu_seconds"]})
    noisy = trade().loc["all", "grouped"]
    assert noisy.price == "open" and math.isnan(noisy.rate) and noisy.extra_low < 0 < noisy.extra_high
    assert noisy.time == pytest.approx(0.99), "one slow run does not move the median"


LATER = "2026-01-04T03:04:05+00:00"  #: two days after the other records


def move(study: Study, setup: str, seeds: tuple[int, ...], slower: float = 1, finished: str | None = None,
         **to: str) -> None:
    """As if runs of cross entropy had been on another machine, or on another day."""
    for seed in seeds:
        cell = study.cell("cifar-budget", setup, "ce", seed)
        record = records.read(study.records / "cifar-budget" / f"{cell.config.run_id}.json")
        seconds = record.timing["train_cpu_seconds"] * slower
        study.change("cifar-budget", cell, environment=record.environment | to,
                     timing=record.timing | {"train_cpu_seconds": seconds,
                                             "finished": finished or record.timing["finished"]})


def test_runs_of_one_kind_of_machine_say_how_long_a_minute_is(study):
    """The other kind is paired with itself, and its absolute times are left out."""
    write(study, "cifar-budget")
    for setup in ("all", "all-twice"):
        move(study, setup, (2,), slower=4, cpu_capability="SSE")
    points = analysis.budget_points(draws=20)
    own = points[points["target"] == 0.99].set_index(["setup", "change"])["minutes"]
    assert own["all", "ce"] == pytest.approx(12.5) and own["all", "epochs20"] == pytest.approx(25)
    assert trade().loc["all", "epochs20"].timed == 3


@pytest.mark.parametrize("to", [{"device": "another"}, {"cpu_capability": "SSE"}])
def test_times_of_two_machines_are_not_compared(study, to):
    write(study, "cifar-budget")
    move(study, "all-wide", (0, 1, 2), **to)
    other = trade().loc["all", "width96"]
    assert (other.n, other.saved, other.timed, other.price) == (3, 0, 0, "open") and math.isnan(other.time)
    points = analysis.budget_points(draws=20)
    assert points[points["change"] == "width96"]["minutes"].isna().all()
    assert "96 channels" not in set(figures.budget_curves(points)[1]["label"])
    shown = tables.budget_trades(analysis.budget_trades(draws=20), {})
    assert "–" in shown[shown["change"] == "96 channels"].iloc[0].tolist()


def test_the_number_of_epochs_is_counted_and_not_timed(study):
    """Twice the epochs take twice as long, whatever the day was like on which they ran."""
    write(study, "cifar-budget")
    move(study, "all-twice", (0, 1, 2), slower=3, device="another", finished=LATER)
    twice = trade().loc["all", "epochs20"]
    assert trade().loc["all", "counted"].to_dict() == {"epochs20": True, "width32": False, "width96": False}
    assert (twice.timed, twice.price) == (3, "dearer") and twice.extra_low == pytest.approx(twice.extra_high)
    assert twice.time == pytest.approx(2)


def test_a_longer_run_of_its_day_says_what_an_image_costs(study):
    """The standard runs are days older: the wide network is timed by the one of twice the epochs, made beside it."""
    write(study, "cifar-budget")
    move(study, "all-wide", (0, 1, 2), slower=0.5, finished=LATER)
    move(study, "all-twice", (0, 1, 2), slower=0.25, finished=LATER)
    wide = trade().loc["all", "width96"]
    assert wide.timed == 3 and wide.time == pytest.approx(25 * 0.5 / (20 * 0.25) * 2)


def test_times_of_two_days_are_not_compared_unless_a_run_of_the_same_work_was_made_on_both(study):
    write(study, "cifar-budget")
    move(study, "all-wide", (0, 1, 2), slower=0.5, finished=LATER)
    assert trade().loc["all", "width96"].timed == 0
    # Another learning rate costs what the standard run costs: it is free, and on its day it times what else was made.
    study.grid("rate", HEAD + STANDARD + CE + variant("fast", "searched rate", lr=2.25))
    for cell in grids.load("rate").cells:
        if cell.variant == "fast":
            made = make_record(cell, ranks(20), num_classes=60)
            timing = made.timing | {"timed_images": 80 * cell.config.epochs, "finished": LATER,
                                    "train_cpu_seconds": 60 * 0.8 * 5.0 * (1 + 0.5 * cell.seed)}
            records.write(dataclasses.replace(made, timing=timing), study.records / "rate")
    found = trade(grid_names=("cifar-budget", "rate"))
    assert found.loc["all", "fast"].time == pytest.approx(1) and found.loc["all", "fast"].price == "free"
    assert found.loc["all", "width96"].timed == 3 and found.loc["all", "width96"].time == pytest.approx(2.5)


def test_other_data_and_other_protocols_are_not_compared(study):
    write(study, "cifar-budget")
    cell = study.cell("cifar-budget", "all-twice", "ce")
    study.change("cifar-budget", cell, data={"checksum": "other", "num_classes": 60, "train": 100})
    with pytest.raises(ValueError, match="data checksum is"):
        analysis.budget_trades()


def test_points_stand_at_their_time_beside_the_median_standard_run(study):
    write(study, "cifar-budget")
    write(study, "cifar-main")
    points = analysis.budget_points(draws=50)
    own = points[points["target"] == 0.99].set_index(["setup", "change"])
    assert own.loc["all", "minutes"].to_dict() == pytest.approx(
        {"ce": 15, "epochs20": 30, "width32": 6, "width96": 37.5, "grouped": 14.85, "smoothed": 15.15})
    assert own.loc[("all", "ce"), ["k", "n", "kind", "label"]].tolist() == [31, 3, "standard", "cross entropy"]
    low, high = own.loc[("all", "ce"), ["low", "high"]]
    assert low < 31 < high


def test_core_minutes_are_of_all_steps(study):
    record = make_record(study.cell("cifar-budget", "all", "ce"), ranks(5))
    record = dataclasses.replace(record, data=record.data | {"train": 1000},
                                 timing=record.timing | {"train_cpu_seconds": 60.0, "timed_images": 4480})
    assert analysis.core_minutes(record) == 2, "10 epochs of 7 batches of 128, of which half was timed"
    untimed = dataclasses.replace(record, timing=record.timing | {"timed_images": 0})
    assert math.isnan(analysis.core_minutes(untimed))


def test_what_to_change_first(study):
    write(study, "cifar-budget", **{"all-wide_ce": (28, 25.0), "all-narrow_ce": (29, 4.0)})
    write(study, "cifar-main")
    order = analysis.budget_order(analysis.budget_trades(draws=50))
    assert order["change"].tolist() == ["grouped", "width32", "epochs20", "width96"]
    assert order["price"].tolist() == ["free", "cheaper", "dearer", "dearer"]
    assert order["step"].tolist() == [1, 2, 3, 4]
    assert set(order["setup"]) == {"all"}, "a fifth gains by nothing here"
    first, second = tables.budget_order(analysis.budget_trades(draws=50), {"all": "all of it"}).splitlines()
    assert first.startswith("- all of it: grouped from the start (8.0 candidates; free), then ")
    assert "core-minutes less), then 20 epochs (5.0 candidates; " in first and first.endswith(" candidates for each).")
    assert second == "- fifth: nothing here saves candidates with an interval that leaves out 0."


def test_what_the_standard_budget_bought_over_a_smaller_one(study):
    def bought() -> str:
        return tables.budget_bought(analysis.budget_trades(draws=20), {"all": "all of it"})

    write(study, "cifar-budget", seeds=(1,))
    assert not bought(), "one seed gives no rate"
    write(study, "cifar-budget")
    write(study, "cifar-main", **{"fifth_grouped": (55, 1.0)})
    said = "- all of it: over 32 channels, "
    # Four core-minutes in place of ten, where the median run takes fifteen. A loss is no smaller budget.
    assert bought() == said + "+6.0 [+6.0, +6.0] candidates saved, +0.67 [+0.67, +0.67] for each core-minute."
    write(study, "cifar-budget", **{"all-narrow_ce": (30, 4.0)})
    assert bought() == said + "0.0 [0.0, 0.0] candidates saved (not for certain)."
    write(study, "cifar-budget", **{"all-narrow_ce": (29, 4.0)})
    assert bought() == said + "-1.0 [-1.0, -1.0] candidates saved: more are needed.".replace("-", "\N{MINUS SIGN}")


def test_a_change_of_loss_and_budget_is_named_as_both(study):
    study.grid("longer", HEAD + STANDARD.replace("epochs = 10", "epochs = 30") + LOSSES)
    write(study, "cifar-budget")
    write(study, "longer")
    found = analysis.budget_trades(["cifar-budget", "longer"], draws=20).set_index("change")
    assert found.loc["grouped-epochs30", ["kind", "label"]].iloc[0].tolist() == [
        "several", "grouped from the start, 30 epochs"]


def test_a_grid_that_waits_for_a_preset_is_left_out(study):
    write(study, "cifar-budget")
    study.grid("cifar-main", HEAD + STANDARD + CE + LOSSES.replace('loss = "topk_grouped"', 'preset = "p"'))
    (study.grids / "presets.json").write_text('{"p": null}')
    assert set(trade().index.get_level_values("change")) == {"epochs20", "width32", "width96"}


def test_the_figure_and_the_table(study):
    write(study, "cifar-budget")
    write(study, "cifar-main")
    figure, frame = figures.budget_curves(analysis.budget_points(draws=20), {"all": "all of them"})
    assert frame["target"].unique().tolist() == [0.99]
    first, second = figure.axes
    assert first.get_title(loc="left") == "all of them" and first.get_xscale() == first.get_yscale() == "log"
    lines = {line.get_label(): line.get_xydata().tolist() for line in first.get_lines()}
    np.testing.assert_allclose(lines["other numbers of epochs"], [[15, 31], [30, 26]])
    np.testing.assert_allclose(lines["other numbers of channels"], [[6, 37], [15, 31], [37.5, 31]])
    assert {text.get_text() for text in first.texts} == {"20 epochs", "32 channels", "96 channels"}
    assert [bar[0].get_xdata()[0] for bar in first.containers][-2:] == pytest.approx([15 * 1.07, 15 * 1.07**2])
    assert second.containers[1][0].get_xdata() == pytest.approx([12]), "this one takes less time, and stands there"
    assert not any(line.get_label() in lines for line in second.get_lines() if "other" in line.get_label())
    with pytest.raises(ValueError, match=r"target=0.5: expected one of \[0.9"):
        figures.budget_curves(frame, target=0.5)
    table = tables.budget_trades(analysis.budget_trades(draws=20), {"all": "all of them"})
    assert table.iloc[0].tolist() == ["all of them", "20 epochs", "+5.0 [+5.0, +5.0]", "2.00",
                                      "+15.0 [+15.0, +15.0]", "+0.33 [+0.33, +0.33]", 3]
    assert table.loc[table["change"] == "grouped from the start", "a core-minute buys"].iloc[0] == "free"


# Promises and lists


def test_promises_are_kept_or_broken(study):
    write(study, "cifar-main", validation=51)  # on test, the fifth needs 50 to 53 and all images need 22 to 52
    found = analysis.promises("cifar-main").set_index(["setup", "target", "rule"])
    kept = found.loc["fifth", 0.99, "smallest"]
    assert (kept.networks, kept.k, kept.worst) == (9, 51, 0.5)
    assert kept.held == 5, "cross entropy and smoothing with two seeds of three, grouped with one"
    assert (found.loc["all", 0.99, "smallest"].held, found.loc["all", 0.99, "smallest"].images) == (8, 100)
    assert (found.loc["all", 0.99, "certified"].networks, found.loc["all", 0.99, "certified"].held) == (0, 0)
    assert found.loc["all", 0.9, "certified"].held == 8
    shown = tables.promises("cifar-main").set_index(["setup", "target", "chosen k"])
    assert shown.loc[("a fifth, 50 epochs", "99 %", "smallest")].tolist() == ["51.0", "5 of 9", "50.00"]
    assert shown.loc[("a fifth, 50 epochs", "99 %", "certified")].tolist() == ["none", "0 of 0", "–"]


def test_promises_of_noisy_labels_are_left_out(study):
    study.grid("noisy", HEAD + STANDARD.replace("train_fraction = 0.2", "label_noise = 0.4") + CE)
    write(study, "noisy", validation=51)
    assert set(analysis.promises("noisy")["setup"]) == {"all"}


def test_lists_show_the_ends_of_the_certified_k(study):
    write(study, "cifar-main")
    table = tables.lists("cifar-main", 0.9)
    assert table.columns.tolist() == ["setup", "loss", "top-5 (%)", "k for 90 %", "certified for 90 %", "n"]
    assert table.iloc[0]["certified for 90 %"] == "30 to 32" and table.iloc[0]["k for 90 %"].startswith("31.0 [")
    assert tables.lists("cifar-main", 0.999)["certified for 99.9 %"].tolist() == ["none"] * 6


# The grid of the report


def test_the_grid_shares_its_standard_runs_with_the_main_comparison(monkeypatch):
    chosen = presets.document() | {"transition": {"keys": {"loss": "topk_transition", "k": 5}, "label": "chosen"}}
    monkeypatch.setattr(presets, "document", lambda: chosen)
    main = {cell.config.run_id for cell in grids.load("cifar-main").cells if cell.variant == "ce"}
    cells = grids.load("cifar-budget").cells
    shared = [cell for cell in cells if cell.config.run_id in main]
    assert {(cell.setup, cell.seed) for cell in shared} == {(s, n) for s in ("all", "fifth") for n in (0, 1, 2)}
    assert all(cell.config.evaluate_test and cell.config.loss == "cross_entropy" for cell in cells)
    sets = {cell.setup: budget._training_set(cell) for cell in cells}
    assert len(set(sets.values())) == 2 and sets["all"] == sets["all-wide"] == sets["all-half"] != sets["fifth-twice"]
