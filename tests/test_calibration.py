"""The test of calibration tells losses apart whose answer is known; its solvers agree with theory and each other."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import torch
from torch import Tensor

from experiments import calibration_table
from paperlib import analysis, calibration, losses, paths, tables

K = 2
ETA = calibration.draw_probabilities(8)
SORTED = -np.sort(-ETA, axis=1)
KNOWN_RIGHT = [("cross_entropy", {}), ("cross_entropy", {"label_smoothing": 0.1}), ("topk_entropy", {}),
               ("truncated_topk_entropy", {}), ("smooth_topk_svm", {}), ("ldr_kl", {})]


def check(loss, probabilities=ETA, steps=200, starts=4, **options) -> pd.DataFrame:
    return calibration.check(loss, K, probabilities=probabilities, steps=steps, starts=starts, **options)


def k_hinge(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
    """Against the k-th largest competitor: the margin is not that of the top k, and the loss not calibrated."""
    own = logits.gather(1, labels.unsqueeze(1))
    rivals = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
    return (1 + rivals.topk(K, dim=1).values[:, -1:] - own).relu().squeeze(1)


def backwards(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
    """Cross entropy of the scores with the sign turned: the least probable classes come first."""
    return losses.cross_entropy(-logits, labels, reduction=reduction)


# --- what is known ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, options", KNOWN_RIGHT)
def test_losses_known_to_be_calibrated_pass(name, options):
    found = check(name, **options)
    assert (found["verdict"] == "right").all() and (found["gap"] > 1e-5).all() and (found["regret"] == 0).all()


def test_the_hinge_that_is_consistent_passes_and_those_that_are_not_fail():
    eta = calibration.draw_probabilities(16)
    wrong = {name: int((check(loss, eta, solver="linear")["verdict"] != "right").sum()) for name, loss in {
        "consistent": losses.get("consistent_topk_hinge", k=K), "alpha": losses.get("topk_hinge_alpha", k=K),
        "beta": losses.get("topk_hinge_beta", k=K), "k-hinge": k_hinge}.items()}
    assert wrong["consistent"] == 0
    assert wrong["alpha"] == wrong["beta"] >= 12 and 6 <= wrong["k-hinge"] < wrong["alpha"]


def test_a_loss_that_is_wrong_on_purpose_is_caught():
    found = check(backwards)
    assert (found["verdict"] == "wrong").all() and (found["gap"] < -1e-3).all()
    np.testing.assert_allclose(found["regret"], SORTED[:, :K].sum(axis=1) - SORTED[:, -K:].sum(axis=1))
    assert (found["descents_right"] == 0).all()


def test_a_loss_that_sees_no_classes_is_tied():
    found = check(lambda logits, labels, reduction: (logits**2).sum(dim=1))
    assert (found["verdict"] == "tied").all() and (found["margin"] == 0).all() and found["regret"].min() > 0


# --- infima that theory gives -------------------------------------------------------------------------------


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(p)).sum(axis=1)


def test_cross_entropy_reaches_the_entropy_and_the_entropy_of_the_nearest_tie():
    found = check("cross_entropy")
    np.testing.assert_allclose(found["risk_right"], entropy(SORTED), rtol=0, atol=1e-9)
    tied = SORTED.copy()
    tied[:, K - 1 : K + 1] = tied[:, K - 1 : K + 1].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found["risk_wrong"], -(SORTED * np.log(tied)).sum(axis=1), rtol=0, atol=1e-8)
    assert found["attained"].all() and (found["descents_right"] == 1).all()


def test_the_grouped_loss_reaches_the_entropy_of_the_groups_and_its_jump_keeps_wrong_sets_away():
    """Exchanging the two classes at the border of a wrong set gains their difference times the jump, log k or more."""
    found = check("topk_grouped")
    grouped = np.column_stack([SORTED[:, :K].sum(axis=1), SORTED[:, K:]])
    np.testing.assert_allclose(found["risk_right"], entropy(grouped), rtol=0, atol=1e-9)
    assert (found["gap"] >= np.log(K) * (SORTED[:, K - 1] - SORTED[:, K]) - 1e-9).all()
    # Calibrated, and yet full of wrong local minima, which a start from cross entropy avoids.
    assert found["descents_right"].mean() < 1 and found["kept_right"].all()


def test_lapsum_reaches_shares_in_proportion_some_of_them_only_at_infinity():
    found = check("lapsum_topk", alpha=0.5)
    shares = np.minimum(1, K * SORTED)
    full = shares[:, 0] == 1
    assert full.any() and not full.all()
    rest = SORTED[:, 1:] / SORTED[:, 1:].sum(axis=1, keepdims=True) * (K - shares[:, :1])
    best = np.where(full[:, None], np.column_stack([shares[:, :1], rest]), shares)
    np.testing.assert_allclose(found["risk_right"], -(SORTED * np.log(best)).sum(axis=1), rtol=0, atol=1e-7)
    assert found["attained"].tolist() == (~full).tolist()


def test_a_gate_counts_by_its_values_whatever_autograd_is_told():
    detached, exact = (check("topk_transition", ETA[:3], detach_gate=detach) for detach in (True, False))
    pd.testing.assert_frame_equal(detached.drop(columns="descents_right"), exact.drop(columns="descents_right"))
    assert detached["descents_right"].tolist() != exact["descents_right"].tolist()


# --- the solvers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [losses.get("topk_hinge_alpha", k=K), losses.get("consistent_topk_hinge", k=K),
                                  k_hinge])
def test_search_and_linear_programs_agree(loss):
    found, exact = check(loss, ETA[:4], steps=400), check(loss, ETA[:4], solver="linear")
    for column in ("risk_right", "risk_wrong"):
        assert (found[column] >= exact[column] - 1e-9).all()
        np.testing.assert_allclose(found[column], exact[column], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name, options", [("topk_transition", {"gate": "linear"}), ("smooth_topk_svm", {"tau": 0.1})])
def test_another_optimiser_finds_nothing_below(name, options):
    loss, eta = losses.get(name, k=K, **options), ETA[1]
    found = check(name, ETA[1:2], **options).iloc[0]
    labels, weights = torch.arange(5), torch.tensor(eta)

    def risk(scores: np.ndarray) -> float:
        rows = torch.tensor(scores).expand(5, -1)
        return float((weights * loss(rows, labels, reduction="none")).sum())

    draws = np.random.default_rng(0)
    reached = [scipy.optimize.minimize(risk, draws.normal(size=5), method="Nelder-Mead",
                                       options={"maxiter": 300}).fun for _ in range(3)]
    assert min(reached) >= min(found["risk_right"], found["risk_wrong"]) - 1e-7


def test_the_same_seed_gives_the_same_frame():
    first, again, other = (check("topk_transition", ETA[:2], steps=40, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert first["margin"].tolist() != other["margin"].tolist()


def test_other_sizes():
    eta = calibration.draw_probabilities(2, num_classes=4, k=3, seed=3)
    found = calibration.check("cross_entropy", 3, probabilities=eta, steps=100, starts=2)
    assert (found["verdict"] == "right").all() and [len(row) for row in found["eta"]] == [4, 4]
    with_zero = calibration.check("cross_entropy", 1, probabilities=[[0.6, 0.4, 0.0]], steps=100, starts=2).iloc[0]
    assert with_zero["verdict"] == "right" and not with_zero["attained"]


def test_probabilities_have_a_clear_top_and_follow_the_seed():
    drawn = calibration.draw_probabilities(50, num_classes=6, k=3, gap=0.05, seed=1)
    descending = -np.sort(-drawn, axis=1)
    assert drawn.shape == (50, 6) and (descending[:, 2] - descending[:, 3] >= 0.05).all()
    np.testing.assert_allclose(drawn.sum(axis=1), 1)
    assert np.array_equal(drawn, calibration.draw_probabilities(50, num_classes=6, k=3, gap=0.05, seed=1))
    assert not np.array_equal(drawn[:5], calibration.draw_probabilities(5, num_classes=6, k=3, gap=0.05, seed=2))


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, message", [
    ({"num_classes": 8}, "8 classes: expected 3 to 7"),
    ({"k": 5}, "k=5: expected a whole number, 1 <= k <= 4"),
    ({"count": 0}, "count=0: expected at least 1"),
    ({"gap": 0.99}, "gap=0.99: only 0 of .* choose a smaller"),
])
def test_probabilities_that_cannot_be_drawn(arguments, message):
    with pytest.raises(ValueError, match=message):
        calibration.draw_probabilities(**arguments)


@pytest.mark.parametrize("loss, arguments, message", [
    ("cross_entropi", {}, "unknown loss 'cross_entropi': did you mean 'cross_entropy'"),
    ("cross_entropy", {"smoothing": 0.1}, "unknown option 'smoothing'"),
    (backwards, {"tau": 1.0}, r"options \['tau'\] came with a callable"),
    ("cross_entropy", {"solver": "magic"}, "solver='magic': expected 'search' or 'linear'"),
    ("cross_entropy", {"starts": 0}, "starts=0.*expected all to be positive"),
    ("cross_entropy", {"k": True}, "k=True: expected a whole number"),
    ("cross_entropy", {"probabilities": [0.5, 0.3, 0.2]}, r"probabilities have shape \(3,\)"),
    ("cross_entropy", {"probabilities": [[0.5, 0.3, 0.1]]}, "rows of numbers >= 0 that sum to 1"),
    ("cross_entropy", {"probabilities": [[0.4, 0.3, 0.3]]}, "1 of 1 rows have no clear top 2"),
    ("noised_topk_hinge", {}, "the loss is random: .* Fix its noise"),
    (lambda s, y, reduction: losses.cross_entropy(s, y), {}, r"returned shape \(\), torch.float64 for 20 rows"),
    (lambda s, y, reduction: s.sum(dim=1) * torch.nan, {}, "returned infinity or NaN"),
    (lambda s, y, reduction: s.detach().sum(dim=1), {}, "the loss has no derivative"),
    (lambda s, y, reduction: s.sum(dim=1) - s.mean(), {}, "changes with the rows beside it"),
    ("cross_entropy", {"solver": "linear"}, "not piecewise linear and convex .* use solver='search'"),
    (lambda s, y, reduction: -s.abs().sum(dim=1), {"solver": "linear"}, "not piecewise linear and convex|no minimum"),
    (lambda s, y, reduction: -s.gather(1, y[:, None])[:, 0], {"solver": "linear"}, "has no minimum"),
])
def test_what_cannot_be_tested_is_refused(loss, arguments, message):
    with pytest.raises(ValueError, match=message):
        calibration.check(loss, **{"k": K, "probabilities": ETA[:1]} | arguments)


# --- the report's table -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> dict:
    """The document of the script for three kinds of losses, with little effort."""
    path = tmp_path_factory.mktemp("calibration") / "new" / "table.json"
    kinds = ("cross_entropy", "topk_hinge_alpha", "noised_topk_hinge")
    few = [next(case for case in calibration_table.CASES if case.loss == kind) for kind in kinds]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_table, "cases", lambda: few)
        calibration_table.main(["--smoke", "--commit", "abc", "--out", str(path)])
    return json.loads(path.read_text())


def test_the_script_tests_every_loss():
    assert {case.loss for case in calibration_table.cases()} == set(losses.names())


def test_a_new_loss_is_tested_with_its_defaults(monkeypatch):
    monkeypatch.setattr(losses, "names", lambda: ["cross_entropy", "brand_new"])
    assert calibration_table.cases()[-1] == calibration_table.Case("brand_new")


def test_smoke_does_not_replace_the_results(capsys):
    with pytest.raises(SystemExit):
        calibration_table.main(["--smoke"])
    assert "name another file with --out" in capsys.readouterr().err


def test_the_noise_that_is_fixed_prefers_no_class():
    fixed = calibration_table.same_noise(losses.get("noised_topk_hinge", k=K))
    scores, order = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0]]).double(), [1, 2, 3, 4, 0]
    label = torch.tensor([1])
    turned = fixed(scores[:, order], torch.tensor([0]), reduction="none")
    torch.testing.assert_close(fixed(scores, label, reduction="none"), turned, rtol=0, atol=1e-12)


def test_the_document_becomes_a_frame_and_a_table(smoke, tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    monkeypatch.setattr(paths, "CALIBRATION", path)
    with pytest.raises(FileNotFoundError, match="make it with python experiments/calibration_table.py"):
        analysis.calibration()
    path.write_text("[]")
    with pytest.raises(ValueError, match="expected the document"):
        analysis.calibration_document()
    keys = ("verdict", "gap", "regret", "margin", "attained", "descents_right", "kept_right")
    results = [dict(zip(keys, row, strict=True)) for row in [
        ("right", 0.2, 0.0, 0.0, True, 1.0, True), ("tied", 0.0, 0.25, 0.0, False, 0.5, True),
        ("wrong", -0.01, 0.1, 0.5, True, 0.0, False)]]
    path.write_text(json.dumps(smoke | {"cases": [smoke["cases"][0] | {"note": "of old", "results": results}]}))
    (row,) = analysis.calibration().to_dict("records")
    shares = {"descents_right": pytest.approx(0.5), "kept_right": pytest.approx(2 / 3)}
    assert row == {"loss": "cross_entropy", "label": "cross entropy", "note": "of old", "options": {},
                   "solver": "search", "n": 3, "right": 1, "tied": 1, "wrong": 1, "gap": -0.01, "regret": 0.25,
                   "at_tie": 1, "far_out": 1, **shares}
    (shown,) = tables.calibration().to_dict("records")
    assert list(shown.values()) == ["cross entropy, of old", "1 of 3", "1", "1", "−0.0100", "1 at a tie, 1 far out",
                                    "25.0", "50", "67", "search"]


def test_the_script_records_what_it_did(smoke):
    assert smoke["settings"]["count"] == 2 and smoke["code"] == {"commit": "abc", "dirty": None}
    assert "scipy" in smoke["environment"] and smoke["core_seconds"] > 0
    np.testing.assert_array_equal(smoke["probabilities"], calibration.draw_probabilities(2))
    assert [len(case["results"]) for case in smoke["cases"]] == [2, 2, 2]
    assert [case["solver"] for case in smoke["cases"]] == ["search", "linear", "search"]


def test_the_committed_results_cover_every_loss_and_know_the_answers_that_are_known():
    frame = analysis.calibration()
    assert set(frame["loss"]) == set(losses.names()), "run: python experiments/calibration_table.py"
    wrong = frame.groupby("loss")[["tied", "wrong"]].sum().sum(axis=1)
    assert all(wrong[name] == 0 for name, _ in KNOWN_RIGHT) and wrong["consistent_topk_hinge"] == 0
    assert wrong["topk_hinge_alpha"] > 0 and wrong["topk_hinge_beta"] > 0
