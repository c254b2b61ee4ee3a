"""A run at W&B that tells nothing of the machine, and never keeps its caller for long."""

import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from experiments.errors import ConfigError
from experiments.processes import use_own_temporary_folder

if TYPE_CHECKING:
    import wandb


INIT_SECONDS = 10.0
"""Most that a run waits for a server at its start (WANDB_INIT_TIMEOUT), then goes offline."""

FINISH_SECONDS = 20.0
"""Most that a run waits at its end for what is not uploaded yet (WANDB_FINISH_TIMEOUT)."""

FAILED_SECONDS = 5.0
"""The same for a run that failed or was asked to stop: it may have little time."""

GRACE_SECONDS = 10.0
"""How much later than promised W&B may come back, before its thread is left to itself."""

OFFLINE_SECONDS = 60.0
"""Most that the start of W&B's own service may take."""

_PROJECT = "ceus"
_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")  # the last are W&B's own
_log = logging.getLogger(__name__)


def identity(sweep: str, job_type: str, run_id: str) -> dict[str, Any]:
    """Where W&B finds a run of a sweep; entity and project are by environment."""
    return {
        "project": project_name(),
        "group": sweep,
        "job_type": job_type,
        "name": run_id,
        # At most 64 characters; the hash at the end keeps shortened ones apart.
        "id": run_id if len(run_id) <= 64 else f"{run_id[:55]}-{run_id[-8:]}",
    }


def project_name() -> str:
    """The W&B project, by environment (WANDB_PROJECT)."""
    return os.environ.get("WANDB_PROJECT", _PROJECT)


def check_environment() -> None:
    """Refuse variables that W&B would refuse in every run, which would then be tracked nowhere.

    Raises:
        ConfigError: Naming the variable.
    """
    mode, project = os.environ.get("WANDB_MODE", "offline"), project_name()
    if mode not in _MODES:
        raise ConfigError(
            f"WANDB_MODE must be {', '.join(_MODES[:2])} or {_MODES[2]}, got {mode!r} "
            "(environment). Correct it, or set wandb=false."
        )
    if not 0 < len(project) <= 128 or set("/\\#?%:") & set(project) or not project.isprintable():
        raise ConfigError(
            "WANDB_PROJECT must be of 1 to 128 characters without / \\ # ? % and :, got "
            f"{project[:140]!r} (environment). Correct it, or unset it for {_PROJECT}."
        )
    for name in ("WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT"):
        try:
            is_time = 0 < _seconds(name, 1.0) < float("inf")
        except ValueError:
            is_time = False
        if not is_time:
            raise ConfigError(
                f"{name} must be a number of seconds above 0, got {os.environ[name]!r} "
                "(environment). Correct it, or unset it."
            )


def begin(**arguments: Any) -> Any:
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
        run = _init(wandb, call, mode)
    except Exception as error:  # no account, no network, a failing server
        if mode != "online":
            raise
        _log.warning("W&B cannot be reached, the run is tracked offline: %s", first_line(error))
        run = _init(wandb, call, "offline")
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run


def _init(wandb: Any, call: dict[str, Any], mode: str) -> Any:
    """A run; where none comes about, nothing is left of it, neither process nor folder."""
    seconds = _seconds("WANDB_INIT_TIMEOUT", INIT_SECONDS) + GRACE_SECONDS
    if mode == "offline":  # no server is waited for, only this machine, however busy it is
        seconds = OFFLINE_SECONDS
    before = _folders(call["dir"])
    try:
        return _within(lambda: wandb.init(**call, mode=mode, settings=_settings()), seconds)
    except Exception:
        _end_service(wandb)
        for stillborn in _folders(call["dir"]) - before:
            shutil.rmtree(stillborn, ignore_errors=True)
        raise


def quiet_wandb() -> Any:
    """The module `wandb`, told to report nothing by itself."""
    # Left to itself W&B sends tracebacks, with the paths in them, to the server.
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    os.environ.setdefault("WANDB_SILENT", "true")  # what matters is told as one warning
    use_own_temporary_folder()  # where the import makes folders, which a killed process leaves
    import wandb

    # What goes to debug.log at level INFO names folders.
    logging.getLogger("wandb").setLevel(logging.WARNING)
    return wandb


def finish(run: "wandb.Run", *, failed: bool = False) -> None:
    """End a W&B run and its service process; whole uploads are marked as such for `wandb-sync`.

    Raises:
        TimeoutError, RuntimeError: If it took too long, or the server refused data. All of it lies
            in the run's folder.
        Exception: Whatever else W&B may raise.
    """
    import wandb

    settings = run.settings
    seconds = _seconds("WANDB_FINISH_TIMEOUT", FINISH_SECONDS) + GRACE_SECONDS
    error: Exception | None = None
    try:
        _within(
            lambda: run.finish(exit_code=int(failed)),
            min(seconds, FAILED_SECONDS) if failed else seconds,
        )
    except Exception as caught:  # noqa: BLE001  the service process is ended first
        error = caught
    whole = _settle(settings, ended=error is None)
    _end_service(wandb, FAILED_SECONDS if failed else GRACE_SECONDS)
    if error:
        raise error
    if not whole:
        raise RuntimeError("the server refused data; `ceus wandb-sync` sends it again")


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
    return float(os.environ.get(variable, default))


def _within(call: Callable[[], Any], seconds: float) -> Any:
    """What a call returns, or a TimeoutError; its thread then dies with the process."""
    outcome: Future[Any] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001  handed to the caller's thread
            outcome.set_exception(error)

    Thread(target=work, daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer from W&B in {seconds:g} s") from error


def _end_service(wandb: Any, seconds: float = GRACE_SECONDS) -> None:
    # Its exit code is raised as SystemExit; what does not end now ends with this process.
    with suppress(Exception, SystemExit):
        _within(wandb.teardown, seconds)


def _settle(settings: "wandb.Settings", *, ended: bool) -> bool:
    """Mark an upload that is whole for `wandb sync`; whether all that should be sent was sent.

    W&B itself marks none, and says only in its log that a server refused data.
    """
    # A link to a log of W&B's own: it names the user's home.
    Path(settings.log_dir, "debug-core.log").unlink(missing_ok=True)
    if settings.run_mode != "run":
        return True
    if not ended or '"level":"ERROR"' in Path(settings.log_internal).read_text():
        return False
    Path(f"{settings.sync_file}.synced").touch()
    return True


def _folders(run: str) -> set[Path]:
    return set(Path(run, "wandb").glob("*run-*"))


def first_line(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no reason given'}"
