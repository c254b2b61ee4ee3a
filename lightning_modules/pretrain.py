"""Pretraining of an encoder without labels, by VICReg (Bardes, Ponce & LeCun 2022)."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu

from lightning_modules.layers import channels_last_format, use_channels_last
from lightning_modules.schedule import with_schedule

_INVARIANCE, _VARIANCE, _COVARIANCE = 25.0, 25.0, 1.0  # of the paper, section 4.2


class EncoderPretraining(LightningModule):
    """Teaches an encoder to know an image or clip again under another augmentation.

    VICReg (arXiv:2105.04906) asks that two views of an item be alike, that every feature vary over
    the batch, and that features not repeat each other. It needs neither negatives, nor a second
    network, nor a large batch. Rows come in twins: `2i` and `2i + 1` are views of one item. Logged:
    `train_loss`, and `feature_spread`, the mean standard deviation of the projections over a batch,
    which falls to 0 where an encoder collapses.

    Args:
        encoder: Gives `(B, num_features)`, has `num_features`. Its `net` is what is kept.
        encoder_lr: AdamW learning rate, > 0.
        weight_decay: AdamW weight decay, >= 0.
        warmup: Share of the steps in which the rate rises from 0, in [0, 1).
        projection: Width of the projector's layers, 2 or more.
        channels_last: Whether convolutions keep channels innermost in memory.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        encoder_lr: float = 1e-3,
        weight_decay: float = 1e-4,
        warmup: float = 0.1,
        projection: int = 512,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        for name, value, ok, rule in (
            ("encoder_lr", encoder_lr, encoder_lr > 0, "> 0"),
            ("weight_decay", weight_decay, weight_decay >= 0, ">= 0"),
            ("warmup", warmup, 0 <= warmup < 1, "in [0, 1)"),
            ("projection", projection, projection >= 2, ">= 2"),
        ):
            if not ok:
                raise ValueError(
                    f"{name} must be {rule}, got {value!r}. Set model.init_args.{name}."
                )
        self.encoder = encoder
        self._rate, self._weight_decay, self._warmup = encoder_lr, weight_decay, warmup
        self._channels_last = channels_last
        self.projector = nn.Sequential(
            nn.Linear(encoder.num_features, projection),  # type: ignore[arg-type]
            nn.BatchNorm1d(projection),
            nn.ReLU(),
            nn.Linear(projection, projection),
        )

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Lay out the memory."""
        if self._channels_last:
            use_channels_last(self)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Loss of the batch's pairs."""
        pixels: Tensor = batch["image"] if "image" in batch else batch["video"]
        if self._channels_last:
            pixels = pixels.contiguous(memory_format=channels_last_format(pixels.ndim))
        projected = self.projector(self.encoder(pixels)).float()
        loss = vicreg_loss(projected[0::2], projected[1::2])
        with torch.no_grad():
            spread = projected.std(0).mean()
        values = {"train_loss": loss.detach(), "feature_spread": spread}
        self.log_dict(
            values, on_step=False, on_epoch=True, batch_size=len(projected) // 2, sync_dist=True
        )
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW; warm-up, then a cosine, by step."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self._rate, weight_decay=self._weight_decay
        )
        return with_schedule(optimizer, self.trainer, warmup=self._warmup)

    def encoder_weights(self) -> dict[str, Tensor]:
        """Weights by name as the encoder's `pretrained` takes them."""
        net: nn.Module = getattr(self.encoder, "net", self.encoder)
        return {name: value.detach().cpu() for name, value in net.state_dict().items()}


def vicreg_loss(first: Tensor, second: Tensor) -> Tensor:
    """Equation 6 of the paper, of two views `(B, D)`, B >= 2."""
    loss = _INVARIANCE * mse_loss(first, second)
    count, width = first.shape
    off_diagonal = ~torch.eye(width, dtype=torch.bool, device=first.device)
    for view in (first, second):
        spread = (view.var(0) + 1e-4).sqrt()
        loss = loss + _VARIANCE * relu(1 - spread).mean() / 2
        centred = view - view.mean(0)
        covariance = centred.T @ centred / (count - 1)
        loss = loss + _COVARIANCE * covariance[off_diagonal].square().sum() / width
    return loss
