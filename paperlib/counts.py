"""What a record keeps of a split for many models: for each of them how often the label had each rank, and lists."""

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode_counts(counts: Any) -> str:
    """How often the label had each rank, (M, C): int32 little-endian, row by row, zlib, base64."""
    return base64.b64encode(zlib.compress(np.asarray(counts).astype("<i4").tobytes(), 9)).decode()


def decode_counts(text: str, num_classes: int) -> NDArray[np.int64]:
    """The inverse of :func:`encode_counts`, as int64 (M, C)."""
    flat = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<i4").astype(np.int64)
    return flat.reshape(-1, num_classes)


def check_results(evaluation: dict[str, Any], models: int) -> None:
    """Lists as long as the list of seeds, counts that add up, curves that rise; a diverged model has nothing at all.

    Raises:
        ValueError: says what is wrong.
    """
    try:
        n, num_classes = int(evaluation["n"]), int(evaluation["num_classes"])
        counts = decode_counts(evaluation["counts"], num_classes)
        lists = {key: evaluation[key] for key in ("loss", "nll", "ece")}
        lists |= {"expected": evaluation["expected"]} if "expected" in evaluation else {}
        lengths = {key: len(values) for key, values in lists.items()} | {"counts": len(counts)}
    except (KeyError, ValueError, TypeError, zlib.error) as error:
        raise ValueError("expected n, num_classes, decodable counts and lists of loss, nll and ece "
                         f"({error!r})") from error
    if n < 1 or set(lengths.values()) != {models}:
        raise ValueError(f"expected results of {models} models on at least one sample, got {lengths} and n={n}")
    for place, (row, *values) in enumerate(zip(counts, *lists.values(), strict=True)):
        gone = values[0] is None
        if row.min() < 0 or row.sum() != (0 if gone else n) or any((value is None) != gone for value in values):
            raise ValueError(f"model {place} has counts {row.tolist()} and {len(values) - values.count(None)} of "
                             f"{len(values)} other results: expected counts that add up to {n}, and all or nothing")
    curves = [row for row in evaluation.get("expected", []) if row is not None]
    for curve in [*curves, *([evaluation["bayes"]] if "bayes" in evaluation else [])]:
        if len(curve) != num_classes or min(curve) < 0 or max(curve) > 1 + 1e-6 or sorted(curve) != curve:
            raise ValueError(f"expected accuracies {curve}: expected {num_classes} numbers in [0, 1] that never fall")
