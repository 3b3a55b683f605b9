"""Phase diagrams: gains with their correction, what counts as rich, regions that touch, and the verdict on C1."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from grids_for_tests import STUDY, Study, make_record
from scipy.stats import f as f_distribution
from scipy.stats import ttest_rel

from paperlib import analysis, counts, figures, grids, paths, records, stats
from paperlib.analysis import phase

SEEDS = list(range(12))
GRID = f"""
title = "Phase diagram: made up, k = 2"
seeds = [{SEEDS}]
[base]
dataset = "synthetic"
family = "rings"
model = "mlp"
low_resolution = "none"
evaluate_test = true
[[axis]]
name = "sectors"
key = "family_options.sectors"
unit = "sectors"
values = [2, 4, 6]
[[axis]]
name = "width"
key = "width"
unit = "units"
values = [3, 8]
[[variant]]
name = "ce"
label = "cross entropy"
loss = "cross_entropy"
[[variant]]
name = "transition"
label = "transition"
loss = "topk_transition"
k = 2
"""
BAYES = [0.8, 1.0, 1.0, 1.0]


def curves(top1, top2, variant: str, setup: str) -> np.ndarray:
    """Expected accuracies (M, 4) around two means; losses share most of a seed's luck."""
    luck = np.random.default_rng([len(setup), 7]).normal(0, 0.002, len(SEEDS))
    own = np.random.default_rng([len(variant), sum(map(ord, setup))]).normal(0, 0.0005, len(SEEDS))
    found = np.clip(np.stack([top1 + luck + own, top2 + luck + own], axis=1), 0, [0.8, 1.0])
    found[:, 1] = np.maximum(found[:, 1], found[:, 0])
    return np.concatenate([found, np.ones((len(SEEDS), 2))], axis=1)


def write(study: Study, expected, name: str = "phase-rings") -> None:
    """A record for every cell; ``expected(cell)`` is the mean top-1 and top-2 of its networks."""
    for cell in grids.load(name).cells:
        single, n = make_record(cell, np.ones(10, dtype=int), 4), 10
        found = curves(*expected(cell), cell.variant, cell.setup)
        evaluation = {"n": n, "num_classes": 4, **dict.fromkeys(("loss", "nll", "ece"), [0.5] * len(SEEDS)),
                      "counts": counts.encode_counts([[n, 0, 0, 0]] * len(SEEDS)), "expected": found.tolist(),
                      "bayes": BAYES}
        entry = {"epoch": 1, "strength": None, "train_top1": [0.5] * len(SEEDS), "diverged": []}
        records.write(dataclasses.replace(single, history=[entry], validation=evaluation, test=evaluation),
                      study.records / name)


#: Cross entropy's top-1: what a width can represent of so many sectors.
TOP1 = {(2, 3): 0.79, (2, 8): 0.795, (4, 3): 0.6, (4, 8): 0.79, (6, 3): 0.5, (6, 8): 0.6}


def place(cell):
    return cell.config.family_options["sectors"], cell.config.width


def made(gains):
    def expected(cell):
        gain = gains.get(place(cell), 0.0) if cell.variant == "transition" else 0.0
        return TOP1[place(cell)] - 0.1 * (cell.variant == "transition"), 0.95 + gain

    return expected


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    found = Study(tmp_path / "study", monkeypatch)
    found.grid("phase-rings", GRID)
    return found


def test_gains_are_paired_differences_of_exact_accuracies(study):
    write(study, made({(4, 3): 0.02}))
    frame = analysis.gains("phase-rings")
    assert len(frame) == 6 * 2 and set(frame["variant"]) == {"transition"} and set(frame["k"]) == {1, 2}
    row = frame[(frame.setup == "sectors4-width3") & (frame.k == 2)].iloc[0]
    regret = analysis.regrets("phase-rings")
    regret = regret[(regret.setup == row.setup) & (regret.k == 2)].pivot(index="seed", columns="variant",
                                                                         values="expected")
    assert row.gain == pytest.approx((regret["transition"] - regret["ce"]).mean()) == pytest.approx(0.02, abs=2e-3)
    assert (row.complexity, row.capacity, row.n) == (4, 3, 12)
    assert row.baseline - row.regret == pytest.approx(row.gain)
    assert list(frame["holm"]) == list(stats.holm(frame["p"]))
    assert row.significant and not frame[(frame.setup == "sectors2-width8") & (frame.k == 2)].significant.any()


def test_a_cell_is_rich_reachable_or_poor(study):
    write(study, made({}))
    kinds = analysis.richness("phase-rings").set_index("setup")["kind"]
    assert list(kinds[["sectors2-width3", "sectors4-width8"]]) == ["rich", "rich"]
    assert list(kinds[["sectors4-width3", "sectors6-width3", "sectors6-width8"]]) == ["poor"] * 3

    def lucky(cell):  # one loss reaches the best top-1 where cross entropy's training does not
        return (0.795 if cell.variant == "transition" else TOP1[place(cell)]), 0.95

    write(study, lucky)
    assert set(analysis.richness("phase-rings").set_index("setup")["kind"][["sectors4-width3"]]) == {"reachable"}


@pytest.mark.parametrize(("gains", "status", "region"), [
    ({(4, 3): 0.02, (6, 3): 0.02}, "holds", 2),
    ({(4, 3): 0.02, (6, 3): 0.02, (6, 8): 0.02}, "holds", 3),
    ({(4, 3): 0.02}, "leans", 1),
    ({(4, 3): 0.02, (6, 8): 0.02}, "leans", 1),  # they touch at a corner only
    ({(4, 3): 0.02, (6, 3): 0.02, (2, 8): 0.02}, "leans", 2),  # also where nothing is scarce
    ({(4, 3): 0.002, (6, 3): 0.002}, "fails", 0),  # certain, but too small to matter
    ({(4, 3): -0.02, (6, 3): -0.02}, "fails", 0),
])
def test_what_a_map_says_of_the_claim(study, gains, status, region):
    write(study, made(gains))
    found = analysis.overview("phase-rings")
    assert (found["status"], found["region"]) == (status, region)
    assert (found["poor"], found["rich"], found["reachable"]) == (3, 3, 0)
    assert found["lost"] == sum(gain <= -0.0025 for gain in gains.values())
    assert found["largest"] == pytest.approx(max([0, *gains.values()]), abs=2e-3)


@pytest.mark.parametrize(("second", "verdict"), [({(4, 3): 0.02, (6, 3): 0.02}, "reproduced"), ({}, "partly")])
def test_c1_is_about_every_family(study, second, verdict):
    study.grid("first-study", STUDY)
    other = GRID.replace("made up", "other points").replace("[base]", "[base]\nseed_split = 1")
    study.grid("phase-mixture", other)
    write(study, made({(4, 3): 0.02, (6, 3): 0.02}))
    write(study, made(second), "phase-mixture")
    row = analysis.verdicts().set_index("id").loc["C1"]
    assert row.verdict == verdict
    assert "gain in 2 of 3 cells that no network solves, +2.0" in row.ours
    assert analysis.verdicts(phases=["phase-rings"]).set_index("id").loc["C1"].verdict == "reproduced"
    assert analysis.verdicts(phases=[]).set_index("id").loc["C1"].verdict == "not yet tested"


def test_without_rich_cells_nothing_is_tested(study):
    write(study, lambda cell: (0.5, 0.9))
    found = analysis.overview("phase-rings")
    assert found["status"] is None and found["poor"] == 6
    study.grid("first-study", STUDY)
    assert analysis.verdicts(phases=["phase-rings"]).set_index("id").loc["C1"].verdict == "not yet tested"


def test_the_map_of_another_split_or_baseline_is_judged_by_it_throughout(study):
    write(study, made({(4, 3): 0.02, (6, 3): 0.02}))
    for cell in grids.load("phase-rings").cells:  # on validation no network solves anything
        record = records.read(study.records / "phase-rings" / f"{cell.config.run_id}.json")
        poor = record.validation | {"expected": curves(0.5, 0.9, cell.variant, cell.setup).tolist()}
        records.write(dataclasses.replace(record, validation=poor), study.records / "phase-rings")
    assert analysis.overview("phase-rings")["rich"] == 3
    assert analysis.overview("phase-rings", split="validation")["poor"] == 6
    turned = analysis.overview("phase-rings", ours="ce", baseline="transition")
    assert turned["rich"] == 0, "the transition loses a tenth of top-1 everywhere"


def test_a_map_with_two_setups_at_a_place_is_refused(study):
    two = "".join(f'[[setup]]\nname = "{name}"\nlabel = "{name}"\nepochs = {epochs}\n'
                  for name, epochs in (("short", 1), ("long", 2)))
    study.grid("phase-rings", GRID.replace("[[axis]]", f"{two}[[axis]]", 1))
    write(study, made({}))
    with pytest.raises(ValueError, match="several setups at each place"):
        analysis.richness("phase-rings")


def test_a_grid_on_no_plane_is_refused(study):
    study.grid("line", GRID.replace('[[axis]]\nname = "width"\nkey = "width"\nunit = "units"\nvalues = [3, 8]\n', ""))
    with pytest.raises(ValueError, match="'line' has 1 axes: expected two"):
        analysis.richness("line")
    write(study, made({}))
    with pytest.raises(ValueError, match="'phase-rings' has 2 axes: expected one"):
        analysis.search("phase-rings")
    with pytest.raises(ValueError, match="baseline='grouped': expected one of ce, transition"):
        analysis.gains("phase-rings", baseline="grouped")
    with pytest.raises(ValueError, match="setup='nowhere': expected one of sectors2-width3"):
        analysis.trade("phase-rings", "nowhere")


def test_a_search_chooses_on_validation_for_each_family_and_loss():
    found = analysis.search("synthetic-search")
    assert found.groupby(["family", "variant"])["chosen"].sum().eq(1).all()
    chosen = found[found["chosen"]].set_index(["family", "variant"])["value"]
    checked = 0
    for name in grids.names():
        for cell in grids.load(name).cells if name.split("-")[0] in ("phase", "losses") else ():
            assert cell.config.lr == chosen[cell.config.family, cell.variant], f"{name}: {cell.place}"
            checked += 1
    assert checked > 1000


def test_the_rival_in_the_maps_is_the_searchs_best_but_for_the_slow_one():
    found = analysis.search("synthetic-search")
    best = found[found["chosen"]].groupby("variant")["accuracy"].mean()
    rivals = best.drop(["ce", "smoothing", "grouped", "transition", "linear", "ramp"]).sort_values()
    assert list(rivals.index[-2:]) == ["lapsum", "difftopk"]
    for name in phase.PHASES:
        assert list(grids.load(name).variants) == ["ce", "grouped", "transition", "lapsum"]


def test_hotelling_is_the_t_interval_of_one_mean_in_two():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        points = rng.normal(size=(8, 2)) @ np.array([[2.0, 0.5], [0.0, 1.0]])
        frame = pd.DataFrame({"variant": "a", "top1": points[:, 0], "topk": points[:, 1]})
        row = analysis.joint_regions(frame, 0.9).iloc[0]
        turn = np.array([[np.cos(row.angle), np.sin(row.angle)], [-np.sin(row.angle), np.cos(row.angle)]])
        x, y = turn @ -np.array([row.top1, row.topk])  # the truth is the origin
        covered += (x / row.a) ** 2 + (y / row.b) ** 2 <= 1
    assert 0.88 < covered / 2000 < 0.92
    n, level = 9, 0.95
    assert stats.hotelling_radius(n, level) ** 2 == pytest.approx(
        2 * (n - 1) / (n * (n - 2)) * f_distribution.ppf(level, 2, n - 2))
    with pytest.raises(ValueError, match="seeds=2"):
        stats.hotelling_radius(2)


def test_the_pareto_front_holds_what_nothing_beats():
    means = {"a": (0.5, 0.9), "b": (0.6, 0.8), "c": (0.55, 0.75), "d": (0.4, 0.9)}
    rows = [{"variant": name, "top1": x + e, "topk": y - e * e * 10} for name, (x, y) in means.items()
            for e in (-0.01, 0.0, 0.01)]
    found = analysis.joint_regions(pd.DataFrame(rows)).set_index("variant")["pareto"]
    assert dict(found) == {"a": True, "b": True, "c": False, "d": True}


def test_sign_flips_alone_agree_with_brute_force_and_with_t():
    rng = np.random.default_rng(3)
    d = rng.normal(0.4, 1, (9, 4))
    signs = 1 - 2 * (np.arange(2**9)[:, None] >> np.arange(9) & 1)
    expected = [(np.abs(signs @ column) >= abs(column.sum()) - 1e-12).mean() for column in d.T]
    assert stats.sign_flips(d) == pytest.approx(expected)
    many = rng.normal(0.3, 1, (32, 3))
    p = stats.sign_flips(many, draws=20_000)
    assert p == pytest.approx(ttest_rel(many, np.zeros_like(many)).pvalue, abs=0.02)
    assert (stats.max_t_sign_flips(many, draws=20_000) >= p).all()
    assert stats.sign_flips(np.ones((32, 1)), draws=999) == pytest.approx([1 / 1000])
    with pytest.raises(ValueError, match=r"\(seeds, comparisons\)"):
        stats.sign_flips([1.0, 2.0])


# Figures.


def test_the_phase_diagram_shows_every_cell_and_marks_the_significant(study):
    write(study, made({(4, 3): 0.02}))
    gains, richness = analysis.gains("phase-rings"), analysis.richness("phase-rings")
    figure, frame = figures.phase_diagram(gains, richness, {"transition": "ours"}, ("sectors", "units"))
    maps = [axes for axes in figure.axes if axes.images]
    assert len(maps) == 4 and frame["gain"].max() == pytest.approx(2, abs=0.2)
    assert maps[1].images[0].get_array().shape == (2, 3)
    dots = next(line for line in maps[1].lines if line.get_marker() == "o")
    marked = gains[(gains.k == 2) & gains.significant]
    assert len(dots.get_xdata()) == len(marked) and (1, 0) in zip(dots.get_xdata(), dots.get_ydata(), strict=True)
    assert maps[1].get_title(loc="left") == "ours:\ntop-2 gain (points)"
    assert [label.get_text() for label in maps[-1].get_xticklabels()] == ["2", "4", "6"]
    assert maps[-1].get_xlabel() == "sectors" and maps[0].get_ylabel() == "units"
    borders = [line for line in maps[0].lines if len(line.get_xdata()) == 2]
    assert len(borders) == 3  # beside (4, 3), below (4, 8), left of (6, 8)


def test_the_trade_off_shows_each_network_and_the_front(study):
    write(study, made({(4, 3): 0.02}))
    trades = analysis.trade("phase-rings", "sectors4-width3")
    assert list(trades.columns) == ["variant", "seed", "top1", "topk"] and len(trades) == 24
    figure, frame = figures.tradeoff_regions(analysis.joint_regions(trades), trades)
    assert len(figure.axes[0].patches) == 2 and frame["pareto"].all()
    assert figure.axes[0].get_ylabel() == "top-2 accuracy (%), by its error"
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top, "little error is on top"


def test_the_forest_has_a_row_a_variant(study):
    write(study, made({(4, 3): 0.02}))
    frame, labels = analysis.gains("phase-rings"), analysis.labels("phase-rings")
    figure, shown = figures.gains_forest(frame, labels)
    assert len(figure.axes) == 2 and len(shown) == 12
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["transition"]
    figure, _ = figures.gains_forest(frame, labels, ks=(2,), rows="setup")
    assert len(figure.axes) == 1 and figure.axes[0].get_title(loc="left") == "top-2"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][0] == "2 sectors, 3 units"


# Networks that are drawn.


def test_networks_are_kept_and_come_back_with_their_scores(tmp_path, monkeypatch):
    from experiments import networks

    path = tmp_path / "networks.json"
    networks.main(["--smoke", "--commit", "abc", "--out", str(path)])
    monkeypatch.setattr(paths, "NETWORKS", path)
    found = analysis.networks()
    assert set(found) == set(networks.VARIANTS)
    for network in found.values():
        assert network(np.zeros((3, 2))).shape == (3, 5) and network.layers[0][0].shape == (2, 2)
    document = json.loads(path.read_text())
    assert document["code"]["commit"] == "abc" and document["setup"] == networks.SETUP
    with pytest.raises(SystemExit):
        networks.main(["--smoke"])
    path.write_text("{}")
    with pytest.raises(ValueError, match="expected the document of experiments/networks.py"):
        analysis.networks()
    monkeypatch.setattr(paths, "NETWORKS", tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match="make it with python experiments/networks.py"):
        analysis.networks()


def test_the_kept_networks_are_those_of_the_records():
    """Scores without torch give the accuracies that the record has for that seed."""
    import torch

    from paperlib import data, grids
    from paperlib.bayes import expected_topk
    from paperlib.data.synthetic import FAMILIES

    document = analysis.network_document()
    cells = {cell.config.run_id: cell.config for cell in grids.load(document["grid"]).cells}
    found = {record.run_id: record for record in records.load(paths.RECORDS / document["grid"])}
    for network in analysis.networks().values():
        config, record = cells[network.run_id], found[network.run_id]
        assert network.expected == pytest.approx(record.expected("test")[record.seeds.index(network.seed)], abs=1e-3)
        x = data.splits(config).test.inputs
        probabilities = FAMILIES[config.family](x, **config.family_options)
        scores = torch.from_numpy(network(x))
        assert expected_topk(scores, probabilities) == pytest.approx(network.expected, abs=1e-4)
