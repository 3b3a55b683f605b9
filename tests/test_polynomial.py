"""Polynomial features: they span what they claim, are well conditioned, and a convex fit finds a known polynomial."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from paperlib import data, models
from paperlib.config import RunConfig
from paperlib.models import Polynomial
from paperlib.models.polynomial import _whitening


def draw(kind: str, n: int, inputs: int = 2) -> torch.Tensor:
    """Inputs of different ranges and dependence, float64."""
    source = torch.Generator().manual_seed(3)
    uniform = torch.rand(n, inputs, generator=source, dtype=torch.float64) * 2 - 1
    if kind == "square":
        return uniform
    normal = torch.randn(n, inputs, generator=source, dtype=torch.float64)
    return 7 + 3 * normal + 2 * normal.flip(1) if kind == "correlated" else normal


def monomials(x: torch.Tensor, degree: int) -> torch.Tensor:
    powers = [p for p in itertools.product(range(degree + 1), repeat=x.shape[1]) if sum(p) <= degree]
    return torch.stack([(x ** torch.tensor(p)).prod(dim=1) for p in powers], dim=1)


def fresh(inputs: int, degree: int) -> Polynomial:
    model = models.build("polynomial", (inputs,), 3, depth=degree, seed=0)
    assert isinstance(model, Polynomial)
    return model.double()


@pytest.mark.parametrize("inputs, degree", [(1, 6), (2, 1), (2, 5), (3, 3)])
@pytest.mark.parametrize("prepared", [False, True])
def test_features_and_a_constant_span_all_polynomials_of_the_degree(inputs, degree, prepared):
    x, model = draw("normal", 400, inputs), fresh(inputs, degree)
    if prepared:
        model.prepare(x)
    features = torch.cat([torch.ones(len(x), 1, dtype=x.dtype), model.features(x)], dim=1)
    wanted = monomials(x, degree)
    assert features.shape == wanted.shape
    residual = wanted - features @ torch.linalg.lstsq(features, wanted).solution
    assert residual.abs().max() < 1e-8 * wanted.abs().max()


def test_features_of_the_square_are_uncorrelated_as_they_come():
    nodes, weights = np.polynomial.legendre.leggauss(8)  # exact for the integrals of products up to degree 15
    x = torch.cartesian_prod(torch.tensor(nodes), torch.tensor(nodes))
    weight = torch.outer(torch.tensor(weights), torch.tensor(weights)).reshape(-1) / 4
    features = fresh(2, 5).features(x)
    torch.testing.assert_close(features.T @ (weight[:, None] * features), torch.eye(20, dtype=torch.float64))
    torch.testing.assert_close(weight @ features, torch.zeros(20, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["square", "normal", "correlated"])
def test_prepared_features_are_uncorrelated_on_any_inputs(kind):
    x, model = draw(kind, 2000), fresh(2, 4)
    model.prepare(x)
    features = model.features(x)
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(14, dtype=torch.float64))
    torch.testing.assert_close(features.T @ features / len(x), torch.eye(14, dtype=torch.float64), atol=1e-3, rtol=0)
    single = models.build("polynomial", (2,), 3, depth=4, seed=0)
    single.prepare(x.float())
    torch.testing.assert_close(single.features(x.float()).double(), features, atol=1e-3, rtol=1e-3)


def test_inputs_that_do_not_vary_give_finite_features():
    x = draw("square", 100)
    x[:, 1] = 4.0
    model = fresh(2, 3)
    model.prepare(x)
    assert model.features(x).isfinite().all()
    assert model.features(x)[:, 1].abs().max() == 0
    few = draw("square", 5)  # fewer samples than features
    model.prepare(few)
    assert model.features(few).isfinite().all()


def test_inputs_that_did_not_vary_have_no_say_where_they_do_later():
    x = draw("square", 200, 3)
    constant, seen = x.clone(), fresh(3, 1)
    constant[:, 1] = 0.1  # whose mean is rounded
    seen.prepare(constant)
    features = seen.features(x)  # here the second input varies
    assert torch.equal(features[:, 1], torch.zeros(200, dtype=x.dtype))
    without = fresh(2, 1)
    without.prepare(constant[:, [0, 2]])
    torch.testing.assert_close(features[:, [0, 2]], without.features(x[:, [0, 2]]))


def test_an_input_that_repeats_another_has_no_say():
    x = draw("square", 200, 3).float()
    x[:, 1] = x[:, 0]
    single, without = (models.build("polynomial", (inputs,), 3, depth=1, seed=0) for inputs in (3, 2))
    single.prepare(x)
    without.prepare(x[:, [0, 2]])
    assert torch.equal(single.features(x)[:, 1], torch.zeros(200))
    torch.testing.assert_close(single.features(x)[:, [0, 2]], without.features(x[:, [0, 2]]))


def test_digits_have_pixels_that_do_not_vary_or_repeat_others_and_give_tame_features():
    splits = data.splits(RunConfig(dataset="digits", augment=False))
    train, validation = (part.inputs.flatten(1).float() / 255 for part in (splits.train, splits.validation))
    assert (train.amax(dim=0) == train.amin(dim=0)).any() and torch.equal(train[:, ::2], train[:, 1::2])
    model = models.build("polynomial", (256,), 10, depth=1, seed=0)
    model.prepare(train)
    features = model.features(train)
    varying = features.abs().amax(dim=0) > 0
    assert int(varying.sum()) == torch.linalg.matrix_rank((train - train.mean(dim=0)).double())
    torch.testing.assert_close(features.var(dim=0)[varying], torch.ones(int(varying.sum())), atol=0.02, rtol=0)
    assert model.features(validation).abs().max() < 50


def test_where_every_column_varies_nothing_is_touched():
    x = draw("correlated", 300)
    centred = x - x.mean(dim=0)
    covariance = centred.T @ centred / len(x)
    covariance.diagonal().add_(1e-10 + 1e-8 * covariance.diagonal())
    plain = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), torch.eye(2).double(), upper=False).T
    assert torch.equal(_whitening(x), plain)


def test_a_feature_is_made_of_those_before_it():
    x, small, large = draw("correlated", 500), fresh(2, 2), fresh(2, 3)
    small.prepare(x)
    large.prepare(x)
    torch.testing.assert_close(large.features(x)[:, :5], small.features(x))


def test_newton_on_the_head_separates_classes_by_a_parabola():
    x, model = draw("square", 600), fresh(2, 2)
    model.prepare(x)
    labels = (x[:, 1] > x[:, 0] ** 2 - 0.3).long()
    optimizer = torch.optim.LBFGS(model.head.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x)[:, :2], labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (model(x)[:, :2].argmax(dim=1) == labels).all()


def test_state_comes_back_with_the_preparation():
    x, model = draw("correlated", 300), fresh(2, 3)
    model.prepare(x)
    other = fresh(2, 3)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
