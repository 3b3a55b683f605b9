"""What every loss shares: checks, scores laid out as rows, derivatives without a tape, the one place that reduces."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]
#: ``definition(logits, labels, *tensors)``: losses (rows,) and their derivative by the logits (rows, C).
Definition = Callable[..., tuple[Tensor, Tensor]]


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
    """Checked input, one row a sample. ``rows`` is N, or N times the product of the trailing dimensions.

    A row that gives no gradient, because it is ignored or its label is masked, is all zeros: no formula meets an
    infinite label score, and what it makes of such a row is thrown away.
    """

    logits: Tensor  #: (rows, C) float32 or float64; -inf where a class is masked, never at the label
    labels: Tensor  #: (rows,) int64; class 0 stands in where the row is ignored
    keep: Tensor | None  #: (rows,) bool, False where ignored; None: all are kept
    masked: Tensor | None  #: (rows,) bool, True where the label's own class is masked; None: nowhere
    weight: Tensor | None
    reduction: Reduction
    shape: torch.Size  #: of the labels as they came

    @property
    def scores(self) -> Tensor:
        """The logits relative to each row's maximum, held to the dtype's lowest number, (rows, C).

        Every loss here is invariant to a shift of its row, so the maximum counts as a constant.
        """
        relative = Saturate.apply(self.logits - self.logits.detach().amax(dim=1, keepdim=True))
        return torch.where(self.logits == -math.inf, -math.inf, relative)

    def at_label(self, values: Tensor) -> Tensor:
        """The label's entry of each row, (rows,)."""
        return values.gather(1, self.labels.unsqueeze(1)).squeeze(1)

    def loss(self, definition: Definition, *tensors: Tensor | None, bounded: bool = True,
             weighted: bool = False) -> Tensor:
        """The reduced loss by a definition that states value and derivative together; see :class:`WithDerivative`.

        Args:
            definition: of the losses and their derivative.
            tensors: further arguments of it, constants to the gradient.
            bounded: whether no entry of the derivative comes near the dtype's largest number.
            weighted: whether its values carry their class weights already.
        """
        result = self._apply(definition, bounded, self._shares(weighted), tensors)
        return result.reshape(self.shape) if self.reduction == "none" else result

    def each(self, definition: Definition) -> Tensor:
        """As :meth:`loss`, one for each row, (rows,), not yet weighed."""
        return self._apply(definition, True, Shares(), ())

    def _apply(self, definition: Definition, bounded: bool, shares: "Shares",
               tensors: tuple[Tensor | None, ...]) -> Tensor:
        function = WithDerivative if is_transformed() else EagerWithDerivative
        return function.apply(definition, bounded, shares, self.logits, self.labels, tensors)[0]

    def reduce(self, values: Tensor) -> Tensor:
        """Weigh and reduce losses (rows,) of ordinary autograd; a masked label costs +inf and gives no gradient."""
        result = Reduce.apply(values, self._shares(False))
        return result.reshape(self.shape) if self.reduction == "none" else result

    def _shares(self, weighted: bool) -> "Shares":
        kept = None if self.keep is None else self.keep.to(self.logits.dtype)
        weight = None if self.weight is None else self.weight[self.labels]
        share = weight if kept is None else kept if weight is None else weight * kept
        total: Tensor | int | None = None
        if self.reduction == "mean":
            total = share.sum() if share is not None else len(self.labels) or self.logits.new_zeros(())
        return Shares(kept if weighted else share, total, self.masked, self.reduction != "none")


class Shares(NamedTuple):
    """What each row's loss counts, and how the rows become one number."""

    share: Tensor | None = None  #: (rows,); None: all count 1
    total: Tensor | int | None = None  #: what the sum is divided by; None: nothing
    masked: Tensor | None = None
    summed: bool = False

    def reduce(self, values: Tensor) -> Tensor:
        """Losses (rows,) times their shares, one by one or summed, held to the dtype's largest numbers."""
        limit = torch.finfo(values.dtype).max
        values = values.clamp(-limit, limit)
        if self.share is not None:
            values = (values * self.share).clamp(-limit, limit)
        if self.masked is not None:
            values = values.masked_fill(self.masked, math.inf)
        if not self.summed:
            return values
        if self.total is not None:  # dividing first keeps a mean of huge losses finite
            values = values / self.total
        result = values.sum().clamp(-limit, limit)
        if self.masked is not None:
            result = torch.where(self.masked.any(), math.inf, result)
        return torch.where(self.total == 0, math.nan, result) if isinstance(self.total, Tensor) else result

    def spread(self, grad: Tensor) -> Tensor:
        """The gradient by each row's loss, (rows,), or 0-d where all are alike: that of the exact sum."""
        if isinstance(self.total, Tensor):
            grad = grad / torch.where(self.total == 0, 1.0, self.total)
        elif self.total is not None:
            grad = grad / self.total
        return grad if self.share is None else grad * self.share


class WithDerivative(torch.autograd.Function):
    """Losses and their derivative from one forward pass.

    The definition runs without a tape and its derivative is kept, so that the backward pass is one product. Where
    that product must be differentiable in turn, the definition, which is made of torch operations, runs again with
    a tape: second derivatives need no formula of their own. There is no forward mode, which torch.compile refuses
    in such functions: a Hessian is ``jacrev(jacrev(...))``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(definition: Definition, bounded: bool, shares: Shares, logits: Tensor, labels: Tensor,
                tensors: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor]:
        values, derivative = definition(logits, labels, *tensors)
        return shares.reduce(values), derivative

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.definition, ctx.bounded, shares, logits, labels, tensors = inputs
        ctx.count = None if isinstance(shares.total, Tensor) else shares.total
        ctx.save_for_backward(output[1], shares.share, shares.total if ctx.count is None else None, logits,
                              labels, *tensors)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        derivative, share, total, *inputs = ctx.saved_tensors
        if grad is None:  # nothing depends on the loss
            return None, None, None, None, None, None
        if torch.is_grad_enabled():
            derivative = ctx.definition(*inputs)[1]
        grad = Shares(share, ctx.count if total is None else total).spread(grad)
        product = derivative * (grad.unsqueeze(1) if grad.dim() else grad)
        if not ctx.bounded:
            limit = torch.finfo(product.dtype).max
            product = product.clamp(-limit, limit)
        return None, None, None, product, None, None


class EagerWithDerivative(torch.autograd.Function):
    """The same in the form that torch calls faster, which ``torch.func`` has no rules for."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = WithDerivative.forward(*inputs)
        WithDerivative.setup_context(ctx, inputs, output)
        return output

    backward = staticmethod(WithDerivative.backward)


class Reduce(torch.autograd.Function):
    """:meth:`Shares.reduce` for losses that autograd differentiates."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, shares: Shares) -> Tensor:
        return shares.reduce(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, shares = inputs
        ctx.rows, ctx.count = values.shape, None if isinstance(shares.total, Tensor) else shares.total
        ctx.save_for_backward(shares.share, shares.total if ctx.count is None else None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        share, total = ctx.saved_tensors
        return Shares(share, ctx.count if total is None else total).spread(grad).expand(ctx.rows), None


class Saturate(torch.autograd.Function):
    """Differences of finite scores that overflowed, held to the dtype's largest numbers; the gradient passes."""

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


def largest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest entries of each row in descending order and where they are, both (rows, count).

    As ``torch.topk``. On a CPU that compares entry by entry, at the mercy of the branch predictor, and costs several
    times a softmax: there, single precision is sorted by numpy, which has no branches in rows of up to 128.
    """
    length = rows.shape[1]
    # Where there is little to compare, or much to find, torch.topk is as good.
    topk = length <= 10 or 128 < length < 16 * count
    if rows.device.type != "cpu" or rows.dtype != torch.float32 or topk or not is_plain(rows):
        values, places = rows.topk(count, dim=1)
        return values, places
    places = _largest_on_cpu(rows.detach(), count)
    return rows.gather(1, places), places


def _largest_on_cpu(rows: Tensor, count: int) -> Tensor:
    """Places of the largest entries: in long rows first the blocks with the largest maxima, which hold them all."""
    length = rows.shape[1]
    if length <= 128 or length < 16 * count:
        return _sorted_on_cpu(rows, count)
    size = min(10, length // (8 * count))
    blocks = length // size
    # Block b holds the entries b, b + blocks, b + 2 blocks, ...: their maxima are maxima of contiguous rows.
    chosen = _largest_on_cpu(rows[:, : size * blocks].unflatten(1, (size, blocks)).amax(dim=1), count)
    candidates = (chosen.unsqueeze(1) + torch.arange(0, size * blocks, blocks)[:, None]).flatten(1)
    if size * blocks < length:
        rest = torch.arange(size * blocks, length)
        candidates = torch.cat([candidates, rest.expand(len(candidates), -1)], dim=1)
    return candidates.gather(1, _largest_on_cpu(rows.gather(1, candidates), count))


def _sorted_on_cpu(rows: Tensor, count: int) -> Tensor:
    """Places of the largest entries of float32 rows, by sorting them.

    The bits of a float32, all but the sign turned over where it is negative, are an integer of the same order. The
    place stands below them: it comes along, and no two numbers are equal.
    """
    bits = rows.numpy().view(np.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    keys <<= 32
    keys |= np.arange(rows.shape[1])
    keys.sort(axis=1)
    return torch.from_numpy(keys[:, : -count - 1 : -1] & 0xFFFFFFFF)


def softmax(rows: Tensor) -> Tensor:
    """``rows.softmax(dim=1)``.

    On a CPU torch takes rows shorter than its vectors one number at a time, slower than it takes a hundred classes:
    there, columns are gone through instead. Ten classes and more keep torch's rounding, which recorded runs have.
    """
    if rows.device.type != "cpu" or rows.shape[1] >= 10 or not is_plain(rows):
        return rows.softmax(dim=1)
    return rows.t().contiguous().softmax(dim=0).t().contiguous()


def add_at(values: Tensor, places: Tensor, addend: Tensor) -> Tensor:
    """``values`` with ``addend`` added at ``places`` of its rows: in place where nothing else can notice."""
    if torch.is_grad_enabled() or is_transformed():
        return values.scatter_add(1, places, addend)
    return values.scatter_add_(1, places, addend)


def competitors(logits: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As :func:`largest`, among the classes other than the label."""
    values, classes = largest(logits, count + 1)
    behind = (classes[:, :count] == labels.unsqueeze(1)).cumsum(dim=1) > 0  # at or after the label, who is left out
    return (torch.where(behind, values[:, 1:], values[:, :count]),
            torch.where(behind, classes[:, 1:], classes[:, :count]))


def prepare(logits: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int, reduction: str,
            k: Any = ...) -> Batch:
    """Check the arguments that all losses share and lay the samples out as rows.

    Raises:
        ValueError: shape, dtype, k, weight or reduction are off (always); a label out of range, or a NaN or
            +inf logit (eager mode on CPU). On CUDA the latter become ``torch._assert_async``, which does not
            wait for the device; under ``torch.compile`` and ``torch.func`` transforms they are skipped.
    """
    _check_form(logits, labels, weight, ignore_index, reduction)
    num_classes, shape = logits.shape[1], labels.shape
    if k is not ...:
        check_k(k, num_classes)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if logits.dim() > 2:
        logits, labels = logits.movedim(1, -1).reshape(-1, num_classes), labels.reshape(-1)
    if weight is not None:
        if weight.device.type == "cpu" and is_plain(weight) and not ((weight >= 0) & (weight < math.inf)).all():
            raise ValueError(f"weight={weight.tolist()}: expected finite numbers of at least 0")
        weight = weight.to(logits.dtype)
    keep = masked = None
    if len(labels):
        if not _check_values(logits, labels, ignore_index, num_classes):
            keep = labels != ignore_index
            labels = torch.where(keep & (labels >= 0) & (labels < num_classes), labels, 0)
        own = logits.detach().gather(1, labels.unsqueeze(1))
        if own.device.type != "cpu" or not is_plain(own) or own.amin().item() == -math.inf:
            masked = own.squeeze(1) == -math.inf
            masked = masked if keep is None else masked & keep
        unused = masked if keep is None else ~keep if masked is None else masked | ~keep
        if unused is not None:
            logits = logits.masked_fill(unused.unsqueeze(1), 0.0)
    return Batch(logits, labels, keep, masked, weight, reduction, shape)  # type: ignore[arg-type]


def is_transformed() -> bool:
    """Whether ``torch.compile`` or a ``torch.func`` transform is at work."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def is_plain(tensor: Tensor) -> bool:
    """Whether values can be looked at: neither under ``torch.compile`` nor wrapped by ``torch.func``."""
    return not torch.compiler.is_compiling() and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _check_values(logits: Tensor, labels: Tensor, ignore_index: int, num_classes: int) -> bool:
    """Refuse logits and labels without meaning; returns whether all labels are known to count."""
    if not is_plain(logits) or not is_plain(labels) or logits.device.type == "meta":
        return False
    highest = logits.detach().amax()  # NaN and +inf both fail the comparison
    if logits.device.type == "cuda":
        fits = (labels == ignore_index) | ((labels >= 0) & (labels < num_classes))
        torch._assert_async((highest < math.inf) & fits.all())
        return False
    if not highest.item() < math.inf:
        bad = int((~(logits.detach().amax(dim=1) < math.inf)).sum())
        raise ValueError(f"logits hold NaN or +inf in {bad} of {len(logits)} rows: expected finite scores, "
                         "or -inf for classes to leave out")
    low, high = (bound.item() for bound in labels.aminmax())
    if low >= 0 and high < num_classes:
        return not low <= ignore_index <= high
    wrong = labels[(labels != ignore_index) & ((labels < 0) | (labels >= num_classes))]
    if len(wrong):
        raise ValueError(f"labels hold {int(wrong[0])}: expected class numbers in 0..{num_classes - 1}, "
                         "or ignore_index")
    return False


def check_k(k: Any, num_classes: int) -> None:
    """1 <= k <= C - 1."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise ValueError(f"k={k!r} has type {type(k).__name__}: expected a whole number")
    if not 1 <= k < num_classes:
        raise ValueError(f"k={k}: expected 1 <= k <= {num_classes - 1}, one less than the {num_classes} classes "
                         "of the logits")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}")


def check_number(name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    """``value`` is a finite number in [low, high], or (low, high] with ``open_low``."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not abs(value) < math.inf or not (low < value <= high if open_low else low <= value <= high):
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if high == math.inf else ']'}"
        raise ValueError(f"{name}={value!r}: expected a number in {interval}")


def check_scale(name: str, value: Any) -> None:
    """``value`` is a number that scores may be divided or multiplied by in single precision, in [1e-20, 1e20]."""
    check_number(name, value, 1e-20, 1e20)


def _check_form(logits: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int, reduction: str) -> None:
    for name, value in (("logits", logits), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}: expected a torch.Tensor")
    if not logits.is_floating_point():
        raise ValueError(f"logits have dtype {logits.dtype}: expected a floating-point dtype")
    if logits.dim() < 2 or not logits.shape[1]:
        raise ValueError(f"logits have shape {tuple(logits.shape)}: expected (N, C) or (N, C, d...), C >= 1")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels have dtype {labels.dtype}: expected torch.int64 class numbers")
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(labels.shape) != expected:
        raise ValueError(f"labels have shape {tuple(labels.shape)}: expected {expected} for logits of shape "
                         f"{tuple(logits.shape)}")
    if logits.device != labels.device:
        raise ValueError(f"labels are on {labels.device}: expected {logits.device}, where the logits are")
    if weight is not None and not (isinstance(weight, Tensor) and weight.is_floating_point()
                                   and tuple(weight.shape) == (logits.shape[1],) and weight.device == logits.device):
        is_tensor = isinstance(weight, Tensor)
        got = f"shape {tuple(weight.shape)}, {weight.dtype} on {weight.device}" if is_tensor else repr(weight)
        raise ValueError(f"weight: got {got}, expected a floating-point Tensor of shape ({logits.shape[1]},) on "
                         f"{logits.device}")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise ValueError(f"ignore_index={ignore_index!r}: expected a whole number")
    check_choice("reduction", reduction, ("mean", "sum", "none"))
