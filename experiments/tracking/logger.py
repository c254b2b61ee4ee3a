"""Weights & Biases beside a training run: without patients or paths, never in the way."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment as DummyExperiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import WandbLogger

from experiments.config.run import Run
from experiments.tracking.charts import Figures, show
from experiments.tracking.wandb_run import begin, finish, first_line, identity

_PATH_KEYS = {"store", "runs", "default_root_dir"}
_LEFT_OUT = "(path)"
_log = logging.getLogger(__name__)


class TolerantWandbLogger(WandbLogger):
    """A WandbLogger whose trouble costs one warning and nothing else.

    Offline by default: no account, no network, no prompt; `WANDB_MODE=online` uploads. A server
    that cannot be reached turns the run to offline (`ceus wandb-sync` uploads it later). The id is
    the run's own and resumes what the server has, so that a run called again is appended to;
    offline, each call leaves a folder of its own and the upload appends them. Nothing that names a
    machine, a folder or a patient is handed over.

    Args:
        run: What is tracked; group = sweep, job type = modality, tags = architecture and fold.
    """

    def __init__(self, run: Run) -> None:
        study = run.study
        super().__init__(
            **identity(study.sweep, study.modality, run.run_id),
            save_dir=run.folder,
            tags=[study.architecture[:64], f"fold{study.fold_name}"],  # W&B refuses longer ones
            config=without_paths(run.config)
            | {
                "architecture": study.architecture,
                "modality": study.modality,
                "cell": f"{study.architecture} {study.modality}",
                "fold": study.fold_name,
                "seed": study.seed,
                "sweep": study.sweep,
                **run.shas,
            },
        )
        self._failed = False

    @property
    def experiment(self) -> Any:
        """The W&B run; something that takes every call and does nothing where there is none."""
        if not _first() or self._failed:
            return DummyExperiment()
        if self._experiment is None:
            self._begin()
        return self._experiment or DummyExperiment()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log, or warn once."""
        self._try(lambda: super(TolerantWandbLogger, self).log_metrics(metrics, step))

    def log_hyperparams(self, params: Any) -> None:
        """Log a module's own hyperparameters, without paths; or warn once."""
        params = vars(params) if hasattr(params, "__dict__") else params
        self._try(lambda: super(TolerantWandbLogger, self).log_hyperparams(without_paths(params)))

    def log_environment(self, environment: Mapping[str, Any]) -> None:
        """Add versions, commit and device kind to the configuration."""
        self._try(
            lambda: self.experiment.config.update(
                {"environment": dict(environment)}, allow_val_change=True
            )
        )

    def show(self, make: Callable[[], Figures]) -> None:
        """Log figures of the whole run: its summary, tables and charts."""
        self._try(lambda: show(self.experiment, make()))

    def finalize(self, status: str) -> None:
        """End the W&B run as failed if training did; after a success scores are still to come."""
        if status == "failed":
            self.close(failed=True)

    def close(self, *, failed: bool = False) -> None:
        """End the W&B run and wait until it is written, for so long at most."""
        run: Any = self._experiment
        if run is None or self._failed:
            return
        self._try(lambda: finish(run, failed=failed))
        self._failed = True  # nothing more can be said to it

    def _begin(self) -> None:
        self._try(lambda: setattr(self, "_experiment", begin(**self._wandb_init)))

    def _try(self, call: Callable[[], Any]) -> None:
        if self._failed or not _first():
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001  any trouble of the tracker: the run goes on
            self._failed = True
            _log.warning("W&B stopped tracking this run, which goes on: %s", first_line(error))


def without_paths(value: Any) -> Any:
    """A configuration as it may leave the machine: nothing in it says where files lie."""
    if isinstance(value, Mapping):
        return {
            str(key): _LEFT_OUT if key in _PATH_KEYS else without_paths(sub)
            for key, sub in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_paths(sub) for sub in value]
    if isinstance(value, bool | int | float) or value is None:
        return value
    text = str(value)
    is_path = "/" in text or "\\" in text or (len(text) < 256 and Path(text).is_file())
    return _LEFT_OUT if is_path else text


def _first() -> bool:
    """Whether this is the process that tracks, of several that train one run."""
    return not getattr(rank_zero_only, "rank", 0)
