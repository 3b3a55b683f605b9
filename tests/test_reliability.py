"""Calibration of lists: exact scores are found exact, others by how much they miss."""

from __future__ import annotations

import numpy as np
import pytest

from paperlib import reliability
from paperlib.reliability import Reliability


def ranks_of(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (logits >= logits[np.arange(len(labels)), labels][:, None]).sum(axis=1)


@pytest.fixture(scope="module")
def exact() -> tuple[np.ndarray, np.ndarray]:
    """Logits, and ranks of labels that are drawn from their softmax."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, 12))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, ranks_of(logits, labels)


@pytest.mark.parametrize("k", [1, 5])
def test_exact_probabilities_miss_by_the_floor_alone(exact, k):
    table = reliability.reliability(*exact, k)
    error, floor = reliability.calibration_error(table), reliability.calibration_floor(table)
    assert error == pytest.approx(floor, rel=0.6) and floor < 0.02
    assert table.samples.sum() == 20_000 and np.ptp(table.samples) <= 1
    assert (np.diff(table.predicted) > 0).all()
    sure = reliability.reliability(3 * exact[0], exact[1], k)
    assert reliability.calibration_error(sure) > 10 * reliability.calibration_floor(sure)
    assert (sure.predicted > sure.right).all(), "three times the logits is too sure of itself"


def test_the_mass_is_the_sum_of_the_largest():
    logits = np.log([[0.5, 0.2, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7]]) + 3
    assert reliability.mass(logits, 1).tolist() == pytest.approx([0.5, 0.7])
    assert reliability.mass(logits.astype(np.float32), 2).tolist() == pytest.approx([0.7, 0.8], rel=1e-6)
    assert reliability.mass(1e4 * logits, 4).tolist() == [1, 1]


def test_errors_by_hand():
    table = Reliability(np.array([0.5, 0.9]), np.array([0.4, 1.0]), np.array([30, 10]))
    assert reliability.calibration_error(table) == pytest.approx((30 * 0.1 + 10 * 0.1) / 40)
    by_hand = np.sqrt(2 / np.pi) * (30 * np.sqrt(0.25 / 30) + 10 * np.sqrt(0.09 / 10)) / 40
    assert reliability.calibration_floor(table) == pytest.approx(by_hand)


def test_mistakes_inside_groups_and_groups_in_lists():
    logits = [[3, 2, 1, 0], [3, 2, 1, 0], [0, 3, 1, 2], [3, 0, 0, 2]]
    found = reliability.groups(logits, [0, 1, 2, 3], [0, 0, 1, 1], 2)  # one right; wrong: in, out, out
    assert found.within == pytest.approx(1 / 3) and found.different == pytest.approx((1 + 1 + 2 + 2) / 4)
    assert np.isnan(reliability.groups(logits[:1], [0], [0, 0, 1, 1], 2).within)


def test_input_that_does_not_fit_is_named():
    logits = np.zeros((4, 3))
    for call, message in (
            (lambda: reliability.mass([[0.0, np.nan]], 1), "expected finite numbers"),
            (lambda: reliability.mass(logits, 4), r"k=4: expected a whole number in 1\.\.3"),
            (lambda: reliability.reliability(logits, [1, 1]), r"shape \(2,\): expected \(4,\)"),
            (lambda: reliability.reliability(logits, [1] * 4, bins=5), r"bins=5: .* 1\.\.4"),
            (lambda: reliability.groups(logits, [0] * 4, [0, 1], 1), r"\(4, 3\), \(4,\) and \(2,\)"),
            (lambda: reliability.groups(logits, [0] * 4, [0, 1, 1], 0), "k=0")):
        with pytest.raises(ValueError, match=message):
            call()
