"""Encoders that wait until the head has found its feet."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn


class FreezeEncoders(Callback):
    """Trains the head alone for some epochs, then everything, each at its own rate.

    Frozen encoders have no gradients and stay in evaluation mode: batch norm keeps its statistics.
    What is frozen follows from the epoch alone, so a resumed run stands where the killed one did.

    Not Lightning's `BaseFinetuning`: it adds what it thaws to the optimiser as new groups, which
    the schedule of rates does not know; lets frozen batch norm normalise by the batch; and leaves
    DDP as it was built, without the thawed parameters, whose gradients are then never averaged.

    Args:
        epochs: Epochs in which the encoders are frozen, 1 or more.

    Raises:
        ValueError: If `epochs` is below 1; when training begins, if the model has no `encoders()`.
    """

    def __init__(self, epochs: int) -> None:
        if epochs < 1:
            raise ValueError(f"freeze_epochs must be at least 1, got {epochs!r}. Leave it out.")
        self.epochs = epochs
        self._frozen: list[nn.Parameter] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Look for the encoders, and forget what an earlier fit froze."""
        if not hasattr(pl_module, "encoders"):
            raise ValueError(
                f"freeze_epochs must go with a model that has encoders(), got "
                f"{type(pl_module).__name__}. Set freeze_epochs=0, or derive it from "
                "lightning_modules.PatientClassifier."
            )
        self._frozen = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze or thaw where the epoch asks for it."""
        encoders: tuple[nn.Module, ...] = pl_module.encoders()  # type: ignore[operator]
        if trainer.current_epoch < self.epochs:
            if not self._frozen:
                self._frozen = [p for e in encoders for p in e.parameters() if p.requires_grad]
                self._require_gradients(trainer, pl_module, required=False)
            for encoder in encoders:
                encoder.eval()
        elif self._frozen:
            self._require_gradients(trainer, pl_module, required=True)
            self._frozen = []
            pl_module.train()  # batch norm that is frozen for good stays in evaluation mode

    def _require_gradients(
        self, trainer: Trainer, pl_module: LightningModule, *, required: bool
    ) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(required)
            parameter.grad = None
        strategy: Any = trainer.strategy
        if isinstance(strategy, DDPStrategy):
            # DDP averages the gradients of those parameters that required them when it was built.
            strategy.model = pl_module
            strategy.configure_ddp()
