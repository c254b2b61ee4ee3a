"""One run in its own process: `python -m experiments.run RUN_DIR`.

Everything comes from the run folder's `config.yaml` and everything goes into the run folder. With
several devices Lightning starts this same command again for each further rank.
"""

import argparse
import ctypes
import hashlib
import importlib.metadata
import json
import logging
import math
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, Logger
from omegaconf import OmegaConf

from backbones.errors import EncoderError
from datamodules.errors import DataError
from datamodules.pseudonyms import Pseudonyms, conceal
from evaluation import EvaluationError
from experiments.build import build, protocol_callbacks
from experiments.charts import run_figures
from experiments.checkpoints import BEST, RunCheckpointIO, start_from_needed
from experiments.compose import Run, load_yaml, make_run
from experiments.errors import ConfigError
from experiments.heartbeat import STALE_SECONDS
from experiments.needs import check_needs
from experiments.pace import Pace
from experiments.status import Status, read_status, run_lock, write_atomic, write_status
from experiments.tracking import TolerantWandbLogger
from lightning_modules import gather_rows, patient_scores

USER_ERRORS = (ConfigError, DataError, EncoderError, EvaluationError)
_PACKAGES = (
    "ceus",
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "decord",
    "decord2",
    "av",
    "numpy",
)


def load_run(folder: Path) -> Run:
    """The run that a folder was made for.

    Raises:
        ConfigError: If there is no readable config, or it no longer stands for this run (an
            edited file, a changed split or store).
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"run folder must hold config.yaml, got none ({folder}). Start the sweep."
        )
    run = make_run(OmegaConf.to_container(OmegaConf.load(path)))  # type: ignore[arg-type]
    if run.run_id != folder.name:
        raise ConfigError(
            f"config.yaml must be the one its run was named for, got {run.run_id!r} ({folder}). "
            "The file, the split or the store was changed since; start the sweep again."
        )
    return run


def execute(folder: Path) -> None:
    """Train, choose the checkpoint, score every part, and record all of it.

    Raises:
        ConfigError, DataError, EncoderError: For what the user can mend; anything else is a bug.
    """
    run = load_run(folder)
    with _holding(folder):
        before = read_status(folder)
        if before.state == "done":  # a job submitted by hand, or one that was overtaken
            return
        check_needs(folder)
        status = Status(state="running", attempts=before.attempts + 1, started=time.time())
        pulse = _Pulse(folder, status)
        pulse.write()
        try:
            _work(run, pulse)
        except BaseException as error:
            pulse.update(state="failed", reason=conceal(_one_line(error), run.study.store))
            raise
        pulse.update(state="done")


def predict(
    trainer: Trainer, model: LightningModule, data: LightningDataModule, checkpoint: Path | None
) -> pd.DataFrame:
    """Score every part of the split by patient, each patient once, on however many processes.

    Args:
        trainer: With the processes that score.
        model: Gives rows as `lightning_modules.scores.rows_of` in its `predict_step`.
        data: With `predict_parts` and `patients(part)`.
        checkpoint: Weights to score with; None for those the model has.

    Returns:
        `part, patient_id, label, logit, probability, n_items`, sorted by part and patient.

    Raises:
        ConfigError: If the model's rows are not of the contract, or patients are missing.
    """
    outputs: Any = trainer.predict(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    parts: list[str] = data.predict_parts  # type: ignore[attr-defined]
    outputs = outputs if len(parts) > 1 else [outputs]
    shift = float(getattr(model, "logit_shift", 0.0))
    tables = []
    for part, batches in zip(parts, outputs, strict=True):
        try:
            patients = patient_scores(gather_rows(batches))
        except (TypeError, KeyError) as error:
            raise ConfigError(
                f"predict_step of {type(model).__name__} must give the columns row_key, item_id, "
                f"patient_id, label, logit, got {error!r}. Return lightning_modules.scores.rows_of."
            ) from error
        expected = set(data.patients(part))  # type: ignore[attr-defined]
        if set(patients["patient_id"]) != expected:
            raise ConfigError(
                f"patients scored in part {part} must be the {len(expected)} of the split, got "
                f"{len(patients)}. Check the datamodule {type(data).__name__}."
            )
        if not patients["logit"].abs().lt(float("inf")).all():
            raise ConfigError(
                f"logits must be finite, got NaN or infinity (part {part}). Lower encoder_lr and "
                "head_lr, or use precision=32-true."
            )
        # Weighting the loss or repeating rows shifts logits (DESIGN §3); calibration undoes it.
        shifted = torch.tensor(patients["logit"].to_numpy()) - shift
        tables.append(patients.assign(part=part, probability=shifted.sigmoid().numpy()))
    columns = ["part", "patient_id", "label", "logit", "probability", "n_items"]
    return pd.concat(tables, ignore_index=True)[columns]


def _work(run: Run, pulse: "_Pulse") -> None:
    logger: list[Logger] = [CSVLogger(run.folder.parent, name=run.run_id, version="")]
    wandb = TolerantWandbLogger(run) if run.study.wandb else None
    rates = LearningRateMonitor(logging_interval="epoch")
    callbacks = [*protocol_callbacks(run.study, run.folder), rates, pulse]
    if wandb:
        logger.append(wandb)
        callbacks.append(Pace(wandb))
    trainer, model, data = build(
        run.config,
        callbacks=callbacks,
        logger=logger,
        plugins=[RunCheckpointIO(run)],
        root=run.folder,
    )
    start_from_needed(run, model)
    pulse.update(max_epochs=trainer.max_epochs)
    environment = _environment(trainer)
    _write_on_zero(run.folder / "environment.json", json.dumps(environment, indent=1))
    if wandb:
        wandb.log_environment(environment)
    checkpoint = run.folder / "checkpoints" / BEST
    if any(parameter.requires_grad for parameter in model.parameters()):
        trainer.fit(model, datamodule=data)
    else:
        _score_untrained(run, trainer, model, data, checkpoint)
    table = predict(trainer, model, data, checkpoint)
    if not trainer.is_global_zero:
        return
    study = run.study
    table = table.assign(
        run_id=run.run_id,
        architecture=study.architecture,
        modality=study.modality,
        fold=str(study.fold),
        seed=study.seed,
        checkpoint_sha=hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        **run.shas,
    )
    write_atomic(run.folder / "predictions.parquet", table.to_parquet(index=False))
    if wandb:
        wandb.show(lambda: run_figures(table, Pseudonyms(study.store)))
        wandb.close()


def _score_untrained(
    run: Run,
    trainer: Trainer,
    model: LightningModule,
    data: LightningDataModule,
    checkpoint: Path,
) -> None:
    """In the place of a fit, for a model that is made of trained ones."""
    if not run.study.warm_start:
        raise ConfigError(
            f"warm_start must be set where nothing is trained, got null ({run.run_id}). "
            "Set warm_start=sweep, or choose another head."
        )
    trainer.validate(model, datamodule=data, verbose=False)
    trainer.save_checkpoint(checkpoint)


class _Pulse(Callback):
    """Keeps `status.json` current, on the first process only."""

    def __init__(self, folder: Path, status: Status) -> None:
        self._folder = folder
        self._status = status
        self._best_bce = float("inf")

    @rank_zero_only
    def write(self) -> None:
        started = self._status.started or time.time()
        self._status = replace(self._status, seconds=round(time.time() - started, 1))
        write_status(self._folder, self._status)

    def update(self, **changes: Any) -> None:
        self._status = replace(self._status, **changes)
        self.write()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        changes: dict[str, Any] = {"epoch": trainer.current_epoch + 1}
        if figures.get("inner_bce", math.inf) < self._best_bce:
            self._best_bce = figures["inner_bce"]
            auroc = figures.get("inner_auroc", math.nan)
            changes["inner_auroc"] = round(auroc, 4) if math.isfinite(auroc) else None
        self.update(**changes)


@contextmanager
def _holding(folder: Path) -> Iterator[None]:
    """The run's lock, on the first process; further ranks work under it."""
    if getattr(rank_zero_only, "rank", 0):  # Lightning reads it from the launcher's environment
        yield
        return
    # A sweep that looks whether the lock is held holds it for an instant; and where another node's
    # run was killed, the lock looks held for as long as its last heartbeat is fresh.
    patience = 2 if "SLURM_JOB_ID" not in os.environ else STALE_SECONDS + 10
    for _ in range(int(patience * 10)):
        with run_lock(folder) as free:
            if free:
                yield
                return
        time.sleep(0.1)
    raise ConfigError(
        f"run must not be under way, got one held by another process ({folder.name}). "
        "Wait for it, or end that process."
    )


@rank_zero_only
def _write_on_zero(path: Path, content: str) -> None:
    write_atomic(path, content)


def _environment(trainer: Trainer) -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True,
        text=True,
        check=False,
    )
    cuda = trainer.strategy.root_device.type == "cuda"
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "commit": git.stdout.strip() or None,
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
    }


def _one_line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = " ".join(str(error).split())
    return text if isinstance(error, USER_ERRORS) else f"{type(error).__name__}: {text}"


def _print_traceback(folder: Path) -> None:
    """The traceback for `log.txt`, in which patients go by their hashes."""
    text = traceback.format_exc()
    try:
        store = Path(load_yaml(folder / "config.yaml")["study"]["store"])
    except (ConfigError, KeyError):
        print(text, file=sys.stderr)  # no store was read that could name a patient
        return
    concealed = conceal(text, store)
    if concealed != text:
        concealed += f"Patients are written as hashes; ceus patient {store} HASH names one."
    print(concealed, file=sys.stderr)


def die_with_parent(launcher: int | None = None) -> None:
    """Ask Linux to end this process when its parent dies, so that a killed sweep leaves none.

    A parent that died before the asking sends no signal: a forked run then finds the sweep's end
    of its pipe closed, one started by command finds another parent than `launcher`.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    sweep = multiprocessing.parent_process()
    if (sweep and not sweep.is_alive()) or (launcher and os.getppid() != launcher):
        os._exit(1)


def run_and_exit(folder: Path, threads: int | None) -> None:
    """Run with all output in the folder's `log.txt`; exit 0 done, 2 the user's to mend, 1 a bug."""
    if threads:
        torch.set_num_threads(threads)
    # Processes of one machine can append to one file; those of several cannot on every file system.
    node = os.environ.get("SLURM_NODEID", "0")
    name = "log.txt" if node == "0" else f"log-node{node}.txt"
    log = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    code = 0
    try:
        execute(folder)
    except USER_ERRORS:
        _print_traceback(folder)
        code = 2
    except BaseException:  # noqa: BLE001  the last frame of the process: all goes to the log
        _print_traceback(folder)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: threads of decoders and of W&B may outlive the work and would be waited for.
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of `python -m experiments.run`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--launcher", type=int, default=None, help="process to end with")
    options = parser.parse_args(arguments)
    # Further ranks are started by the first, with the same command line.
    if options.launcher:
        die_with_parent(None if "LOCAL_RANK" in os.environ else options.launcher)
    run_and_exit(options.folder, options.threads)


if __name__ == "__main__":
    main()
