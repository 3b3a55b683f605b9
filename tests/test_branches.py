"""Runs that begin alike are trained once until they part, and end as if each had been trained alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import count

import pytest
import torch

from paperlib import losses, records, sweep, train
from paperlib.branches import Branches, Run, begin_alike, stem
from paperlib.checkpoint import Checkpoint
from paperlib.config import RunConfig
from paperlib.grids import Cell
from paperlib.kit import Schedule

CE = RunConfig(dataset="synthetic", family="capacity_competition", family_options={"n": 400}, model="mlp", width=4,
               epochs=5, batch_size=100, lr=0.5, precision="fp32", evaluate_every=2, evaluate_test=True)
LATE = dict(loss="topk_transition", k=2, strength_schedule="fitted", ramp_start=0.05, ramp_end=0.2)
#: What a sweep might hold: the first is the trunk of all that begin as it does.
CONFIGS = {
    "ce": CE,
    "fitted": CE.replace(**LATE),
    "later": CE.replace(**LATE | {"ramp_start": 0.1, "k": 3}),
    "never": CE.replace(**LATE | {"ramp_start": 0.99, "ramp_end": 1.0}),
    "clock": CE.replace(**LATE | {"strength_schedule": "ramp", "ramp_start": 0.5, "ramp_end": 1.0}),
    "weaker": CE.replace(**LATE | {"loss_options": {"strength": 0.5, "gate": "ratio", "detach_gate": False}}),
    "smoothed": CE.replace(loss_options={"label_smoothing": 0.1}),
    "other-seed": CE.replace(seed=1, **LATE),
}
OF_ITS_OWN = ("ce", "smoothed", "other-seed")


def content(record: records.Record) -> dict:
    """A record without what depends on the clock."""
    document = asdict(record)
    del document["timing"]
    return document


def cells(*names: str) -> list[Cell]:
    return [Cell("study", "only", name, CONFIGS[name].seed, CONFIGS[name]) for name in names]


def swept(out, *names: str, stop=lambda: False) -> dict[str, records.Record]:
    """What a sweep over these cells leaves, by name."""
    output = sweep.Output(out)
    output.prepare()
    assert sweep.run(cells(*names), output, stop=stop, commit="a test", quiet=True, device="cpu") == []
    found = {record.run_id: record for record in records.load(out)}
    return {name: found[CONFIGS[name].run_id] for name in names if CONFIGS[name].run_id in found}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict]:
    """Each run trained by itself."""
    return {name: content(train.train(config, commit="a test", quiet=True, device="cpu"))
            for name, config in CONFIGS.items()}


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """The run ids of the steps that were trained, in order; what goes along is not among them."""
    trained, check = [], train.check_finite

    def watched(value, config, **place):
        if value.dim() == 0:
            trained.append(config.run_id)
        return check(value, config, **place)

    monkeypatch.setattr(train, "check_finite", watched)
    return trained


def test_the_transitions_do_begin_and_at_different_steps(alone):
    begun = {name: [entry["epoch"] for entry in alone[name]["history"] if entry["strength"]][:1] for name in CONFIGS}
    assert begun["fitted"] < begun["later"] and begun["fitted"][0] > 1 and begun["clock"] and begun["weaker"]
    assert begun["never"] == begun["ce"] == begun["smoothed"] == []
    ends = {str(alone[name]["test"]["ranks"]) for name in ("ce", "fitted", "later", "clock", "weaker")}
    assert len(ends) == 5 and alone["never"]["test"]["ranks"] == alone["ce"]["test"]["ranks"]


def test_all_end_as_if_they_had_been_alone_with_fewer_steps(tmp_path, alone, steps):
    found = swept(tmp_path / "out", *CONFIGS)
    assert {name: content(record) for name, record in found.items()} == alone
    whole = steps.count(CE.run_id)
    taken = {name: steps.count(config.run_id) for name, config in CONFIGS.items()}
    assert taken["ce"] == taken["smoothed"] == taken["other-seed"] == whole > 0 == taken["never"]
    assert 0 < taken["later"] < taken["fitted"] < whole and 0 < taken["clock"] < whole
    assert not list(tmp_path.rglob("*.pt"))
    for name, record in found.items():
        shared = record.timing.get("shared_cpu_seconds")
        assert (shared is None) == (name in OF_ITS_OWN) and record.timing["train_cpu_seconds"] >= (shared or 0) >= 0


def test_a_transition_may_be_the_trunk_until_it_begins(tmp_path, alone, steps):
    found = swept(tmp_path / "out", "fitted", "ce", "later")
    assert {name: content(record) for name, record in found.items()} == {name: alone[name] for name in found}
    assert 0 < steps.count(CONFIGS["later"].run_id) == steps.count(CE.run_id) < steps.count(CONFIGS["fitted"].run_id)


@pytest.mark.parametrize("killed_after", [1, 3, 4, 9, 12, 15, 16])
def test_a_sweep_that_was_stopped_goes_on_and_still_shares(tmp_path, alone, steps, killed_after):
    names, ticks = ("ce", "fitted", "later", "never"), count(1)
    assert swept(tmp_path / "out", *names, stop=lambda: next(ticks) > killed_after) == {}
    found = swept(tmp_path / "out", *names)
    assert {name: content(record) for name, record in found.items()} == {name: alone[name] for name in names}
    at_once = tmp_path / "at-once"
    trained, steps[:] = sorted(steps), []
    swept(at_once, *names)
    assert trained == sorted(steps), "no step is made that would not have been made without the stop"


def stop_after(steps: int) -> Callable[[], bool]:
    ticks = count(1)
    return lambda: next(ticks) >= steps


def test_what_has_parted_does_not_join_again(tmp_path, alone, steps):
    """Both were stopped at the same step, but the one had begun its transition by then."""
    train.train(CE, commit="a test", quiet=True, device="cpu")
    almost, names, output = len(steps) - 1, ("ce", "fitted"), sweep.Output(tmp_path / "out")
    output.prepare()
    for name in names:
        with pytest.raises(train.TrainingInterruptedError):
            train.train(CONFIGS[name], checkpoint=output.work / f"{CONFIGS[name].run_id}.pt", quiet=True, device="cpu",
                        stop=stop_after(almost))
    steps.clear()
    found = swept(tmp_path / "out", *names)
    assert steps == [CONFIGS[name].run_id for name in names]
    assert {name: content(record) for name, record in found.items()} == {name: alone[name] for name in names}
    assert not any("shared_cpu_seconds" in record.timing for record in found.values())


def test_what_is_further_or_not_as_far_goes_on_by_itself(tmp_path, alone, steps):
    names, output = ("ce", "fitted", "never"), sweep.Output(tmp_path / "out")
    output.prepare()
    for name, at in (("ce", 4), ("fitted", 2), ("never", 4)):
        with pytest.raises(train.TrainingInterruptedError):
            train.train(CONFIGS[name], checkpoint=output.work / f"{CONFIGS[name].run_id}.pt", quiet=True, device="cpu",
                        stop=stop_after(at))
    steps.clear()
    found = swept(tmp_path / "out", *names)
    assert {name: content(record) for name, record in found.items()} == {name: alone[name] for name in names}
    assert [steps.count(CONFIGS[name].run_id) for name in names] == [steps.count(CE.run_id) + by for by in (0, 2, 0)]


@pytest.mark.parametrize("trouble", ["no checkpoint", "of another run", "k beyond the classes", "a broken record"])
def test_trouble_with_one_that_goes_along_costs_the_trunk_nothing(tmp_path, alone, trouble):
    output, config = sweep.Output(tmp_path / "out"), CONFIGS["fitted"]
    output.prepare()
    path = output.work / f"{config.run_id}.pt"
    if trouble == "no checkpoint":
        path.write_text("no checkpoint")
    elif trouble == "of another run":
        with pytest.raises(train.TrainingInterruptedError):
            train.train(CE.replace(seed=2), checkpoint=path, quiet=True, device="cpu", stop=stop_after(2))
    elif trouble == "k beyond the classes":
        config = config.replace(k=9)
    else:
        (tmp_path / "out" / f"{config.run_id}.json").write_text("{")
    wanted = [*cells("ce"), Cell("study", "only", "fitted", config.seed, config), *cells("never")]
    failed = sweep.run(wanted, output, commit="a test", quiet=True, device="cpu")
    assert failed == wanted[1:2] and (output.failed / f"{config.run_id}.json").exists()
    for name in ("ce", "never"):
        assert content(records.read(tmp_path / "out" / f"{CONFIGS[name].run_id}.json")) == alone[name]


def test_a_checkpoint_that_cannot_be_written_costs_that_run_its_share(tmp_path, alone, steps, monkeypatch):
    save, own = Checkpoint.save, CONFIGS["fitted"].run_id

    def full(checkpoint, *arguments):
        if checkpoint.run_id == own and own not in steps:
            raise OSError("no space left on device")
        return save(checkpoint, *arguments)

    monkeypatch.setattr(Checkpoint, "save", full)
    names = ("ce", "fitted", "later")
    found = swept(tmp_path / "out", *names)
    assert {name: content(record) for name, record in found.items()} == {name: alone[name] for name in names}
    assert steps.count(own) == steps.count(CE.run_id) > steps.count(CONFIGS["later"].run_id)


def test_a_claim_lasts_as_long_as_its_run_goes_along(tmp_path, monkeypatch):
    output, held, really = sweep.Output(tmp_path / "out"), [], Branches.let_go
    output.prepare()
    others = [CONFIGS[name] for name in ("fitted", "later", "never")]
    others.append(CE.replace(**LATE | {"k": 9}))  # beyond the classes: it never goes along

    def look():
        held.append("")
        for config in others:
            with output.claim(config.run_id) as free:
                held[-1] += "free " if free else "held "

    def watched(*arguments):
        if not held:
            look()
        really(*arguments)
        look()

    monkeypatch.setattr(Branches, "let_go", watched)
    wanted = [Cell("study", "only", "any", 0, config) for config in (CE, *others)]
    sweep.run(wanted, output, stop=lambda: len(held) == 3, commit="a test", quiet=True, device="cpu")
    assert held == ["held held held free ", "free held held free ", "free free held free "]


def test_a_budget_that_is_laid_out_run_by_run_shares_nothing(tmp_path, steps):
    output = sweep.Output(tmp_path / "out")
    output.prepare()
    schedule = Schedule(600.0, lambda: 600.0, "a CPU")
    assert sweep.run(cells("ce", "never"), output, schedule=schedule, commit="a test", quiet=True, device="cpu") == []
    assert steps.count(CE.run_id) == steps.count(CONFIGS["never"].run_id) > 0


def test_what_another_sweep_holds_is_left_to_it(tmp_path, alone, steps):
    output = sweep.Output(tmp_path / "out")
    output.prepare()
    with output.claim(CONFIGS["never"].run_id) as claimed:
        assert claimed
        found = swept(tmp_path / "out", "ce", "never")
    assert found.keys() == {"ce"} and not (output.work / f"{CONFIGS['never'].run_id}.pt").exists()


def test_only_what_begins_alike_goes_along():
    for name, config in CONFIGS.items():
        assert begin_alike(CE, config) == begin_alike(config, CE) == (name not in ("smoothed", "other-seed")), name
    assert stem(CE) == CE == stem(CONFIGS["fitted"])
    for other in ({"strength_schedule": "constant"}, {"strength_schedule": "tracked"}, {"lr": 0.4}, {"epochs": 6},
                  {"evaluate_every": 1}, {"loss": "topk_grouped", "strength_schedule": "constant"},
                  {"loss_options": {"ignore_index": 1}}):
        assert not begin_alike(CE, CONFIGS["fitted"].replace(**other)), other
    many = CE.replace(seed=[0, 1])
    assert stem(many) is None and not begin_alike(many, many)


@pytest.mark.parametrize("options", [
    {}, *({"gate": gate, "blend": blend, "detach_gate": detach} for gate in ("none", "ratio", "linear")
          for blend in ("probability", "loss") for detach in (True, False))])
@pytest.mark.parametrize("k", [1, 5, 19])
def test_a_transition_of_no_strength_is_cross_entropy_bit_by_bit(options, k):
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 20, generator=draws) * torch.logspace(-3, 3, 64).unsqueeze(1)
    logits[:8] = logits[:8].round()  # ties
    labels = torch.randint(20, (64,), generator=draws)
    found = []
    at_rest = {"k": k, "strength": torch.zeros(()), **options}
    for name, arguments in (("cross_entropy", {}), ("topk_transition", at_rest)):
        leaf = logits.clone().requires_grad_()
        value = losses.get(name, **arguments)(leaf, labels)
        value.backward()
        found.append((value.detach(), leaf.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("compile, along", [(True, 0), (False, 1)])
def test_what_is_compiled_shares_nothing(tmp_path, monkeypatch, compile, along):
    left = []

    def branches(trunk, runs):
        raise LookupError(f"{len(runs)} go along")

    monkeypatch.setattr(train, "Branches", branches)
    with pytest.raises(LookupError, match=f"{along} go along"):
        train.train(CE, quiet=True, device="cpu", compile=compile, branches={CONFIGS["fitted"]: tmp_path / "a.pt"},
                    left=left.append)
    assert len(left) == 1 - along


def test_counts_are_in_the_runs_own_terms():
    runs = (Run(CE, None), Run(CONFIGS["fitted"], None))
    for run in runs:
        run.count(torch.tensor([0, 1, 2]), torch.tensor(0.5))
    assert runs[0].state.sums.tolist() == [1.5, 1, 3] and runs[1].state.sums.tolist() == [1.5, 1, 2]
    assert runs[0].state.tracked == pytest.approx(0.01) and runs[1].state.tracked == pytest.approx(0.01 / 3)
    assert runs[0].state.step == runs[1].state.step == 1
