"""Soft labels for every loss: a mean over labels, as theory and torch define it."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from paperlib import losses

N, C = 12, 6


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N, C, dtype=torch.float64, generator=generator)
    return logits, torch.rand(N, C, dtype=torch.float64, generator=generator).softmax(dim=1)


@pytest.mark.parametrize("name", [name for name in losses.names() if name != "noised_topk_hinge"])
def test_it_is_the_mean_over_the_labels(name: str) -> None:
    logits, q = drawn()
    loss = losses.get(name, **({"k": 2} if "k" in losses.options(name) else {}))
    each = torch.stack([loss(logits, torch.full((N,), j), reduction="none") for j in range(C)], dim=1)
    expected = (q * each).sum(dim=1)
    assert_close(losses.expected_loss(loss, logits, q, reduction="none"), expected)
    assert_close(losses.expected_loss(loss, logits, q, reduction="sum"), expected.sum())
    assert_close(losses.expected_loss(loss, logits, q), expected.mean())


def test_for_cross_entropy_it_is_that_of_torch_with_its_gradient() -> None:
    logits, q = drawn()
    leaf, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value = losses.expected_loss(losses.cross_entropy, leaf, q)
    value.backward()
    expected = F.cross_entropy(other, q)
    expected.backward()
    assert_close(value, expected)
    assert_close(leaf.grad, other.grad)


def test_mixup_is_two_labels() -> None:
    logits, _ = drawn()
    a, b = torch.arange(N) % C, (torch.arange(N) + 2) % C
    q = 0.3 * F.one_hot(a, C).double() + 0.7 * F.one_hot(b, C).double()
    loss = losses.get("topk_transition", k=2)
    assert_close(losses.expected_loss(loss, logits, q), 0.3 * loss(logits, a) + 0.7 * loss(logits, b))


def test_an_impossible_label_may_be_masked_and_a_possible_one_costs_infinity() -> None:
    logits, q = drawn()
    logits[0, 1] = -torch.inf
    q[0, 1] = 0.0
    assert losses.expected_loss(losses.cross_entropy, logits, q).isfinite()
    q[0, 1] = 0.1
    assert losses.expected_loss(losses.cross_entropy, logits, q) == torch.inf


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"probabilities": torch.ones(N, C - 1)}, r"shape \(12, 5\).*\(12, 6\)"),
        ({"probabilities": torch.ones(N, C, dtype=torch.int64)}, "torch.int64"),
        ({"probabilities": -torch.ones(N, C)}, "negative"),
        ({"probabilities": torch.full((N, C), torch.nan)}, "NaN"),
        ({"probabilities": [0.5]}, r"\[0.5\]"),
        ({"logits": torch.ones(C)}, r"\(6,\).*\(N, C\)"),
        ({"reduction": "average"}, "average.*'mean'"),
    ],
    ids=str,
)
def test_bad_input_is_named(wrong: dict, message: str) -> None:
    logits, q = drawn()
    given = {"logits": logits, "probabilities": q, "reduction": "mean"} | wrong
    with pytest.raises(ValueError, match=message):
        losses.expected_loss(losses.cross_entropy, given.pop("logits"), given.pop("probabilities"), **given)
