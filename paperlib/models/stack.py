"""Small networks of one form as one module: the weights of each layer stacked, a forward pass for all at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paperlib.models.mlp import MLP
from paperlib.models.polynomial import Polynomial

#: A stack holds as many networks as keep an activation (networks x batch x units) near this size, but not fewer than
#: ``LEAST``, below which Python's part of a step costs more than the arithmetic. A product that is batched otherwise
#: is rounded otherwise: these two numbers belong to the protocol.
ACTIVATION_BYTES = 4_000_000
LEAST = 64
#: Rows that pass at once in :meth:`Stack.predict`.
ROWS = 500


class Tanh(torch.autograd.Function):
    """Hyperbolic tangent by torch's sigmoid, which takes a fraction of the time of its tanh on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Of x, any shape."""
        y = (2 * x).sigmoid_().mul_(2).sub_(1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """As of ``torch.tanh``."""
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(grad, y)


class Stack(nn.Module):
    """M networks, each ``mlp`` or each ``polynomial``, of the same sizes.

    Attributes:
        models: M.
        alive: bool (M,), False for networks that :meth:`drop` took out.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        layers = [_layers(network) for network in networks]
        self.models, self.shared = len(networks), [networks[0]]  # in a list: no part of this module's state
        self.sizes = [layer.in_features for layer in layers[0]] + [layers[0][-1].out_features]
        for network in layers:
            if [(layer.in_features, layer.out_features, layer.weight.dtype) for layer in network] \
                    != [(layer.in_features, layer.out_features, layer.weight.dtype) for layer in layers[0]]:
                raise ValueError("networks differ in the sizes or the dtype of their layers: expected one form")
        self.alive: Tensor
        self.register_buffer("alive", torch.ones(len(networks), dtype=torch.bool, device=layers[0][0].weight.device))
        columns = list(zip(*layers, strict=True))
        self.weights = nn.ParameterList(  # (M, inputs, outputs)
            torch.stack([layer.weight.detach().t() for layer in column]) for column in columns)
        self.biases = nn.ParameterList(  # (M * outputs,): flat, as an optimiser knows biases by their dimension
            torch.cat([layer.bias.detach() for layer in column]) for column in columns)

    def features(self, inputs: Tensor) -> Tensor:
        """What all first layers see of inputs (N, ...): (N, D)."""
        return self.shared[0].features(inputs)  # type: ignore[operator]

    def forward(self, features: Tensor) -> Tensor:
        """Logits (M, B, C) of features (M, B, D), a batch for each network."""
        last = len(self.weights) - 1
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            features = torch.baddbmm(bias.view(len(weight), 1, -1), features, weight)
            if place < last:
                features = Tanh.apply(features)
        return features

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """Logits (M, n, C) of inputs (n, ...), the same for all networks; NaN for those that are out."""
        blocks = self.features(inputs).split(ROWS)
        logits = torch.cat([self(block.expand(self.models, -1, -1)) for block in blocks], dim=1)
        return torch.where(self.alive[:, None, None], logits, torch.nan)

    @torch.no_grad()
    def drop(self, lost: Tensor) -> None:
        """Take networks, bool (M,), out; with weights of 0 they disturb nobody."""
        self.alive &= ~lost
        for values in self.parameters():
            values.view(self.models, -1)[lost] = 0

    def part(self, rows: slice) -> nn.Module:
        """The parameters of some networks, for an optimiser of their own; it shares their memory with this stack."""
        return self if rows == slice(0, self.models) else Part(self, rows)

    @torch.no_grad()
    def unload(self, networks: Sequence[nn.Module]) -> None:
        """Write the weights back into the networks; NaN into those that are out."""
        for row, network in enumerate(networks):
            alive = bool(self.alive[row])
            for layer, weight, bias in zip(_layers(network), self.weights, self.biases, strict=True):
                layer.weight.copy_(weight[row].t() if alive else torch.tensor(torch.nan))
                layer.bias.copy_(bias.view(self.models, -1)[row] if alive else torch.tensor(torch.nan))


class Part(nn.Module):
    """Views into the parameters of a stack."""

    def __init__(self, stack: Stack, rows: slice) -> None:
        super().__init__()
        self.rows, self.stack = rows, [stack]
        self.views = nn.ParameterList(self._view(values.detach(), values.dim()) for values in stack.parameters())

    def _view(self, values: Tensor, dimensions: int) -> Tensor:
        if dimensions > 1:
            return values[self.rows]
        return values.view(self.stack[0].models, -1)[self.rows].reshape(-1)

    def lend_gradients(self) -> None:
        """Let the views have the gradients of what they are views of."""
        for view, values in zip(self.views, self.stack[0].parameters(), strict=True):
            view.grad = None if values.grad is None else self._view(values.grad, values.dim())


def stacked(networks: Sequence[nn.Module], batch_size: int) -> list[Stack]:
    """All networks in as few stacks of nearly equal size as the cache allows; the layout depends on nothing else.

    Raises:
        ValueError: networks that do not fit together, or of another kind.
    """
    if not networks:
        raise ValueError("expected at least one network, got none")
    widest = max(max(layer.in_features, layer.out_features) for layer in _layers(networks[0]))
    most = max(LEAST, ACTIVATION_BYTES // (4 * batch_size * widest))
    count = -(-len(networks) // most)
    ends = [(i + 1) * len(networks) // count for i in range(count)]
    return [Stack(networks[first:end]) for first, end in zip([0, *ends], ends, strict=False)]


def _layers(network: nn.Module) -> list[nn.Linear]:
    if not isinstance(network, MLP | Polynomial):
        raise ValueError(f"a network of type {type(network).__name__}: expected 'mlp' or 'polynomial', to be stacked")
    return [module for module in network.modules() if isinstance(module, nn.Linear)]
