"""Grids: committed ones are sound, and mistakes in a file are named."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from paperlib import grids, paths, presets
from paperlib.config import RunConfig

GRID = """
title = "A grid"
seeds = [3, 1]
[base]
dataset = "digits"
model = "mlp"
lr = 0.1
[[setup]]
name = "short"
label = "one epoch"
epochs = 1
[[setup]]
name = "long"
label = "two epochs"
epochs = 2
[[variant]]
name = "ce"
label = "cross entropy"
loss = "cross_entropy"
[[variant]]
name = "grouped"
label = "grouped"
loss = "topk_grouped"
k = 3
lr = 0.05
"""


@pytest.fixture
def load(tmp_path):
    def load_text(text: str) -> grids.Grid:
        path = tmp_path / "study.toml"
        path.write_text(text)
        return grids.load(path)

    return load_text


@pytest.fixture
def presets_filled(tmp_path, monkeypatch):
    """Presets that nobody has chosen yet get keys, so that the grids that wait for them can be looked at."""
    stand_ins = {name: {"keys": {"loss": "topk_transition", "k": 5, "loss_options": {"tau": 2 + place}}}
                 for place, name in enumerate(presets.document())}
    stand_ins |= {name: {"keys": {"loss": "cross_entropy", "lr": 0.1}} for name in presets.document()
                  if name.split("-")[0] == "ce"}
    chosen = {name: value for name, value in presets.document().items() if value}
    path = tmp_path / "presets.json"
    path.write_text(json.dumps(stand_ins | chosen))
    monkeypatch.setattr(presets, "file", lambda: path)


@pytest.mark.usefixtures("presets_filled")
@pytest.mark.parametrize("name", grids.names())
def test_committed_grids_load(name):
    grid = grids.load(name)
    assert grid.name == name and grid.title
    assert len(grid.cells) == len(grid.seeds) * len(grid.setups) * len(grid.variants) > 0
    assert all(grid.setups[cell.setup]["label"] and grid.variants[cell.variant]["label"] for cell in grid.cells)
    # Losses are compared at common seeds, and a paired test needs several.
    assert len(set(grid.seeds)) == len(grid.seeds)


@pytest.mark.usefixtures("presets_filled")
@pytest.mark.parametrize("name", grids.names())
def test_committed_grids_describe_runs_that_can_be_made(name):
    from paperlib import data, models, train

    for cell in grids.load(name).cells:
        train.make_loss(cell.config)
        assert cell.config.dataset in data.DATASETS and cell.config.model in models.MODELS


@pytest.mark.usefixtures("presets_filled")
def test_search_and_map_grids_never_touch_the_test_images():
    for name in grids.names():
        if {"search", "map"} & set(name.split("-")):
            assert not any(cell.config.evaluate_test for cell in grids.load(name).cells), name


@pytest.mark.usefixtures("presets_filled")
def test_a_setup_of_one_name_is_one_setup_in_all_grids_of_the_study():
    seen = {}
    for name in [name for name in grids.names() if name.split("-")[0] in ("cifar", "map")]:
        for cell in grids.load(name).cells:
            if cell.config.dataset == "cifar100" and cell.variant == "ce":
                config = cell.config.replace(seed=0, evaluate_test=False)
                assert seen.setdefault(cell.setup, config) == config, (name, cell.setup)
    assert {"all", "fifth", "searched", "resnet", "noise", "superclass", "plain"} <= set(seen)


@pytest.mark.usefixtures("presets_filled")
def test_the_studys_grids_report_on_test_images_and_say_what_they_cost():
    for name in [name for name in grids.names() if name.startswith(("cifar-", "search-", "map-finalists"))]:
        head = (paths.GRIDS / f"{name}.toml").read_text().split("\ntitle")[0]
        assert [word for word in ("Purpose:", "Tier:", "core-hours") if word not in head] == [], name
        assert f"{len(grids.load(name).cells)} runs" in head and f"sweep {name} --out" in head, name
        assert all(cell.config.evaluate_test is name.startswith("cifar-") for cell in grids.load(name).cells)


def test_at_least_one_grid_is_committed():
    assert "first-study" in grids.names()


def test_a_grid_is_unrolled_again_when_its_file_or_a_preset_changes(load, tmp_path, monkeypatch):
    chosen = {"rate": {"keys": {"lr": 0.2}}}
    monkeypatch.setattr(presets, "document", lambda: chosen)
    text = GRID.replace('loss = "cross_entropy"', 'loss = "cross_entropy"\npreset = "rate"')
    first = load(text.replace("lr = 0.1\n", ""))
    assert first.cells[0].config.lr == 0.2 and load(text.replace("lr = 0.1\n", "")) is first
    assert load(text.replace("A grid", "Another").replace("lr = 0.1\n", "")).title == "Another"
    chosen["rate"]["keys"]["lr"] = 0.3
    assert load(text.replace("lr = 0.1\n", "")).cells[0].config.lr == 0.3
    chosen["rate"] = None
    with pytest.raises(presets.UnfilledPresetError, match="'rate' is not chosen yet"):
        load(text.replace("lr = 0.1\n", ""))


def test_cells_come_in_priority_order(load):
    grid = load(GRID)
    assert [(cell.seed, cell.setup, cell.variant) for cell in grid.cells] == [
        (3, "short", "ce"), (3, "short", "grouped"), (3, "long", "ce"), (3, "long", "grouped"),
        (1, "short", "ce"), (1, "short", "grouped"), (1, "long", "ce"), (1, "long", "grouped"),
    ]
    assert all(cell.seed == cell.config.seed and cell.grid == "study" for cell in grid.cells)


def test_a_variant_changes_the_base_and_nothing_else(load):
    cell = load(GRID).cells[1]
    assert cell.config == RunConfig(dataset="digits", model="mlp", lr=0.05, epochs=1, loss="topk_grouped", k=3, seed=3)
    assert load(GRID).setups["long"] == {"label": "two epochs", "epochs": 2}


def test_none_is_written_as_a_text(load):
    keys = 'epochs = 2\nlow_resolution = "none"'
    assert {cell.config.low_resolution for cell in load(changed("epochs = 2", keys)).cells} == {None, 24}


def test_a_list_of_seeds_is_one_cell(load):
    grid = load(changed("[3, 1]", "[[3, 1], [7]]"))
    assert grid.seeds == ((1, 3), (7,)) and len(grid.cells) == 8
    assert [cell.seed for cell in grid.cells] == [(1, 3)] * 4 + [(7,)] * 4
    assert all(cell.seed == cell.config.seed for cell in grid.cells)
    assert grid.cells[0].place == "short/ce/2 seeds from 1" and load(GRID).cells[0].place == "short/ce/seed 3"


AXES = """
title = "Axes"
seeds = [0]

[base]
dataset = "synthetic"
family = "rings"
family_options = { sectors = 2, certainty = 0.7 }
model = "mlp"
low_resolution = "none"

[[axis]]
name = "sectors"
key = "family_options.sectors"
unit = "sectors"
values = [2, 4]

[[axis]]
name = "width"
key = "width"
unit = "units"
values = [3, 5, 8]

[[variant]]
name = "ce"
label = "cross entropy"
loss = "cross_entropy"
"""


def test_axes_are_crossed_into_setups_the_last_fastest(load):
    grid = load(AXES)
    assert list(grid.setups) == [f"sectors{s}-width{w}" for s in (2, 4) for w in (3, 5, 8)]
    assert grid.setups["sectors4-width3"]["label"] == "4 sectors, 3 units"
    cell = grid.cells[3]
    assert cell.config.family_options == {"sectors": 4, "certainty": 0.7} and cell.config.width == 3
    assert [axis.of(cell.config) for axis in grid.axes] == [4, 3]


def test_axes_cross_the_setups_that_are_named(load):
    setups = '[[setup]]\nname = "long"\nlabel = "long runs"\nepochs = 20\n'
    setups += '[[setup]]\nname = "few"\nlabel = "few rings"\nfamily_options = { certainty = 0.6 }\n'
    grid = load(AXES.replace("[[axis]]", setups + "[[axis]]", 1))
    assert len(grid.setups) == 12 and list(grid.setups)[:2] == ["long-sectors2-width3", "long-sectors2-width5"]
    assert grid.setups["long-sectors4-width3"]["label"] == "long runs, 4 sectors, 3 units"
    few = next(cell.config for cell in grid.cells if cell.setup == "few-sectors4-width8")
    assert few.family_options == {"sectors": 4, "certainty": 0.6}  # the setup's own options, not the base's


def changed(old: str, new: str) -> str:
    assert old in GRID
    return GRID.replace(old, new)


@pytest.mark.parametrize("text, message", [
    (changed("epochs = 2", "epoch = 2"), "setup long, variant ce: unknown configuration key 'epoch'.*'epochs'"),
    (changed("epochs = 2", "epochs = 0"), "setup long, variant ce: epochs=0"),
    (changed("title", "heading"), "unknown key 'heading'"),
    (changed("epochs = 2", "epochs = 1"), "long/ce and short/ce describe the same run"),
    (changed("[3, 1]", "[3, 3]"), "describe the same run"),
    (changed('label = "grouped"\n', ""), r"each \[\[variant\]\] needs a label"),
    (changed('name = "grouped"', 'name = "ce"'), r"each \[\[variant\]\] needs a label and a name of its own"),
    (changed('name = "grouped"\n', ""), r"each \[\[variant\]\] needs a label and a name"),
    (changed('title = "A grid"\n', ""), "title = None, expected a text"),
    (changed("seeds = [3, 1]\n", ""), "seeds = None, expected a list"),
    (changed("seeds = [3, 1]\n", "seeds = 3\n"), "seeds = 3, expected a list"),
    (changed("seeds = [3, 1]\n", "seeds = []\n"), r"seeds = \[\], expected a list"),
    (changed("[3, 1]", "[3.5]"), "seed=3.5"),
    (changed("[3, 1]", "[[3, 1.5]]"), "setup short, variant ce: seed=1.5"),
    (changed("[3, 1]", "[[3, 1], 2]"), r"seeds = \[\[3, 1\], 2\], expected whole numbers or lists of them, not both"),
    (changed("[3, 1]", "[[3, 1], [2, 3]]"), "seeds holds 3 twice"),
    (changed("[3, 1]", "[[3, 3]]"), "seeds holds 3 twice"),
    (changed("[3, 1]", "[[]]"), r"seed=\[\]: expected"),
    (GRID.split("[[variant]]")[0], r"expected at least one \[\[variant\]\]"),
    ('title = "t"\nseeds = [1]\n[setup]\nname = "a"\nlabel = "A"\n', r"each \[\[setup\]\] needs a label"),
    (changed("[base]", "[base"), "not valid TOML"),
    ("base = 3\n" + GRID.replace("[base]", "[[setup]]"), r"base = 3, expected a table"),
    ('title = "t"\nseeds = [1]\nsetup = 3\n', r"setup = 3, but each \[\[setup\]\]"),
    (changed('name = "grouped"', 'name = ["grouped"]'), r"each \[\[variant\]\] needs a label and a name"),
    (AXES.replace("values = [2, 4]", "values = []"), r"each \[\[axis\]\] needs a name, the key it sets"),
    (AXES.replace('unit = "units"\n', ""), r"each \[\[axis\]\] needs a name"),
    (AXES.replace('key = "width"', 'key = "widht"'), "unknown configuration key 'widht': did"),
    (AXES.replace('key = "width"', 'key = "epochs.width"'), "key = 'epochs.width'.*options"),
    (AXES.replace("values = [2, 4]", "values = [2, 2]"), "values = .*expected each once"),
    ("axis = 3\n" + AXES.split("[[axis]]")[0], "axis = 3, but each"),
    (changed("epochs = 2", "epochs = 2\nseed = 4"), "setup long, variant ce: seed = 4, expected seeds at the head"),
])
def test_a_mistake_in_a_grid_is_named(load, text, message):
    with pytest.raises(ValueError, match=message):
        load(text)


def test_an_unknown_grid_lists_those_that_exist(tmp_path):
    with pytest.raises(ValueError, match="unknown grid 'frist-study': expected one of .*first-study"):
        grids.load("frist-study")
    with pytest.raises(ValueError, match="unknown grid .*nowhere.toml"):
        grids.load(tmp_path / "nowhere.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ValueError, match="unknown grid .*folder.toml"):
        grids.load(tmp_path / "folder.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="bytes.toml is not valid TOML"):
        grids.load(tmp_path / "bytes.toml")


def test_grids_load_without_torch(root):
    code = "import sys; sys.modules['torch'] = None; from paperlib import grids; grids.load('first-study')"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
