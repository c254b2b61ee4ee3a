"""Keeps `status.json` current while a run works."""

import contextlib
import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only

from experiments.run_folder.status import Status, write_status

_FINAL = ("done", "failed", "interrupted", "pending")


class Pulse(Callback):
    """Writes the status of a run, on the first process only.

    Args:
        folder: The run's folder.
        status: Status of the attempt that starts.
    """

    def __init__(self, folder: Path, status: Status) -> None:
        self._folder = folder
        self._status = status
        self._best_bce = float("inf")
        self._lock = threading.Lock()  # the watch writes, too

    @property
    def status(self) -> Status:
        """As last written."""
        return self._status

    @rank_zero_only
    def update(self, **changes: Any) -> None:
        """Change and write; after the state in which an attempt ends, nothing more."""
        with self._lock:
            if self._status.state in _FINAL:
                return
            seconds = round(time.time() - (self._status.started or time.time()), 1)
            self._status = replace(self._status, **{"seconds": seconds, **changes})
            write_status(self._folder, self._status)

    def end(self, state: str, reason: str | None, **changes: Any) -> None:
        """Write how an attempt ended; a full disk must not hide why."""
        with contextlib.suppress(OSError):
            self.update(state=state, reason=reason, **changes)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Epochs done, and the figure of the best."""
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        changes: dict[str, Any] = {"epoch": trainer.current_epoch + 1}
        if figures.get("inner_bce", math.inf) < self._best_bce:
            self._best_bce = figures["inner_bce"]
            auroc = figures.get("inner_auroc", math.nan)
            changes["inner_auroc"] = round(auroc, 4) if math.isfinite(auroc) else None
        self.update(**changes)

    def state_dict(self) -> dict[str, Any]:
        """The best so far, for a resume."""
        return {"best_bce": self._best_bce, "inner_auroc": self._status.inner_auroc}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best of the attempts before."""
        self._best_bce = state_dict["best_bce"]
        self.update(inner_auroc=state_dict["inner_auroc"])
