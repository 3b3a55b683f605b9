"""What every loss shares: checks, the shifted scores, and the one place where samples are reduced."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


@dataclass(frozen=True)
class LossSpec:
    """A loss as the registry knows it: its function, the name that tables print and its bib key."""

    function: Callable[..., Tensor]
    label: str
    cite: str

    @property
    def name(self) -> str:
        """The public name, which is the function's."""
        return self.function.__name__


@dataclass(frozen=True)
class Batch:
    """Checked input, one row a sample. ``rows`` is N, or N times the product of the trailing dimensions."""

    logits: Tensor  #: (rows, C) float32 or float64, as they came: what comparisons and differences are made of
    scores: Tensor  #: (rows, C) float32 or float64, row maximum subtracted; -inf where the class is masked
    labels: Tensor  #: (rows,) int64; class 0 stands in where the row is ignored or its label is out of range
    keep: Tensor  #: (rows,) bool, False where ignored
    masked: Tensor  #: (rows,) bool, True where the label's own class is masked
    weight: Tensor | None
    reduction: Reduction
    shape: torch.Size  #: of the labels as they came

    def at_label(self, values: Tensor) -> Tensor:
        """The label's entry of each row, (rows,)."""
        return values.gather(1, self.labels.unsqueeze(1)).squeeze(1)

    def label_scores(self) -> Tensor:
        """The label's score, (rows,); 0 where that class is masked, so that no infinity meets another."""
        return self.at_label(self.scores).masked_fill(self.masked, 0.0)

    def reduce(self, values: Tensor) -> Tensor:
        """Weigh and reduce per-sample losses, (rows,); a masked label costs +inf and gives no gradient."""
        if self.weight is not None:
            values = values * self.weight[self.labels]
        return self.reduce_weighted(values)

    def reduce_weighted(self, values: Tensor) -> Tensor:
        """As :meth:`reduce`, for values that already carry their class weights."""
        values = Saturate.apply(values).masked_fill(self.masked, math.inf).masked_fill(~self.keep, 0.0)
        if self.reduction == "none":
            return values.reshape(self.shape)
        if self.reduction == "sum":
            return _saturate(values.sum(), values)
        if self.weight is None:
            total = self.keep.sum().to(values.dtype)
        else:
            total = self.weight[self.labels].masked_fill(~self.keep, 0.0).sum()
        # Dividing first keeps a mean of huge losses finite; an empty sum of nothing must still be 0 / 0.
        mean = _saturate((values / total).sum(), values)
        return torch.where(total == 0, total / total, mean)


def _saturate(total: Tensor, values: Tensor) -> Tensor:
    """``total`` held to the dtype's largest number unless one of ``values`` is itself infinite."""
    return torch.where(torch.isinf(values).any(), total, Saturate.apply(total))


class Saturate(torch.autograd.Function):
    """Holds what overflowed to the dtype's largest numbers; the gradient passes unchanged."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        limit = torch.finfo(values.dtype).max
        return values.clamp(-limit, limit)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class SaturateGradient(torch.autograd.Function):
    """The identity, with a gradient held to the dtype's largest numbers."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        limit = torch.finfo(grad.dtype).max
        return grad.clamp(-limit, limit)


class Shift(torch.autograd.Function):
    """Row scores minus their maximum, saturating.

    Every loss here is invariant to a shift of its row, so the maximum counts as a constant: the gradient passes
    unchanged, also where the difference of two finite logits exceeds the dtype and is held to its lowest number.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor) -> Tensor:
        top = logits.amax(dim=1, keepdim=True)
        top = torch.where(top == -math.inf, torch.zeros_like(top), top)
        masked = logits == -math.inf
        shifted = (logits - top).clamp(min=torch.finfo(logits.dtype).min)
        # A row without any class left has a masked label: zeros keep its arithmetic finite.
        return torch.where(masked & ~masked.all(dim=1, keepdim=True), -math.inf, shifted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def prepare(logits: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int, reduction: str,
            k: Any = ...) -> Batch:
    """Check the arguments that all losses share and lay the samples out as rows.

    Raises:
        ValueError: shape, dtype, k, weight or reduction are off (always); a label out of range, or a NaN or
            +inf logit (eager mode on CPU). On CUDA the latter become ``torch._assert_async``, which does not
            wait for the device; under ``torch.compile`` and ``torch.func`` transforms they are skipped.
    """
    _check_form(logits, labels, weight, ignore_index, reduction)
    num_classes = logits.shape[1]
    if k is not ...:
        check_k(k, num_classes)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    rows = SaturateGradient.apply(logits.movedim(1, -1).reshape(-1, num_classes))
    flat = labels.reshape(-1)
    keep = flat != ignore_index
    in_range = (flat >= 0) & (flat < num_classes)
    _check_values(rows, flat, keep, in_range, num_classes)
    flat = torch.where(keep & in_range, flat, 0)
    masked = rows.detach().gather(1, flat.unsqueeze(1)).squeeze(1) == -math.inf
    if weight is not None:
        weight = weight.to(rows.dtype)
    return Batch(rows, Shift.apply(rows), flat, keep, masked & keep, weight, reduction, labels.shape)  # type: ignore[arg-type]


def check_k(k: int, num_classes: int) -> None:
    """1 <= k <= C - 1."""
    if isinstance(k, bool) or not isinstance(k, int):
        raise ValueError(f"k={k!r} is a {type(k).__name__}: expected a whole number")
    if not 1 <= k < num_classes:
        raise ValueError(f"k={k}: expected 1 <= k <= {num_classes - 1}, one less than the {num_classes} classes "
                         "of the logits")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}")


def check_number(name: str, value: float, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    """``value`` is a finite number in [low, high], or (low, high] with ``open_low``."""
    inside = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and (
        low < value <= high if open_low else low <= value <= high)
    if not inside:
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if high == math.inf else ']'}"
        raise ValueError(f"{name}={value!r}: expected a number in {interval}")


def _check_form(logits: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int, reduction: str) -> None:
    for name, value in (("logits", logits), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}: expected a torch.Tensor")
    if not logits.is_floating_point():
        raise ValueError(f"logits have dtype {logits.dtype}: expected a floating-point dtype")
    if logits.dim() < 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}: expected (N, C) or (N, C, d...)")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels have dtype {labels.dtype}: expected torch.int64 class numbers")
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(labels.shape) != expected:
        raise ValueError(f"labels have shape {tuple(labels.shape)}: expected {expected} for logits of shape "
                         f"{tuple(logits.shape)}")
    if logits.device != labels.device:
        raise ValueError(f"labels are on {labels.device}: expected {logits.device}, where the logits are")
    if weight is not None and not (isinstance(weight, Tensor) and weight.is_floating_point()
                                   and tuple(weight.shape) == (logits.shape[1],)):
        got = f"shape {tuple(weight.shape)}, {weight.dtype}" if isinstance(weight, Tensor) else repr(weight)
        raise ValueError(f"weight: got {got}, expected a floating-point Tensor of shape ({logits.shape[1]},)")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise ValueError(f"ignore_index={ignore_index!r}: expected a whole number")
    check_choice("reduction", reduction, ("mean", "sum", "none"))


def _check_values(rows: Tensor, labels: Tensor, keep: Tensor, in_range: Tensor, num_classes: int) -> None:
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(rows) \
            or torch._C._functorch.is_functorch_wrapped_tensor(labels):
        return
    if not len(rows):
        return
    top = rows.detach().amax(dim=1)  # NaN and +inf both fail this comparison
    finite, fits = (top < math.inf).all(), (in_range | ~keep).all()
    if rows.device.type == "cuda":
        torch._assert_async(finite & fits)
        return
    if not finite:
        bad = int((~(top < math.inf)).sum())
        raise ValueError(f"logits hold NaN or +inf in {bad} of {len(rows)} rows: expected finite scores, "
                         "or -inf for classes to leave out")
    if not fits:
        wrong = labels[~in_range & keep][0]
        raise ValueError(f"labels hold {int(wrong)}: expected class numbers in 0..{num_classes - 1}, or ignore_index")
