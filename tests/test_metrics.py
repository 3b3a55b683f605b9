"""Ranks, accuracy at every k, smallest k, likelihood and calibration against counting by hand and scikit-learn."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import top_k_accuracy_score
from torch.testing import assert_close

from paperlib import metrics

TIES = ("pessimistic", "optimistic", "average")


def scores(n: int = 200, classes: int = 7, *, tied: bool = False, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator)
    logits = (logits * 2).round() if tied else logits
    return logits, torch.randint(classes, (n,), generator=generator)


# --------------------------------------------------------------------------------------------- ranks


def plain_rank(row: list[float], label: int, ties: str) -> float:
    ahead = sum(x > row[label] for x in row)
    level = sum(x == row[label] for x in row) - 1
    return 1 + ahead + {"pessimistic": level, "optimistic": 0, "average": level / 2}[ties]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "tied"])
@pytest.mark.parametrize("ties", TIES)
def test_ranks_against_counting(ties: str, tied: bool, dtype: torch.dtype) -> None:
    logits, labels = scores(tied=tied)
    logits = logits.to(dtype)
    ranks = metrics.label_ranks(logits, labels, ties=ties)
    expected = [plain_rank(row, y, ties) for row, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert ranks.dtype == (torch.float64 if ties == "average" else torch.int64)
    assert ranks.shape == labels.shape and ranks.tolist() == expected


def test_ranks_by_hand() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [2.0, 2.0, 1.0], [1.0, 2.0, 1.0], [0.0, -torch.inf, -torch.inf]])
    labels = torch.tensor([0, 0, 2, 1])
    for ties, expected in (
        ("pessimistic", [1, 2, 3, 3]),
        ("optimistic", [1, 1, 2, 2]),
        ("average", [1, 1.5, 2.5, 2.5]),
    ):
        assert metrics.label_ranks(logits, labels, ties=ties).tolist() == expected
    assert metrics.label_ranks(logits, labels).tolist() == [1, 2, 3, 3], "pessimistic is the default"


def test_a_constant_network_never_looks_right() -> None:
    logits, labels = torch.full((50, 10), 0.25), torch.arange(50) % 10
    assert metrics.label_ranks(logits, labels).tolist() == [10] * 50
    assert metrics.label_ranks(logits, labels, ties="optimistic").tolist() == [1] * 50
    assert metrics.label_ranks(logits, labels, ties="average").tolist() == [5.5] * 50
    curve = metrics.topk_curve(metrics.label_ranks(logits, labels), 10)
    assert curve.tolist() == [0.0] * 9 + [1.0]


def test_ranks_do_not_depend_on_class_order() -> None:
    logits, labels = scores(tied=True)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    for ties in TIES:
        shuffled = metrics.label_ranks(logits[:, order], order.argsort()[labels], ties=ties)
        assert torch.equal(shuffled, metrics.label_ranks(logits, labels, ties=ties))


# --------------------------------------------------------------------------------------------- curve


def test_curve_is_a_count_divided_once() -> None:
    ranks = [1, 1, 2, 4, 4, 4, 6]
    expected = [2 / 7, 3 / 7, 3 / 7, 6 / 7, 6 / 7, 1.0]
    assert metrics.topk_curve(np.array(ranks), 6).tolist() == expected
    assert metrics.topk_curve(torch.tensor(ranks), 6).tolist() == expected


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.uint8, np.int32])
def test_curve_of_an_array_is_an_array(dtype: type) -> None:
    curve = metrics.topk_curve(np.array([1, 3, 2, 200], dtype=dtype), 200)
    assert isinstance(curve, np.ndarray) and curve.dtype == np.float64 and curve.shape == (200,)
    assert curve[[0, 1, 2, 198, 199]].tolist() == [0.25, 0.5, 0.75, 0.75, 1.0]


def test_curve_of_a_tensor_is_a_tensor() -> None:
    curve = metrics.topk_curve(torch.tensor([1, 3, 2, 4]), 5)
    assert isinstance(curve, torch.Tensor) and curve.dtype == torch.float64
    assert curve.tolist() == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "tied"])
def test_mean_rank_is_the_area_over_the_curve(tied: bool) -> None:
    """The sum over k = 0..C-1 of 1 - accuracy(k), where accuracy(0) = 0."""
    ranks = metrics.label_ranks(*scores(tied=tied))
    curve = metrics.topk_curve(ranks, 7)
    errors = 1 - torch.cat([torch.zeros(1, dtype=torch.float64), curve[:-1]])
    assert_close(errors.sum(), ranks.double().mean())


def test_curve_never_falls_and_ends_at_one() -> None:
    curve = metrics.topk_curve(metrics.label_ranks(*scores(31, 12)), 12)
    assert (curve.diff() >= 0).all() and curve[-1] == 1


def test_curve_against_scikit_learn() -> None:
    logits, labels = scores()
    curve = metrics.topk_curve(metrics.label_ranks(logits, labels), 7)
    for k in range(1, 7):
        expected = top_k_accuracy_score(labels.numpy(), logits.numpy(), k=k, labels=range(7))
        assert curve[k - 1].item() == pytest.approx(expected, abs=1e-15)


def test_two_unequal_batches_make_one_curve() -> None:
    logits, labels = scores()
    parts = [metrics.label_ranks(logits[part], labels[part]) for part in (slice(0, 63), slice(63, None))]
    whole = metrics.topk_curve(metrics.label_ranks(logits, labels), 7)
    assert torch.equal(metrics.topk_curve(torch.cat(parts), 7), whole)


# ---------------------------------------------------------------------------------------- smallest k


@pytest.mark.parametrize("n", [20, 100, 300, 10_000])
def test_smallest_k_is_exact_where_the_count_just_suffices(n: int) -> None:
    """count / n = target, as written in decimals, is enough; one image less is not."""
    for percent in range(1, 101):
        if Fraction(percent * n, 100).denominator > 1:
            continue
        count = percent * n // 100
        for missing in (0, 1):
            ranks = np.array([2] * (count - missing) + [5] * (n - count + missing))
            curve = metrics.topk_curve(ranks, 6)
            assert metrics.smallest_k(curve, percent / 100) == (5 if missing else 2)
            assert metrics.smallest_k(torch.from_numpy(curve), float(f"{percent / 100:.2f}")) == (5 if missing else 2)


def test_smallest_k_by_hand() -> None:
    curve = np.array([0.5, 0.7, 0.7, 0.9])
    targets = {0.1: 1, 0.5: 1, 0.500001: 2, 0.7: 2, 0.71: 4, 0.9: 4, 0.91: None, 1.0: None}
    assert {target: metrics.smallest_k(curve, target) for target in targets} == targets
    assert isinstance(metrics.smallest_k(curve, 0.5), int)
    assert metrics.smallest_k(torch.tensor([0.5, 1.0], dtype=torch.float64), 1.0) == 2


# ------------------------------------------------------------------------- likelihood and calibration


@pytest.mark.parametrize("classes", [7, 12])
def test_negative_log_likelihood(classes: int) -> None:
    logits, labels = scores(classes=classes)
    actual = metrics.negative_log_likelihood(logits, labels)
    assert isinstance(actual, float)
    assert actual == pytest.approx(F.cross_entropy(logits.double(), labels).item(), rel=1e-12)
    by_hand = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]).log()
    expected = (math.log(2) + math.log(5)) / 2
    assert metrics.negative_log_likelihood(by_hand, torch.tensor([0, 1])) == pytest.approx(expected, rel=1e-6)


def plain_calibration_error(logits: torch.Tensor, labels: torch.Tensor, bins: int) -> float:
    error = 0.0
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    for m in range(bins):
        members = [i for i, c in enumerate(confidence.tolist()) if m / bins < c <= (m + 1) / bins]
        if members:
            accuracy = sum(predicted[i] == labels[i] for i in members).item() / len(members)
            mean_confidence = sum(confidence[i].item() for i in members) / len(members)
            error += len(members) / len(labels) * abs(accuracy - mean_confidence)
    return error


@pytest.mark.parametrize("bins", [1, 10, 15, 100])
@pytest.mark.parametrize("classes", [4, 12])
def test_calibration_error_against_a_loop(classes: int, bins: int) -> None:
    logits, labels = scores(400, classes)
    actual = metrics.expected_calibration_error(logits * 2, labels, bins=bins)
    assert isinstance(actual, float)
    assert actual == pytest.approx(plain_calibration_error(logits * 2, labels, bins), rel=1e-9)


def test_calibration_bins_are_closed_on_the_right() -> None:
    """Confidence .5 exactly shares the bin (.4, .5] with .45: one right, one wrong, half the time right."""
    logits = torch.tensor([[0.5, 0.5, 0.0], [0.45, 0.3, 0.25]], dtype=torch.float64).log()
    labels = torch.tensor([2, 0])
    assert metrics.expected_calibration_error(logits, labels, bins=10) == pytest.approx(0.5 - 0.475, rel=1e-9)


def test_calibration_error_of_certainty() -> None:
    certain = torch.tensor([[100.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 0.0]])
    assert metrics.expected_calibration_error(certain, torch.tensor([0, 0, 1, 0])) == pytest.approx(0.0, abs=1e-12)
    assert metrics.expected_calibration_error(certain, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.5)
    assert metrics.expected_calibration_error(certain, torch.tensor([1, 1, 0, 1])) == pytest.approx(1.0)


# --------------------------------------------------------------------------------------------- errors

LOGITS, LABELS = scores(4, 3)


@pytest.mark.parametrize(
    "metric", [metrics.label_ranks, metrics.negative_log_likelihood, metrics.expected_calibration_error]
)
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (LOGITS[0], LABELS, r"\(3,\).*\(N, C\)"),
        (LOGITS, LABELS[:3], r"\(3,\).*\(4,\)"),
        (LOGITS, LABELS[:, None], r"\(4, 1\).*\(4,\)"),
        (LOGITS, LABELS.float(), "float32.*int64"),
        (LOGITS, LABELS.int(), "int32.*int64"),
        (LOGITS.long(), LABELS, "int64.*float"),
        (LOGITS, LABELS + 3, r"0\.\.2"),
        (LOGITS, LABELS - 3, r"0\.\.2"),
        (torch.full_like(LOGITS, math.nan), LABELS, "NaN"),
    ],
    ids=["vector", "short", "column", "float labels", "int32 labels", "int logits", "too large", "negative", "NaN"],
)
def test_rejected_scores(metric, logits: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(logits, labels)


def test_rejected_tie_rule() -> None:
    with pytest.raises(ValueError, match="'random'.*'pessimistic', 'optimistic'.*'average'"):
        metrics.label_ranks(LOGITS, LABELS, ties="random")


@pytest.mark.parametrize(
    ("ranks", "num_classes", "message"),
    [
        ([0, 1], 3, r"0.*1\.\.3"),
        ([1, 4], 3, r"4.*1\.\.3"),
        ([], 3, r"\(0,\)"),
        ([[1, 2]], 3, r"\(1, 2\).*\(N,\)"),
        ([1], 0, "num_classes=0"),
        ([1], 2.0, "num_classes=2.0"),
    ],
)
def test_rejected_ranks(ranks: list, num_classes: int, message: str) -> None:
    for kind in (np.array, torch.tensor):
        with pytest.raises(ValueError, match=message):
            metrics.topk_curve(kind(ranks), num_classes)


@pytest.mark.parametrize("target", [0.0, -0.1, 1.0001, 95, math.nan])
def test_rejected_targets(target: float) -> None:
    with pytest.raises(ValueError, match="target="):
        metrics.smallest_k(np.array([0.5, 1.0]), target)


@pytest.mark.parametrize("curve", [[], [0.6, 0.5], [0.5, math.nan], [[0.5, 1.0]]], ids=str)
def test_rejected_curves(curve: list) -> None:
    with pytest.raises(ValueError, match="curve"):
        metrics.smallest_k(np.array(curve), 0.5)


@pytest.mark.parametrize("bins", [0, -1, 2.5, True])
def test_rejected_bins(bins: object) -> None:
    with pytest.raises(ValueError, match="bins="):
        metrics.expected_calibration_error(LOGITS, LABELS, bins=bins)
