"""Label ranks, and everything that follows from them: the accuracy at every k comes from one pass.

Nothing here needs torch to be imported: tensors are handled by their own methods, arrays by numpy.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Ties = Literal["pessimistic", "optimistic", "average"]


def label_ranks(logits: "Tensor", labels: "Tensor", *, ties: Ties = "pessimistic") -> "Tensor":
    """Rank of each label's score among the scores of its row, 1 = top.

    Args:
        logits: float, (N, C). ``-inf`` marks a class left out: it ranks behind every finite score.
        labels: int64, (N,), in 0..C-1.
        ties: what an equal score of another class does. ``"pessimistic"`` counts it as ahead, so that a network with
            constant output never looks right, ``"optimistic"`` as behind, ``"average"`` as half of each.

    Returns:
        int64 (N,); float64 for ``"average"``.

    Raises:
        ValueError: shapes, dtypes, label range or ``ties`` are off, or a logit is NaN.
    """
    if ties not in ("pessimistic", "optimistic", "average"):
        raise ValueError(f"ties={ties!r}: expected 'pessimistic', 'optimistic' or 'average'")
    _check_pair(logits, labels)
    own = logits.gather(1, labels.unsqueeze(1))
    best = (logits > own).sum(dim=1) + 1
    if ties == "optimistic":
        return best
    worst = (logits >= own).sum(dim=1)
    return worst if ties == "pessimistic" else (best + worst).double() / 2


def topk_curve(ranks: Any, num_classes: int) -> Any:
    """Accuracy at every k: the share of ranks <= k, for k = 1..C at positions 0..C-1.

    Args:
        ranks: label ranks in [1, C], (N,): a tensor or anything numpy takes.
        num_classes: C.

    Returns:
        float64 (C,), a tensor for a tensor and an array otherwise. Each entry is a count divided once by N, so it
        compares exactly with a decimal target.

    Raises:
        ValueError: no ranks, more than one dimension, or a rank outside [1, C].
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, (int, np.integer)) or num_classes < 1:
        raise ValueError(f"num_classes={num_classes!r}: expected a whole number of at least 1")
    values = np.asarray(ranks.cpu() if hasattr(ranks, "cpu") else ranks)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"ranks have shape {values.shape}: expected (N,) with N >= 1")
    if not ((values >= 1) & (values <= num_classes)).all():
        raise ValueError(f"ranks lie in {values.min()}..{values.max()}: expected 1..{num_classes}")
    first_k = np.ceil(values).astype(np.int64)  # an average rank of 2.5 is not among the first 2
    curve = np.cumsum(np.bincount(first_k, minlength=num_classes + 1)[1:]) / len(values)
    return ranks.new_tensor(curve.tolist(), dtype=ranks.double().dtype) if hasattr(ranks, "new_tensor") else curve


def smallest_k(curve: Any, target: float) -> int | None:
    """Smallest k whose accuracy reaches ``target``; None where even the last one does not.

    Args:
        curve: accuracy at k = 1, 2, ..., as :func:`topk_curve` gives it.
        target: accuracy in (0, 1].

    Raises:
        ValueError: the curve is empty, falls somewhere or holds NaN, or the target is out of range.
    """
    if not 0 < target <= 1:
        raise ValueError(f"target={target!r}: expected an accuracy in (0, 1]")
    values = np.asarray(curve.cpu() if hasattr(curve, "cpu") else curve, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not (np.diff(values) >= 0).all() or not np.isfinite(values).all():
        raise ValueError(f"expected a curve of accuracies that never falls, got shape {values.shape}: {values}")
    reached = np.flatnonzero(values >= target)
    return int(reached[0]) + 1 if len(reached) else None


def negative_log_likelihood(logits: "Tensor", labels: "Tensor") -> float:
    """Mean of -log p_y in nats, for logits (N, C) and labels (N,)."""
    _check_pair(logits, labels)
    scores, dim = _along_memory(logits.double())
    return float(-scores.log_softmax(dim=dim).gather(dim, labels.unsqueeze(dim)).mean())


def expected_calibration_error(logits: "Tensor", labels: "Tensor", bins: int = 15) -> float:
    """Gap between confidence and accuracy of the top class, averaged over equal-width bins of confidence.

    Bins are closed on the right, weighted by their share of the samples (:cite:t:`guo2017calibration`).
    """
    _check_pair(logits, labels)
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise ValueError(f"bins={bins!r}: expected a whole number of at least 1")
    scores, dim = _along_memory(logits.double())
    top = scores.softmax(dim=dim).max(dim=dim)
    confidence = top.values.cpu().numpy()
    correct = (top.indices == labels).cpu().numpy()
    bin_of: NDArray[Any] = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(bin_of, weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def _along_memory(logits: "Tensor") -> tuple["Tensor", int]:
    """The logits (N, C), or (C, N) where there are so few classes that torch is slow along them; the classes' axis."""
    return (logits.t().contiguous(), 0) if logits.shape[1] < 10 else (logits, 1)


def _check_pair(logits: "Tensor", labels: "Tensor") -> None:
    if logits.dim() != 2 or not logits.is_floating_point() or not logits.shape[1]:
        raise ValueError(f"logits have shape {tuple(logits.shape)}, {logits.dtype}: expected floats of shape (N, C)")
    if labels.shape != logits.shape[:1] or str(labels.dtype) != "torch.int64":
        raise ValueError(f"labels have shape {tuple(labels.shape)}, {labels.dtype}: expected torch.int64 of shape "
                         f"({logits.shape[0]},)")
    if bool(logits.isnan().any()):
        raise ValueError("logits hold NaN: expected numbers, or -inf for classes left out")
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]):
        raise ValueError(f"labels lie in {int(labels.min())}..{int(labels.max())}: expected 0..{logits.shape[1] - 1}")
