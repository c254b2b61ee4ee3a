"""A few training steps of a configuration, timed for `ceus sweep --plan`; nothing is kept."""

import copy
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from experiments.training.build import build

_WARM_UP = 2  # steps in which memory is allocated and kernels are chosen
_EVAL_WARM_UP = 1
_STEPS = 10
_EVAL_BATCHES = 3


def time_cell(config: Mapping[str, Any], *, budget_seconds: float) -> dict[str, Any]:
    """Train a few steps and score a few batches, on one device, with the real store and sizes.

    Weights are random instead of pretrained and frames are decoded instead of taken from a cache:
    neither is there yet, and the first makes no difference in time.

    Args:
        config: Resolved configuration of a run.
        budget_seconds: Time after which no further step is begun.

    Returns:
        The fields of `experiments.launchers.plan.Timing`.
    """
    begun = time.perf_counter()
    bare: dict[str, Any] = _bare(config)
    bare["trainer"] |= {
        "devices": 1,
        "num_nodes": 1,
        "max_epochs": 1,
        "limit_train_batches": _WARM_UP + _STEPS,
        "limit_val_batches": _EVAL_BATCHES,
        "check_val_every_n_epoch": 2,
        "enable_checkpointing": False,
    }
    with tempfile.TemporaryDirectory() as root:
        watch = _Watch(budget_seconds)
        trainer, model, data = build(bare, callbacks=[watch], root=Path(root))
        trainer.fit(model, datamodule=data)
        is_watched = trainer.limit_val_batches != 0  # not where the schedule ends training
        trainer.limit_val_batches = _EVAL_BATCHES
        trainer.validate(model, datamodule=data, verbose=False)
        scored = data.predict_dataloader()
        batches = {
            "train_batches": len(data.train_dataloader()),
            "val_batches": len(data.val_dataloader()) if is_watched else 0,
            "predict_batches": sum(map(len, scored)),
        }
        weights = _bytes(model.state_dict())
        moments = sum(_bytes(state) for o in trainer.optimizers for state in o.state.values())
        cuda = trainer.strategy.root_device.type == "cuda"
        return batches | {
            "start_seconds": watch.train[0] - begun,
            "step_seconds": _interval(watch.train, _WARM_UP),
            "eval_seconds": _interval(watch.evaluate, _EVAL_WARM_UP),
            "steps": len(watch.train) - 1,
            "kept_bytes": weights,
            "resume_bytes": weights + moments,
            "device": torch.cuda.get_device_name() if cuda else "CPU",
            "gpu_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        }


def _bare(node: Any) -> Any:
    """A copy that needs no weights, checkpoints or cache."""
    without = {"pretrained": False, "cache": "off", "warm_start": None}
    if isinstance(node, Mapping):
        return {k: without[k] if k in without else _bare(v) for k, v in node.items()}
    return [_bare(value) for value in node] if isinstance(node, list) else copy.copy(node)


def _bytes(tensors: Mapping[str, Any]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values() if torch.is_tensor(t))


def _interval(times: list[float], warm_up: int) -> float:
    """Mean seconds between ends, less the first where there are more."""
    skipped = min(warm_up, len(times) - 2)
    return (times[-1] - times[skipped]) / (len(times) - 1 - skipped)


class _Watch(Callback):
    """When training and evaluation began, and when each of their batches ended."""

    def __init__(self, budget_seconds: float) -> None:
        self._budget = budget_seconds
        self.train: list[float] = []
        self.evaluate: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.train.append(self._now(trainer))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._note(self.train, trainer, _WARM_UP)
        trainer.should_stop = self.train[-1] - self.train[0] > self._budget

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.train[-1] = self._now(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.evaluate.append(self._now(trainer))

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._note(self.evaluate, trainer, _EVAL_WARM_UP)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.evaluate[-1] = self._now(trainer)

    def _note(self, times: list[float], trainer: Trainer, warm_up: int) -> None:
        """Wait for the device where the clock starts only: between, it works as in a run."""
        begins = len(times) <= warm_up
        times.append(self._now(trainer) if begins else time.perf_counter())

    def _now(self, trainer: Trainer) -> float:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
