"""A finished run's model, as its checkpoint has it."""

import copy
import logging
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from omegaconf import OmegaConf

from datamodules import PatientDataModule
from experiments.config.files import ROOMS, load_yaml
from experiments.config.identity import sha_of, what_counts
from experiments.config.study import Study, study_of
from experiments.errors import ConfigError
from experiments.gpus import Accelerator
from experiments.run_folder.status import BEST, state_of
from experiments.training.build import build
from experiments.training.checkpoints import IDENTITY
from lightning_modules import PatientClassifier


@dataclass(frozen=True)
class Trained:
    """A run's model, ready to be asked.

    Attributes:
        folder: Of the run.
        study: Our keys of its configuration.
        identity: What its checkpoint says whose it is.
        model: In evaluation mode, on the CPU.
        data: Its datamodule, which has opened no store yet.
        trainer: In the precision that it was trained in, on one device, for predicting alone.
        batch_size: Rows of a training batch: as many fit the device with their gradients.
    """

    folder: Path
    study: Study
    identity: Mapping[str, str]
    model: PatientClassifier
    data: PatientDataModule
    trainer: Trainer
    batch_size: int


def load_trained(
    folder: Path, *, store: Path | None = None, accelerator: Accelerator = "cpu"
) -> Trained:
    """Load a run's model.

    Args:
        folder: Of the run.
        store: Where its store is now; None for where the run found it.
        accelerator: Where its trainer is to compute; `auto` takes a GPU if there is one.

    Raises:
        ConfigError: If it is no run folder or its run is not done, its configuration was edited,
            model or datamodule are of another kind, or its checkpoint is lost, another run's, or
            does not fit.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"run folder must hold config.yaml, got none ({folder}). Name a run's, or call the "
            "sweep again."
        )
    config: Any = OmegaConf.to_container(load_yaml(path))
    if (status := state_of(folder)).state != "done":
        raise ConfigError(
            f"run must be done, got {status.state} ({folder.name}). Call the sweep again, or name "
            "another run."
        )
    checkpoint = _checkpoint(folder)
    _check_unedited(config, checkpoint[IDENTITY], path)
    with quiet():
        trainer, model, data = build(_for_asking(config, store, accelerator), root=folder)
    for what, kind in ((model, PatientClassifier), (data, PatientDataModule)):
        if not isinstance(what, kind):
            raise ConfigError(
                "model and data must be a PatientClassifier and a PatientDataModule, got "
                f"{type(what).__name__} ({path}). Name a run of a classifier, or derive it from "
                f"{kind.__module__.partition('.')[0]}.{kind.__name__}."
            )
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ConfigError(
            f"checkpoint must fit the model of config.yaml, got {' '.join(str(error).split())} "
            f"({folder}). The code of the network changed since: take the version of then."
        ) from error
    return Trained(
        folder=folder,
        study=study_of(config["study"]),
        identity=checkpoint[IDENTITY],
        model=model.eval(),  # type: ignore[arg-type]
        data=data,  # type: ignore[arg-type]
        trainer=trainer,
        batch_size=int(config["data"].get("init_args", {}).get("batch_size", 1)),
    )


def _checkpoint(folder: Path) -> dict[str, Any]:
    path = folder / "checkpoints" / BEST
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        written_for = checkpoint[IDENTITY]["run_id"]
        checkpoint[IDENTITY]["settings_sha"]
        checkpoint["state_dict"]
    except (OSError, pickle.UnpicklingError, RuntimeError, LookupError, TypeError, EOFError) as e:
        raise ConfigError(
            f"checkpoint must be one that a run has written, got {type(e).__name__} ({path}). "
            "Bring it back, or delete the run's status.json and call the sweep again."
        ) from e
    if written_for != folder.name:
        raise ConfigError(
            f"checkpoint must be of this run, got one of {written_for} ({path}). Bring its own "
            "back, or delete the run's status.json and call the sweep again."
        )
    return checkpoint


def _check_unedited(config: Any, identity: Mapping[str, str], path: Path) -> None:
    """Refuse a configuration that is not the one which the checkpoint was trained by."""
    whole = all(isinstance(config.get(room), dict) for room in ROOMS if room != "seed_everything")
    # Weights that training started from may be gone or others by now: none are needed.
    if not whole or sha_of(what_counts(config, weights=False)) != identity["settings_sha"]:
        raise ConfigError(
            f"config.yaml must be the one its run was named for, got an edited one ({path}). "
            "Bring it back: with another it would be another model."
        )


def _for_asking(
    config: Mapping[str, Any], store: Path | None, accelerator: Accelerator
) -> dict[str, Any]:
    """Without what only training needs: devices, callbacks, weights to start from, a cache."""
    plain = copy.deepcopy(dict(config))
    plain["trainer"] |= {
        "accelerator": accelerator, "devices": 1, "num_nodes": 1, "strategy": "auto",
        "logger": False, "callbacks": None, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False, "sync_batchnorm": False,
    }  # fmt: skip
    changed = {"cache": "off", "decode": "cpu"} | ({"store": str(store)} if store else {})
    for section, values in (("data", changed), ("model", {"compile_backend": None})):
        own = plain[section].get("init_args", {})
        own.update({name: value for name, value in values.items() if name in own})
    plain["model"] = _from_scratch(plain["model"])
    return plain


def _from_scratch(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {
        name: False if name == "pretrained" else _from_scratch(value)
        for name, value in node.items()
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's advice on training."""
    logs = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
