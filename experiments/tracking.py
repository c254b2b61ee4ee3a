"""Weights & Biases beside a run: offline unless asked, without patients, never in the way."""

import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment

from experiments.charts import Figures, show
from experiments.compose import Run

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 10.0
"""Most that a run waits for a server at its start (WANDB_INIT_TIMEOUT), before it goes on offline."""

FINISH_SECONDS = 20.0
"""Most that a run waits at its end for what is not uploaded yet (WANDB_FINISH_TIMEOUT)."""

GRACE_SECONDS = 10.0
"""How much later than promised W&B may come back, before its thread is left to itself."""

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
            tags=[study.architecture, f"fold{study.fold}"],
            config=without_paths(run.config)
            | {
                "architecture": study.architecture,
                "modality": study.modality,
                "cell": f"{study.architecture} {study.modality}",
                "fold": str(study.fold),
                "seed": study.seed,
                "sweep": study.sweep,
                **run.shas,
            },
        )
        self._failed = False

    @property
    def experiment(self) -> Any:
        """The W&B run; something that takes every call and does nothing where there is none."""
        if rank_zero_only.rank or self._failed:
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
        if self._experiment is None or self._failed or rank_zero_only.rank:
            return
        self._try(lambda: finish(self._experiment, failed=failed))
        self._failed = True  # nothing more can be said to it

    def _begin(self) -> None:
        self._try(lambda: setattr(self, "_experiment", begin(**self._wandb_init)))

    def _try(self, call: Callable[[], Any]) -> None:
        if self._failed or rank_zero_only.rank:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001  any trouble of the tracker: the run goes on
            self._failed = True
            _log.warning("W&B stopped tracking this run, which goes on: %s", _first_line(error))


def identity(sweep: str, job_type: str, run_id: str) -> dict[str, Any]:
    """Where W&B finds a run of a sweep; entity and project are by environment."""
    return {
        "project": project(),
        "group": sweep,
        "job_type": job_type,
        "name": run_id,
        "id": run_id,
    }


def project() -> str:
    """The W&B project, by environment (WANDB_PROJECT)."""
    return os.environ.get("WANDB_PROJECT", "ceus")


def begin(**arguments: Any) -> "wandb.Run":
    """`wandb.init`, offline by default; offline with one warning if the server does not answer.

    Args:
        arguments: Of `wandb.init`, without mode and settings.

    Raises:
        Exception: Whatever W&B may raise offline.
    """
    wandb = quiet_wandb()
    mode = os.environ.get("WANDB_MODE", "offline")
    call = {key: value for key, value in arguments.items() if key != "anonymous"}
    try:
        run = wandb.init(**call, mode=mode, settings=_settings())
    except Exception as error:  # noqa: BLE001  no account, no network, a failing server
        if mode not in {"online", "shared"}:
            raise
        _log.warning("W&B cannot be reached, the run is tracked offline: %s", _first_line(error))
        _ends(wandb.teardown, GRACE_SECONDS)
        run = wandb.init(**call, mode="offline", settings=_settings())
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run


def quiet_wandb() -> Any:
    """The module `wandb`, told to report nothing by itself."""
    # Left to itself W&B sends tracebacks, with the paths in them, to the server.
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb

    # What goes to debug.log at level INFO names folders.
    logging.getLogger("wandb").setLevel(logging.WARNING)
    return wandb


def finish(run: "wandb.Run", *, failed: bool = False) -> None:
    """End a W&B run and its service process; whole uploads are marked as such for `wandb-sync`.

    Raises:
        TimeoutError: If it took too long. What is not uploaded lies in the run's folder.
        Exception: Whatever else W&B may raise.
    """
    import wandb

    trouble: list[BaseException] = []

    def end() -> None:
        try:
            run.finish(exit_code=int(failed))
        except BaseException as error:  # noqa: BLE001  handed to the caller's thread
            trouble.append(error)

    settings = run.settings
    seconds = _seconds("WANDB_FINISH_TIMEOUT", FINISH_SECONDS) + GRACE_SECONDS
    if not _ends(end, seconds):
        raise TimeoutError(f"not finished after {seconds:g} s")
    if trouble:
        raise trouble[0]
    _tidy(settings)
    _ends(wandb.teardown, GRACE_SECONDS)


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


def _settings() -> "wandb.Settings":
    import wandb

    return wandb.Settings(
        console="off",
        silent=True,
        init_timeout=_seconds("WANDB_INIT_TIMEOUT", INIT_SECONDS),
        finish_timeout=_seconds("WANDB_FINISH_TIMEOUT", FINISH_SECONDS),
        finish_timeout_raises=True,
        # Nothing of the machine, its user, the code or the command line.
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
        save_code=False,
        label_disable=True,
        host="",
        username="",
        email="",
        program="",
        symlink=False,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,  # the environment is in the configuration
    )


def _seconds(variable: str, default: float) -> float:
    try:
        value = float(os.environ.get(variable, default))
    except ValueError:
        return default
    return value if math.isfinite(value) and value > 0 else default


def _ends(call: Callable[[], Any], seconds: float) -> bool:
    """Whether a call comes to its end in time; if not, its thread dies with the process."""
    thread = Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def _tidy(settings: "wandb.Settings") -> None:
    """Mark what is uploaded; take away the link to a log of W&B's own, which names the home."""
    Path(settings.log_dir, "debug-core.log").unlink(missing_ok=True)
    if settings.run_mode == "run":
        Path(f"{settings.sync_file}.synced").touch()


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no reason given'}"
