"""The chapter on using the losses elsewhere: its cells and snippets train for a few steps, and do what it says."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
import sys

import pytest
import record
import torch
from sklearn.datasets import load_digits
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from paperlib import losses, schedules

CHAPTER = record.BOOK / "07-use.md"
K = 5  # in the chapter's calls of the two trainers


@pytest.fixture
def strengths(monkeypatch) -> list[float]:
    """Every strength that reaches the transition loss while gradients are recorded, in order."""
    spec, seen = losses.SPECS["topk_transition"], []

    @functools.wraps(spec.function)
    def watched(*arguments, **options):
        if torch.is_grad_enabled():
            seen.append(float(options["strength"]))
        return spec.function(*arguments, **options)

    monkeypatch.setitem(losses.SPECS, "topk_transition", dataclasses.replace(spec, function=watched))
    return seen


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """240 images (240, 8, 8) in [0, 1], and their labels."""
    data = load_digits()
    return torch.tensor(data.images[:240] / 16, dtype=torch.float32), torch.tensor(data.target[:240])


def run_cells(*beginnings: str, space: dict | None = None) -> dict:
    """Run the chapter's code cells that hold these words, in one namespace, which is returned."""
    space = {} if space is None else space
    cells = [cell.source for cell in record.to_notebook(CHAPTER).cells if cell.cell_type == "code"]
    for words in beginnings:
        (source,) = [source for source in cells if words in source]
        exec(source, space)
    return space


def call_of(words: str) -> str:
    """The chapter's fenced lines that hold these words: what a reader types beside a snippet."""
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", CHAPTER.read_text(), re.DOTALL) if words in block]
    return code


def snippet(name: str, monkeypatch: pytest.MonkeyPatch):
    """The module of a file in book/snippets."""
    spec = importlib.util.spec_from_file_location(name, record.BOOK / "snippets" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def ramp(steps: int, accumulated: int = 1) -> list[float]:
    """The late ramp by optimizer step, each as often as its batches call the loss."""
    return [schedules.ramp(step / steps) for step in range(steps) for _ in range(accumulated)]


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


def test_every_snippet_is_shown_and_tested():
    files = {path.name for path in (record.BOOK / "snippets").glob("*") if path.is_file()}
    assert set(re.findall(r"\{literalinclude\} snippets/(\S+)", CHAPTER.read_text())) == files
    assert files == {"lightning_module.py", "hugging_face.py"}


# The cells


def test_the_plain_loop_follows_the_ramp_and_learns(strengths):
    space = run_cells("def train(")
    steps = space["EPOCHS"] * space["BATCHES"]
    assert strengths == pytest.approx(ramp(steps), abs=1e-12)
    with torch.no_grad():
        untrained = functional.cross_entropy(space["start"]()[0](space["inputs"]), space["labels"])
    run_cells("metrics.label_ranks", space=space)
    assert untrained > 2
    assert space["curve"][2] > 0.99


def test_the_fitted_transition_follows_the_training_accuracy(strengths):
    space = run_cells("def train(")
    strengths.clear()
    run_cells("class FittedTransition", space=space)
    assert len(strengths) == space["EPOCHS"] * space["BATCHES"]
    begun = next(place for place, strength in enumerate(strengths) if strength)
    assert begun > 2 * space["BATCHES"] and not any(strengths[:begun])
    assert 0 < strengths[begun] < 0.1 and 0.8 < strengths[-1] < 1
    fitted = space["fitted"]
    right = fitted.right
    fitted(torch.eye(10)[[0, 1]], torch.tensor([0, 5]), 0.5)  # one of two is right
    assert fitted.right == pytest.approx(right + (0.5 - right) / space["BATCHES"])
    assert strengths[-1] == pytest.approx((right - 0.8) / 0.2)


def test_the_checkpoint_of_cross_entropy_is_what_goes_on(strengths, monkeypatch):
    space = run_cells("def train(")
    expected = ramp(space["EPOCHS"] * space["BATCHES"])
    strengths.clear()
    begun, train = [], space["train"]

    def watched(model, optimizer, loss, epochs):
        begun.append((weights(model), len(optimizer.state), len(strengths)))
        train(model, optimizer, loss, epochs)
        begun.append((weights(model), len(optimizer.state), len(strengths)))

    run_cells("def cross_entropy(", space={**space, "train": watched})
    (_, state, _), (saved, _, under_ce), (loaded, kept, _), (end, _, calls) = begun
    assert (state, under_ce) == (0, 0), "the first half is torch's own cross entropy, from scratch"
    assert torch.equal(saved, loaded) and kept == 4, "weights and optimizer are the saved ones"
    assert calls == len(expected) / 2 and strengths == pytest.approx(expected[calls:], abs=1e-12)
    assert not torch.equal(loaded, end)


def test_a_half_of_cross_entropy_and_a_late_ramp_are_one_run():
    space = run_cells("def train(")
    run_cells("def cross_entropy(", space=space)
    final = []
    for first in (space["cross_entropy"], space["late_ramp"]):
        torch.manual_seed(1)
        model, optimizer = space["start"]()
        space["train"](model, optimizer, first, range(space["EPOCHS"] // 2))
        final.append(weights(model))
    torch.testing.assert_close(*final, rtol=0, atol=1e-3)


def test_scores_are_adjusted_on_images_that_the_network_has_not_seen():
    space = run_cells("def train(", "posthoc.fit(")
    held_out, truth = space["held_out"], space["labels"][space["validation"]]
    before, after = (functional.cross_entropy(scores, truth) for scores in (held_out.double(), space["scores"]))
    assert after < before and space["scores"].shape == (597, 10)
    parts = [set(range(1797)[space[name]]) for name in ("training", "validation")]
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == 1797


def test_the_forms_are_what_their_comments_say():
    space = run_cells("def train(")
    run_cells("# Class weights", space=space)
    loss, logits, classes = space["loss"], space["logits"], space["classes"]
    each = loss(logits, classes, reduction="none")
    weight = torch.linspace(0.5, 2.0, 10)[classes]
    torch.testing.assert_close(space["weighted"], (each * weight).sum() / weight.sum())
    left = torch.tensor([0, 2, 3])
    torch.testing.assert_close(space["masked"], loss(logits[left], torch.tensor([3, 4, 1])))
    torch.testing.assert_close(space["mixed"], 0.7 * each.mean() + 0.3 * loss(logits, space["partners"]))
    one = loss(space["scores"][1, 3:4], space["words"][1, 3:4])
    torch.testing.assert_close(loss(space["scores"].transpose(1, 2), space["words"], reduction="none")[1, 3], one)
    assert space["pixels"].shape == (2, 8, 8) and space["tokens"].shape == ()


def test_half_precision_gives_a_float32_loss():
    space = run_cells("def train(", "torch.autocast")
    assert (space["half"].dtype, space["value"].dtype) == (torch.bfloat16, torch.float32)


def test_a_strength_that_is_filled_compiles_once(capsys):
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    space = run_cells("def train(", "torch.autocast", "torch.compile(")
    assert "graphs compiled: 1\n" in capsys.readouterr().out
    expected = space["transition"](space["model"](space["inputs"]), space["labels"], strength=1.0)
    torch.testing.assert_close(space["value"], expected)


# Lightning. It warns of few workers and short runs, and calls a helper of torch that is to go.

LIGHTNING = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*:UserWarning",
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
)


def lightning_trainer(folder, stop_after: int | None = None, **options):
    import lightning

    class Stop(lightning.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch + 1 == stop_after

    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    return lightning.Trainer(**{"accelerator": "cpu", "max_epochs": 8, "default_root_dir": folder, **quiet, **options},
                             callbacks=[Stop()])


@pytest.fixture
def lightning_names(digits, monkeypatch) -> dict:
    """What the chapter's call names, but for the trainer; 6 batches in an epoch."""
    torch.manual_seed(0)
    data = TensorDataset(digits[0].flatten(1), digits[1])
    return {
        "Classifier": snippet("lightning_module", monkeypatch).Classifier,
        "model": torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)),
        "training": DataLoader(data, batch_size=40, shuffle=True),
        "validation": DataLoader(data, batch_size=40),
    }


@LIGHTNING
@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_lightning_module_follows_the_ramp_and_learns(accumulated, lightning_names, strengths, tmp_path):
    trainer = lightning_trainer(tmp_path, accumulate_grad_batches=accumulated)
    exec(call_of("trainer.fit("), {**lightning_names, "trainer": trainer})
    steps = 8 * 6 // accumulated
    assert trainer.global_step == steps
    assert strengths == pytest.approx(ramp(steps, accumulated), abs=1e-12)
    shown = trainer.callback_metrics
    assert float(shown["strength"]) == pytest.approx(strengths[-1])
    assert shown["top1"] < shown[f"top{K}"] and shown[f"top{K}"] > 0.9
    assert list(tmp_path.iterdir()) == []


@LIGHTNING
def test_a_resumed_lightning_run_goes_on_at_its_strength(lightning_names, strengths, tmp_path):
    call, path = call_of("trainer.fit("), tmp_path / "stopped.ckpt"
    trainer = lightning_trainer(tmp_path, stop_after=6)
    exec(call, {**lightning_names, "trainer": trainer})
    trainer.save_checkpoint(path)
    assert trainer.global_step == len(strengths) == 36
    exec(call.replace("validation)", "validation, ckpt_path=path)"),
         {**lightning_names, "trainer": lightning_trainer(tmp_path), "path": path})
    assert strengths == pytest.approx(ramp(48), abs=1e-12)


@LIGHTNING
def test_without_an_end_lightning_stays_with_cross_entropy(lightning_names, strengths, tmp_path):
    trainer = lightning_trainer(tmp_path, stop_after=2, max_epochs=-1)
    exec(call_of("trainer.fit("), {**lightning_names, "trainer": trainer})
    assert strengths == [0.0] * 12


# Hugging Face. The model is made from a configuration, so that nothing is downloaded.


def vit(classes: int = 10):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, num_labels=classes, hidden_dropout_prob=0.0))


def hugging_face_names(module, digits, folder, **options) -> dict:
    """What the chapter's call names; 6 steps in an epoch whatever their batches."""
    from transformers import Trainer, TrainingArguments

    images, labels = digits
    data = [{"pixel_values": image.unsqueeze(0), "labels": label} for image, label in zip(images, labels, strict=True)]
    arguments = TrainingArguments(**{
        "output_dir": str(folder), "num_train_epochs": 8, "per_device_train_batch_size": 40, "learning_rate": 0.01,
        "report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", **options})
    return {"TransitionLoss": module.TransitionLoss, "Trainer": Trainer, "model": vit(), "arguments": arguments,
            "training": data, "validation": data}


@pytest.fixture
def hugging_face(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return snippet("hugging_face", monkeypatch)


@pytest.mark.parametrize("accumulated", [1, 4])
def test_the_trainer_follows_the_ramp_and_learns(accumulated, hugging_face, digits, strengths, tmp_path):
    names = hugging_face_names(hugging_face, digits, tmp_path, per_device_train_batch_size=40 // accumulated,
                               gradient_accumulation_steps=accumulated)
    exec(call_of("TransitionLoss("), names)
    assert names["trainer"].state.global_step == 48
    assert strengths == pytest.approx(ramp(48, accumulated), abs=1e-12)
    shown = names["trainer"].evaluate()
    assert shown["eval_top1"] < shown[f"eval_top{K}"] and shown[f"eval_top{K}"] > 0.9
    assert list(tmp_path.iterdir()) == []


def test_accumulated_batches_make_the_step_of_one_large_batch(hugging_face, digits, tmp_path):
    images, labels = digits
    labels = labels.clone()
    labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:90]] = -100  # unevenly spread
    final = []
    for accumulated in (1, 4):
        names = hugging_face_names(hugging_face, (images, labels), tmp_path, max_steps=6, optim="sgd", max_grad_norm=0,
                                   per_device_train_batch_size=40 // accumulated, learning_rate=0.5,
                                   gradient_accumulation_steps=accumulated)
        exec(call_of("TransitionLoss("), names)
        final.append(weights(names["model"]))
    assert (final[0] - weights(vit())).abs().max() > 0.01
    torch.testing.assert_close(*final, rtol=0, atol=1e-5)


def test_a_resumed_trainer_goes_on_at_its_strength(hugging_face, digits, strengths, tmp_path):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 36

    call = call_of("TransitionLoss(")
    kept = {"save_strategy": "steps", "save_steps": 36}
    names = hugging_face_names(hugging_face, digits, tmp_path, **kept)
    exec(call.replace("callbacks=[loss]", "callbacks=[loss, stop]"), {**names, "stop": Stop()})
    assert len(strengths) == 36
    names = hugging_face_names(hugging_face, digits, tmp_path, **kept)
    exec(call.replace("train()", "train(resume_from_checkpoint=True)"), names)
    assert strengths == pytest.approx(ramp(48), abs=1e-12)


def test_the_loss_for_the_trainer_is_a_mean_where_nothing_was_counted(hugging_face):
    loss, logits, labels = hugging_face.TransitionLoss(k=2), torch.randn(4, 5), torch.tensor([0, -100, 2, 3])
    loss.strength = 0.5
    expected = losses.topk_transition(logits, labels, k=2, gate="none", strength=0.5)
    torch.testing.assert_close(loss({"logits": logits}, labels), expected)
    torch.testing.assert_close(loss({"logits": logits}, labels, num_items_in_batch=6), expected / 2)
