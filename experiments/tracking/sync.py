"""Uploading to W&B what was tracked offline, run by run, by W&B's own `wandb sync`."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from evaluation.records.listing import read_listing
from experiments.errors import ConfigError
from experiments.run_folder.lock import is_locked
from experiments.tracking.wandb_run import quiet_wandb

RUN_SECONDS = 600.0
"""Most that the upload of one run may take; W&B itself would go on trying for days."""

_AT_ONCE = 4
Outcome = Literal["uploaded", "failed", "already uploaded", "still running", "nothing tracked"]


@dataclass(frozen=True)
class Upload:
    """What became of one run.

    Attributes:
        name: Its id; the sweep's name for the run of its evaluation.
        outcome: In words.
        reason: Why it failed, one line; "" otherwise.
    """

    name: str
    outcome: Outcome
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.outcome}" + (f": {self.reason}" if self.reason else "")


def upload_sweep(folder: Path, *, run_seconds: float = RUN_SECONDS) -> Iterator[Upload]:
    """Upload every run that `sweep.json` lists, and the sweep's own, as far as it is not there.

    A run that was called several times has a folder for each call; they are uploaded in order and
    W&B appends the later ones to the earlier. What is uploaded is marked (`*.wandb.synced`).

    Args:
        folder: Sweep folder, as runs/demo.
        run_seconds: Most that one run may take.

    Yields:
        What became of each run, in the order of the list.

    Raises:
        EvaluationError: If the folder holds no sweep.
        ConfigError: If there is no account that the server accepts.
    """
    # "" is the sweep itself, whose evaluation is tracked in its folder.
    names = [*(run.run_id for run in read_listing(folder).runs), ""]
    if any(_unsynced(folder / name) for name in names):
        require_account()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from filter(None, pool.map(partial(_settle, folder, run_seconds), names))


def _settle(folder: Path, seconds: float, name: str) -> Upload | None:
    run = folder / name
    if name and is_locked(run):
        return Upload(name, "still running")
    if todo := _unsynced(run):
        reason = _upload(todo, seconds)
        return Upload(name or folder.name, "failed" if reason else "uploaded", reason)
    if not name:
        return None  # whoever makes no dashboard has no evaluation to upload
    tracked = any(run.glob("wandb/*run-*/*.wandb"))
    return Upload(name, "already uploaded" if tracked else "nothing tracked")


def _unsynced(run: Path) -> list[Path]:
    logs = sorted(run.glob("wandb/*run-*/*.wandb"))
    return [log.parent for log in logs if not _mark(log).exists()]


def _mark(log: Path) -> Path:
    return log.with_name(f"{log.name}.synced")


def require_account() -> Any:
    """W&B's API with an account that the server knows.

    Raises:
        ConfigError: If there is no key, the key is wrong, or the server does not answer.
    """
    wandb = quiet_wandb()
    try:
        return wandb.Api(timeout=20)
    except Exception as error:  # W&B raises errors of many kinds here
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"W&B must be reachable with an account, got: {reason} Run `wandb login`, or set "
            "WANDB_API_KEY; WANDB_BASE_URL names a server of your own."
        ) from error


def _upload(folders: list[Path], seconds: float) -> str:
    """Upload the folders of one run, in order; the reason if that failed."""
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *map(str, folders)]
    with tempfile.TemporaryDirectory() as scratch:
        # W&B's log of the upload names folders; the program is ours, not a script of the run.
        own = {
            "WANDB_DIR": scratch,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_PROGRAM": "ceus",
            "WANDB_SILENT": "false",
        }
        try:
            done = subprocess.run(
                command,
                env=os.environ | own,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"not uploaded after {seconds:g} s; call this again to go on"
    marks = [_mark(log) for folder in folders for log in folder.glob("*.wandb")]
    # W&B marks a run as uploaded even where the server refused its data, and says so only here.
    errors = re.findall(r"(?:ERROR|Error:?) (.+)", done.stdout)
    if errors or done.returncode or not all(mark.exists() for mark in marks):
        for mark in marks:
            mark.unlink(missing_ok=True)
        return errors[0] if errors else f"wandb sync ended with exit code {done.returncode}"
    return ""
