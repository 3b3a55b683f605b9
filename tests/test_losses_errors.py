"""Rejected input: a `ValueError` that names what came, what was expected and, where there are some, the choices."""

import math

import numpy as np
import pytest
import torch
from reference import REFERENCES
from test_losses_contract import C, rows

from paperlib import losses

NAMES = list(REFERENCES)
WITH_K = [name for name in NAMES if REFERENCES[name].takes_k]


def rejects(name: str, *parts: object, logits=None, labels=None, **options) -> None:
    """The named loss refuses these arguments, and its message holds all of `parts`."""
    good_logits, good_labels = rows()
    if name in WITH_K:
        options = {"k": 2, **options}
    with pytest.raises(ValueError) as error:
        getattr(losses, name)(
            good_logits if logits is None else logits, good_labels if labels is None else labels, **options
        )
    missing = [part for part in map(str, parts) if part not in str(error.value)]
    assert not missing, f"{missing} not in {str(error.value)!r}"


# --------------------------------------------------------------------------------- shapes and dtypes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("logits", "labels", "parts"),
    [
        ((C,), (), ["(6,)", "(N, C)"]),
        ((4, C), (5,), ["(5,)", "(4,)"]),
        ((4, C), (4, 1), ["(4, 1)", "(4,)"]),
        ((4, C, 3), (4,), ["(4,)", "(4, 3)"]),
        ((4, C, 3, 2), (4, 2, 3), ["(4, 2, 3)", "(4, 3, 2)"]),
        ((4, C), (4, C), ["(4, 6)", "(4,)"]),
    ],
    ids=lambda x: "x".join(map(str, x)) if isinstance(x, tuple) else "",
)
def test_shapes(name: str, logits: tuple, labels: tuple, parts: list) -> None:
    rejects(name, *parts, logits=torch.zeros(logits), labels=torch.zeros(labels, dtype=torch.int64))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.uint8, torch.bool], ids=str)
def test_labels_are_int64(name: str, dtype: torch.dtype) -> None:
    rejects(name, dtype, "int64", labels=torch.zeros(C, dtype=dtype))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_logits_are_floats(name: str, dtype: torch.dtype) -> None:
    rejects(name, dtype, "float", logits=torch.zeros(C, C, dtype=dtype))


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_tensors(name: str) -> None:
    rejects(name, "list", "Tensor", labels=[0] * C)
    rejects(name, "ndarray", "Tensor", logits=rows()[0].numpy())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("label", [-1, C, 255, -101])
def test_labels_name_a_class(name: str, label: int) -> None:
    labels = rows()[1]
    labels[3] = label
    rejects(name, label, C - 1, labels=labels)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_logits_are_numbers(name: str, value: float) -> None:
    logits = rows()[0]
    logits[2, 4] = value
    rejects(name, "NaN", logits=logits)


@pytest.mark.parametrize("name", NAMES)
def test_value_checks_are_off_under_vmap(name: str) -> None:
    logits, labels = rows()
    logits[2, 4] = math.nan
    loss = losses.get(name, **({"k": 2} if name in WITH_K else {}))
    values = torch.func.vmap(lambda x: loss(x, labels, reduction="none"), randomness="different")(logits[None])
    assert values.shape == (1, C)


# ------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("name", WITH_K)
@pytest.mark.parametrize("k", [0, -1, C, C + 1, 100])
def test_k_is_between_one_and_one_less_than_the_classes(name: str, k: int) -> None:
    rejects(name, f"k={k}", 1, C - 1, k=k)


@pytest.mark.parametrize("name", WITH_K)
@pytest.mark.parametrize("k", [True, 2.0, 2.5, "2", None, torch.tensor(2)], ids=repr)
def test_k_is_a_whole_number(name: str, k: object) -> None:
    rejects(name, "k=", "whole number", k=k)


@pytest.mark.parametrize("name", WITH_K)
def test_two_classes_leave_only_k_1(name: str) -> None:
    two = {"logits": torch.zeros(3, 2), "labels": torch.zeros(3, dtype=torch.int64)}
    rejects(name, "k=2", **two, k=2)
    assert getattr(losses, name)(*two.values(), k=1).isfinite()


OPTIONS = [
    ("topk_transition", {"gate": "Ratio"}, ["'Ratio'", "'ratio'", "'linear'", "'none'"]),
    ("topk_transition", {"gate": None}, ["None", "'ratio'", "'linear'", "'none'"]),
    ("topk_transition", {"blend": "logits"}, ["'logits'", "'probability'", "'loss'"]),
    ("topk_transition", {"detach_gate": "yes"}, ["'yes'", "True", "False"]),
    *(("topk_transition", {"strength": w}, [w, "[0, 1]"]) for w in (-0.1, 1.1, math.nan, math.inf)),
    ("topk_transition", {"strength": "0.5"}, ["'0.5'", "[0, 1]"]),
    ("topk_transition", {"strength": torch.tensor(1.5)}, ["1.5", "[0, 1]"]),
    ("topk_transition", {"strength": torch.full((C - 1,), 0.5)}, ["(5,)", "(6,)"]),
    ("topk_transition", {"strength": torch.full((C, 1), 0.5)}, ["(6, 1)", "(6,)"]),
    ("topk_transition", {"strength": torch.tensor([0.5] * (C - 1) + [1.5])}, ["1.5", "[0, 1]"]),
    ("topk_transition", {"strength": torch.tensor([math.nan] + [0.5] * (C - 1))}, ["nan", "[0, 1]"]),
    *((name, {"tau": t}, [f"tau={t}"]) for name in ("topk_transition", "smooth_topk_svm") for t in (0, -1.0)),
    *((name, {"tau": math.nan}, ["tau=nan"]) for name in ("topk_transition", "smooth_topk_svm")),
    *(("topk_transition", {"margin": m}, [f"margin={m}"]) for m in (0, -1.0)),
    ("smooth_topk_svm", {"margin": -0.1}, ["margin=-0.1"]),
    *(("cross_entropy", {"label_smoothing": e}, [e, "[0, 1]"]) for e in (-0.1, 1.01, math.nan)),
    *(("ldr_kl", {"c": c}, [f"c={c}"]) for c in (-0.1, math.nan, None)),
    *(("noised_topk_hinge", {"eps": e}, [f"eps={e}"]) for e in (-0.1, math.inf, None)),
    *(("noised_topk_hinge", {"num_samples": n}, [f"num_samples={n}", "at least 1"]) for n in (0, 2.0, True)),
    ("noised_topk_hinge", {"noise": torch.zeros(C, C)}, ["(6, 6)", "(B, *(6, 6))"]),
    ("noised_topk_hinge", {"noise": torch.zeros(3, C, C - 1)}, ["(3, 6, 5)", "(B, *(6, 6))"]),
    ("noised_topk_hinge", {"noise": torch.zeros(0, C, C)}, ["(0, 6, 6)"]),
    ("noised_topk_hinge", {"noise": torch.zeros(3, C, C, dtype=torch.int64)}, ["int64", "float"]),
    ("noised_topk_hinge", {"noise": [0.0]}, ["[0.0]", "Tensor"]),
    ("noised_topk_hinge", {"margins": [1.0] * (C - 1)}, ["(5,)", "(6,)"]),
    ("noised_topk_hinge", {"margins": torch.ones(C, 1)}, ["(6, 1)", "(6,)"]),
    *(("noised_topk_hinge", {"margins": [m] * C}, [m, "finite"]) for m in (-1.0, math.nan, math.inf)),
    ("difftopk_cross_entropy", {"method": "oddeven"}, ["'oddeven'", "'odd_even'", "'bitonic'", "'neuralsort'"]),
    *(("difftopk_cross_entropy", {"m": m}, [f"m={m!r}", "k=2", "6"]) for m in (2, C + 1, 3.0, True)),
]


@pytest.mark.parametrize(
    ("name", "options", "parts"), OPTIONS, ids=lambda x: str(x)[:40] if isinstance(x, dict) else None
)
def test_options(name: str, options: dict, parts: list) -> None:
    rejects(name, *options, *parts, **options)


@pytest.mark.parametrize("counts", [[], [0, 1], [[1, 2]], [math.nan, 1.0], 5], ids=str)
def test_margins_come_from_counts_of_every_class(counts: object) -> None:
    with pytest.raises(ValueError, match="class_counts=.*at least 1"):
        losses.imbalanced_margins(counts)
    for widest in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"max_margin={widest}"):
            losses.imbalanced_margins([1, 2], widest)


def test_smooth_svm_allows_no_margin() -> None:
    assert losses.smooth_topk_svm(*rows(), k=2, margin=0).isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_arguments_that_all_losses_share(name: str) -> None:
    rejects(name, "'average'", "'mean'", "'sum'", "'none'", reduction="average")
    rejects(name, "None", "'mean'", "'sum'", "'none'", reduction=None)
    rejects(name, "weight", "(5,)", "(6,)", weight=torch.ones(C - 1))
    rejects(name, "weight", "(6, 1)", "(6,)", weight=torch.ones(C, 1))
    rejects(name, "weight", "int64", "float", weight=torch.ones(C, dtype=torch.int64))
    rejects(name, "weight", "(6,)", weight=[1.0] * C)
    rejects(name, "ignore_index", "1.5", ignore_index=1.5)


# ------------------------------------------------------------------------------------------ registry


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("cross_entropi", "cross_entropy"), ("topk_transitions", "topk_transition"), ("smooth_svm", "smooth_topk_svm")],
)
def test_unknown_loss(wrong: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"{wrong}.*did you mean '{nearest}'") as error:
        losses.get(wrong)
    assert all(name in str(error.value) for name in losses.names())


@pytest.mark.parametrize("wrong", ["", "zzzzzz", "CE"])
def test_unknown_loss_without_a_neighbour_still_lists_the_choices(wrong: str) -> None:
    with pytest.raises(ValueError, match="cross_entropy.*smooth_topk_svm"):
        losses.get(wrong)


def test_unknown_option() -> None:
    for wrong, nearest in (("strenght", "strength"), ("detach_gates", "detach_gate"), ("weights", "weight")):
        with pytest.raises(ValueError, match=f"{wrong}.*topk_transition.*did you mean '{nearest}'.*tau, margin"):
            losses.get("topk_transition", **{wrong: 0.5})
        with pytest.raises(ValueError, match=f"{wrong}.*did you mean '{nearest}'"):
            losses.get("topk_transition")(*rows(), **{wrong: 0.5})
    with pytest.raises(ValueError, match="'k'.*cross_entropy.*label_smoothing"):
        losses.get("cross_entropy", k=5)


@pytest.mark.parametrize("name", WITH_K)
def test_bad_k_is_told_through_get_as_well(name: str) -> None:
    with pytest.raises(ValueError, match=f"k=0.*{C - 1}"):
        losses.get(name, k=0)(*rows())


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_weights_are_finite_and_not_negative(value: float) -> None:
    weight = torch.ones(C)
    weight[3] = value
    for name in NAMES:
        rejects(name, "weight=", "finite numbers of at least 0", weight=weight)


def test_there_is_a_class() -> None:
    for name in NAMES:
        rejects(name, "(3, 0)", "C >= 1", logits=torch.empty(3, 0), labels=torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "option"),
    [("topk_transition", "tau"), ("topk_transition", "margin"), ("smooth_topk_svm", "tau"), ("ldr_kl", "lam"),
     ("lapsum_topk", "alpha"), ("difftopk_cross_entropy", "steepness")],
)  # fmt: skip
def test_scales_leave_room_in_single_precision(name: str, option: str) -> None:
    for value in (0.0, 1e-30, 1e30):
        rejects(name, f"{option}={value}", "[1e-20, 1e+20]", **{option: value})
    for value in (1e-20, 1e20):  # and at the ends all is finite
        logits = rows(dtype=torch.float32)[0].requires_grad_()
        chosen = {option: value} | ({"k": 2} if name in WITH_K else {})
        loss = getattr(losses, name)(logits, rows()[1], **chosen)
        loss.backward()
        assert loss.isfinite() and logits.grad.isfinite().all(), value


@pytest.mark.parametrize("p_k", [5, True, ["a"], "1", [], [0.5, 0.6], [1.5, -0.5], [math.nan]], ids=str)
def test_list_lengths_have_shares(p_k: object) -> None:
    rejects("difftopk_cross_entropy", f"p_k={p_k!r}", "sum to 1", p_k=p_k)


def test_numbers_of_numpy_are_numbers() -> None:
    logits, labels = rows()
    expected = losses.topk_transition(logits, labels, k=2, tau=2.0)
    assert losses.topk_transition(logits, labels, k=np.int64(2), tau=np.float32(2.0)) == expected


def test_the_wrong_case_is_near() -> None:
    with pytest.raises(ValueError, match="did you mean 'k'"):
        losses.get("topk_entropy", K=5)
    with pytest.raises(ValueError, match="did you mean 'topk_entropy'"):
        losses.get("TopK_Entropy")
