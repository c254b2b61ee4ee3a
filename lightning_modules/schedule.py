"""How learning rates run over a training: up, then down to 0."""

import math
from typing import Any

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def with_schedule(optimizer: Optimizer, trainer: Any, *, warmup: float) -> OptimizerLRScheduler:
    """What `configure_optimizers` gives: linear warm-up, then half a cosine to 0, step by step.

    Args:
        optimizer: Its rates are the highest.
        trainer: Knows how many steps there will be.
        warmup: Share of the steps in which rates rise from 0, in [0, 1).
    """
    steps = max(1, int(trainer.estimated_stepping_batches))
    warm = int(warmup * steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

    scheduler = LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
