"""How fast a run trains and how much GPU memory it takes, told to a logger once an epoch."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger


class Pace(Callback):
    """Logs `rows_per_second` and `steps_per_second` of training, over all processes.

    From the start of an epoch's first step to the end of its last, so loading counts and
    validation does not. On CUDA also `gpu_memory_gb`, the most that PyTorch had allocated on this
    device so far, 10^9 bytes. (Lightning's ThroughputMonitor first speaks after a window of 100
    steps, more than an epoch of a small cohort has.)

    Args:
        logger: Is told; the others are not, for their files are to be the same when the work is.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._begun: float | None = None
        self._ended = 0.0
        self._rows = self._steps = 0

    def on_train_epoch_start(self, *_: Any, **__: Any) -> None:
        """Start counting anew."""
        self._begun = time.perf_counter()
        self._rows = self._steps = 0

    def on_train_batch_end(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Count a step; its kernels may still run, those of an epoch are waited for at its end."""
        self._rows += len(batch["label"])
        self._steps += 1
        self._ended = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time of the epoch's last step, kernels and all, before validation begins."""
        if pl_module.device.type == "cuda" and not trainer.sanity_checking:
            torch.cuda.synchronize(pl_module.device)
            self._ended = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the epoch's figures."""
        if self._begun is None or not self._steps:
            return
        seconds = self._ended - self._begun
        figures = {
            "epoch": trainer.current_epoch,
            "rows_per_second": trainer.world_size * self._rows / seconds,
            "steps_per_second": self._steps / seconds,
        }
        if pl_module.device.type == "cuda":
            figures["gpu_memory_gb"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
        self._logger.log_metrics(figures, trainer.global_step)
