"""How predictions of a patient move from model to model: other seeds, other partitions."""

import numpy as np
import pandas as pd

from evaluation.statistics.instability import mape
from evaluation.tables.scores import CellScores, sigmoid

MODELS = (
    "architecture", "modality", "repeat", "seed", "patient_id", "label", "probability",
    "mean_probability",
)  # fmt: skip
PATIENTS = (
    "architecture", "modality", "patient_id", "label", "models", "mean_probability", "lowest",
    "highest", "mape",
)  # fmt: skip


def stability_tables(cells: list[CellScores]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Out-of-fold predictions of every model beside their mean, and a row a patient of them.

    The mean is over log-odds, as scores are averaged elsewhere. Patients whom one model scored are
    left out: both tables are empty where that is everyone.
    """
    models, patients = [], []
    for scores in cells:
        table = scores.models
        groups = table.groupby("patient_id")
        table = table[groups["score"].transform("size") > 1]
        if table.empty:
            continue
        mean = sigmoid(groups["score"].mean())
        table = table.assign(
            **scores.name,
            probability=sigmoid(table["score"]),
            mean_probability=table["patient_id"].map(mean),
        )
        models.append(table[list(MODELS)])
        wide = table.pivot(index=["repeat", "seed"], columns="patient_id", values="probability")
        known = table.groupby("patient_id")
        patients.append(
            pd.DataFrame(
                {
                    **scores.name,
                    "patient_id": wide.columns,
                    "label": known["label"].first().to_numpy(),
                    "models": known.size().to_numpy(),
                    "mean_probability": mean[wide.columns].to_numpy(),
                    "lowest": wide.min().to_numpy(),
                    "highest": wide.max().to_numpy(),
                    "mape": mape(wide.to_numpy(np.float64), mean[wide.columns].to_numpy()),
                }
            )
        )
    return _joined(models, MODELS), _joined(patients, PATIENTS)


def _joined(tables: list[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    if not tables:
        return pd.DataFrame(columns=list(columns))
    return pd.concat(tables, ignore_index=True)
