"""One run, from its folder's `config.yaml` to its predictions.

Everything comes from the run folder's `config.yaml` and everything goes into the run folder. With
several devices the process forks itself, once for each further rank.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import Logger
from omegaconf.errors import OmegaConfBaseException

from backbones.errors import EncoderError
from datamodules.errors import DataError
from datamodules.files import sweep_up, write_atomic
from datamodules.store.pseudonyms import Pseudonyms, concealer
from evaluation.errors import EvaluationError
from evaluation.records.listing import FILE, read_listing
from evaluation.records.schema import PREDICTION_COLUMNS
from experiments.config.files import load_yaml
from experiments.config.pretraining import WEIGHTS, is_pretraining, seen_record
from experiments.config.run import Run, load_run
from experiments.errors import ConfigError
from experiments.run_folder.failures import (
    HalveError,
    HeldError,
    is_echo,
    leave_note,
    one_line,
    take_notes,
)
from experiments.run_folder.lock import STALE_SECONDS, run_lock
from experiments.run_folder.needs import check_needs
from experiments.run_folder.status import BEST, next_attempt, read_status
from experiments.tracking.charts import run_figures
from experiments.tracking.logger import TolerantWandbLogger
from experiments.training.build import build, ending_in, protocol_callbacks
from experiments.training.checkpoints import RunCheckpointIO, end_weights, start_from_needed
from experiments.training.environment import environment
from experiments.training.memory import (
    ADVICE,
    batch_statistics,
    halved,
    is_out_of_memory,
    micro_batch,
)
from experiments.training.metrics import MetricsCsv
from experiments.training.pace import Pace
from experiments.training.predict import predict, table_of
from experiments.training.probing import scored_rows, start_from_probe
from experiments.training.pulse import Pulse
from experiments.training.refit import choose_epochs, chosen_epochs
from experiments.training.resume import LastCheckpoint, epoch_of, forget, resume_point
from experiments.training.watch import Steps, StopRequestedError, Watch

USER_ERRORS = (ConfigError, DataError, EncoderError, EvaluationError)


def execute(folder: Path, watch: Watch | None = None) -> None:
    """Train, choose the checkpoint, score every part, and record all of it.

    What an earlier attempt left in `checkpoints/last.ckpt` is gone on from.

    Args:
        folder: The run's folder.
        watch: Ends this process in good order, if it is the run's own.

    Raises:
        ConfigError, DataError, EncoderError: For what the user can mend; anything else is a bug.
        HalveError: If device memory did not suffice and another attempt is to be made at once.
        StopRequestedError: If the process was asked to stop.
    """
    with _holding(folder):
        before = read_status(folder)
        if before.state == "done":  # a job submitted by hand, or one that was overtaken
            return
        check_needs(folder)
        listed = (folder.parent / FILE).is_file()
        declared = read_listing(folder.parent).analysis_sha if listed else None
        attempt = next_attempt(before, started=time.time(), analysis_sha=declared)
        pulse = Pulse(folder, attempt)
        if watch and not own_rank():
            watch.on_end = pulse.end
        pulse.update()
        try:
            _tidy(folder)
            run = load_run(folder)
            if watch and run.study.stall_minutes:
                watch.stall_seconds = run.study.stall_minutes * 60
            predictions_sha = _work(run, pulse, watch)
        except BaseException as error:
            _record(folder, pulse, watch, error)
            raise
        pulse.update(state="done", predictions_sha=predictions_sha)
        _tidy(folder, is_done=True)


@rank_zero_only
def _tidy(folder: Path, *, is_done: bool = False) -> None:
    """Remove what a killed attempt, or a finished one, left that nobody needs."""
    sweep_up(folder)
    sweep_up(folder / "checkpoints")
    take_notes(folder)
    if is_done:
        forget(folder)


def _record(folder: Path, pulse: Pulse, watch: Watch | None, error: BaseException) -> None:
    """Write down how an attempt ended; a further rank leaves that to the first."""
    rank = own_rank()
    reason = concealer_of(folder)(one_line(error, USER_ERRORS))
    if rank:
        with contextlib.suppress(OSError):
            leave_note(folder, rank, error, reason)
        return
    halve = isinstance(error, HalveError)
    if isinstance(error, StopRequestedError | KeyboardInterrupt) or (watch and watch.asked):
        asked = watch.asked if watch else None
        pulse.end("interrupted", f"stopped by {asked or 'Ctrl-C'}")
        return
    if is_echo(error) and watch and watch.ranks:
        watch.ranks.note_killed()
    if is_echo(error) and (note := take_notes(folder)):
        reason, halve = f"rank {note['rank']}: {note['reason']}", note["halve"]
    if halve:
        pulse.end("pending", reason, halvings=pulse.status.halvings + 1)
        if not isinstance(error, HalveError):
            raise HalveError(reason) from error
    else:
        pulse.end("failed", reason)


def own_rank() -> int:
    """This process's rank, as Lightning reads it from the launcher's environment."""
    return int(getattr(rank_zero_only, "rank", 0) or 0)


def _work(run: Run, pulse: Pulse, watch: Watch | None) -> str | None:
    """Train and score; the hash of the predictions, on the first rank of a run that makes some."""
    config: Mapping[str, Any] = halved(run.config, pulse.status.halvings)
    if run.study.selection == "refit":
        config = _refitting(run, config, pulse, watch)
    wandb = TolerantWandbLogger(run) if run.study.wandb else None
    checkpoint = run.folder / "checkpoints" / BEST
    trainer, model, data = _train(run, config, pulse, watch, wandb)
    if is_pretraining(run.config):
        _write_weights(run, trainer, model, data)
        return None
    with _short_of_memory(config, model):
        if run.study.finetune == "probe":
            table = table_of(model, data, scored_rows(trainer, model, data))
        else:
            table = predict(trainer, model, data, checkpoint)
    if not trainer.is_global_zero:
        return None
    study = run.study
    table = table.assign(
        run_id=run.run_id,
        architecture=study.architecture,
        modality=study.modality,
        fold=study.fold_name,
        seed=study.seed,
        checkpoint_sha=hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        **run.shas,
    )
    table = table[list(PREDICTION_COLUMNS)]
    content = table.to_parquet(index=False)
    write_atomic(run.folder / "predictions.parquet", content)
    if wandb:
        wandb.show(lambda: run_figures(table, Pseudonyms(study.store)))
        wandb.close()
    return hashlib.sha256(content).hexdigest()


def _train(
    run: Run,
    config: Mapping[str, Any],
    pulse: Pulse,
    watch: Watch | None,
    wandb: TolerantWandbLogger | None,
) -> tuple[Trainer, Any, Any]:
    """Fit, or go on with it, to `best.ckpt`."""
    metrics = MetricsCsv(run.folder)
    logger: list[Logger] = [metrics]
    rates = LearningRateMonitor(logging_interval="epoch")
    study = replace(run.study, selection=config["study"]["selection"])
    callbacks = [*protocol_callbacks(study, run.folder), rates, pulse]
    if wandb:
        logger.append(wandb)
        callbacks.append(Pace(wandb))
    trainer, model, data = build(
        config, callbacks=callbacks, logger=logger, plugins=[RunCheckpointIO(run)], root=run.folder
    )
    start_from_needed(run, model)
    stopping = watch.stopping if watch else bool
    chooses = study.selection == "inner_bce"
    between = LastCheckpoint(run, metrics, chooses=chooses, stopping=stopping)
    trainer.callbacks.insert(0, between)  # type: ignore[attr-defined]
    if watch:
        trainer.callbacks.append(Steps(watch))  # type: ignore[attr-defined]
    point, note = resume_point(run, processes=trainer.world_size, is_first=own_rank() == 0)
    resumed = epoch_of(point) if point else 0
    if pulse.status.halvings:
        shown = f"micro-batch {micro_batch(config)}, not {micro_batch(run.config)}, to fit memory"
        note = f"{note}; {shown}" if note else shown
    pulse.update(max_epochs=trainer.max_epochs, resumed=resumed, epoch=resumed, note=note)
    made_with = environment(trainer, config)
    _write_on_zero(run.folder / "environment.json", json.dumps(made_with, indent=1))
    if wandb:
        wandb.log_environment(made_with)
    checkpoint = run.folder / "checkpoints" / BEST
    with _short_of_memory(config, model):
        # A resumed run, too: where it started from is known again. Trained heads need no probe.
        if study.finetune == "probe" or (study.finetune == "lp-ft" and not study.warm_start):
            start_from_probe(trainer, model, data, seed=study.seed)
        if study.finetune == "probe":
            trainer.strategy.connect(model)
            trainer.save_checkpoint(checkpoint)
        elif any(parameter.requires_grad for parameter in model.parameters()):
            trainer.fit(model, datamodule=data, ckpt_path=point, weights_only=True)
            end_weights(trainer, model, study.selection, checkpoint)
        else:
            _score_untrained(run, trainer, model, data, checkpoint)
    return trainer, model, data


def _write_weights(run: Run, trainer: Trainer, model: Any, data: Any) -> None:
    """What a pretraining leaves: the encoder at the end of the schedule, and whom it has seen."""
    if not trainer.is_global_zero:
        return
    seen = seen_record(run.study.store, data.patients("train"))
    state = {name: value.contiguous() for name, value in model.encoder_weights().items()}
    write_atomic(run.folder / WEIGHTS, safetensors.torch.save(state, seen))


def _refitting(
    run: Run, config: Mapping[str, Any], pulse: Pulse, watch: Watch | None
) -> Mapping[str, Any]:
    """How to train on all training patients, for as long as inner validation found best."""
    if run.study.finetune == "probe":
        return config
    epochs = chosen_epochs(run.folder)
    if epochs is None:
        trainer, *_ = _train(run, ending_in(config, "inner_bce"), pulse, watch, None)
        epochs = choose_epochs(run.folder, trainer)
    return ending_in(config, "last", max_epochs=epochs)


def _score_untrained(
    run: Run, trainer: Trainer, model: LightningModule, data: LightningDataModule, checkpoint: Path
) -> None:
    """In the place of a fit, for a model that is made of trained ones."""
    if not run.study.warm_start:
        raise ConfigError(
            f"warm_start must be set where nothing is trained, got null ({run.run_id}). "
            "Set warm_start=sweep, or choose another head."
        )
    trainer.validate(model, datamodule=data, verbose=False)
    trainer.save_checkpoint(checkpoint)


@contextmanager
def _short_of_memory(config: Mapping[str, Any], model: LightningModule) -> Iterator[None]:
    """Turn a device's want of memory into another attempt or into advice."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        shown = micro_batch(config)
        statistic = batch_statistics(model)
        if statistic:
            raise ConfigError(
                f"device memory must suffice for a micro-batch of {shown}, got out of memory. The "
                f"network computes with batch statistics ({statistic}), so that half the batch "
                f"would be another network. {ADVICE}"
            ) from error
        try:
            smaller = micro_batch(halved(config, 1))
        except ConfigError:
            raise ConfigError(
                f"device memory must suffice for a micro-batch of {shown}, got out of memory, and "
                f"the batch cannot be halved further. {ADVICE}"
            ) from error
        raise HalveError(f"out of memory at {shown} rows; goes on with {smaller}") from error


@contextmanager
def _holding(folder: Path) -> Iterator[None]:
    """The run's lock, on the first process; further ranks work under it."""
    if own_rank():
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
    raise HeldError(
        f"run must not be under way, got one held by another process ({folder.name}). "
        "Wait for it, or end that process."
    )


@rank_zero_only
def _write_on_zero(path: Path, content: str) -> None:
    write_atomic(path, content)


def concealer_of(folder: Path) -> Callable[[str], str]:
    """What puts hashes in the place of patients, as the store of the run knows them."""
    try:
        store = Path(load_yaml(folder / "config.yaml")["study"]["store"])
    except (ConfigError, KeyError, TypeError, OmegaConfBaseException):
        return str  # no store was read that could name a patient
    return concealer(store)
