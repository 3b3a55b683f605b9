"""A configuration is one run: it refuses what is not meant, and its id never moves."""

from __future__ import annotations

import dataclasses
import json

import pytest

from paperlib.config import RunConfig


@pytest.mark.parametrize("typo, meant", [("epoch", "epochs"), ("Loss", "loss"),
                                         ("batchsize", "batch_size"), ("strength_shedule", "strength_schedule")])
def test_an_unknown_key_names_the_nearest(typo, meant):
    with pytest.raises(ValueError, match=f"unknown configuration key '{typo}': did you mean '{meant}'"):
        RunConfig.from_dict({typo: 1})


def test_replace_refuses_unknown_keys_too():
    with pytest.raises(ValueError, match="did you mean 'momentum'"):
        RunConfig().replace(momentom=0.5)


@pytest.mark.parametrize("key, value, wanted", [
    ("epochs", 8.0, "int"), ("epochs", "8", "int"), ("epochs", True, "int"), ("epochs", None, "int"),
    ("lr", "0.1", "float"), ("lr", True, "float"), ("augment", 1, "bool"), ("augment", "false", "bool"),
    ("model", 3, "str"), ("k", 5.0, "int"), ("loss_options", [1], "dict"), ("loss_options", None, "dict"),
    ("epochs", (8, 9), "int"), ("seed_split", [0, 1], "int"),
])
def test_a_value_of_another_type_is_refused(key, value, wanted):
    with pytest.raises(ValueError, match=f"{key}=.*expected {wanted}"):
        RunConfig(**{key: value})


@pytest.mark.parametrize("key, value", [
    ("label_noise", -0.1), ("label_noise", 1.5), ("momentum", 1.01), ("warmup", -1.0), ("low_resolution_until", 2.0),
    ("train_fraction", 0.0), ("train_fraction", 1.1), ("epochs", 0), ("batch_size", 0), ("evaluate_every", 0),
    ("k", 0), ("width", 0), ("depth", -1), ("low_resolution", 0), ("seed", -1), ("seed_noise", 2**31),
    ("lr", 0.0), ("lr", -1.0), ("weight_decay", -1e-4), ("bias_lr_factor", 0.0),
    ("lr", float("nan")), ("lr", float("inf")), ("momentum", float("nan")), ("weight_decay", float("inf")),
    ("lr", 10**400),
])
def test_a_value_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=f"{key}.*{value}"):
        RunConfig(**{key: value})


@pytest.mark.parametrize("key, value, choices", [
    ("label_noise_kind", "uniform", "symmetric, superclass"), ("precision", "fp16", "bf16, fp32"),
    ("strength_schedule", "linear", "constant, ramp, tracked, fitted"),
])
def test_a_choice_that_does_not_exist_lists_those_that_do(key, value, choices):
    with pytest.raises(ValueError, match=f"{key}='{value}': expected one of {choices}"):
        RunConfig(**{key: value})


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="expected ramp_start < ramp_end, got 0.7 and 0.7"):
        RunConfig(ramp_start=0.7, ramp_end=0.7)
    with pytest.raises(ValueError, match="only topk_transition has a strength"):
        RunConfig(loss="topk_grouped", k=5, strength_schedule="ramp")
    with pytest.raises(ValueError, match="own key k"):
        RunConfig(loss="topk_grouped", loss_options={"k": 5})


@pytest.mark.parametrize("options", [{"tau": float("nan")}, {"p_k": (1, 2)}, {"noise": object()}, {1: 2}])
def test_options_that_json_cannot_give_back_are_refused(options):
    with pytest.raises(ValueError, match="loss_options=.*expected names with finite numbers"):
        RunConfig(loss_options=options)


def test_a_linear_model_is_a_valid_depth():
    assert RunConfig(model="mlp", depth=0).depth == 0


def test_one_and_one_point_zero_are_one_run():
    one, other = RunConfig(lr=1, momentum=0, loss_options={"tau": 1}), RunConfig(lr=1.0, momentum=0.0,
                                                                                 loss_options={"tau": 1.0})
    assert one == other and one.run_id == other.run_id and hash(one) == hash(other)
    assert isinstance(one.lr, float)
    assert RunConfig(weight_decay=-0.0).run_id == RunConfig(weight_decay=0.0).run_id
    nested, same = (
        RunConfig(dataset="synthetic", family_options={"n": options})
        for options in ([1.0, {"a": 2.0}], [1, {"a": 2}]))
    assert nested.run_id == same.run_id
    assert RunConfig(loss_options={"tau": True}).run_id != RunConfig(loss_options={"tau": 1}).run_id


def test_run_ids_are_fixed():
    # Committed records are named by these: should one move, every record would be orphaned.
    assert RunConfig().run_id == "0aaba776853a"
    assert RunConfig(dataset="digits", model="mlp", width=32, loss="topk_transition", k=3, strength_schedule="ramp",
                     loss_options={"gate": "none", "strength": 0.3}).run_id == "73db9091a046"


@pytest.mark.parametrize("spec", dataclasses.fields(RunConfig), ids=lambda spec: spec.name)
def test_every_key_is_part_of_the_run_id(spec):
    base = RunConfig(loss="topk_transition", k=4, dataset="synthetic" if "family" in spec.name else "digits")
    value = getattr(base, spec.name)
    other = {"label_noise_kind": "superclass", "precision": "fp32", "strength_schedule": "ramp", "loss": "topk_other",
             "ramp_end": 0.75}.get(spec.name)
    if other is None:
        other = (not value if isinstance(value, bool) else {"x": 1} if isinstance(value, dict)
                 else value + "x" if isinstance(value, str) else value / 2 + 0.01 if isinstance(value, float)
                 else value + 1 if value is not None else "x" if "str" in str(spec.type) else 7)
    changed = base.replace(**{spec.name: other})
    assert changed.run_id != base.run_id and changed != base


@pytest.mark.parametrize("keys", [{"family": "nested"}, {"family_options": {"n": 100}}])
def test_families_belong_to_synthetic_data_alone(keys):
    with pytest.raises(ValueError, match=f"{next(iter(keys))}=.* with dataset 'digits': only 'synthetic'"):
        RunConfig(dataset="digits", **keys)
    assert RunConfig(dataset="synthetic", **keys).run_id != RunConfig(dataset="synthetic").run_id


def test_round_trip():
    config = RunConfig(dataset="synthetic", family="capacity_competition", family_options={"stripes": 4}, width=3)
    assert RunConfig.from_dict(config.to_dict()) == config
    assert config.replace() == config
    assert config.replace(width=5).replace(width=3).run_id == config.run_id


def test_a_configuration_cannot_change():
    options = {"gate": "none"}
    config = RunConfig(loss="topk_transition", k=5, loss_options=options)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3
    before = config.run_id
    options["gate"] = "ratio"
    config.to_dict()["loss_options"]["gate"] = "linear"
    assert config.loss_options == {"gate": "none"} and config.run_id == before
    assert len({config, config.replace()}) == 1


def test_a_list_of_seeds_is_many_models():
    many = RunConfig(model="mlp", seed=[4, 0, 2])
    assert many.seed == (0, 2, 4) == many.seeds and RunConfig(seed=4).seeds == (4,)
    assert many == RunConfig(model="mlp", seed=(0, 2, 4)) and hash(many) == hash(many.replace(seed=[2, 4, 0]))
    assert many.run_id == many.replace(seed=[2, 4, 0]).run_id
    assert many.to_dict()["seed"] == [0, 2, 4] == json.loads(json.dumps(many.to_dict()))["seed"]
    assert RunConfig.from_dict(many.to_dict()) == many and many.replace(seed=2) == RunConfig(model="mlp", seed=2)
    ids = {config.run_id for config in (many, many.replace(seed=[0, 2]), many.replace(seed=[0]), many.replace(seed=0))}
    assert len(ids) == 4, "one seed is not a list of one: their records differ in form"


@pytest.mark.parametrize("seeds", [[], [1, 1], [0, 2.0], [0, True], [0, -1], [0, 2**31], [0, "1"], [0, [1]], [None]])
def test_seeds_that_are_no_distinct_whole_numbers_are_refused(seeds):
    with pytest.raises(ValueError, match=r"seed=.*expected (a whole number|int)"):
        RunConfig(seed=seeds)
