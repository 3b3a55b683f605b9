"""How steps run: compiled like eager, repeatable where asked, and without waiting for the device inside an epoch."""

from __future__ import annotations

import os
from contextlib import ExitStack, nullcontext

import numpy as np
import pytest
import torch
from test_train import CPU, FIT, MLP, SPEEDNET, STEPS, content, run, same_weights, stop_after, toy_loaders, toy_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from paperlib import data, engine, losses, models, train
from paperlib.checkpoint import State
from paperlib.data import Arrays, EvaluationLoader, Normalizer, TrainLoader
from paperlib.data import loader as loader_module
from paperlib.engine import Engine
from paperlib.models._common import Head

CUDA = torch.device("cuda")
COMPILED = Engine(compiled=True)
NOISED = MLP.replace(loss="noised_topk_hinge", k=3)
gpu = pytest.mark.gpu
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def _quick_compiler(monkeypatch):
    """Captures whole steps as ever, and runs what was captured by torch's own kernels: no C++ compiler needed."""
    monkeypatch.setattr(engine, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    """How many graphs the compiler has made since it was last reset."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def numbers(entry: dict) -> dict[str, float]:
    return {key: value for key, value in entry.items() if value is not None}


# What is chosen, and what is put back.


@pytest.mark.parametrize("device, batch_size, options, expected", [
    (CPU, 64, {}, Engine()),
    (CPU, 64, {"compile": True}, Engine(compiled=True)),
    (CUDA, 256, {}, Engine(compiled=True, cuda_graphs=True)),
    (CUDA, 257, {}, Engine(compiled=True)),
    (CUDA, 64, {"compile": False}, Engine()),
    (CUDA, 512, {"deterministic": True}, Engine(compiled=True, deterministic=True)),
])
def test_what_is_chosen_for_a_device(device, batch_size, options, expected):
    assert Engine.choose(device, batch_size, **options) == expected


def switches() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("chosen, inside", [(Engine(), (False, False, False)),
                                            (Engine(deterministic=True), (False, True, True))])
def test_switches_are_set_for_the_run_and_put_back(chosen, inside):
    with pytest.raises(ZeroDivisionError), chosen.settings(CPU):
        assert switches() == inside
        raise ZeroDivisionError
    assert switches() == (False, False, False)


def test_speed_is_preferred_on_a_gpu_unless_somebody_asked_for_repeatable_runs():
    with Engine().settings(CUDA):
        assert switches() == (True, False, False)
    torch.use_deterministic_algorithms(True)
    try:
        with Engine().settings(CUDA):
            assert switches() == (False, False, True)
        assert switches() == (False, False, True)
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_workspace_of_cublas_is_fixed_before_cuda_starts(monkeypatch):
    monkeypatch.delenv(engine.WORKSPACE, raising=False)
    with Engine(deterministic=True).settings(CPU):
        assert engine.WORKSPACE not in os.environ
    with Engine(deterministic=True).settings(CUDA):
        assert os.environ[engine.WORKSPACE] == ":4096:8"
    monkeypatch.setenv(engine.WORKSPACE, ":16:8")
    with Engine(deterministic=True).settings(CUDA):
        assert os.environ[engine.WORKSPACE] == ":16:8"
    for value in ("1", None):
        monkeypatch.setenv(engine.WORKSPACE, value) if value else monkeypatch.delenv(engine.WORKSPACE)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda value=value: value is None)
        with pytest.raises(ValueError, match="deterministic=True with CUBLAS_WORKSPACE_CONFIG=.*expected the variable "
                                             "to be :4096:8 or :16:8 when the process starts"), \
                Engine(deterministic=True).settings(CUDA):
            pass
        assert switches() == (False, False, False)


def test_a_record_says_how_its_steps_ran():
    environment = run(MLP.replace(epochs=1))[0].environment
    assert [environment[key] for key in ("compiled", "cuda_graphs", "deterministic")] == [False, False, False]


# bfloat16 on a CPU without instructions for it.


@pytest.mark.parametrize("config", [SPEEDNET, MLP.replace(precision="bf16")], ids=["speednet", "mlp"])
def test_products_in_float32_round_as_bfloat16_does(config, monkeypatch):
    """Nearer to torch's own bfloat16 than that is to float32, in logits and gradients."""
    found = []
    for bf16, instructions in ((True, True), (True, False), (False, True)):
        monkeypatch.setattr(engine, "BF16_INSTRUCTIONS", instructions)
        splits = data.splits(config)
        model = train.make_model(config, splits, Normalizer(splits.mean, splits.std, CPU), CPU).train()
        logits, value = engine.forward(model, nn.functional.cross_entropy, bf16,
                                       Normalizer(splits.mean, splits.std, CPU)(splits.train.inputs[:64]),
                                       splits.train.labels[:64], {})
        value.backward()
        assert logits.dtype == torch.float32
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((logits.detach(), gradient))
    for own, wide, full in zip(*found, strict=True):
        assert (wide - own).norm() < 0.5 * (own - full).norm(), "another rounding than that of bfloat16"


def test_products_are_widened_only_where_they_have_to_be(monkeypatch):
    monkeypatch.setattr(engine, "BF16_INSTRUCTIONS", False)
    assert engine.widens(CPU, True) and not engine.widens(CPU, False) and not engine.widens(CUDA, True)
    products, wide = [], engine._wide
    monkeypatch.setattr(engine, "_wide", lambda value: products.append(value) or wide(value))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), Head(8 * 4, 5))
    with engine.autocast(CPU, True), engine.widened(CPU, True):
        model(torch.randn(2, 3, 4, 4))
    assert products[0].shape == (2, 3, 4, 4), "the convolution"
    assert not any(isinstance(value, torch.Tensor) and value.shape == (2, 32) for value in products), "not the head"
    assert run(SPEEDNET.replace(epochs=1))[0].environment["widened"]
    monkeypatch.setattr(engine, "BF16_INSTRUCTIONS", True)
    assert not run(MLP.replace(epochs=1))[0].environment["widened"]


def test_deterministic_mode_changes_nothing_on_a_cpu():
    record, model = run(SPEEDNET)
    again, same = run(SPEEDNET, deterministic=True)
    assert again.environment["deterministic"] and same_weights(model, same)
    assert (again.history, again.validation) == (record.history, record.validation)


# Compiled like eager.


@pytest.mark.usefixtures("_quick_compiler")
def test_a_compiled_run_gives_the_numbers_of_an_eager_one():
    """In bf16, with a loss whose strength moves at every step, at two image sizes: two graphs, and no third."""
    expected, _ = run(SPEEDNET)
    before = graphs()
    record, _ = run(SPEEDNET, compile=True)
    assert record.environment["compiled"] and not record.environment["cuda_graphs"]
    assert graphs() - before == 2
    for entry, other in zip(record.history, expected.history, strict=True):
        assert numbers(entry) == pytest.approx(numbers(other), rel=1e-4)
    assert np.mean(record.ranks("validation") != expected.ranks("validation")) < 0.02
    assert record.timing["warmup_steps"] == 2 * train.WARMUP_STEPS, "each compilation is left out of the rate"
    run(SPEEDNET.replace(seed=1, epochs=4, lr=0.1), compile=True)
    assert graphs() - before == 2, "runs of one process share their graphs"


@pytest.mark.usefixtures("_quick_compiler")
def test_a_compiled_run_resumes_bit_by_bit(tmp_path):
    config, path = MLP.replace(loss="topk_transition", k=3, strength_schedule="tracked"), tmp_path / "run.pt"
    expected, expected_model = run(config, compile=True)
    with pytest.raises(train.TrainingInterruptedError):
        run(config, compile=True, checkpoint=path, stop=stop_after(STEPS + 3))
    torch._dynamo.reset()  # as in another process
    record, model = run(config, compile=True, checkpoint=path)
    assert same_weights(model, expected_model) and content(record) == content(expected)


@pytest.mark.usefixtures("_quick_compiler")
@pytest.mark.parametrize("name", ["cross_entropy", "topk_entropy", "noised_topk_hinge"])
def test_a_loss_is_captured_with_what_it_draws(name):
    """That each loss can be captured is among the tests of the losses; here it is with the loop around it."""
    takes_k = "k" in losses.options(name)
    config = MLP.replace(loss=name, k=3 if takes_k else None, epochs=1, lr=0.01)
    expected, found = (numbers(run(config, compile=compile)[0].history[0]) for compile in (False, True))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("_quick_compiler")
def test_a_step_that_cannot_be_captured_is_an_error_and_does_not_run_eagerly():
    def loss(logits, labels):
        value = nn.functional.cross_entropy(logits, labels)
        return value if value.item() > 0 else 2 * value

    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        train.fit(toy_model(), loss, toy_loaders(), FIT, engine=COMPILED, quiet=True)
    train.fit(toy_model(), loss, toy_loaders(), FIT.replace(epochs=1), quiet=True)


@pytest.mark.usefixtures("_quick_compiler")
def test_a_compiled_run_that_diverges_is_found():
    with pytest.raises(train.TrainingDivergedError, match="loss topk_entropy, epoch 1, step"):
        run(MLP.replace(lr=1e30, loss="topk_entropy", k=3), compile=True)


# Noise of a loss: from the seed, the epoch and the step.


def test_a_loss_with_noise_resumes_bit_by_bit_and_leaves_the_default_generator_alone(tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    expected, expected_model = run(NOISED)
    torch.manual_seed(2)
    with pytest.raises(train.TrainingInterruptedError):
        run(NOISED, checkpoint=tmp_path / "run.pt", stop=stop_after(STEPS + 3))
    record, model = run(NOISED, checkpoint=tmp_path / "run.pt")
    assert same_weights(model, expected_model) and content(record) == content(expected)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)
    run(NOISED.replace(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_differs_from_step_to_step_and_has_the_form_that_the_loss_takes():
    draws = train.loss_draws(toy_model(3), toy_loaders(), FIT.replace(loss="noised_topk_hinge", k=1,
                                                                       loss_options={"num_samples": 4}))
    first, again, other = draws(0, 0)["noise"], draws(0, 0)["noise"], draws(1, 0)["noise"]
    assert first.shape == (4, 50, 3) and torch.equal(first, again) and not torch.equal(first, other)
    assert draws(0, 1).keys() == {"noise"} and not torch.equal(draws(0, 1)["noise"], first)
    silent = FIT.replace(loss="noised_topk_hinge", k=1, loss_options={"eps": 0.0})
    assert train.loss_draws(toy_model(3), toy_loaders(), silent)(0, 0) == {}
    assert train.loss_draws(toy_model(3), toy_loaders(), FIT)(0, 0) == {}


# Nothing inside an epoch waits for the device. The device "meta" has shapes and no numbers: whatever asks for one, and
# so would stall a GPU, fails there.


class NothingCrosses(TorchDispatchMode):
    """Refuses copies between the host and the device that holds the data."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        devices = {t.device.type for t in (args[0] if args else None, out) if isinstance(t, torch.Tensor)}
        if len(devices) > 1:
            raise RuntimeError(f"{func} copies between {' and '.join(sorted(devices))}")
        return out


def epoch_without_numbers(monkeypatch, config, **options):
    """One epoch of the loop on images without numbers; an error if it looks for any."""
    meta = torch.device("meta")
    # "meta" has no generators, and only a CPU and CUDA have autocast; both draw and cast without waiting.
    monkeypatch.setattr(loader_module, "generator", lambda *_, **__: None)
    monkeypatch.setattr(train, "generator", lambda *_, **__: None)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    arrays = Arrays(torch.zeros(40, 12, 12, 3, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64))
    normalizer = Normalizer(torch.zeros(3), torch.ones(3), meta)
    loaders = train.Loaders(TrainLoader(arrays, normalizer, meta, batch_size=8, seed=0, augment=True, flip=True),
                            EvaluationLoader(arrays, normalizer, meta))
    model = models.build("resnet18", (3, 12, 12), 100, width=4).to(meta)
    taken, watched, make_optimizer = [], ExitStack(), train.make_optimizer

    def not_fused(*arguments):
        optimizer = make_optimizer(*arguments)
        for group in optimizer.param_groups:  # fused kernels refuse "meta" by name
            group["fused"] = False
        return optimizer

    monkeypatch.setattr(train, "make_optimizer", not_fused)

    def stop() -> bool:
        if not taken:  # the first step creates what the others keep
            watched.enter_context(NothingCrosses())
        taken.append(1)
        return len(taken) == 5

    with pytest.raises(train.TrainingInterruptedError), watched:
        train.fit(model, options.get("loss") or train.make_loss(config), loaders, config, stop=stop, quiet=True)
    assert len(taken) == 5


ON_META = FIT.replace(low_resolution=10, epochs=2)


@pytest.mark.parametrize("name", losses.names())
def test_no_step_asks_for_a_number(monkeypatch, name):
    epoch_without_numbers(monkeypatch, ON_META.replace(loss=name, k=5 if "k" in losses.options(name) else None))


@pytest.mark.parametrize("schedule", ["ramp", "tracked", "fitted"])
def test_no_schedule_asks_for_a_number(monkeypatch, schedule):
    epoch_without_numbers(monkeypatch, ON_META.replace(loss="topk_transition", k=5, strength_schedule=schedule))


@pytest.mark.parametrize("ask", [lambda x: x.item(), bool, float, lambda x: x.nonzero(), lambda x: x.tolist(),
                                 lambda x: x + torch.ones(()).to(x.device)],
                         ids=["item", "bool", "float", "nonzero", "tolist", "copy"])
def test_a_step_that_asks_is_caught(monkeypatch, ask):
    def loss(logits, labels):
        value = nn.functional.cross_entropy(logits, labels)
        ask(value.detach())
        return value

    with pytest.raises((RuntimeError, NotImplementedError), match="meta|scalarType"):
        epoch_without_numbers(monkeypatch, ON_META, loss=loss)


class Event:
    """A stand-in for CUDA's: its clock is a list of times."""

    times = iter(())
    waited = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self, stream):
        self.at = next(Event.times)

    def synchronize(self):
        Event.waited += 1

    def elapsed_time(self, other):
        return other.at - self.at


def test_on_cuda_the_device_keeps_the_time_and_is_waited_for_only_in_pauses(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(Event, "times", iter([1000.0, 3500.0, 10_000.0, 11_000.0]))
    monkeypatch.setattr(Event, "waited", 0)
    timing = State().timing
    clock = train.Clock(CUDA, timing, batch_size=10)
    for _ in range(train.WARMUP_STEPS + 3):
        clock.tick()
    assert Event.waited == 0
    clock.pause()
    assert (timing["train_seconds"], timing["timed_images"], Event.waited) == (2.5, 30, 1)
    clock.warm_up()
    for _ in range(train.WARMUP_STEPS + 1):
        clock.tick()
    clock.pause()
    assert (timing["train_seconds"], timing["timed_images"], Event.waited) == (3.5, 40, 2)
    assert timing["warmup_steps"] == 2 * train.WARMUP_STEPS


# On a GPU.

RESNET = SPEEDNET.replace(model="resnet18", width=16, evaluate_every=2, low_resolution=None)


@gpu
@needs_cuda
@pytest.mark.parametrize("options", [{"compile": False}, {}], ids=["eager", "compiled"])
def test_no_step_waits_for_the_gpu(monkeypatch, options):
    """From the third step of the second epoch on: before, kernels are chosen, compiled and recorded."""
    really = train.Clock.tick
    ticks = []

    def tick(self):
        really(self)
        ticks.append(1)
        torch.cuda.set_sync_debug_mode("error" if STEPS + 2 < len(ticks) < 2 * STEPS else "default")

    monkeypatch.setattr(train.Clock, "tick", tick)
    try:
        record, _ = run(RESNET, device="cuda", **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(ticks) == 2 * STEPS and record.environment["compiled"] is (not options)


@gpu
@needs_cuda
@pytest.mark.parametrize("batch_size", [128, 384], ids=["CUDA graphs", "compiled"])
def test_a_deterministic_run_repeats_and_resumes_bit_by_bit_on_the_gpu(tmp_path, batch_size):
    config = RESNET.replace(batch_size=batch_size, epochs=4)
    options = {"device": "cuda", "deterministic": True}
    expected, expected_model = run(config, **options)
    assert expected.environment["cuda_graphs"] is (batch_size <= engine.GRAPH_BATCH_SIZE)
    with pytest.raises(train.TrainingInterruptedError):
        run(config, checkpoint=tmp_path / "run.pt", stop=stop_after(5), **options)
    torch._dynamo.reset()
    record, model = run(config, checkpoint=tmp_path / "run.pt", **options)
    assert same_weights(model, expected_model) and content(record) == content(expected)


@gpu
@needs_cuda
def test_a_compiled_run_on_the_gpu_gives_the_numbers_of_an_eager_one():
    """One epoch in float32: a compiler rounds less often, and training carries that far."""
    config = RESNET.replace(precision="fp32", lr=0.02, epochs=1)
    expected, record = (run(config, device="cuda", compile=compile)[0] for compile in (False, True))
    for entry, other in zip(record.history, expected.history, strict=True):
        assert entry["train_loss"] == pytest.approx(other["train_loss"], rel=0.02)
