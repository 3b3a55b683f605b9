"""Models trained at once end where each would alone, go on where they were stopped, and do not disturb each other."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from paperlib import analysis, bayes, ensemble, grids, losses, models, paths, records, sweep, train
from paperlib.benchmark._ensembles import ensembles
from paperlib.benchmark._nets import Effort
from paperlib.checkpoint import Checkpoint
from paperlib.config import RunConfig
from paperlib.data import Arrays, EvaluationLoader, Normalizer, TrainLoader
from paperlib.data.synthetic import FAMILIES
from paperlib.models import Stack, stack, stacked
from paperlib.seeding import generator

CPU = torch.device("cpu")
BASE = RunConfig(dataset="synthetic", family="capacity_competition", family_options={"n": 130}, model="mlp", width=6,
                 depth=1, epochs=3, batch_size=40, lr=0.4, precision="fp32", evaluate_every=2, evaluate_test=True)
MANY = BASE.replace(seed=[0, 3, 5, 8, 9])
TRACKED = MANY.replace(loss="topk_transition", k=2, strength_schedule="tracked")
STEPS = 3  # in an epoch: 130 // 40


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    """Evaluation on 20,000 points is most of the time of a run this small."""
    monkeypatch.setattr(sys.modules["paperlib.data.synthetic"], "EVALUATION_SIZE", 300)


def run(config: RunConfig, **options):
    return ensemble.trained_many(config, **{"commit": "a test", "quiet": True, **options})[:2]


def content(record):
    """All that two runs of one configuration must agree on, up to the last bit."""
    return {key: value for key, value in asdict(record).items() if key != "timing"}


def same_weights(some, others) -> bool:
    return all(torch.equal(a, b) for one, other in zip(some, others, strict=True)
               for a, b in zip(one.parameters(), other.parameters(), strict=True))


# Equal to the loop: literally what train() makes of each seed.


CONFIGS = {
    "linear": MANY.replace(depth=0, width=None),
    "two layers": MANY.replace(depth=2, loss="topk_entropy", k=2, momentum=0.0, weight_decay=1e-2),
    "three layers, no warm-up": MANY.replace(depth=3, loss="smooth_topk_svm", k=2, warmup=0.0, bias_lr_factor=1.0),
    "polynomial": MANY.replace(model="polynomial", width=None, depth=3, lr=0.05),
    "late ramp": MANY.replace(loss="topk_transition", k=2, strength_schedule="ramp", loss_options={"gate": "none"}),
    "tracked": TRACKED,
    "fitted": TRACKED.replace(strength_schedule="fitted", ramp_start=0.1, ramp_end=0.6),
    "noisy labels, a share of the data": MANY.replace(label_noise=0.2, train_fraction=0.8),
    "images": MANY.replace(dataset="digits", family=None, family_options={}, width=4, epochs=1, batch_size=200,
                           augment=False, loss="topk_grouped", k=3),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_each_model_is_what_its_seed_alone_gives(config):
    record, networks = run(config)
    assert train.train(config, commit="a test", quiet=True).test == record.test
    curves = np.cumsum(record.counts(), axis=1) / record.test["n"]
    for place in (0, 3):
        alone, network, _ = train.trained(config.replace(seed=config.seed[place]), commit="a test", quiet=True)
        for own, other in zip(networks[place].state_dict().values(), network.state_dict().values(), strict=True):
            assert_close(own, other, atol=2e-5, rtol=2e-4)
        assert abs(curves[place] - np.cumsum(alone.counts(), axis=1)[0] / alone.test["n"]).max() <= 2 / alone.test["n"]
        for key in ("loss", "nll", "ece"):
            assert record.test[key][place] == pytest.approx(alone.test[key], rel=1e-3, abs=1e-4), key
        expected = {entry["epoch"]: entry for entry in alone.history}
        assert [entry["epoch"] for entry in record.history] == sorted({min(2, config.epochs), config.epochs})
        for entry in record.history:
            for key, value in expected[entry["epoch"]].items():
                own = entry[key][place] if isinstance(entry[key], list) else entry[key]
                assert own == (None if value is None else pytest.approx(value, rel=1e-3, abs=5e-3)), key
    assert record.data == alone.data and record.validation["num_classes"] == alone.validation["num_classes"]


OPTIONS = {"noised_topk_hinge": {"num_samples": 3}, "ldr_kl": {"lam": 2.0}, "cross_entropy": {"label_smoothing": 0.1}}


class Noisy:
    """A loss with the noise that a run of one seed has: an address for each step."""

    def __init__(self, config: RunConfig, steps: int) -> None:
        self.config, self.steps, self.taken, self.loss = config, steps, 0, train.make_loss(config)
        self.name, self.options = self.loss.name, self.loss.options

    def __call__(self, logits, labels, **changes):
        if self.config.loss == "noised_topk_hinge" and torch.is_grad_enabled() and logits.requires_grad:
            draws = generator(self.config.seed, "loss noise", *divmod(self.taken, self.steps))
            changes.setdefault("noise", torch.randn(self.config.loss_options["num_samples"], *logits.shape,
                                                    generator=draws))
            self.taken += 1
        return self.loss(logits, labels, **changes)


def points(seed: int) -> Arrays:
    draws = torch.Generator().manual_seed(seed)
    x = torch.rand(130, 2, generator=draws, dtype=torch.float64) * 2 - 1
    return Arrays(x, torch.multinomial(FAMILIES["capacity_competition"](x.float()), 1, generator=draws).squeeze(1))


def fresh(config: RunConfig) -> nn.Module:
    return models.build(config.model, (2,), 5, width=config.width, depth=config.depth, seed=config.seed).double()


def alone(config: RunConfig) -> nn.Module:
    """A network trained by the one training loop, in double precision."""
    normalizer = Normalizer(torch.zeros(1).double(), torch.ones(1).double(), CPU)
    loaders = train.Loaders(TrainLoader(points(1), normalizer, CPU, batch_size=config.batch_size, seed=config.seed,
                                        augment=False, flip=False), EvaluationLoader(points(2), normalizer, CPU))
    network = fresh(config)
    train.fit(network, Noisy(config, len(loaders.train)), loaders, config, quiet=True)
    return network


def together(configs) -> list[nn.Module]:
    networks = [fresh(config) for config in configs]
    ensemble.fit(networks, train.make_loss(configs[0]), points(1), points(2), configs, quiet=True)
    return networks


@pytest.mark.parametrize("name", losses.names())
def test_every_loss_gives_each_model_its_own_gradient_alone(name):
    takes_k = "k" in losses.options(name)
    settings = BASE.replace(loss=name, k=2 if takes_k else None, loss_options=OPTIONS.get(name, {}))
    configs = [settings.replace(seed=seed) for seed in (4, 1, 7)]
    for network, config in zip(together(configs), configs, strict=True):
        for own, other in zip(network.parameters(), alone(config).parameters(), strict=True):
            assert_close(own, other, atol=1e-12, rtol=1e-12)


def test_models_may_have_settings_of_their_own():
    transition = BASE.replace(loss="topk_transition", k=2, strength_schedule="tracked")
    configs = [transition.replace(seed=1), transition.replace(seed=2),
               transition.replace(seed=1, lr=0.1, weight_decay=0.05), transition.replace(seed=1, momentum=0.0),
               transition.replace(seed=1, bias_lr_factor=0.5, warmup=0.7),
               transition.replace(seed=1, loss_options={"strength": 0.3}), transition.replace(seed=1)]
    networks = together(configs)
    for network, config in zip(networks, configs, strict=True):
        for own, other in zip(network.parameters(), alone(config).parameters(), strict=True):
            assert_close(own, other, atol=1e-12, rtol=1e-12)
    finals = [torch.cat([values.flatten() for values in network.parameters()]) for network in networks]
    assert not any(torch.allclose(finals[0], other, atol=1e-3) for other in finals[1:-1]), "settings made no change"


@pytest.mark.parametrize("first, second, message", [
    ({}, {"epochs": 4}, "epochs=4 and 3: expected one value"),
    ({}, {"loss_options": {"label_smoothing": 0.1}}, "loss_options.*strength"),
    ({"seed": 1}, {"depth": 2}, "depth=2 and 1"),
])
def test_settings_that_models_cannot_have_of_their_own_are_named(first, second, message):
    configs = [BASE.replace(**first), BASE.replace(**second)]
    with pytest.raises(ValueError, match=message):
        ensemble.fit([fresh(BASE), fresh(BASE)], train.make_loss(BASE), points(1), points(2), configs, quiet=True)


# The layout of chunks is a rule, and part of what a run is.


@pytest.mark.parametrize("number, batch, width, sizes", [
    (32, 100, 32, [32]), (1000, 32, 16, [1000]), (1000, 128, 32, [200, 200, 200, 200, 200]), (100, 2000, 64, [50, 50]),
    (129, 2000, 64, [43, 43, 43]), (65, 2000, 64, [32, 33]), (1, 5000, 64, [1]),
])
def test_chunks_are_of_nearly_equal_size_and_follow_from_the_configuration(number, batch, width, sizes):
    network = models.build("mlp", (2,), 5, width=width, seed=0)
    assert [each.models for each in stacked([network] * number, batch)] == sizes


@pytest.fixture
def small_chunks(monkeypatch):
    """At most two models in a chunk."""
    monkeypatch.setattr(stack, "LEAST", 2)
    monkeypatch.setattr(stack, "ACTIVATION_BYTES", 1)


def test_a_run_repeats_itself_bit_by_bit_and_its_record_names_the_chunks(small_chunks):
    (one, networks), (other, others) = run(TRACKED), run(TRACKED)
    assert content(one) == content(other) and same_weights(networks, others)
    assert one.environment["chunks"] == [1, 2, 2]


def test_chunks_of_another_size_change_nothing_but_rounding(monkeypatch):
    whole = run(TRACKED)[1]
    monkeypatch.setattr(stack, "LEAST", 2)
    monkeypatch.setattr(stack, "ACTIVATION_BYTES", 1)
    for one, other in zip(whole, run(TRACKED)[1], strict=True):
        assert_close(list(one.parameters()), list(other.parameters()), atol=1e-5, rtol=1e-4)


# Stopped, killed, resumed.


@pytest.mark.parametrize("steps", [1, STEPS, 2 * STEPS + 1, 4 * STEPS + 2, 9 * STEPS])
def test_a_run_that_was_stopped_goes_on_bit_by_bit(small_chunks, steps, tmp_path):
    expected, networks = run(TRACKED)
    asked: list[int] = []
    with pytest.raises(train.TrainingInterruptedError, match="5 models|stopped as asked"):
        run(TRACKED, checkpoint=tmp_path / "run.pt", stop=lambda: asked.append(1) or len(asked) == steps)
    more: list[int] = []
    record, resumed = run(TRACKED, checkpoint=tmp_path / "run.pt", stop=lambda: bool(more.append(1)))
    assert len(more) == 3 * 3 * STEPS - steps, "a resumed run does only the steps that were left"
    assert content(record) == content(expected) and same_weights(resumed, networks)
    assert record.timing["resumed"] == 1


class Killed(BaseException):
    """Ends a run where it stands, as a signal would."""


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(small_chunks, monkeypatch, tmp_path):
    expected, networks = run(TRACKED)
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))  # seconds: one after every step
    asked: list[int] = []

    def kill() -> bool:
        asked.append(1)
        if len(asked) == 2 * STEPS + 2:  # the step before is on disk, this one is lost
            raise Killed
        return False

    with pytest.raises(Killed):
        run(TRACKED, checkpoint=tmp_path / "run.pt", stop=kill)
    record, resumed = run(TRACKED, checkpoint=tmp_path / "run.pt")
    assert content(record) == content(expected) and same_weights(resumed, networks)


# A model that diverges.


def poisoned(monkeypatch, *places):
    """Give some models first weights beyond all numbers."""
    make = ensemble._networks

    def networks(*arguments):
        made = make(*arguments)
        for place in places:
            nn.init.constant_(made[place].head.weight, 3e38)
        return made

    monkeypatch.setattr(ensemble, "_networks", networks)


def test_a_model_that_diverges_costs_the_others_nothing(monkeypatch):
    expected, networks = run(TRACKED)
    poisoned(monkeypatch, 1, 3)
    record, others = run(TRACKED)
    left = [0, 2, 4]
    assert same_weights([networks[i] for i in left], [others[i] for i in left])
    assert all(value.isnan().all() for i in (1, 3) for value in others[i].parameters())
    for split in ("validation", "test"):
        own, before = getattr(record, split), getattr(expected, split)
        for key in ("loss", "nll", "ece", "expected"):
            assert [own[key][i] for i in left] == [before[key][i] for i in left]
            assert own[key][1] is None and own[key][3] is None
        assert np.array_equal(record.counts(split)[left], expected.counts(split)[left])
        assert not record.counts(split)[[1, 3]].any()
        assert record.diverged(split) == [3, 8] and not expected.diverged(split)
    assert [entry["diverged"] for entry in record.history] == [[3, 8]] * 2
    assert record.history[-1]["train_loss"][1] is None
    assert records.parse(record.to_json()) == record


def test_a_model_that_diverges_in_mid_training_is_taken_out_alone():
    wild = [BASE.replace(seed=1), BASE.replace(seed=2, weight_decay=1e100), BASE.replace(seed=3)]
    networks = together(wild)  # the second multiplies its weights by some 1e99 a step
    assert all(value.isnan().all() for value in networks[1].parameters())
    for network, config in zip(networks[::2], wild[::2], strict=True):
        assert_close(list(network.parameters()), list(alone(config).parameters()), atol=1e-12, rtol=1e-12)


def test_no_model_left_is_an_error():
    wild = MANY.replace(weight_decay=1e30)
    with pytest.raises(train.TrainingDivergedError, match=f"run_id {wild.run_id}.*models 5"):
        run(wild)


# What is refused.


@pytest.mark.parametrize("changes, message", [
    ({"seed": 3}, "seed=3: expected a list of seeds"),
    ({"model": "resnet18", "depth": None}, "model='resnet18'.*'mlp' or"),
    ({"precision": "bf16"}, "precision='bf16' with 5 seeds: expected 'fp32'"),
    ({"dataset": "cifar100", "family": None, "family_options": {}}, "dataset='cifar100'.*'synthetic' or 'digits'"),
    ({"dataset": "digits", "family": None, "family_options": {}}, "augment=True.*expected False"),
    ({"dataset": "digits", "family": None, "family_options": {}, "augment": False, "low_resolution": 4,
      "low_resolution_until": 0.5}, "low_resolution=4 with model 'mlp' and images of 16 pixels: expected None"),
    ({"loss_options": {"ignore_index": 1}}, "loss_options.*expected no ignore_index"),
    ({"loss_options": {"reduction": "sum"}}, "reduction='sum': expected none"),
    ({"train_fraction": 1e-9}, "expected at least one training sample, got none"),
    ({"k": 2}, "k=2 with loss 'cross_entropy'"), ({"family": "stripes"}, "family='stripes'"),
])
def test_what_models_cannot_do_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run(MANY.replace(**changes))


def test_networks_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="3 configurations for 2 networks"):
        ensemble.fit([fresh(BASE)] * 2, train.make_loss(BASE), points(1), points(2), [BASE] * 3)
    with pytest.raises(ValueError, match="differ in the sizes"):
        Stack([fresh(BASE), fresh(BASE.replace(width=7))])
    with pytest.raises(ValueError, match="type SpeedNet: expected 'mlp' or 'polynomial'"):
        Stack([models.build("speednet", (3, 9, 9), 5)])
    with pytest.raises(ValueError, match="at least one network"):
        stacked([], 10)


def test_a_network_is_returned_for_one_seed_alone():
    with pytest.raises(ValueError, match=r"seed=\[0, 3, 5, 8, 9\]: expected one seed"):
        train.trained(MANY)


# The record.


def test_a_record_holds_what_a_study_needs_and_stays_small():
    record = run(BASE.replace(seed=list(range(32)), epochs=2))[0]
    assert len(record.to_json()) < 20_000
    assert records.parse(record.to_json()) == record
    assert record.config["seed"] == list(range(32)) == record.seeds
    counts, expected = record.counts(), record.expected()
    assert counts.shape == expected.shape == (32, 5) and (counts.sum(axis=1) == 300).all()
    # 300 labels were drawn with the probabilities that the expected accuracy knows.
    assert abs(np.cumsum(counts, axis=1) / 300 - expected).max() < 5 * 0.5 / math.sqrt(300)
    assert (expected <= np.array(record.test["bayes"]) + 1e-6).all()
    json.loads(record.to_json(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("family, options", [("rings", {}), ("gaussian_mixture", {"n": 200})])
def test_regret_is_measured_under_the_exact_probabilities_of_the_points(family, options):
    record, networks, splits = ensemble.trained_many(MANY.replace(family=family, family_options=options), quiet=True)
    points, options = splits.test.inputs, {key: value for key, value in options.items() if key != "n"}
    exact = FAMILIES[family](points, **options)
    assert record.test["bayes"] == pytest.approx(bayes.bayes_topk(exact), rel=1e-6)
    for network, found in zip(networks, record.expected(), strict=True):
        with torch.no_grad():
            assert found == pytest.approx(bayes.expected_topk(network(points), exact), abs=1e-6)


GRID = """
title = "Many"
seeds = [[0, 1, 2], [3, 4]]
[base]
dataset = "synthetic"
family = "capacity_competition"
family_options = { n = 130 }
model = "mlp"
width = 5
epochs = 2
batch_size = 40
precision = "fp32"
evaluate_every = 2
evaluate_test = true
[[setup]]
name = "small"
label = "5 units"
[[variant]]
name = "ce"
label = "cross entropy"
[[variant]]
name = "grouped"
label = "grouped"
loss = "topk_grouped"
k = 2
"""


def test_a_grid_of_many_models_goes_from_sweep_to_frames(tmp_path, monkeypatch):
    (tmp_path / "many.toml").write_text(GRID)
    monkeypatch.setattr(paths, "GRIDS", tmp_path)
    monkeypatch.setattr(paths, "RECORDS", tmp_path / "records")
    output = sweep.Output(tmp_path / "records" / "many")
    output.prepare()
    assert sweep.run(grids.load("many").cells, output, commit="a test", quiet=True) == []
    assert len(records.load(output.path)) == 4
    frame = analysis.differences("many", ks=(1, 2))
    assert list(frame["n"]) == [5, 5]
    runs = analysis.runs("many").set_index(["variant", "seed"])["top2"]
    gap = (runs["grouped"] - runs["ce"])
    assert frame[frame.k == 2].iloc[0]["mean"] == pytest.approx(gap.mean())


# Speed.


def test_models_at_once_leave_a_loop_far_behind():
    effort = Effort(seconds=2.0, rounds=(5, 9), block_seconds=0.2)
    (row,) = ensembles(torch.device("cpu"), effort, sizes=((100, 32, 16),))
    assert row["times"] > 4, row
