"""A linear model on polynomial features: convex for a convex loss, and of a capacity that one number sets."""

import itertools
import math
from collections import Counter

import torch
from torch import Tensor, nn

from paperlib.models._common import Head, reject

#: Beyond this many, the covariance of the features is no longer a small matrix.
MOST_FEATURES = 2_000


class Polynomial(nn.Module):
    """A linear model on all monomials of degree 1 to ``depth`` (2) of the inputs.

    Monomials are nearly dependent, which makes gradient descent crawl. So the features are products of Legendre
    polynomials, uncorrelated for inputs that are uniform on [-1, 1]^D; :meth:`prepare` makes them so for any inputs.
    They span the same functions. ``depth`` 1 is a linear model.
    """

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, width: int | None = None,
                 depth: int | None = None) -> None:
        super().__init__()
        reject("polynomial", width=width)
        depth, inputs = 2 if depth is None else depth, math.prod(input_shape)
        if depth < 1:
            raise ValueError(f"model 'polynomial' with depth={depth!r}: expected a degree of at least 1")
        number = math.comb(inputs + depth, depth) - 1
        if number > MOST_FEATURES:
            raise ValueError(f"model 'polynomial' of degree {depth} in {inputs} inputs has {number:,} features: "
                             f"expected at most {MOST_FEATURES:,}")
        # The degree of each feature (row) in each input; of the constant, the head's bias is worth as much.
        degrees = [[Counter(factors)[i] for i in range(inputs)] for total in range(1, depth + 1)
                   for factors in itertools.combinations_with_replacement(range(inputs), total)]
        self.degrees: Tensor
        self.centre: Tensor
        self.frame: Tensor
        self.mean: Tensor
        self.mix: Tensor
        self.register_buffer("degrees", torch.tensor(degrees), persistent=False)
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("frame", torch.eye(inputs))
        self.register_buffer("mean", torch.zeros(number))
        self.register_buffer("mix", torch.eye(number))
        self.head = Head(number, num_classes)

    @torch.no_grad()
    def prepare(self, inputs: Tensor) -> None:
        """Give the features mean 0, variance 1 and no correlation on a sample (B, ...) of training inputs."""
        x = inputs.flatten(1).double()
        turned = _whitening(x)
        self.centre.copy_(x.mean(dim=0))
        self.frame.copy_(turned / ((x - x.mean(dim=0)) @ turned).abs().amax(dim=0).clamp(min=1e-12))
        self.mean.zero_()
        self.mix.copy_(torch.eye(len(self.mix)))
        raw = self.features(x)
        self.mean.copy_(raw.mean(dim=0))
        self.mix.copy_(_whitening(raw))

    def features(self, inputs: Tensor) -> Tensor:
        """What the head sees of inputs (B, ...): (B, features)."""
        x = (inputs.flatten(1) - self.centre.to(inputs.dtype)) @ self.frame.to(inputs.dtype)
        return (self._legendre(x) - self.mean.to(inputs.dtype)) @ self.mix.to(inputs.dtype)

    def _legendre(self, x: Tensor) -> Tensor:
        values = [torch.ones_like(x), x]
        for degree in range(2, int(self.degrees.max()) + 1):  # Bonnet's recursion
            values.append(((2 * degree - 1) * x * values[-1] - (degree - 1) * values[-2]) / degree)
        table = torch.stack([(2 * degree + 1) ** 0.5 * value for degree, value in enumerate(values)])
        result = torch.ones(len(x), len(self.degrees), dtype=x.dtype, device=x.device)
        for column in range(x.shape[1]):
            result = result * table[self.degrees[:, column], :, column].T
        return result

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, C) of inputs (B, ...)."""
        with torch.autocast(inputs.device.type, enabled=False):
            return self.head(self.features(inputs))


def _whitening(x: Tensor) -> Tensor:
    """The upper triangular matrix after which the columns of x (B, D) are uncorrelated, with variance 1.

    Triangular, as Gram and Schmidt have it: a column is made of those before it, and its sign is not left open.
    A column that has one value throughout, or follows from those before, becomes 0 for every input: divided by its
    deviation, rounding or what nobody has seen would decide.
    """
    centred = x - x.mean(dim=0)
    covariance = centred.T @ centred / len(x)
    jitter = 1e-10 + 1e-8 * covariance.diagonal()
    covariance.diagonal().add_(jitter)
    factor = torch.linalg.cholesky(covariance)
    whitening = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False).T
    # The variance that a column ends with is 1, less what the jitter put into it.
    empty = 1 - (jitter.unsqueeze(1) * whitening**2).sum(dim=0) < 1e-3
    return whitening.masked_fill(empty | empty.unsqueeze(1), 0.0) if empty.any() else whitening
