"""Best possible accuracies and regrets, by definition and against counts of drawn labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from paperlib.bayes import bayes_topk, best_sets, expected_topk, region_names, regret
from paperlib.metrics import label_ranks, topk_curve


@pytest.fixture
def probabilities():
    return np.random.default_rng(0).dirichlet(np.ones(5), size=40)


def test_the_best_accuracy_is_that_of_the_best_set_at_every_point(probabilities):
    found = bayes_topk(probabilities)
    for k in range(1, 6):
        best = [max(sum(row[list(members)]) for members in itertools.combinations(range(5), k))
                for row in probabilities]
        assert found[k - 1] == pytest.approx(np.mean(best), abs=1e-12)


def test_expected_accuracy_is_that_of_every_label_weighted_by_its_probability(probabilities):
    logits = torch.from_numpy(np.random.default_rng(1).integers(0, 4, size=probabilities.shape).astype(float))
    logits[3] = -torch.inf  # masked classes and many ties
    logits[4, :2] = -torch.inf
    expected = np.zeros(5)
    for label in range(5):
        ranks = label_ranks(logits, torch.full((40,), label))
        expected += [(probabilities[:, label] * (ranks.numpy() <= k)).mean() for k in range(1, 6)]
    assert expected_topk(logits, probabilities) == pytest.approx(expected, abs=1e-12)
    assert expected_topk(logits.numpy(), torch.from_numpy(probabilities)) == pytest.approx(expected, abs=1e-12)


def test_expected_accuracy_is_what_many_labels_show(probabilities):
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5, generator=source)
    labels = torch.multinomial(torch.from_numpy(probabilities), 5_000, replacement=True, generator=source)
    ranks = label_ranks(logits.repeat_interleave(5_000, dim=0), labels.flatten())
    counted = topk_curve(ranks, 5).numpy()
    assert counted == pytest.approx(expected_topk(logits, probabilities), abs=4 * 0.5 / np.sqrt(200_000))


def test_regret_is_zero_for_the_probabilities_themselves_and_positive_for_their_reverse(probabilities):
    assert regret(probabilities, probabilities) == pytest.approx(np.zeros(5), abs=1e-12)
    assert regret(np.log(probabilities) * 3 - 7, probabilities) == pytest.approx(np.zeros(5), abs=1e-12)
    worst = regret(-probabilities, probabilities)
    assert (worst[:4] > 0.1).all() and worst[4] == pytest.approx(0, abs=1e-12)
    constant = regret(np.zeros_like(probabilities), probabilities)  # a network with constant output never looks right
    assert constant == pytest.approx([*bayes_topk(probabilities)[:4], 0])


def test_best_sets_are_best_and_few():
    p = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0.6, 0.4], [0.5, 0, 0, 0.5]])
    assert best_sets(p, 1) == [(0,), (1,), (1,), (2,), (0,)]
    assert best_sets(p, 2) == [(0, 1), (0, 1), (0, 1), (2, 3), (0, 3)]
    assert best_sets(torch.from_numpy(p), 4) == [(0, 1, 2, 3)] * 5
    assert region_names(p, 1)[:2] == ["class 0", "class 1"] and region_names(p, 2)[3] == "{2, 3}"
    random = np.random.default_rng(0).dirichlet(np.ones(6), size=30)
    assert best_sets(random, 3) == [tuple(sorted(np.argsort(-row)[:3])) for row in random]


@pytest.mark.parametrize("call", [bayes_topk, lambda p: best_sets(p, 1), lambda p: regret(p, p)])
@pytest.mark.parametrize("bad", [[0.5, 0.5], [[0.5, 0.6]], [[1.5, -0.5]], np.zeros((0, 3)), [[np.nan, 1.0]]], ids=str)
def test_what_is_no_table_of_probabilities_is_refused(call, bad):
    with pytest.raises(ValueError, match="expected"):
        call(bad)


def test_bad_scores_and_k_are_refused(probabilities):
    with pytest.raises(ValueError, match=r"logits have shape \(40, 4\): expected numbers of shape \(40, 5\)"):
        expected_topk(probabilities[:, :4], probabilities)
    with pytest.raises(ValueError, match="NaN"):
        regret(np.full((40, 5), np.nan), probabilities)
    for k in (0, 6, True, 1.5):
        with pytest.raises(ValueError, match="whole number in 1..5"):
            best_sets(probabilities, k)
