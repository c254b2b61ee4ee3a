"""The head that frozen features give: all of a run (`probe`), or its start (`lp-ft`)."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule, Trainer

from experiments.errors import ConfigError
from lightning_modules import PatientClassifier
from lightning_modules.probe import LinearRule, ProbeRows, fit_rule
from lightning_modules.scores import gather_rows, rows_of

_log = logging.getLogger(__name__)


class _FeatureReader(LightningModule):
    """Gives rows with the features of a classifier's encoders, in evaluation mode."""

    def __init__(self, model: PatientClassifier) -> None:
        super().__init__()
        self.model = model

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, list[Any]]:  # noqa: ARG002
        features = self.model.encode(batch)
        columns = {name: list(values.double().cpu().numpy()) for name, values in features.items()}
        return rows_of(batch, torch.zeros(len(batch["row_key"]))) | columns


def start_from_probe(
    trainer: Trainer, model: LightningModule, data: LightningDataModule, *, seed: int
) -> LinearRule:
    """Fit a ridge regression on the training patients' features and make it the model's head.

    Args:
        trainer: With the processes that compute features.
        model: A `PatientClassifier` with a linear head.
        data: With `predicting_training_rows`.
        seed: Of the inner folds that choose the penalty.

    Raises:
        ConfigError: If the model has no such head, or the training patients are of one class.
    """
    if not isinstance(model, PatientClassifier):
        raise ConfigError(
            f"model must be a PatientClassifier where finetune is probe or lp-ft, got "
            f"{type(model).__name__}. Set finetune=full, or derive it from "
            "lightning_modules.PatientClassifier."
        )
    with data.predicting_training_rows():  # type: ignore[attr-defined]
        batches: Any = trainer.predict(_FeatureReader(model), datamodule=data)
    try:
        rule = fit_rule(_probe_rows(batches), seed=seed)
        model.start_from_rule(rule)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    share = f", share of the video features {rule.share:g}" if len(rule.weights) > 1 else ""
    _log.info("probe: inverse penalty %g%s", rule.strength, share)
    return rule


def _probe_rows(batches: Sequence[dict[str, list[Any]]]) -> ProbeRows:
    rows = gather_rows(batches)
    modalities = [name for name in ("image", "video") if name in rows]
    return ProbeRows(
        features={name: np.stack(rows[name].to_list()) for name in modalities},
        patients=rows["patient_id"].to_numpy(str),
        labels=rows["label"].to_numpy(float),
    )
