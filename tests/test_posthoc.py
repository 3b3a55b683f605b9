"""Adjustments of scores: wrecked networks are repaired, optima are known ones, and what must not move stays put."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from paperlib import losses, metrics, posthoc

CLASSES = 8
KINDS = posthoc.KINDS[1:]


def draw(n: int, seed: int, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores float32 (n, C) of a network that knows the probabilities, and labels drawn from them."""
    source = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(n, CLASSES, generator=source)
    return logits, torch.multinomial(logits.softmax(dim=1), 1, generator=source).squeeze(1)


@pytest.fixture(scope="module")
def validation() -> tuple[torch.Tensor, torch.Tensor]:
    return draw(2000, 0)


@pytest.fixture(scope="module")
def test() -> tuple[torch.Tensor, torch.Tensor]:
    return draw(4000, 1)


def accuracies(logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    return metrics.topk_curve(metrics.label_ranks(logits, labels), CLASSES).numpy()


# Known answers


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.get("topk_entropy", k=2)])
def test_wrecked_biases_are_repaired(validation, test, loss):
    wreck = torch.tensor([3.0, -2.0, 0.0, 1.0, -3.0, 2.0, 0.5, -1.5])
    found = posthoc.fit(validation[0] + wreck, validation[1], "bias", loss=loss)
    best, broken = accuracies(*test), accuracies(test[0] + wreck, test[1])
    repaired = accuracies(found(test[0] + wreck), test[1])
    assert (best - broken)[:3].min() > 0.1 and (best - repaired)[:3].max() < 0.01
    if loss is losses.cross_entropy:
        expected = wreck.mean() - wreck
        torch.testing.assert_close(found.bias - found.bias.mean(), expected.double(), atol=0.25, rtol=0)


def test_classes_of_the_wrong_scale_are_repaired():
    scale = torch.tensor([0.2, 1, 1, 2, 1, 1, 0.2, 2])
    source = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(6000, CLASSES, generator=source)
    logits -= logits.mean(dim=1, keepdim=True)
    labels = torch.multinomial((logits * scale).softmax(dim=1), 1, generator=source).squeeze(1)
    best, broken = accuracies((logits * scale)[2000:], labels[2000:]), accuracies(logits[2000:], labels[2000:])
    vector, bias = (accuracies(posthoc.fit(logits[:2000], labels[:2000], kind)(logits[2000:]), labels[2000:])
                    for kind in ("vector", "bias"))
    assert best[0] - broken[0] > 0.04 and best[0] - vector[0] < 0.01 and vector[0] - bias[0] > 0.01


def test_classes_that_are_taken_for_each_other_are_told_apart():
    swapped = [1, 0, 3, 2, 4, 5, 6, 7]
    (logits, labels), (others, truth) = draw(2000, 0, 4), draw(4000, 1, 4)
    found = posthoc.fit(logits[:, swapped], labels, "matrix")
    best, broken = accuracies(others, truth)[0], accuracies(others[:, swapped], truth)[0]
    assert best - broken > 0.3 and best - accuracies(found(others[:, swapped]), truth)[0] < 0.03


def test_an_overconfident_network_gets_its_temperature(validation):
    once, thrice = (posthoc.fit(factor * validation[0], validation[1], "temperature") for factor in (1, 3))
    assert once.temperature == pytest.approx(1, abs=0.05)
    assert thrice.temperature == pytest.approx(3 * once.temperature, rel=1e-4)


def test_a_good_network_is_left_alone(validation, test):
    for kind in KINDS:
        found = posthoc.fit(*validation, kind)
        assert abs(accuracies(found(test[0]), test[1]) - accuracies(*test)).max() < 0.006, kind


# The minimum


@pytest.mark.parametrize("penalty", [0.0, 10.0])
def test_the_bias_is_where_predicted_shares_meet_the_labels(validation, penalty):
    found = posthoc.fit(validation[0] * torch.linspace(0.5, 2, CLASSES), validation[1], "bias", penalty=penalty)
    shares = torch.bincount(validation[1], minlength=CLASSES).double() / len(validation[1])
    predicted = found(validation[0] * torch.linspace(0.5, 2, CLASSES)).softmax(dim=1).mean(dim=0)
    left = predicted - shares + penalty * found.bias / len(validation[1])
    assert left.abs().max() < 2e-6 and found.gradient < 2e-6
    assert (predicted - shares).abs().max() < (2e-6 if penalty == 0 else 0.01)


def test_without_a_penalty_the_matrix_is_logistic_regression(validation):
    logits, labels = validation[0][:600].double(), validation[1][:600]
    logits -= logits.mean(dim=1, keepdim=True)
    found = posthoc.fit(logits, labels, "matrix", penalty=0)
    other = LogisticRegression(C=math.inf, tol=1e-8, max_iter=5000).fit(logits.numpy(), labels.numpy())
    np.testing.assert_allclose(found(logits).softmax(dim=1).numpy(), other.predict_proba(logits.numpy()), atol=2e-3)


@pytest.mark.parametrize("kind", ["bias", "vector", "matrix"])
def test_nothing_nearby_is_lower(kind, validation):
    logits, labels, penalty = validation[0][:500], validation[1][:500], 5.0
    loss = losses.get("topk_entropy", k=2)
    found = posthoc.fit(logits, labels, kind, loss=loss, penalty=penalty)
    x = logits.double() - logits.double().mean(dim=1, keepdim=True)
    x = x / x.square().mean().sqrt()
    parts = [torch.tensor(1 / found.temperature, dtype=torch.float64), found.bias]
    parts += [] if found.weight is None else [found.weight]

    def value(scale, bias, weight=None):
        z = logits.double() * scale + bias
        z = z if weight is None else z + (x * weight if weight.dim() == 1 else x @ weight.t())
        norm = bias.square().sum() + (0 if weight is None else weight.square().sum())
        return float(loss(z, labels) + penalty / 2 / len(labels) * norm)

    lowest, source = value(*parts), torch.Generator().manual_seed(0)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(5):
            moved = [part + size * torch.randn(part.shape, generator=source, dtype=part.dtype) for part in parts]
            assert value(*moved) > lowest


# What stays put


@pytest.mark.parametrize("kind", posthoc.KINDS)
def test_an_infinite_penalty_leaves_every_rank(kind, validation, test):
    logits = test[0].round(decimals=1) * 7  # with many ties
    expected = metrics.label_ranks(logits, test[1])
    exact = posthoc.fit(7 * validation[0], validation[1], kind, penalty=math.inf)
    assert torch.equal(metrics.label_ranks(exact(logits), test[1]), expected) and exact.weight is None
    huge = posthoc.fit(7 * validation[0], validation[1], kind, penalty=1e15)
    assert torch.equal(metrics.label_ranks(huge(7 * test[0]), test[1]), metrics.label_ranks(7 * test[0], test[1]))


@pytest.mark.parametrize("kind", posthoc.KINDS)
def test_constants_of_an_image_do_not_matter(kind, validation):
    logits, labels = validation[0][:300], validation[1][:300]
    moved = logits + torch.linspace(-3, 3, 300).unsqueeze(1)
    found, other = (posthoc.fit(s, labels, kind, penalty=10.0) for s in (logits, moved))
    torch.testing.assert_close(found(logits).softmax(dim=1), other(moved).softmax(dim=1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_input_gives_the_same_result(kind, validation):
    logits, labels = validation[0][:300], validation[1][:300]
    found, other = (posthoc.fit(logits, labels, kind) for _ in range(2))
    assert torch.equal(found(logits), other(logits)) and found.held_out == other.held_out
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again(logits), found(logits)) and again(logits).dtype == torch.float64


# The choice of the penalty


def test_the_penalty_is_the_best_on_left_out_images(validation):
    logits, labels = validation[0][:400] * torch.linspace(0.5, 2, CLASSES), validation[1][:400]
    found = posthoc.fit(logits, labels, "bias", penalties=[1, 100, math.inf], folds=4)
    order, fold = np.argsort(labels.numpy(), kind="stable"), np.empty(400, dtype=int)
    fold[order] = np.arange(400) % 4
    for penalty, value in found.held_out.items():
        total = 0.0
        for part in range(4):
            left = torch.from_numpy(fold == part)
            own = posthoc.fit(logits[~left], labels[~left], "bias", penalty=penalty)
            total += float(losses.cross_entropy(own(logits[left]), labels[left], reduction="sum"))
        assert value == pytest.approx(total / 400, abs=1e-6)
    assert found.penalty == min(found.held_out, key=found.held_out.get)
    alone = posthoc.fit(logits, labels, "bias", penalty=found.penalty)
    torch.testing.assert_close(found.bias, alone.bias, atol=1e-3, rtol=0)


def test_labels_without_a_pattern_change_nothing():
    source = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(200, CLASSES, generator=source), torch.arange(200) % CLASSES
    found = posthoc.fit(logits, labels, "matrix")
    assert found.penalty >= 1e3 and math.inf in found.held_out


# Hard cases


@pytest.mark.parametrize("kind", posthoc.KINDS)
def test_a_class_without_images_keeps_its_own_parameters(kind, validation):
    logits, labels = validation[0][:400], validation[1][:400] % (CLASSES - 1)
    found = posthoc.fit(logits, labels, kind)
    assert found(logits).isfinite().all()
    tight = posthoc.fit(logits, labels, kind, penalty=1.0)
    assert tight.bias[-1] == 0 and (kind == "temperature" or tight.bias[0] != 0)
    assert tight.weight is None or not tight.weight[-1].any()


@pytest.mark.parametrize("kind", posthoc.KINDS)
def test_scores_without_mistakes_or_without_spread_have_an_end(kind):
    labels = torch.arange(40) % CLASSES
    perfect = 5 * torch.nn.functional.one_hot(labels, CLASSES).float()
    for logits in (perfect, torch.zeros(40, CLASSES), -perfect, 1e30 * perfect):
        found = posthoc.fit(logits, labels, kind, penalty=10.0)
        assert found(logits).isfinite().all() and found.temperature > 0


@pytest.mark.parametrize(("change", "message"), [
    ({"kind": "platt"}, "kind='platt': expected one of temperature, bias"),
    ({"logits": torch.zeros(4)}, r"shape \(4,\)"), ({"logits": torch.zeros(4, 1)}, "C >= 2"),
    ({"logits": torch.zeros(4, 3, dtype=torch.int64)}, "expected floats"),
    ({"logits": torch.tensor([[0.0, -math.inf, 1.0]] * 4)}, "4 entries that are not finite"),
    ({"labels": torch.zeros(3, dtype=torch.int64)}, r"expected torch.int64 of shape \(4,\)"),
    ({"labels": torch.zeros(4)}, "torch.float32"),
    ({"labels": torch.tensor([0, 1, 2, 3])}, r"0\.\.3: expected 0\.\.2"),
    ({"labels": torch.tensor([0, 1, 2, -1])}, r"-1\.\.2"), ({"folds": 1}, "folds=1"), ({"folds": 5}, r"2\.\.4"),
    ({"penalty": -1.0}, "penalty=-1.0: expected a number of at least 0"), ({"penalty": math.nan}, "penalty=nan"),
    ({"penalties": []}, "penalties is empty"),
    ({"penalties": [True]}, "penalty=True"),
    ({"logits": torch.zeros(0, 3), "labels": torch.zeros(0, dtype=torch.int64)}, "no images"),
    ({"loss": lambda logits, labels: logits.sum() * math.inf}, "not finite")])
def test_what_cannot_be_fitted_is_named(change, message):
    given = {"logits": torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
             "labels": torch.tensor([0, 1, 2, 0]), "kind": "bias", "folds": 2} | change
    with pytest.raises(ValueError, match=message):
        posthoc.fit(**given)


def test_other_classes_are_refused(validation):
    found = posthoc.fit(*validation, "bias", penalty=1.0)
    with pytest.raises(ValueError, match=rf"expected \(N, {CLASSES}\)"):
        found(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="not finite"):
        found(torch.full((2, CLASSES), math.nan))
