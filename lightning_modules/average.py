"""The moving average of the weights, kept where the weights are."""

from itertools import chain

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage(EMAWeightAveraging):
    """Lightning's exponential moving average, on the device that trains.

    Lightning sets it up before the model is moved to its device: every step would copy all weights
    to the host.

    Args:
        decay: Share of the average that a step leaves, 0 to 1.
    """

    def __init__(self, *, decay: float) -> None:
        super().__init__(decay=decay)
        self._decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the average as training begins."""
        if stage == "fit":
            self._average_model = _Average(
                pl_module, decay=self._decay, device=trainer.strategy.root_device
            )

    def end(self, model: LightningModule) -> None:
        """Make the average the model's weights, for good: checkpoints hold the model's again."""
        if self._average_model is not None:
            self._copy_average_to_current(model)
            self._average_model = None


class _Average(AveragedModel):
    """torch's, updated in one kernel; the host counts by itself and never asks the device."""

    def __init__(self, model: nn.Module, *, decay: float, device: torch.device) -> None:
        multi_avg_fn = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        super().__init__(model, device, multi_avg_fn=multi_avg_fn, use_buffers=True)
        self._average = multi_avg_fn
        self.n_averaged = torch.tensor(0)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights and buffers as they are now."""
        own = [*self.module.parameters(), *self.module.buffers()]
        others = list(chain(model.parameters(), model.buffers()))
        if not self.n_averaged:
            for average, value in zip(own, others, strict=True):
                average.copy_(value)
        else:
            kinds = {value.dtype for value in own}
            for kind in sorted(kinds, key=str):
                which = [i for i, value in enumerate(own) if value.dtype == kind]
                self._average([own[i] for i in which], [others[i] for i in which], self.n_averaged)
        self.n_averaged += 1
