"""What every classifier shares: loss, optimiser, scoring by patient."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.functional.classification import binary_auroc

from lightning_modules.scores import gather_rows, patient_scores, rows_of


class PatientClassifier(LightningModule):
    """A network that gives each row of a batch one logit, trained and scored the study's way.

    A subclass gives `logits` and `encoders`; the rest is the same for every modality, so that
    modalities differ in nothing but what they see. Logged at each validation: `inner_bce`, the
    patient-level binary cross-entropy that early stopping and checkpoint choice watch, and
    `inner_auroc` (NaN where inner validation holds one class only).

    Args:
        pos_weight: Weight of a positive row in the loss, > 0. `balanced` takes negatives /
            positives among the training rows.
        encoder_lr: AdamW learning rate of the encoders, > 0.
        head_lr: AdamW learning rate of everything else, > 0.
        weight_decay: AdamW weight decay of weights (biases and norms have none), >= 0.
        warmup: Share of the training steps in which the rates rise linearly from 0, in [0, 1);
            after it they fall to 0 along half a cosine (Loshchilov & Hutter 2017, eq. 5).

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        *,
        pos_weight: float | Literal["balanced"] = "balanced",
        encoder_lr: float = 1e-4,
        head_lr: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value, ok, rule in (
            ("pos_weight", pos_weight, pos_weight == "balanced" or pos_weight > 0, "> 0"),
            ("encoder_lr", encoder_lr, encoder_lr > 0, "> 0"),
            ("head_lr", head_lr, head_lr > 0, "> 0"),
            ("weight_decay", weight_decay, weight_decay >= 0, ">= 0"),
            ("warmup", warmup, 0 <= warmup < 1, "in [0, 1)"),
        ):
            if not ok:
                raise ValueError(
                    f"{name} must be {rule}, got {value!r}. Set model.init_args.{name}."
                )
        self.encoder_lr, self.head_lr = encoder_lr, head_lr
        self.weight_decay, self.warmup = weight_decay, warmup
        self._balance = pos_weight == "balanced"
        # A buffer, because predictions made from a checkpoint must undo the weight it trained with.
        weight = 1.0 if pos_weight == "balanced" else float(pos_weight)
        self.pos_weight: Tensor
        self.register_buffer("pos_weight", torch.tensor(weight))
        self._validation_rows: list[dict[str, list[Any]]] = []

    @abstractmethod
    def logits(self, batch: Mapping[str, Any]) -> Tensor:
        """Score each row of a batch: logits `(B,)`, any real number."""

    @abstractmethod
    def encoders(self) -> tuple[nn.Module, ...]:
        """The modules trained at `encoder_lr`; all others are trained at `head_lr`."""

    def setup(self, stage: str) -> None:
        """Take the class balance of the training rows where it is asked for."""
        if stage == "fit" and self._balance:
            negatives, positives = self.trainer.datamodule.train_label_counts()  # type: ignore[attr-defined]
            self.pos_weight.fill_(negatives / positives)

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Probability of each row, `(B,)` in [0, 1], the loss weighting undone (DESIGN §3)."""
        return torch.sigmoid(self.logits(batch) - self.pos_weight.log())

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Weighted binary cross-entropy over the rows of the batch."""
        logits = self.logits(batch)
        loss = binary_cross_entropy_with_logits(logits, batch["label"], pos_weight=self.pos_weight)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(logits))
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:  # noqa: ARG002
        """Score the rows; patients are formed when all are there."""
        self._validation_rows.append(rows_of(batch, self.logits(batch)))

    def on_validation_epoch_end(self) -> None:
        """Log the patient-level figures of inner validation, the same on every process."""
        patients = patient_scores(gather_rows(self._validation_rows))
        self._validation_rows.clear()
        label = torch.tensor(patients["label"].to_numpy())
        logit = torch.tensor(patients["logit"].to_numpy())
        bce = binary_cross_entropy_with_logits(logit - self.pos_weight.log().cpu(), label)
        one_class = label.min() == label.max()
        # torchmetrics gives 0 with a warning for one class; undefined is NaN here.
        auroc = torch.tensor(math.nan) if one_class else binary_auroc(logit.sigmoid(), label.long())
        self.log_dict(
            {"inner_bce": bce.float(), "inner_auroc": auroc.float()}, rank_zero_only=False
        )

    def predict_step(
        self,
        batch: Mapping[str, Any],
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> dict[str, list[Any]]:
        """Score the rows of one batch, as `lightning_modules.scores.rows_of` describes."""
        return rows_of(batch, self.logits(batch))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over encoder and head, with and without decay; warm-up, then a cosine, by step."""
        in_encoder = {id(p) for module in self.encoders() for p in module.parameters()}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            if parameter.requires_grad:
                rate = self.encoder_lr if id(parameter) in in_encoder else self.head_lr
                decay = self.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [
                {"params": p, "lr": rate, "weight_decay": decay}
                for (rate, decay), p in groups.items()
            ]
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        warm = int(self.warmup * steps)

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / (warm + 1)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
