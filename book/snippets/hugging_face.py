"""The transition loss in the Trainer of Hugging Face."""

from typing import Any

import torch
from torch import Tensor
from transformers import EvalPrediction, TrainerCallback

from paperlib import losses, metrics, schedules


class TransitionLoss(TrainerCallback):
    def __init__(self, k: int) -> None:
        self.k, self.strength = k, 0.0
        self.loss = losses.get("topk_transition", k=k, gate="none")

    def on_step_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        self.strength = schedules.ramp(state.global_step / state.max_steps)

    def __call__(self, outputs: Any, labels: Tensor,
                 num_items_in_batch: Tensor | int | None = None) -> Tensor:
        total = self.loss(outputs["logits"], labels, strength=self.strength,
                          reduction="sum")
        # The Trainer counts labels over all batches that one step accumulates.
        if num_items_in_batch is None:
            num_items_in_batch = (labels != -100).sum()
        return total / num_items_in_batch

    def accuracy(self, prediction: EvalPrediction) -> dict[str, float]:
        ranks = metrics.label_ranks(torch.from_numpy(prediction.predictions),
                                    torch.from_numpy(prediction.label_ids))
        shown = (1, self.k)
        return {f"top{k}": (ranks <= k).float().mean().item() for k in shown}
