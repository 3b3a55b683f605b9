"""The grouped loss and the top-k transition loss: cross entropy with the current top k as one class."""

import math
from typing import Literal

import torch
from torch import Tensor

from paperlib.losses._common import Batch, LossSpec, Reduction, SaturateGradient, check_choice, check_number, prepare

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
        strength: in [0, 1]; a float, or a 0-d tensor that a schedule may fill without recompiling anything.
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
    check_number("tau", tau, 0, open_low=True)
    check_number("margin", margin, 0, open_low=True)
    if not isinstance(detach_gate, bool):
        raise ValueError(f"detach_gate={detach_gate!r}: expected True or False")
    batch = prepare(logits, labels, weight, ignore_index, reduction, k)
    strength = _check_strength(strength, batch.scores)
    return batch.reduce(_transition(batch, k, gate, tau, margin, strength, detach_gate, blend))


def topk_grouped(logits: Tensor, labels: Tensor, *, k: int = 5, weight: Tensor | None = None,
                 ignore_index: int = -100, reduction: Reduction = "mean") -> Tensor:
    r"""Cross entropy in which the k classes with the largest scores count as one class.

    .. math:: L = -\log p_y \ (y \notin T), \qquad L = -\log \sum_{j \in T} p_j \ (y \in T)

    It jumps by :math:`\log(\sum_T p_j / p_y)` where the label enters the top k. The same as :func:`topk_transition`
    with ``gate="none"`` and ``strength=1``; arguments, result and errors are described there.
    Source: :cite:t:`sawada2020tradeoffs`.
    """
    batch = prepare(logits, labels, weight, ignore_index, reduction, k)
    return batch.reduce(_transition(batch, k, "none", 1.0, 1.0, batch.scores.new_ones(()), True, "probability"))


def _transition(batch: Batch, k: int, gate: str, tau: float, margin: float, strength: Tensor, detach_gate: bool,
                blend: str) -> Tensor:
    """Per-sample losses, (rows,), as differences of two log-sums: no probability is ever formed."""
    scores, label_score = batch.scores, batch.label_scores()
    top = batch.logits.detach().topk(k + 1, dim=1).indices  # selection only; gradients go through the gathers below
    best = scores.gather(1, top)
    group = best[:, :k]
    own, outside = batch.at_label(batch.logits), batch.logits.gather(1, top[:, k:]).squeeze(1)
    inside = (own > outside) & ~batch.masked
    depth = torch.where(inside, own - outside, 1.0)  # 1: any positive stand-in, its result is not used
    if detach_gate:
        depth = depth.detach()
    if gate == "ratio":
        openness = -torch.expm1(-depth / tau)
    elif gate == "linear":
        openness = (depth / margin).clamp(max=1.0)
    else:
        openness = torch.ones_like(depth)
    openness = SaturateGradient.apply(openness)  # a gate that is open passes 0 on, which times infinity is NaN
    log_z = scores.logsumexp(dim=1)
    in_group = inside.unsqueeze(1) & (top[:, :k] != batch.labels.unsqueeze(1))
    if blend == "loss":
        w = torch.where(inside, strength * openness, 0.0)
        return (1 - w) * (log_z - label_score) + w * (log_z - _log_group(label_score, group, in_group))
    # log w = log strength + log g stands beside the scores, where strength 0 (-inf) simply adds nothing.
    # The gradient of log g is 1 / g, and g > 0 wherever the label is inside.
    log_w = (strength.log() + openness.log()).unsqueeze(1)
    return log_z - _log_group(label_score, group + log_w, in_group)


def _log_group(label_score: Tensor, others: Tensor, in_group: Tensor) -> Tensor:
    """log(exp(s_y) + sum of exp(others) where ``in_group``), (rows,)."""
    members = torch.cat([label_score.unsqueeze(1), others.masked_fill(~in_group, -math.inf)], dim=1)
    return members.logsumexp(dim=1)


def _check_strength(strength: float | Tensor, like: Tensor) -> Tensor:
    if not isinstance(strength, Tensor):
        check_number("strength", strength, 0, 1)
        return torch.full((), float(strength), dtype=like.dtype, device=like.device)
    if strength.dim() != 0 or not strength.is_floating_point():
        raise ValueError(f"strength: got a {strength.dtype} tensor of shape {tuple(strength.shape)}, expected a float "
                         "or a floating-point tensor without dimensions")
    if strength.device.type == "cpu" and not torch.compiler.is_compiling() \
            and not torch._C._functorch.is_functorch_wrapped_tensor(strength):
        check_number("strength", float(strength), 0, 1)
    return strength.detach().to(dtype=like.dtype, device=like.device)


SPECS = (
    LossSpec(topk_grouped, "grouped top-k", "sawada2020tradeoffs"),
    LossSpec(topk_transition, "top-k transition", "sawada2020tradeoffs"),
)
