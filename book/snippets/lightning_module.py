"""The transition loss in a LightningModule."""

import lightning
import torch
from torch import Tensor, nn

from paperlib import losses, metrics, schedules

Batch = tuple[Tensor, Tensor]


class Classifier(lightning.LightningModule):
    def __init__(self, model: nn.Module, k: int, lr: float) -> None:
        super().__init__()
        self.model, self.k, self.lr = model, k, lr
        self.loss = losses.get("topk_transition", k=k, gate="none")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, labels = batch
        total = self.trainer.estimated_stepping_batches
        strength = schedules.ramp(self.trainer.global_step / total)
        value = self.loss(self.model(inputs), labels, strength=strength)
        self.log_dict({"loss": value, "strength": strength})
        return value

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        inputs, labels = batch
        # Accuracies compare throughout training, unlike the loss.
        ranks = metrics.label_ranks(self.model(inputs), labels)
        for k in (1, self.k):
            hits = (ranks <= k).float().mean()
            self.log(f"top{k}", hits, batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)
