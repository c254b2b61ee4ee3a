"""Weights & Biases beside a run: offline unless asked, without patients, never in the way."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger

from experiments.compose import Run

_log = logging.getLogger(__name__)


class TolerantWandbLogger(WandbLogger):
    """A WandbLogger whose trouble costs one warning and nothing else.

    Offline by default: no account, no network, no prompt; `WANDB_MODE=online` uploads. The id is
    the run's own, so that a run called again is appended to. Nothing that names a machine, a
    folder or a patient is handed over.

    Args:
        run: What is tracked; group = sweep, job type = modality, tags = architecture and fold.
    """

    def __init__(self, run: Run) -> None:
        study = run.study
        super().__init__(
            project=os.environ.get("WANDB_PROJECT", "ceus"),
            name=run.run_id,
            id=run.run_id,
            save_dir=run.folder,
            group=study.sweep,
            job_type=study.modality,
            tags=[study.architecture, f"fold{study.fold}"],
            mode=os.environ.get("WANDB_MODE", "offline"),
            config={
                "architecture": study.architecture,
                "modality": study.modality,
                "fold": str(study.fold),
                "seed": study.seed,
                **run.shas,
            },
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                host="",
                username="",
                init_timeout=30,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,  # environment.json has them; W&B takes a second
            ),
        )
        self._failed = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log, or warn once."""
        self._try(lambda: super(TolerantWandbLogger, self).log_metrics(metrics, step))

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Set figures of the whole run."""
        self._try(lambda: self.experiment.summary.update(dict(figures)))

    def close(self) -> None:
        """End the W&B run and wait until it is written."""
        # A lambda, for `experiment` itself is what starts W&B and may fail.
        self._try(lambda: self.experiment.finish())  # noqa: PLW0108

    def _try(self, call: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001  any trouble of the tracker: the run goes on
            self._failed = True
            _log.warning("W&B stopped tracking this run, which goes on: %r", error)
