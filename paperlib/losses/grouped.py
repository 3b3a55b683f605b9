"""The grouped loss and the top-k transition loss: cross entropy with the current top k as one class."""

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from paperlib.losses._common import (
    Batch,
    LossSpec,
    Reduction,
    add_at,
    check_choice,
    check_number,
    check_scale,
    is_plain,
    largest,
    prepare,
    softmax,
)

Gate = Literal["ratio", "linear", "none"]
Blend = Literal["probability", "loss"]


def topk_transition(logits: Tensor, labels: Tensor, *, k: int = 5, gate: Gate = "ratio", tau: float = 1.0,
                    margin: float = 1.0, strength: float | Tensor = 1.0, detach_gate: bool = True,
                    blend: Blend = "probability", weight: Tensor | None = None, ignore_index: int = -100,
                    reduction: Reduction = "mean") -> Tensor:
    r"""Cross entropy that goes over into "the label is among the k largest" where it safely is.

    With :math:`p = \mathrm{softmax}(s)`, :math:`T` the classes of the k largest scores now, :math:`r = s_{[k+1]}` the
    best score outside, and :math:`S = \sum_{j \in T, j \ne y} p_j`:

    .. math::

        L = \begin{cases} -\log p_y & y \notin T \\ -\log(p_y + w S) & y \in T,\ \text{blend "probability"} \\
            -(1 - w) \log p_y - w \log(p_y + S) & y \in T,\ \text{blend "loss"} \end{cases}
        \qquad w = \text{strength} \cdot g

    The gate :math:`g` is the transition of one sample: ``"ratio"`` is :math:`1 - (p_{[k+1]} / p_y)^{1/\tau}`,
    ``"linear"`` is :math:`\mathrm{clip}((s_y - r) / \text{margin}, 0, 1)`, both 0 exactly where the label would drop
    out, and ``"none"`` is 1. ``strength`` is the transition over time: 0 is cross entropy, 1 with gate ``"none"`` is
    :func:`topk_grouped`. A label is in :math:`T` if and only if :math:`s_y > s_{[k+1]}`; a tie counts as outside.
    k = 1 is cross entropy. The paper's abstract states the idea, :cite:t:`sawada2020tradeoffs`; the rule of
    the transition is our reading.

    Args:
        logits: scores :math:`s`, float, (N, C) or (N, C, d...). ``-inf`` leaves a class out.
        labels: class numbers, int64, (N,) or (N, d...).
        k: size of the group, 1 <= k <= C - 1.
        gate: how deep inside the top k a sample's label must be before its loss is grouped.
        tau: temperature of ``"ratio"``, in logits, > 0.
        margin: width of ``"linear"``, in logits, > 0.
        strength: in [0, 1]; a float, a 0-d tensor that a schedule may fill without recompiling anything, or a tensor
            of the shape of ``labels``: one strength a sample, as where models are trained together.
        detach_gate: treat :math:`g` as a constant in the gradient. False is the exact gradient, which near the
            boundary grows like :math:`\min(S / (\tau p_y), 1 / (s_y - r))`.
        blend: whether probabilities or losses are mixed.
        weight: one factor per class, float, (C,).
        ignore_index: label of samples to leave out.
        reduction: ``mean``, ``sum``, or ``none`` for one value per sample.

    Returns:
        float32 (float64 for float64 logits): 0-d, or the shape of ``labels`` for ``none``.

    Raises:
        ValueError: an argument is off; see :mod:`paperlib.losses` for which checks run where.
    """
    check_choice("gate", gate, ("ratio", "linear", "none"))
    check_choice("blend", blend, ("probability", "loss"))
    check_scale("tau", tau)
    check_scale("margin", margin)
    if not isinstance(detach_gate, bool):
        raise ValueError(f"detach_gate={detach_gate!r}: expected True or False")
    batch = prepare(logits, labels, weight, ignore_index, reduction, k)
    definition = partial(_transition, k=k, gate=gate, tau=tau, margin=margin, detach_gate=detach_gate, blend=blend)
    return batch.loss(definition, _as_tensor(strength, batch), bounded=detach_gate)


def topk_grouped(logits: Tensor, labels: Tensor, *, k: int = 5, weight: Tensor | None = None,
                 ignore_index: int = -100, reduction: Reduction = "mean") -> Tensor:
    r"""Cross entropy in which the k classes with the largest scores count as one class.

    .. math:: L = -\log p_y \ (y \notin T), \qquad L = -\log \sum_{j \in T} p_j \ (y \in T)

    It jumps by :math:`\log(\sum_T p_j / p_y)` where the label enters the top k. The same as :func:`topk_transition`
    with ``gate="none"`` and ``strength=1``; arguments, result and errors are described there.
    Source: :cite:t:`sawada2020tradeoffs`.
    """
    batch = prepare(logits, labels, weight, ignore_index, reduction, k)
    return batch.loss(partial(_transition, k=k))


def _transition(logits: Tensor, labels: Tensor, strength: Tensor | None = None, *, k: int, gate: str = "none",
                tau: float = 1.0, margin: float = 1.0, detach_gate: bool = True,
                blend: str = "probability") -> tuple[Tensor, Tensor]:
    """Losses (rows,) and their derivative (rows, C), of which the group and the label differ from the softmax."""
    lowest, tiny = torch.finfo(logits.dtype).min, torch.finfo(logits.dtype).tiny
    y = labels.unsqueeze(1)
    best, top = largest(logits, k + 1)
    group = top[:, :k]
    own = logits.gather(1, y)
    depth = own - best[:, k:]
    p = softmax(logits)
    p_y, members = p.gather(1, y), p.gather(1, group)
    # To full precision where p_y underflows: the largest probability is exp(0) / sum.
    log_p_y = own - best[:, :1] + members[:, :1].log()
    others = members * (group != y)  # the label's companions, if it is in the group
    total = others.sum(dim=1, keepdim=True)
    w = _gate(depth.detach() if detach_gate else depth, gate, tau, margin)
    if strength is not None:
        w = w * strength
    mixed = total if blend == "loss" else w * total
    mass = (p_y + mixed).clamp(min=tiny)
    rate = w / mass
    if blend == "loss":
        log_p_y = log_p_y.clamp(min=lowest)
        values = torch.lerp(log_p_y, mass.log(), w)
    else:
        values = torch.where(mixed > 0, mass.log(), log_p_y)
    derivative = add_at(add_at(p, y, total * rate - 1), group, others * -rate)
    if not detach_gate:
        log_slope = _log_gate_slope(depth, gate, tau, margin)
        if strength is not None:
            log_slope = log_slope + strength.log()
        if blend == "loss":
            opening = log_slope.exp() * (log_p_y - mass.log())
        else:
            opening = -total * (log_slope - mass.log()).exp()
        opening = opening.clamp(min=lowest)
        derivative = add_at(derivative, torch.cat([y, top[:, k:]], dim=1), torch.cat([opening, -opening], dim=1))
    return values.squeeze(1).neg().clamp(min=0.0), derivative


def _gate(depth: Tensor, gate: str, tau: float, margin: float) -> Tensor:
    """The gate g at a distance of ``depth`` from the boundary, 0 outside."""
    if gate == "ratio":
        return -torch.expm1(depth.clamp(min=0.0) * (-1 / tau))
    return (depth / margin).clamp(0.0, 1.0) if gate == "linear" else (depth > 0).to(depth.dtype)


def _log_gate_slope(depth: Tensor, gate: str, tau: float, margin: float) -> Tensor:
    """Log of dg / d depth."""
    if gate == "ratio":
        return (depth * (-1 / tau) - math.log(tau)).masked_fill(depth <= 0, -math.inf)
    level = (depth <= 0) | (depth >= margin) if gate == "linear" else torch.ones_like(depth, dtype=torch.bool)
    return torch.full_like(depth, -math.log(margin)).masked_fill(level, -math.inf)


def _as_tensor(strength: float | Tensor, batch: Batch) -> Tensor | None:
    """0-d, or (rows, 1); None is a strength of 1 throughout."""
    like = batch.logits
    if not isinstance(strength, Tensor):
        check_number("strength", strength, 0, 1)
        if strength == 1:
            return None
        return torch.full((), float(strength), dtype=like.dtype, device=like.device)
    if (strength.dim() and strength.shape != batch.shape) or not strength.is_floating_point():
        raise ValueError(f"strength: got a {strength.dtype} tensor of shape {tuple(strength.shape)}, expected a float "
                         "or a floating-point tensor, without dimensions or of the labels' shape "
                         f"{tuple(batch.shape)}")
    if strength.device.type == "cpu" and is_plain(strength) and strength.numel():
        for bound in strength.aminmax():
            check_number("strength", float(bound), 0, 1)
    # A copy: a schedule may fill its tensor anew before the backward pass.
    strength = strength.detach().clone().to(dtype=like.dtype, device=like.device)
    return strength.reshape(-1, 1) if strength.dim() else strength


SPECS = (
    LossSpec(topk_grouped, "grouped top-k", "sawada2020tradeoffs"),
    LossSpec(topk_transition, "top-k transition", "sawada2020tradeoffs"),
)
