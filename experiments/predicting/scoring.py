"""Patients through a run's model, as training scores them, with the features on the way."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from omegaconf import OmegaConf

from datamodules import PatientDataModule
from datamodules.batches.rows import Row
from evaluation.records.runs import Run
from experiments.config.files import ROOMS, load_yaml
from experiments.config.identity import sha_of, what_counts
from experiments.config.weights import encoders
from experiments.errors import ConfigError
from experiments.predicting.deployed import Deployed, checkpoint_of
from experiments.training.build import build
from lightning_modules import PatientClassifier
from lightning_modules.scores import gather_rows, patient_scores

Accelerator = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class Scored:
    """Patients as one run scores them.

    Attributes:
        score: Log-odds by patient, the weighting of the loss undone, sorted.
        items: How many items of each were scored.
        features: By input and patient, what its encoder gives, the mean over rows; `(patients, F)`.
            Without an input that gave none.
    """

    score: pd.Series
    items: pd.Series
    features: Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Model:
    """A run's model, ready to score.

    Attributes:
        run: Whose it is.
        data: Its datamodule, which has opened no store yet.
    """

    run: Run
    data: PatientDataModule
    _classifier: PatientClassifier
    _trainer: Trainer
    _checkpoint: Path

    def score(self, rows: Sequence[Row]) -> Scored:
        """Score rows of the store that the datamodule has opened.

        Raises:
            ConfigError: If a logit is not finite, or the checkpoint does not fit the model.
        """
        self._classifier.setup("predict")
        with self.data.predicting(rows), _recorded(self._classifier, self.data.inputs) as kept:
            try:
                batches: Any = self._trainer.predict(
                    self._classifier,
                    datamodule=self.data,
                    ckpt_path=self._checkpoint,
                    weights_only=True,
                )
            except RuntimeError as error:
                if "state_dict" not in str(error):
                    raise
                raise ConfigError(
                    "checkpoint must fit the model of config.yaml, got "
                    f"{' '.join(str(error).split())} ({self._checkpoint}). The code of the network "
                    "changed since; predict with the version that it was trained with."
                ) from error
        by_key = {row.key: row for row in rows}
        scored = [by_key[key] for batch in batches for key in batch["row_key"]]
        patients = patient_scores(gather_rows(batches)).set_index("patient_id")
        if not patients["logit"].abs().lt(float("inf")).all():
            raise ConfigError(
                f"logits must be finite, got NaN or infinity ({self.run.run_id}). Is the input of "
                "the kind that the model was trained on?"
            )
        return Scored(
            score=patients["logit"] - float(self._classifier.logit_shift),
            items=patients["n_items"],
            features={
                key: found
                for key, given in kept.items()
                if (found := _by_patient(key, given, scored)) is not None
            },
        )


def load_model(deployed: Deployed, run: Run, *, accelerator: Accelerator) -> Model:
    """A run's model as its checkpoint has it.

    Args:
        deployed: What it belongs to.
        run: Which of its runs.
        accelerator: Where it is to compute; `auto` takes a GPU if there is one.

    Raises:
        ConfigError: If the run's configuration was edited, its checkpoint is not the one that it
            wrote, or model or datamodule are of another kind.
    """
    path = deployed.sweep.path / run.run_id / "config.yaml"
    config = _config_of(deployed, run, path)
    checkpoint = checkpoint_of(deployed, run)
    with _quiet():
        trainer, model, data = build(_for_scoring(config, accelerator))
    _require_kinds(model, data, path)
    return Model(run, data, model, trainer, checkpoint)  # type: ignore[arg-type]


def _config_of(deployed: Deployed, run: Run, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(
            f"run folder must hold config.yaml, got none ({path}). Call the sweep again."
        )
    config: Any = OmegaConf.to_container(load_yaml(path))
    whole = all(isinstance(config.get(room), dict) for room in ROOMS if room != "seed_everything")
    (listed,) = (each for each in deployed.sweep.listing.runs if each.run_id == run.run_id)
    # Weights that training started from count by their content, and may be gone: none are needed.
    named = [each["init_args"]["pretrained"] for each in encoders(config.get("model"))]
    known = all(Path(name).is_file() for name in named if isinstance(name, str))
    if not whole or (known and sha_of(what_counts(config)) != listed.shas["config_sha"]):
        raise ConfigError(
            f"config.yaml must be the one its run was named for, got an edited one ({path}). "
            "Bring it back: the predictions would be those of another model."
        )
    return dict(config)


def _for_scoring(config: Mapping[str, Any], accelerator: Accelerator) -> dict[str, Any]:
    """The configuration without what only training needs: devices, callbacks, weights to fetch."""
    plain = copy.deepcopy(dict(config))
    plain["trainer"] |= {
        "accelerator": accelerator, "devices": 1, "num_nodes": 1, "strategy": "auto",
        "logger": False, "callbacks": None, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False, "sync_batchnorm": False,
    }  # fmt: skip
    for section, name, value in (("data", "cache", "off"), ("model", "compile_backend", None)):
        if name in plain[section].get("init_args", {}):
            plain[section]["init_args"][name] = value
    plain["model"] = _without_weights(plain["model"])
    return plain


def _without_weights(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {
        key: False if key == "pretrained" else _without_weights(value)
        for key, value in node.items()
    }


def _require_kinds(model: LightningModule, data: LightningDataModule, path: Path) -> None:
    for what, kind in ((model, PatientClassifier), (data, PatientDataModule)):
        if not isinstance(what, kind):
            raise ConfigError(
                "model and data must be a PatientClassifier and a PatientDataModule to predict new "
                f"patients, got {type(what).__name__} ({path}). Derive it from "
                f"{kind.__module__.partition('.')[0]}.{kind.__name__}."
            )


@contextmanager
def _recorded(
    model: PatientClassifier, inputs: Mapping[str, Any]
) -> Iterator[dict[str, list[torch.Tensor]]]:
    """What the encoders give meanwhile, batch by batch, by input."""
    kept: dict[str, list[torch.Tensor]] = {key: [] for key in inputs}

    def keep(key: str) -> Callable[..., None]:
        return lambda _module, _inputs, given: kept[key].append(given.detach().float().cpu())

    handles = [model.encoder_of(key).register_forward_hook(keep(key)) for key in inputs]
    try:
        with _quiet():
            yield kept
    finally:
        for handle in handles:
            handle.remove()


def _by_patient(
    key: str, given: Sequence[torch.Tensor], rows: Sequence[Row]
) -> pd.DataFrame | None:
    """Means over the rows that have the input; None where an encoder is not called once a row."""
    if not all(part.ndim == 2 for part in given) or sum(map(len, given)) != len(rows):
        return None
    table = pd.DataFrame(torch.cat(list(given)).numpy(), index=[row.patient_id for row in rows])
    present = [row.items[key] is not None for row in rows]
    return table[present].groupby(level=0).mean()


@contextmanager
def _quiet() -> Iterator[None]:
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
