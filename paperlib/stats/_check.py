"""Input checks shared by the statistics: what came, what was expected."""

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def as_array(values: ArrayLike, name: str) -> NDArray[Any]:
    """``np.asarray`` with a ``ValueError`` where it fails (ragged lists, tensors on a GPU)."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: expected an array or anything that numpy.asarray takes "
                         f"(a tensor must be on the CPU and detached): {error}") from error


def as_ranks(values: ArrayLike, name: str = "ranks", ndim: int = 1) -> NDArray[np.int64]:
    """Label ranks as int64: integers of at least 1, of ``ndim`` dimensions, not empty."""
    ranks = as_array(values, name)
    if ranks.ndim != ndim or ranks.size == 0:
        shape = "(n,)" if ndim == 1 else "(seeds, n)"
        raise ValueError(f"{name}: expected a non-empty array of shape {shape}, got shape {ranks.shape}")
    if ranks.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integer ranks, got dtype {ranks.dtype}")
    if ranks.min() < 1:
        raise ValueError(f"{name}: expected ranks of at least 1 (1 = the label has the top score), "
                         f"got {ranks.min()}")
    return ranks.astype(np.int64)


def as_fraction(value: Any, name: str, *, closed: bool = False) -> Fraction:
    """The decimal that was written, exactly: .99 is 99/100 and not the double next to it."""
    try:
        fraction = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        fraction = Fraction(-1)
    if not (0 < fraction < 1 or (closed and fraction == 1)):
        raise ValueError(f"{name}={value!r}: expected a number in (0, 1{']' if closed else ')'}")
    return fraction


def as_differences(values: ArrayLike, name: str, ndim: int) -> NDArray[np.float64]:
    """Finite float64 differences with seeds along the first axis."""
    array = as_array(values, name)
    if array.ndim != ndim or array.size == 0 or array.dtype.kind not in "iuf":
        shape = "(seeds,)" if ndim == 1 else "(seeds, comparisons)"
        raise ValueError(f"{name}: expected non-empty numbers of shape {shape}, "
                         f"got shape {array.shape}, dtype {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got {np.sum(~np.isfinite(array))} NaN or inf")
    return array.astype(np.float64)


def as_count(value: Any, name: str, least: int = 1) -> int:
    """A whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}={value!r}: expected a whole number of at least {least}")
    return int(value)
