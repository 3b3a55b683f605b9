"""Descents end where theory says, problems that are solved together are solved alone, and minima are minima."""

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, rosen, rosen_der

from paperlib import losses, models, optimisation
from paperlib.models.stack import Stack

CE = losses.get("cross_entropy")


def networks(name: str = "mlp", number: int = 3, **sizes) -> list[torch.nn.Module]:
    sizes = sizes or ({"width": 3, "depth": 1} if name == "mlp" else {"depth": 2})
    return [models.build(name, (2,), 4, seed=seed, **sizes).double() for seed in range(number)]


def samples(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    x = torch.rand(n, 2, generator=source, dtype=torch.float64) * 2 - 1
    return x, torch.randint(4, (n,), generator=source)


def rosenbrock(points: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (torch.tensor([rosen(point) for point in points.numpy()]),
            torch.from_numpy(np.array([rosen_der(point) for point in points.numpy()])))


def test_bfgs_finds_the_minimum_of_quadratics_and_of_rosenbrocks_valley():
    scales = torch.tensor([[1.0, 50.0], [3.0, 0.1]]).double()
    centres = torch.tensor([[2.0, -1.0], [0.0, 4.0]]).double()

    def quadratic(points, rows):
        away = points - centres[rows]
        return (scales[rows] * away**2).sum(dim=1) / 2, scales[rows] * away

    found = optimisation.bfgs(quadratic, torch.zeros(2, 2), steps=50, tolerance=1e-10)
    torch.testing.assert_close(found.points, centres, rtol=0, atol=1e-9)
    assert (found.gradients <= 1e-10).all() and (found.steps < 50).all()
    found = optimisation.bfgs(rosenbrock, torch.tensor([[-1.2, 1.0, 0.5], [2.0, -1.0, 3.0]]), steps=200)
    torch.testing.assert_close(found.points, torch.ones(2, 3).double(), rtol=0, atol=1e-6)


def test_bfgs_solves_each_problem_as_if_it_were_alone_and_never_climbs():
    start = torch.tensor([[-1.2, 1.0], [0.3, 2.0], [1.0, 1.0]])
    together = optimisation.bfgs(rosenbrock, start, steps=7)
    before = rosenbrock(start.double(), torch.arange(3))[0]
    assert (together.values <= before).all() and together.steps.tolist() == [7, 7, 0]
    for row in range(3):
        alone = optimisation.bfgs(rosenbrock, start[row : row + 1], steps=7)
        torch.testing.assert_close(alone.points[0], together.points[row], rtol=1e-12, atol=0)


def test_bfgs_rests_where_no_step_descends():
    def kink(points, rows):  # its slope never flattens, so no tolerance is met
        return points.abs().sum(dim=1), points.sign()

    found = optimisation.bfgs(kink, torch.tensor([[3.0], [-0.7]]), steps=500)
    assert (found.steps < 500).all() and (found.values < 1e-6).all()
    with pytest.raises(ValueError, match="expected finite"):
        optimisation.bfgs(lambda points, rows: (points[:, 0].log(), 1 / points), torch.tensor([[-1.0]]))
    with pytest.raises(ValueError, match="expected \\(M, P\\)"):
        optimisation.bfgs(kink, torch.zeros(3))


@pytest.mark.parametrize("name", ["mlp", "polynomial"])
def test_the_mean_loss_is_that_of_the_networks(name):
    nets, (x, y) = networks(name), samples()
    stack = Stack(nets)
    points = optimisation.weights(stack)
    rows = torch.tensor([2, 0])
    values, gradients = optimisation.mean_loss(stack, CE, stack.features(x), y)(points[rows], rows)
    for value, gradient, row in zip(values, gradients, rows, strict=True):
        loss = CE(nets[row](x), y)
        loss.backward()
        torch.testing.assert_close(value, loss.detach())
        norm = torch.cat([parameter.grad.flatten() for parameter in nets[row].parameters()]).norm()
        torch.testing.assert_close(gradient.norm(), norm)


def test_weights_come_back_as_they_were():
    nets, (x, _) = networks(), samples()
    stack, before = Stack(nets), [net(x) for net in nets]
    points = optimisation.weights(stack)
    optimisation.load(stack, points.flip(0))
    stack.unload(nets)
    for net, logits in zip(nets, before[::-1], strict=True):
        torch.testing.assert_close(net(x), logits)
    with pytest.raises(ValueError, match="points have shape"):
        optimisation.load(stack, points[:, 1:])


def test_a_convex_model_has_one_minimum_wherever_the_descent_starts():
    nets, (x, y) = networks("polynomial"), samples()
    stack = Stack(nets)
    objective = optimisation.mean_loss(stack, CE, stack.features(x), y)
    found = optimisation.bfgs(objective, optimisation.weights(stack), steps=300, tolerance=1e-9)
    assert (found.gradients <= 1e-9).all() and float(found.values.max() - found.values.min()) < 1e-12

    def alone(point):
        value, gradient = objective(torch.from_numpy(point)[None], torch.tensor([0]))
        return float(value), gradient[0].numpy()

    other = minimize(alone, np.zeros(found.points.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-8})
    assert float(found.values[0]) == pytest.approx(other.fun, abs=1e-10)


def test_adam_trains_each_network_as_torch_does():
    x, y = samples()
    stack = Stack(networks(number=1))
    plain = copy.deepcopy(networks(number=1)[0])
    options = {"steps": 4, "batch": 20, "lr": 0.1}
    optimisation.adam(stack, CE, x, y, seed=5, **options)
    source = optimisation.generator(5, "adam")
    optimizer = torch.optim.Adam(plain.parameters())
    for step in range(4):
        index = torch.randint(60, (1, 20), generator=source)[0]
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - (step + 0.5) / 4)
        optimizer.zero_grad()
        CE(plain(x[index]), y[index]).backward()
        optimizer.step()
    torch.testing.assert_close(stack.predict(x)[0], plain(x).detach())


def test_adam_learns():
    x, _ = samples(200)
    y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    stack = Stack(networks())
    optimisation.adam(stack, CE, x, y, steps=200, batch=50, lr=0.05)
    assert ((stack.predict(x).argmax(dim=2) == y).double().mean(dim=1) > 0.9).all()
