"""One score a patient and part, from a trained model, on however many processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import LightningDataModule, LightningModule, Trainer

from evaluation.records.schema import SCORE_COLUMNS
from experiments.errors import ConfigError
from lightning_modules import gather_rows, patient_scores


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
        The columns `SCORE_COLUMNS` of `evaluation.records.schema`, sorted by part and patient.

    Raises:
        ConfigError: If the model's rows are not of the contract, or patients are missing.
    """
    outputs: Any = trainer.predict(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return table_of(model, data, outputs if len(data.predict_parts) > 1 else [outputs])  # type: ignore[attr-defined]


def table_of(
    model: LightningModule, data: LightningDataModule, outputs: Sequence[Any]
) -> pd.DataFrame:
    """One score a patient and part from scored rows; see `predict`.

    Args:
        model: What scored them.
        data: With `predict_parts` and `patients(part)`.
        outputs: By part, what `predict_step` gave for each batch.

    Raises:
        ConfigError: See `predict`.
    """
    parts: list[str] = data.predict_parts  # type: ignore[attr-defined]
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
        # Weighting the loss or repeating rows shifts logits: undone (docs/design.md, Protocol).
        shifted = torch.tensor(patients["logit"].to_numpy()) - shift
        tables.append(patients.assign(part=part, probability=shifted.sigmoid().numpy()))
    return pd.concat(tables, ignore_index=True)[list(SCORE_COLUMNS)]
