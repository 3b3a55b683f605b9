"""Figures draw what their frame says, in one look; tables show what the records hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from grids_for_tests import STUDY, Study, geometric_ranks
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from paperlib import analysis, figures, tables
from paperlib.theory import cross_entropy_at, predicted, three_segments, topk_at

GRID = "first-study"
RATES = {"ce": 0.30, "ramp": 0.32, "grouped": 0.28}


@pytest.fixture
def done(tmp_path, monkeypatch) -> Study:
    study = Study(tmp_path / "study", monkeypatch)
    study.grid(GRID, STUDY)
    study.write(GRID, lambda cell: geometric_ranks(cell, RATES[cell.variant] - 0.1 * (cell.setup == "fifth")))
    return study


def loss_frame() -> pd.DataFrame:
    x = np.linspace(-2, 2, 9)
    return pd.DataFrame([{"walk": walk, "x": a, "curve": curve, "quantity": quantity, "value": a * scale}
                         for walk, sign in (("label", -1), ("competitor", 1))
                         for curve, scale in (("cross entropy", sign), ("grouped", 2 * sign))
                         for quantity in ("loss", "gradient") for a in x])


def speed_frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    networks = ["speednet 64, batch 256", "resnet18 16, batch 128"]
    rates = pd.DataFrame([{"precision": precision, "network": network, "gflops": gflops, "best": best, "ratio": 0.95}
                          for precision, best in (("bf16", 250.0), ("fp32", 130.0))
                          for network, gflops in zip(networks, (0.8 * best, 0.5 * best), strict=True)])
    shares = {"augmentation": 0.02, "forward": 0.3, "loss": 0.005, "backward": 0.64, "optimiser": 0.01,
              "bookkeeping": 0.025}
    parts = pd.DataFrame([{"network": network, "part": part, "seconds": 0.1 * share, "share": share}
                          for network in networks for part, share in shares.items()])
    return rates, parts


def study_frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Networks of two cells, trained in two ways and with two losses, and means of two losses under noise."""
    networks = pd.DataFrame([
        {"cell": cell, "loss": loss, "way": way, "restart": restart, "cross_entropy": 0.7 - 0.1 * (way == "long"),
         "topk": 0.9 + 0.01 * restart + 0.05 * (loss == "topk_transition")}
        for cell in ("small", "large") for loss, way in (("cross_entropy", "recipe"), ("cross_entropy", "long"),
                                                         ("topk_transition", "recipe")) for restart in range(3)])
    means = pd.DataFrame([
        {"cell": cell, "loss": loss, "k": k, "quantity": quantity, "at": at, "n": 3, "value": 0.5 + 0.2 * k - at}
        for cell in ("small", "large") for loss in ("best", "ce", "transition") for k in (1, 2)
        for quantity in ("noise", "certain") for at in (0.0, 0.1, 0.2)])
    return networks, means


def map_table() -> pd.DataFrame:
    """A map of two setups, of which one has run but for a cell."""
    settings = [("none", "probability", 1.0, strength, "ramp", start) for strength in (0.3, 1.0)
                for start in (0.25, 0.5)]
    settings += [("ratio", "loss", 5.0, 1.0, "ramp", 0.5), ("none", "probability", 1.0, 1.0, "fitted", 0.8),
                 ("", "", np.nan, 0.0, "", 0.0)]
    rows = []
    for setup in ("all", "fifth"):
        for place, (gate, blend, tau, strength, schedule, start) in enumerate(settings):
            known = setup == "all" and place != 1
            rows.append({"setup": setup, "variant": f"s{place}" if gate else "ce", "label": "a setting", "gate": gate,
                         "blend": blend, "tau": tau, "strength": strength, "schedule": schedule, "start": start,
                         "seeds": int(known), "planned": 1, "top1": -0.001 * place if known else np.nan,
                         "top5": 0.002 * place if known else np.nan, "top10": 0.0 if known else np.nan,
                         "train_top1": 0.987 if known else np.nan})
    return pd.DataFrame(rows)


def class_frames() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Gains of three classes, the slopes, and the reliability of two losses."""
    differences = pd.DataFrame([
        {"setup": "all", "variant": "ramp", "k": k, "name": name, "group": "animals", "baseline": 0.3 * place,
         "mean": 0.02 * place - 0.03, "low": -0.05, "high": 0.05, "p": 0.01 + 0.03 * place}
        for k in (1, 5) for place, name in enumerate(("bear", "bee", "cattle"))])
    spread = pd.DataFrame([{"setup": "all", "variant": "ramp", "k": k, "slope": slope}
                           for k, slope in ((1, 0.1), (5, np.nan))])
    scores = pd.DataFrame([{"setup": setup, "variant": variant, "k": k, "bin": place, "predicted": 0.3 * place,
                            "right": 0.2 * place, "n": 3}
                           for setup in ("all", "fifth") for variant in ("ce", "ramp") for k in (1, 5)
                           for place in range(4)])
    return differences, spread, scores


def phase_frames() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Gains of a map of two by two cells, what is rich in it, and networks of two losses."""
    gains = pd.DataFrame([
        {"setup": f"s{x}-w{y}", "complexity": x, "capacity": y, "variant": "ramp", "k": k, "gain": 0.01 * (x - y) * k,
         "low": 0.01 * (x - y) * k - 0.005, "high": 0.01 * (x - y) * k + 0.005, "significant": x == 4,
         "regret": 0.1, "baseline": 0.12} for x in (2, 4) for y in (3, 8) for k in (1, 2)])
    rich = gains[gains["k"] == 1].assign(kind=["rich", "rich", "poor", "reachable"])
    noise = np.random.default_rng(0).normal(0, 0.01, (2, 5, 2))
    trades = pd.DataFrame([{"variant": name, "seed": seed, "top1": 0.6 + x, "topk": 0.9 + y}
                           for name, own in zip(("ce", "ramp"), noise, strict=True)
                           for seed, (x, y) in enumerate(own)])
    return gains, rich, trades


WALKS = {"label": "the label's score", "competitor": "a competitor's score"}
MODELS = {
    "halves": lambda x: np.column_stack([-x[:, 0], x[:, 0], -2 + 0 * x[:, 0], -3 + 0 * x[:, 0]]),
    "quarters": lambda x: np.column_stack([x[:, 0] * x[:, 1], 0.1 * x[:, 0], -x[:, 0] * x[:, 1], -9 + 0 * x[:, 0]]),
}
ALL = {
    "budget_curves": lambda names: figures.budget_curves(analysis.budget_points([GRID], draws=50), names),
    "topk_curves": lambda names: figures.topk_curves(analysis.curve_bands(GRID, draws=50), names),
    "differences": lambda names: figures.differences(analysis.differences(GRID), names),
    "difference_curves": lambda names: figures.difference_curves(analysis.difference_bands(GRID, draws=50), names),
    "tradeoff": lambda names: figures.tradeoff(analysis.runs(GRID), labels=names),
    "candidates_forest": lambda names: figures.candidates_forest(analysis.candidates(GRID, draws=50), names),
    "strength_curves": lambda names: figures.strength_curves(analysis.strengths(GRID, ("ramp",)), names),
    "training_curves": lambda names: figures.training_curves(analysis.history(GRID).query("setup == 'all'"), names),
    "loss_curves": lambda names: figures.loss_curves(loss_frame(), WALKS, {"loss": "loss (nats)"}),
    "class_regions": lambda names: figures.class_regions(
        pd.DataFrame({"x": [0, 1, 0, 1], "y": [0, 0, 1, 1], "one": list("aabb"), "two": list("abab")}),
        {"one": "first", "two": "second"}),
    "training_rates": lambda names: figures.training_rates(speed_frames()[0]),
    "step_parts": lambda names: figures.step_parts(speed_frames()[1]),
    "split_objectives": lambda names: figures.split_objectives(three_segments(0.4, 0.4, (0.5, 0.5))),
    "gap_of_knobs": lambda names: figures.gap_of_knobs(points=21, solved=3),
    "transition_map": lambda names: figures.transition_map(map_table(), names),
    "class_gains": lambda names: figures.class_gains(*class_frames()[:2], "ramp", names),
    "superclass_forest": lambda names: figures.superclass_forest(class_frames()[0], "ramp"),
    "reliability_diagram": lambda names: figures.reliability_diagram(class_frames()[2], names),
    "decision_regions": lambda names: figures.decision_regions(MODELS, points=20),
    "loss_against_topk": lambda names: figures.loss_against_topk(study_frames()[0], {"recipe": "A", "long": "B"}),
    "robust_curves": lambda names: figures.robust_curves(study_frames()[1]),
    "phase_diagram": lambda names: figures.phase_diagram(*phase_frames()[:2], names, ("stripes", "units")),
    "gains_forest": lambda names: figures.gains_forest(phase_frames()[0], names),
    "tradeoff_regions": lambda names: figures.tradeoff_regions(analysis.joint_regions(phase_frames()[2]),
                                                               phase_frames()[2], names),
}
NO_VARIANTS = {"loss_curves", "class_regions", "split_objectives", "gap_of_knobs", "decision_regions",
               "training_rates", "step_parts", "loss_against_topk", "robust_curves", "transition_map",
               "superclass_forest", "budget_curves"}
# Ticks are the losses, or the networks, or the superclasses.
BARS = {"candidates_forest", "training_rates", "step_parts", "gains_forest", "superclass_forest"}
COLOUR_BARS = {"gap_of_knobs", "phase_diagram"}  # the last axes are a colour bar


def words(figure) -> str:
    """All the text that a figure shows."""
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text) if text.get_visible())


def test_every_public_figure_is_tested():
    public = {name for name, value in vars(figures).items() if callable(value) and name[0].islower()
              and getattr(value, "__module__", "").startswith(figures.__name__)}
    assert public - {"style", "looks", "legend_above"} == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_a_figure_is_labelled_readable_and_not_shown_twice(done, name, tmp_path):
    before = plt.get_fignums()
    figure, frame = ALL[name](analysis.labels(GRID))
    assert plt.get_fignums() == before
    assert isinstance(frame, pd.DataFrame) and len(frame)
    assert figure.get_figwidth() == figures.WIDTH
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert shown[0].get_ylabel() or name in BARS
    assert [axes for axes in shown if axes.axison][-1].get_xlabel() or name in COLOUR_BARS
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    if name not in NO_VARIANTS:  # those get their names in the frame
        assert "transition, late ramp" in words(figure).replace(",\n", ", ")
        assert "late ramp" not in words(ALL[name](None)[0])
    sizes = [text.get_fontsize() for text in figure.findobj(plt.Text) if text.get_text() and text.get_visible()]
    assert min(sizes) >= 11
    assert all(legend.get_window_extent().width <= figure.bbox.width for legend in figure.legends)


def test_long_names_get_a_row_of_the_legend_each(done):
    bands, long = analysis.difference_bands(GRID, draws=20), "a loss whose name takes half of the width"
    short, wide = (figures.difference_curves(bands, names)[0] for names in (
        {"ramp": "a", "grouped": "b"}, {"ramp": long, "grouped": f"{long}, too"}))
    (short_legend,), (wide_legend,) = short.legends, wide.legends
    assert wide_legend.get_window_extent().width <= wide.bbox.width
    assert wide_legend.get_window_extent().height > 1.5 * short_legend.get_window_extent().height


def test_a_loss_keeps_its_colour_and_marker():
    alone, together = figures.looks(["ramp"]), figures.looks(["grouped", "new", "ce", "ramp", "newer"])
    assert alone["ramp"] == together["ramp"]
    assert len(set(together.values())) == 5
    assert len({marker for _, marker in together.values()}) == 5
    both = figures.looks(["transition", "ramp"])
    assert both["transition"] == alone["ramp"] != both["ramp"]
    many = figures.looks(["ce", *(f"loss{i}" for i in range(13)), "transition"])
    assert len(set(many.values())) == len({marker for _, marker in many.values()}) == 15
    with pytest.raises(ValueError, match="at most 20"):
        figures.looks([f"loss{i}" for i in range(21)])


def test_the_map_shows_what_ran_and_hatches_what_did_not():
    figure, frame = figures.transition_map(map_table(), {"all": "all images", "ce": "cross entropy"})
    first, *others = figure.axes
    assert frame.loc[0, ["top1", "top5", "train_top1"]].tolist() == pytest.approx([0.0, 0.0, 98.7])
    assert frame.loc[4, ["row", "top5"]].tolist() == ["ratio, loss, τ 5", pytest.approx(0.8)]
    assert [label.get_text() for label in first.get_yticklabels()] == ["ratio, loss, τ 5", "1, fitted", "1", "0.3"]
    assert [label.get_text() for label in others[1].get_xticklabels()] == ["0.25", "0.5", "0.8"]
    assert {text.get_text() for text in first.texts} == {"+0.00", "−0.20", "−0.30", "−0.40", "−0.50"}
    hatched = [patch for axes in figure.axes for patch in axes.patches if patch.get_hatch()]
    assert len(hatched) == 4 * 1 + 4 * 6, "one cell of the first setup and all six of the second, in four panels"
    text = words(figure)
    assert "(cross entropy: trains to 98.7 %)" in text and "cross entropy: not yet run" in text and "fifth" in text
    done = map_table().query("setup == 'all' and variant != 's1'")
    figure, _ = figures.transition_map(done)
    assert not any(patch.get_hatch() for axes in figure.axes for patch in axes.patches)
    assert "not yet run" not in words(figure)


def test_style_ends_with_its_block():
    before = plt.rcParams["font.size"], plt.rcParams["figure.dpi"]
    with figures.style():
        assert plt.rcParams["figure.dpi"] == 150
    assert (plt.rcParams["font.size"], plt.rcParams["figure.dpi"]) == before


def test_topk_curves_draw_the_error_in_percent(done):
    bands = analysis.curve_bands(GRID, draws=50)
    figure, frame = figures.topk_curves(bands)
    line = figure.axes[0].get_lines()[1]
    own = bands.query("setup == 'all' and variant == 'ramp'")
    np.testing.assert_allclose(line.get_ydata()[:5], 100 * (1 - own["accuracy"].to_numpy()[:5]))
    assert to_rgb(line.get_color()) == pytest.approx(to_rgb(figures.looks(["ramp"])["ramp"][0]))
    assert figure.axes[0].get_yscale() == figure.axes[0].get_xscale() == "log"
    assert frame["error"].min() >= 0.2
    assert (frame.error_low <= frame.error).all() and (frame.error <= frame.error_high).all()


def test_differences_draw_points_and_bars_and_none_for_one_seed(done):
    intervals = analysis.differences(GRID)
    figure, frame = figures.differences(intervals)
    np.testing.assert_allclose(frame["mean"], 100 * intervals["mean"])
    bar = figure.axes[0].containers[0]
    own = frame.query("setup == 'all' and variant == 'ramp'")
    np.testing.assert_allclose(bar.lines[0].get_ydata().astype(float), own["mean"])
    ends = np.array([segment[:, 1] for segment in bar.lines[2][0].get_segments()])
    np.testing.assert_allclose(ends, own[["low", "high"]].to_numpy())
    unbounded = intervals.assign(low=-np.inf, high=np.inf)
    axes = figures.differences(unbounded)[0].axes[0]
    assert np.isfinite(axes.get_ylim()).all()


def test_tradeoff_marks_means_among_runs(done):
    runs = analysis.runs(GRID)
    figure, frame = figures.tradeoff(runs, y="top10")
    lines = figure.axes[1].get_lines()
    own = runs.query("setup == 'fifth' and variant == 'ce'")
    assert len(lines) == 6  # three losses, runs and mean
    assert (lines[1].get_xdata()[0], lines[1].get_ydata()[0]) == pytest.approx(
        (100 * own.top1.mean(), 100 * own.top10.mean()))
    assert len(lines[0].get_xdata()) == 3
    assert list(frame.columns) == ["setup", "variant", "seed", "top1", "top10"]


def test_forest_writes_the_numbers_it_draws(done):
    candidates = analysis.candidates(GRID, draws=50)
    shown = words(figures.candidates_forest(candidates)[0])
    for k in candidates["k"]:
        assert f"{k:.1f}".removesuffix(".0") in shown.split("\n")
    assert "99 % accuracy" in shown


def test_strength_curves_show_the_share_of_epochs(done):
    figure, frame = figures.strength_curves(analysis.strengths(GRID, ("ramp",)))
    first = frame[frame["setup"] == "all"]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), first[["progress", "strength"]])
    assert first["progress"].max() == 100 and set(frame["variant"]) == {"ramp"}


def test_training_curves_average_seeds_of_one_setup(done):
    history = analysis.history(GRID)
    figure, frame = figures.training_curves(history[history.setup == "all"])
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "top-1 (%)", "top-5 (%)", "strength"]
    assert frame.query("variant == 'ce' and epoch == 2")["validation_top1"].item() == pytest.approx(38)
    without = figures.training_curves(history.query("setup == 'all' and variant == 'ce'"))[0]
    assert len(without.axes) == 3  # no transition, no strength
    with pytest.raises(ValueError, match="setups all, fifth: expected rows of one setup"):
        figures.training_curves(history)


def test_loss_curves_have_a_row_a_walk_and_a_column_a_quantity():
    frame = loss_frame()
    figure, plotted = figures.loss_curves(frame, WALKS, {"loss": "loss (nats)"}, {"competitor": 0.5})
    pd.testing.assert_frame_equal(plotted, frame)
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes] == [
        ("the label's score", "loss (nats)"), ("the label's score", "gradient"),
        ("a competitor's score", "loss (nats)"), ("a competitor's score", "gradient")]
    own = frame.query("walk == 'competitor' and curve == 'grouped' and quantity == 'gradient'")
    curves, dotted = figure.axes[3].get_lines()[:2], figure.axes[3].get_lines()[2:]
    np.testing.assert_array_equal(curves[1].get_xydata(), own[["x", "value"]])
    assert [list(line.get_xdata()) for line in dotted] == [[0.5, 0.5]]
    assert len(figure.axes[0].get_lines()) == 2  # no mark was asked for there
    assert {line.get_color() for line in curves} == {figures.looks(["cross entropy", "grouped"])[name][0]
                                                     for name in ("cross entropy", "grouped")}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cross entropy", "grouped"]


def test_training_rates_draw_the_loop_beside_its_ceiling():
    rates, _ = speed_frames()
    figure, frame = figures.training_rates(rates)
    axes = figure.axes[1]
    assert axes.get_title(loc="left") == "fp32"
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([104, 65])
    marks, best = axes.get_lines()
    assert list(marks.get_xdata()) == pytest.approx([104 / 0.95, 65 / 0.95])
    assert list(best.get_xdata()) == [130, 130]
    assert list(frame.columns) == ["precision", "network", "gflops", "ceiling", "best", "ratio"]


def test_step_parts_stack_what_is_not_the_network():
    figure, frame = figures.step_parts(speed_frames()[1])
    ends = [bar.get_x() + bar.get_width() for bar in figure.axes[0].patches]
    assert ends[0::2] == pytest.approx([2, 2.5, 3.5, 6])  # the first network, part by part, in percent
    assert frame["forward"].tolist() == [30, 30]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["augmentation", "loss", "optimiser",
                                                                           "bookkeeping"]


def test_regions_without_a_name_stay_white():
    x, y = (values.ravel() for values in np.meshgrid(np.linspace(-0.75, 0.75, 4), np.linspace(-0.75, 0.75, 4)))
    frame = pd.DataFrame({"x": x, "y": y, "one": np.where(np.hypot(x, y) < 1, "class 0", None)})
    figure, _ = figures.class_regions(frame, {"one": "first"})
    image = figure.axes[0].get_images()[0]
    assert image.get_extent() == [-1, 1, -1, 1]
    drawn = np.array(image.get_array())
    assert (drawn[0, 0] == 1).all() and (drawn[1, 1] < 1).any() and (drawn[3, 3] == 1).all()


def test_split_objectives_mark_both_optima():
    data = three_segments(0.4, 0.35, (0.3, 0.7))
    figure, frame = figures.split_objectives(data, points=101)
    np.testing.assert_allclose(frame["cross_entropy"], cross_entropy_at(data, frame["threshold"]))
    np.testing.assert_allclose(frame["top2"], 100 * topk_at(data, frame["threshold"], 2))
    for axes, column, best in zip(figure.axes, ("cross_entropy", "top2"), (0.4, 0.75), strict=True):
        curve, *lines, mark = axes.get_lines()
        np.testing.assert_allclose(curve.get_xydata(), frame[["threshold", column]])
        assert [line.get_xdata()[0] for line in lines] == pytest.approx([0.4, 0.75])
        assert mark.get_xdata()[0] == pytest.approx(best)


def test_the_gap_is_drawn_from_the_closed_form_and_from_the_solvers():
    figure, frame = figures.gap_of_knobs((0.5, 0.2), points=11, solved=4)
    for row in frame.itertuples():
        assert row.gap == pytest.approx(100 * predicted(row.first, row.second, (row.q, 1 - row.q)).gap, abs=1e-6)
    assert set(frame["how"]) == {"closed form", "solvers", "plane"} and (frame["third"] > 0).all()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["q = 0.5", "q = 0.2"]
    closed = frame.query("how == 'closed form' and q == 0.2")
    np.testing.assert_allclose(figure.axes[0].get_lines()[3].get_xydata(), closed[["third", "gap"]])


def test_decision_regions_show_what_each_model_answers():
    figure, frame = figures.decision_regions(MODELS, points=10)
    halves, quarters = (frame[frame["model"] == name] for name in MODELS)
    assert (halves["first"] == np.where(halves["x"] < 0, "class 0", "class 1")).all()
    assert (halves["set"] == "{0, 1}").all()
    right = quarters[(quarters["x"] > 0.5) & (quarters["y"] > 0.5)]
    assert (right["first"] == "class 0").all() and (right["set"] == "{0, 1}").all()
    panels = [axes for axes in figure.axes if axes.get_images()]
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["halves:\nfirst candidate", "quarters:\nfirst candidate",
                      "halves:\nfirst 2 candidates", "quarters:\nfirst 2 candidates"]
    # One colour for one set, in both columns: the corner of each, where both models say {0, 1}.
    assert (np.array(panels[2].get_images()[0].get_array())[-1, -1]
            == np.array(panels[3].get_images()[0].get_array())[-1, -1]).all()
    on_disc = figures.decision_regions(MODELS, points=10, disc=True)[1]
    assert np.hypot(on_disc["x"], on_disc["y"]).max() <= 1 and len(on_disc) < len(frame)


def test_decision_regions_take_a_torch_module():
    module = torch.nn.Linear(2, 4)
    _, frame = figures.decision_regions({"net": lambda x: module(torch.from_numpy(x)).detach()}, k=3, points=6)
    points = torch.tensor(frame[["x", "y"]].to_numpy(), dtype=torch.float32)
    assert frame["first"].tolist() == [f"class {c}" for c in module(points).argmax(dim=1).tolist()]
    assert frame["set"].str.count(",").eq(2).all()
    with pytest.raises(ValueError, match="model 'net' gave scores of shape"):
        figures.decision_regions({"net": lambda x: module(torch.from_numpy(x)).detach()}, k=4)
    with pytest.raises(ValueError, match="at least one"):
        figures.decision_regions({})


def test_many_setups_stand_two_abreast(done):
    runs = analysis.runs(GRID)
    many = pd.concat([runs.assign(setup=f"{setup}{i}") for i in range(5) for setup in ("s",)])
    figure = figures.tradeoff(many)[0]
    assert len(figure.axes) == 6
    assert [axes.get_visible() for axes in figure.axes] == [True] * 5 + [False]


# --- tables -----------------------------------------------------------------------------------------------

def test_accuracy_table_shows_mean_sd_and_n(done):
    table, runs = tables.accuracies(GRID, links={("all", "ramp"): "runs/ramp.ipynb"}), analysis.runs(GRID)
    assert list(table.columns) == ["setup", "loss", "top-1", "top-5", "top-10", "top-20", "k for 95 %",
                                   "k for 99 %", "n"]
    assert list(table["setup"].unique()) == ["all images", "a fifth of the images"]
    assert list(table["loss"][:3]) == ["cross entropy", "[transition, late ramp](runs/ramp.ipynb)",
                                       "grouped from the start"]
    own = runs.query("setup == 'fifth' and variant == 'grouped'")
    assert table.iloc[5]["top-5"] == f"{100 * own.top5.mean():.1f} ± {100 * own.top5.std():.1f}"
    assert table.iloc[5]["k for 99 %"] == f"{own.k99.mean():.1f} ± {own.k99.std():.1f}"
    assert (table["n"] == 3).all()
    assert list(tables.accuracies(GRID, ks=(1, 2), targets=()).columns) == ["setup", "loss", "top-1", "top-2", "n"]


def test_an_accuracy_that_does_not_exist_is_a_dash(done):
    done.grid("few", STUDY.replace("epochs = 2", "epochs = 1"))
    done.write("few", lambda cell: geometric_ranks(cell, 0.5, num_classes=4), num_classes=4)
    assert set(tables.accuracies("few")["top-5"]) == {"–"}


def test_one_seed_has_no_spread(done):
    done.grid("single", STUDY.replace("seeds = [0, 1, 2]", "seeds = [0]"))
    assert "±" not in tables.accuracies("single").to_string()
    assert tables.differences("single").iloc[0]["top-1"].endswith("[−∞, +∞]")


def test_difference_tables_carry_signs(done):
    table = tables.differences(GRID)
    row = analysis.differences(GRID).query("setup == 'all' and variant == 'ramp' and k == 1").iloc[0]
    assert table.iloc[0]["top-1"] == (f"{100 * row['mean']:+.2f} [{100 * row.low:+.2f}, {100 * row.high:+.2f}]"
                                      .replace("-", "−"))
    assert list(table["loss"].unique()) == ["transition, late ramp", "grouped from the start"]
    saved = analysis.candidate_differences(GRID, draws=50)
    shown = tables.candidate_differences(GRID, saved)
    assert list(shown.columns) == ["setup", "loss", "k for 90 %", "k for 95 %", "k for 99 %", "n"]
    assert shown.iloc[0]["k for 99 %"].startswith("−")
    assert "text" not in saved.columns  # the page's frame is left as it was


def test_a_difference_in_a_sentence_is_that_of_the_table(done):
    row = analysis.differences(GRID).query("setup == 'all' and variant == 'ramp' and k == 5").iloc[0]
    text = f"{100 * row['mean']:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}]".replace("-", "−")
    assert tables.points(analysis.differences(GRID), "all", "ramp", 5) == text
    with pytest.raises(KeyError):
        tables.points(analysis.differences(GRID), "all", "ramp", 7)


def test_nothing_is_written_as_minus_zero(done):
    frame = pd.DataFrame({"setup": ["all"], "variant": ["ramp"], "k": [1], "mean": [-1e-6], "low": [-0.01],
                          "high": [0.0], "n": [3]})
    assert tables.differences(GRID, frame=frame).iloc[0]["top-1"] == "0.00 [−1.00, 0.00]"


def test_candidate_and_certificate_tables(done):
    frame = analysis.candidates(GRID, draws=50)
    first = frame.iloc[0]
    assert tables.candidates(GRID, frame).iloc[0]["k for 90 %"] == f"{first.k:.1f} [{first.low:.1f}, {first.high:.1f}]"
    table, runs = tables.certificates(GRID, (0.9, 0.999)), analysis.certificates(GRID, (0.9,))
    assert len(table) == 18
    first = runs.iloc[0]
    assert table.iloc[0]["k for 90 %"] == f"{first.k} [{first.low}, {first.high}]"
    assert table.iloc[0]["certified for 90 %"] == str(first.certified)
    assert table.iloc[0]["certified for 99.9 %"] == "none"
    assert "no bound" in table.iloc[0]["k for 99.9 %"]


def test_status_tables(done):
    cell = done.cell(GRID, "all", "ce", 1)
    (done.records / GRID / f"{cell.config.run_id}.json").unlink()
    assert tables.status().iloc[0][["runs", "missing runs"]].tolist() == ["17", f"1, next {cell.config.run_id}"]
    assert tables.machines().set_index("what").loc["device"].to_dict() == {"machine 1": "a CPU"}
    origin = tables.origins().iloc[0]
    assert origin[["grid", "machine", "runs", "runs by commit"]].tolist() == [GRID, "1", "17", "c0ffee: 17"]
    done.grid("later", STUDY.replace("epochs = 2", "epochs = 5"))
    assert tables.status().set_index("grid").loc["later", ["protocol", "missing runs"]].tolist() == [
        "–", "all: not yet run"]


def test_run_list_and_verdicts(done):
    table = tables.run_list(GRID)
    assert len(table) == 18 and table.iloc[0]["loss"] == "cross entropy"
    assert table.iloc[0]["run"] == done.cell(GRID, "all", "ce", 0).config.run_id
    claims = pd.DataFrame({"id": ["C1"], "claim": ["c"], "paper": ["p"], "ours": ["o"], "verdict": ["partly"],
                           "change": ["more"], "evidence": ["the study"]})
    assert tables.verdicts(claims).iloc[0].tolist() == ["**C1** c: p.", "o", "**partly**, the study", "more"]


def test_markdown_is_a_numbered_table():
    frame = pd.DataFrame({"loss": ["a | b", "c"], "top-1": ["66.50 ± 0.20", "−1"], "setup": ["2 stripes", "x"]})
    assert tables.markdown(frame, "A caption\nover lines.", "tab-x").split("\n") == [
        "~~~{table} A caption over lines.",
        ":name: tab-x",
        "",
        "| loss   |        top-1 | setup     |",
        "|:-------|-------------:|:----------|",
        r"| a \| b | 66.50 ± 0.20 | 2 stripes |",
        "| c      |           −1 | x         |",
        "~~~",
    ]
    with_role = tables.markdown(frame, "As {numref}`tab-y`.", "tab-x")
    assert with_role.startswith("~~~{table}"), "the first line of a fence of backticks holds no others"
    for name in ("", "Tab", "tab x", "-x"):
        with pytest.raises(ValueError, match="lower-case letters"):
            tables.markdown(frame, "c", name)
    with pytest.raises(ValueError, match="at least one row"):
        tables.markdown(frame.iloc[:0], "c", "tab-x")


def test_loss_against_topk_draws_cross_entropy_and_rings_the_lowest():
    networks, _ = study_frames()
    ways = {"recipe": "the recipe", "long": "twice as long"}
    figure, frame = figures.loss_against_topk(networks, ways, {"small": "4 units"})
    assert set(frame["way"]) == {"recipe", "long"} and len(frame) == 12
    first = figure.axes[0]
    assert first.get_title(loc="left") == "4 units" and figure.axes[1].get_title(loc="left") == "large"
    recipe, long, ring, line = first.get_lines()
    np.testing.assert_allclose(long.get_ydata(), [90, 91, 92])
    assert ring.get_xdata()[0] == pytest.approx(0.6) and recipe.get_xdata()[0] == pytest.approx(0.7)
    np.testing.assert_allclose(line.get_ydata(), 96)
    assert "twice as long" in words(figure)


def test_robust_curves_draw_the_losses_and_the_best_sets():
    _, means = study_frames()
    for quantity, label in (("noise", "standard deviation of the noise"), ("certain", "radius")):
        figure, frame = figures.robust_curves(means, quantity, losses={"ce": "cross entropy"})
        assert len(frame) == 36 and figure.axes[-1].get_xlabel() == label
        assert {text for text in ("best sets", "cross entropy", "transition") if text in words(figure)} == {
            "best sets", "cross entropy", "transition"}
        np.testing.assert_allclose(figure.axes[1].get_lines()[1].get_ydata(), [90, 80, 70])
