"""Any loss under probabilities of the label instead of one label: soft labels, mixup, the conditional risk."""

from collections.abc import Callable

import torch
from torch import Tensor

from paperlib.losses._common import Reduction, check_choice


def expected_loss(loss: Callable[..., Tensor], logits: Tensor, probabilities: Tensor, *,
                  reduction: Reduction = "mean") -> Tensor:
    r"""The mean of a loss over a label that is drawn from given probabilities.

    .. math:: R(s, q) = \sum_j q_j L(s, j)

    Two labels with shares :math:`\lambda` and :math:`1 - \lambda` are mixup; for cross entropy it is the cross entropy
    of soft labels; with the true class probabilities it is the conditional risk that a calibrated loss minimises at
    the right top k, :cite:t:`yang2020consistency`. A label of probability 0 is never looked at, so its class may be
    masked. Costs one row of the loss for each label that is possible. For eager code: which labels are possible is
    looked up, which ``torch.compile`` and ``torch.func.vmap`` cannot follow.

    Args:
        loss: called as ``loss(logits, labels, reduction="none")``: a result of :func:`paperlib.losses.get`, or any
            function of that form.
        logits: float, (N, C).
        probabilities: of the labels :math:`q`, float, (N, C), >= 0; rows need not sum to 1.
        reduction: ``mean`` over the rows, ``sum``, or ``none`` for one value a row.

    Returns:
        float32 (float64 for float64 logits): 0-d, or (N,) for ``none``.

    Raises:
        ValueError: shape, dtype or sign of ``probabilities`` is off, or what the loss says of the logits.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ValueError(f"logits: got {_form(logits)}, expected a Tensor of shape (N, C)")
    if not isinstance(probabilities, Tensor) or not probabilities.is_floating_point() \
            or probabilities.shape != logits.shape:
        raise ValueError(f"probabilities: got {_form(probabilities)}, expected a floating-point Tensor of the shape "
                         f"of the logits, {tuple(logits.shape)}")
    if not bool(((probabilities >= 0) & (probabilities < torch.inf)).all()):
        raise ValueError("probabilities hold NaN, negative or infinite numbers: expected finite numbers of at least 0")
    rows, labels = probabilities.nonzero(as_tuple=True)
    values = loss(logits[rows], labels, reduction="none")
    shares = probabilities[rows, labels].to(values.dtype)
    risks = values.new_zeros(len(logits)).index_add(0, rows, values * shares)
    return risks if reduction == "none" else risks.sum() if reduction == "sum" else risks.mean()


def _form(value: object) -> str:
    return f"shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else repr(value)
