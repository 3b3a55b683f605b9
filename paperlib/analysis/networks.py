"""Networks that were kept to be drawn: the document of ``experiments/networks.py``, and their scores without torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paperlib import documents, paths

_KEYS = {"grid", "setup", "code", "environment", "networks", "core_seconds"}


@dataclass(frozen=True)
class Network:
    """A multi-layer perceptron of tanh units with its weights; call it for scores (N, C) of points (N, D)."""

    run_id: str
    seed: int
    expected: tuple[float, ...]  #: accuracy at k = 1..C on the test points, under the exact probabilities
    layers: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]  #: weights (outputs, inputs) and biases

    def __call__(self, points: ArrayLike) -> NDArray[np.float64]:
        """Scores (N, C) of points (N, D)."""
        x = np.asarray(points, dtype=np.float64)
        for weight, bias in self.layers[:-1]:
            x = np.tanh(x @ weight.T + bias)
        weight, bias = self.layers[-1]
        scores: NDArray[np.float64] = x @ weight.T + bias
        return scores


def network_document() -> dict[str, Any]:
    """The document: ``grid``, ``setup``, ``code``, ``environment``, ``networks``, ``core_seconds``.

    Raises:
        FileNotFoundError: it is not there; says how to make it.
        ValueError: it is no such document.
    """
    return documents.load(paths.NETWORKS, "experiments/networks.py", _KEYS)


def networks() -> dict[str, Network]:
    """The kept networks by variant."""
    return {name: Network(kept["run_id"], kept["seed"], tuple(kept["expected"]),
                          tuple((np.array(layer["weight"]), np.array(layer["bias"])) for layer in kept["layers"]))
            for name, kept in network_document()["networks"].items()}
