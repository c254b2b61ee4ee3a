"""The head that frozen features give: all of a run (`probe`), or its start (`lp-ft`)."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from threadpoolctl import threadpool_limits

from datamodules import PatientDataModule
from datamodules.batches.rows import Row
from experiments.errors import ConfigError
from experiments.training.features import Array, ItemFeatures, features_of, item_features
from lightning_modules import PatientClassifier
from lightning_modules.probe import ProbeRows, fit_rule
from lightning_modules.scores import Column, rows_of

_log = logging.getLogger(__name__)


def start_from_probe(
    trainer: Trainer, model: LightningModule, data: LightningDataModule, *, seed: int
) -> None:
    """Fit a ridge regression on the training patients' features and make it the model's head.

    Features are of rows as they are, as training goes on to see them.

    Args:
        trainer: With the processes that compute features.
        model: A `PatientClassifier` with a linear head.
        data: A `PatientDataModule`.
        seed: Of the inner folds that choose the penalty.

    Raises:
        ConfigError: If model or datamodule are of another kind, the head is not linear, or the
            training patients are of one class.
    """
    for what, kind in ((model, PatientClassifier), (data, PatientDataModule)):
        if not isinstance(what, kind):
            raise ConfigError(
                "model and data must be a PatientClassifier and a PatientDataModule where finetune "
                f"is probe or lp-ft, got {type(what).__name__}. Set finetune=full, or derive it "
                f"from {kind.__module__.partition('.')[0]}.{kind.__name__}."
            )
    assert isinstance(model, PatientClassifier)
    assert isinstance(data, PatientDataModule)
    with model.without_mirror():
        items = item_features(trainer, model, data)
    rows = data.evaluation_rows(data.training_patients)
    probed = ProbeRows(
        features=features_of(rows, items),
        patients=np.array([row.patient_id for row in rows]),
        items=np.array([row.item_id for row in rows]),
        labels=np.array([data.label_of(row.patient_id) for row in rows], float),
    )
    try:
        with threadpool_limits(torch.get_num_threads()):  # numpy's own would be one a core
            rule = fit_rule(probed, seed=seed)
        model.start_from_rule(rule)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    chosen = ", ".join(f"{name} {strength:g}" for name, strength in rule.strengths.items())
    _log.info("probe: inverse penalty %s", chosen)


def scored_rows(
    trainer: Trainer, model: PatientClassifier, data: PatientDataModule
) -> list[list[dict[str, Column]]]:
    """What `predict_step` gives for every part, from the features of each item."""
    items = item_features(trainer, model, data)
    return [[_scored(model, data, data.evaluation_rows(data.patients(part)), items)]
            for part in data.predict_parts]  # fmt: skip


def _scored(
    model: PatientClassifier, data: PatientDataModule, rows: Sequence[Row], items: ItemFeatures
) -> dict[str, Column]:
    features: dict[str, Array] = features_of(rows, items)
    batch = {
        "row_key": [row.key for row in rows],
        "item_id": [row.item_id for row in rows],
        "patient_id": [row.patient_id for row in rows],
        "label": torch.tensor([data.label_of(row.patient_id) for row in rows]),
        **{f"present_{key}": torch.tensor(~np.isnan(v[:, 0])) for key, v in features.items()},
    }
    model.eval()
    with torch.no_grad():
        tensors = {key: torch.from_numpy(v).float() for key, v in features.items()}
        return rows_of(batch, model.cpu().head_logits(tensors, batch))
