"""`last.ckpt`: written whole when an epoch is over, and taken up by the next attempt.

A resumed run ends as one that was never killed. What an epoch does is a function of the state at
its start, of `seed`, of the epoch and of the rank: rows, windows and augmentation by the loader's
own rule, dropout and the like because every random generator is seeded anew at each epoch.
"""

import logging
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from experiments.config.run import Run
from experiments.training.checkpoints import RECORD, first_line
from experiments.training.metrics import MetricsCsv
from experiments.training.watch import StopRequestedError

_log = logging.getLogger(__name__)


class LastCheckpoint(Callback):
    """Writes `last.ckpt` between two epochs and after the last; seeds every epoch.

    Between two epochs everything of the first is over: schedulers that look at a metric have
    stepped, the best checkpoint is chosen, its figures are logged. Lightning's ModelCheckpoint
    writes before that. `best.ckpt` of that moment is kept beside it by a hard link, so that a
    resume takes up the pair even if a better one was written since.

    Must be the first callback: those after it may change something for the epoch that begins.

    Args:
        run: The run.
        metrics: Whose rows travel along.
        chooses: Whether there is a best epoch whose weights are kept.
        stopping: Whether the process was asked to end; it then writes out of turn and raises.
    """

    def __init__(
        self, run: Run, metrics: MetricsCsv, *, chooses: bool, stopping: Callable[[], bool]
    ) -> None:
        self._run = run
        self._chooses = chooses
        self._metrics = metrics
        self._stopping = stopping
        self._folder = run.folder / "checkpoints"
        self._resumed = 0
        self._is_over = False
        self._is_between = False
        self._has_best = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Train no further what had ended before, by early stopping or else."""
        trainer.should_stop = self._is_over

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Write the state of the epoch that is over, then seed the one that begins.

        Raises:
            StopRequestedError: If a process of the run was asked to end; nothing is lost.
        """
        epoch = trainer.current_epoch
        stopping = trainer.strategy.reduce_boolean_decision(self._stopping(), all=False)
        if epoch > self._resumed and (epoch % self._run.study.last_every == 0 or stopping):
            self._save(trainer)
        if stopping:
            raise StopRequestedError("asked to stop")
        seed_epoch(self._run.study.seed, epoch, trainer.global_rank)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Write the state after the last epoch."""
        self._is_over = True
        self._save(trainer)

    def on_save_checkpoint(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Add what the state stands for, and count the epoch that has not begun as not begun."""
        checkpoint[RECORD] = {
            "run_id": self._run.run_id,
            "processes": trainer.world_size,
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "is_over": self._is_over,
            "has_best": self._has_best,
            "folder": str(self._folder.resolve()),
            "metrics": self._metrics.rows,
        }
        if self._is_between:
            for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
                counts["ready"] = counts["completed"]

    def on_load_checkpoint(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Take up our part; paths follow a run folder that was moved."""
        record = checkpoint[RECORD]
        self._resumed, self._is_over = record["epoch"], record["is_over"]
        self._metrics.restore(record["metrics"])
        for state in checkpoint["callbacks"].values():
            if state.get("dirpath") == record["folder"]:
                state.update(_moved(state, record["folder"], str(self._folder.resolve())))

    def _save(self, trainer: Trainer) -> None:
        best = self._folder / "best.ckpt"
        kept = _best_of(self._folder, trainer.global_step)
        self._has_best = self._chooses and best.is_file()
        if trainer.is_global_zero:
            self._metrics.write()
            if self._has_best:
                _link(best, kept)
        self._is_between = True
        try:
            trainer.save_checkpoint(self._folder / "last.ckpt", weights_only=False)
        finally:
            self._is_between = False
        if trainer.is_global_zero:
            for older in set(self._folder.glob(_best_of(self._folder, "*").name)) - {kept}:
                older.unlink()


def seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """Make the randomness of an epoch a function of these three, whatever came before."""
    drawn = int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)  # of all devices


def resume_point(run: Run, *, processes: int, is_first: bool) -> tuple[Path | None, str | None]:
    """The checkpoint that a run goes on from, if there is one that is whole and its own.

    Any other is set aside under a name that says why, never deleted, and the run starts over.

    Args:
        run: The run.
        processes: That train now. Another number sees other batches: it is other work.
        is_first: Whether this is the process that may move files.

    Returns:
        The path, or None to start over; and what a user should know of that.
    """
    folder = run.folder / "checkpoints"
    path = folder / "last.ckpt"
    if not path.is_file():
        return None, None
    record, complaint, word = _record_of(path), "is damaged", "damaged"
    if record is not None:
        kept = _best_of(folder, record["step"])
        has_best = record.get("has_best", True)  # as of each one that an earlier version wrote
        if record["run_id"] != run.run_id:
            complaint, word = f"is of another configuration, {record['run_id']}", "other"
        elif record["processes"] != processes:
            before = record["processes"]
            complaint, word = f"was trained by {before} processes, not {processes}", "other"
        elif has_best and not kept.is_file():
            complaint, word = f"lacks its best checkpoint ({kept.name})", "incomplete"
        else:
            if is_first and has_best:
                _link(kept, folder / "best.ckpt")
            return path, None
    if not is_first:
        return None, None
    aside = next(
        name
        for number in range(1, 1000)
        if not (name := path.with_name(f"last.{word}-{number}.ckpt")).exists()
    )
    path.replace(aside)
    note = f"last.ckpt {complaint}; set aside as {aside.name}, started over"
    _log.warning("%s (%s)", note, folder)
    return None, note


def epoch_of(checkpoint: Path) -> int:
    """Epochs that a checkpoint of `LastCheckpoint` has behind it."""
    return int((_record_of(checkpoint) or {"epoch": 0})["epoch"])


def forget(folder: Path) -> None:
    """Remove what only a resume needs: three quarters of the bytes of a finished run."""
    checkpoints = folder / "checkpoints"
    (checkpoints / "last.ckpt").unlink(missing_ok=True)
    for link in checkpoints.glob(_best_of(folder, "*").name):
        link.unlink()


def _check_whole(path: Path) -> None:
    """Hold every part of a checkpoint against its checksum; torch itself does not."""
    with zipfile.ZipFile(path) as archive:
        spoilt = archive.testzip()
    if spoilt:
        raise zipfile.BadZipFile(f"checksum of {spoilt} does not fit")


def _record_of(path: Path) -> dict[str, Any] | None:
    try:
        _check_whole(path)
        record = torch.load(path, map_location="cpu", weights_only=True)[RECORD]
        if (best := _best_of(path.parent, record["step"])).is_file():
            _check_whole(best)
        return record if {"run_id", "processes", "step", "epoch"} <= set(record) else None
    except Exception as error:  # noqa: BLE001  a damaged file raises what it likes
        _log.warning("%s cannot be read: %s", path.name, first_line(error))
        return None


def _best_of(folder: Path, step: int | str) -> Path:
    return folder / f".best-at-{step}.ckpt"


def _link(source: Path, target: Path) -> None:
    """Give a file a second name in one step; a copy where the file system knows no links."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # renaming one name of a file to another of it does nothing


def _moved(state: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    def moved(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(old):
            return new + value[len(old) :]
        if isinstance(value, dict):
            return {moved(key): kept for key, kept in value.items()}
        return value

    return {key: moved(value) for key, value in state.items()}
