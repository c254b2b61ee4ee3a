"""Checkpoints: written whole, plain values only, saying whose they are."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from datamodules.files import replacing
from experiments.config.identity import sha_of, what_counts
from experiments.config.run import Run
from experiments.config.warm_start import check_done, family, needed
from experiments.errors import ConfigError
from experiments.run_folder.status import BEST
from lightning_modules import WeightAverage

_HYPERPARAMETERS = (
    "hyper_parameters",
    "datamodule_hyper_parameters",
    "hparams_name",
    "datamodule_hparams_name",
    "hparams_type",
)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it there; a kill leaves the one before.

    Lightning's own writes to the system's temporary folder and moves the file, which between two
    file systems is a copy in place. Hyperparameters are left out: config.yaml has them, and
    objects among them could not be read with `weights_only=True`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._checked: set[str] = set()

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ARG002  of the interface
    ) -> None:
        """Write.

        Raises:
            ConfigError: If the first of its name holds other than plain values; better now than
                when it is needed.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {key: value for key, value in checkpoint.items() if key not in _HYPERPARAMETERS}
        content = io.BytesIO()  # torch reports a full disk as an error of its own format
        torch.save(plain, content)
        if path.name not in self._checked:
            _check_plain(content)
            self._checked.add(path.name)
        with replacing(path) as file:
            file.write(content.getbuffer())


def _check_plain(content: io.BytesIO) -> None:
    content.seek(0)
    try:
        torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(
            f"checkpoint must hold tensors and plain values only, got {first_line(error)}. Mend "
            "state_dict or on_save_checkpoint of the model, the datamodule or a callback."
        ) from error


def first_line(error: BaseException) -> str:
    """An error's message in one line, its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


IDENTITY = "ceus_run"
"""Key of a checkpoint under which its run is named, in plain strings."""


RECORD = "ceus"
"""Key of what only a resume needs, plain values."""

_ONLY_TO_RESUME = (
    "callbacks",
    "optimizer_states",
    "lr_schedulers",
    "current_model_state",  # with averaged weights, `state_dict` is the average
    "averaging_state",
    RECORD,
)


class RunCheckpointIO(AtomicCheckpointIO):
    """Writes `best.ckpt` with weights only and every checkpoint with the identity of its run.

    `ModelCheckpoint(save_weights_only=True)` does not ask the callbacks, so that with averaged
    weights it would keep those of the last step instead of those that were scored.

    Args:
        run: Whose checkpoints these are.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._identity = identity(run)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint, `best.ckpt` without what only a resume needs."""
        dropped = _ONLY_TO_RESUME if Path(path).name == BEST else ()
        kept = {key: value for key, value in checkpoint.items() if key not in dropped}
        super().save_checkpoint({**kept, IDENTITY: self._identity}, path, storage_options)


def end_weights(trainer: Trainer, model: LightningModule, selection: str, checkpoint: Path) -> None:
    """Write the weights that a fit ends in, with their share of the start.

    Args:
        trainer: After its fit.
        model: As the fit has left it.
        selection: `inner_bce`: the weights are those of the epoch that `checkpoint` holds, which is
            left as it is where there is no share; any other: those that the model has now.
        checkpoint: `best.ckpt`.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAverage):
            callback.end(model)
    mix = getattr(model, "mix_with_start", bool)
    if selection != "inner_bce":
        mix()
        trainer.save_checkpoint(checkpoint)
        return
    chosen: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model.load_state_dict(chosen["state_dict"])
    if mix() and trainer.is_global_zero:
        # Which epoch it was stays said.
        trainer.strategy.checkpoint_io.save_checkpoint(
            {**chosen, "state_dict": model.state_dict()}, checkpoint
        )
    trainer.strategy.barrier()


def identity(run: Run) -> dict[str, str]:
    """What a checkpoint carries of its run: id, cell and what the id stands for."""
    study = run.study
    cell = {"modality": study.modality, "fold": study.fold_name, "seed": str(study.seed)}
    settings = {"settings_sha": sha_of(what_counts(run.config, weights=False))}
    named = {"run_id": run.run_id, "architecture": family(study.architecture)}
    return {**named, **cell, **run.shas, **settings}


def start_from_needed(run: Run, model: LightningModule) -> None:
    """Give a combined model the weights of the runs that its `warm_start` names, if any.

    Raises:
        ConfigError: If a run is not done, its checkpoint is of another run, architecture, fold,
            seed, split or store, or the model cannot take it.
    """
    folders = needed(run.config["study"])
    if not folders:
        return
    check_done(run.config["study"])
    start_from: Any = getattr(model, "start_from", None)
    if start_from is None:
        raise ConfigError(
            f"warm_start must go with a model that has start_from(), got {type(model).__name__}. "
            "Set warm_start=null, or derive it from lightning_modules.CombinedClassifier."
        )
    states = {name: _weights(run, folder, name) for name, folder in folders.items()}
    try:
        start_from(**states)
    except RuntimeError as error:
        reason, where = " ".join(str(error).split()), ", ".join(map(str, folders.values()))
        raise ConfigError(
            f"runs of warm_start must have the encoders of this run, got: {reason} ({where}). "
            "Use the same architecture and sizes."
        ) from error


def _weights(run: Run, folder: Path, modality: str) -> dict[str, Tensor]:
    path = folder / "checkpoints" / BEST
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state: dict[str, Tensor] = checkpoint["state_dict"]
        written_for: dict[str, str] = checkpoint[IDENTITY]
    except (OSError, pickle.UnpicklingError, RuntimeError, LookupError, EOFError) as error:
        raise ConfigError(
            f"checkpoint of warm_start must be one that a run has written, got {error!r} ({path}). "
            "Run it again."
        ) from error
    own = identity(run)
    same = ("architecture", "fold", "seed", "split_sha", "store_sha")
    wanted = {"run_id": folder.name, "modality": modality} | {name: own[name] for name in same}
    for name, value in wanted.items():
        if written_for.get(name) != value:
            raise ConfigError(
                f"checkpoint of warm_start must be of {name} {value}, got {written_for.get(name)} "
                f"({path}). Start from the {modality} run of the same architecture, fold and seed, "
                "on the same split and store."
            )
    return state
