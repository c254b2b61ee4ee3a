"""The deployed model on labelled patients of elsewhere: the figures that a test set gets."""

from dataclasses import replace

import pandas as pd

from evaluation.errors import EvaluationError
from evaluation.records.analysis import Analysis
from evaluation.tables.cells import auc_rows
from evaluation.tables.curves import (
    calibration_rows,
    net_benefit_rows,
    precision_recall_rows,
    roc_rows,
)
from evaluation.tables.operating import Thresholds, operating_points
from evaluation.tables.scores import DEPLOYED, CellScores, sigmoid

EXTERNAL = "test-external"
"""Part of such patients in every table."""


def external_tables(
    scores: CellScores, patients: pd.DataFrame, *, analysis: Analysis, thresholds: Thresholds
) -> dict[str, pd.DataFrame]:
    """AUC, operating points, calibration, decision curve and the like of a cell.

    Nothing is fitted to these patients: thresholds and recalibration map are the sweep's own.

    Args:
        scores: The cell's, with a deployed model.
        patients: `patient_id`, `label` 0 or 1, `score` (log-odds of the deployed model, mean over
            seeds) and `seeds`, each patient once.
        analysis: What the sweep declared before training.
        thresholds: Log-odds by (architecture, modality, rule), frozen.

    Returns:
        By the names that they have in `Tables`, rows of this part only.

    Raises:
        EvaluationError: if the cell has no deployed model, or there are no patients.
    """
    if scores.source != DEPLOYED or patients.empty:
        raise EvaluationError(
            f"an external test needs a deployed model and patients, got the {scores.source} of "
            f"{'-'.join(scores.cell)} and {len(patients)} patients. Train runs of fold all."
        )
    columns = ["fold", "patient_id", "label", "seeds", "score"]
    table = patients.assign(fold="all")[columns].astype({"label": float})
    table = table.assign(probability=sigmoid(table["score"])).reset_index(drop=True)
    cells = [replace(scores, test=table, sealed=False)]
    calibration, curves = calibration_rows(cells)
    found = {
        "aucs": pd.DataFrame(auc_rows(cells[0])),
        "operating": pd.DataFrame(operating_points(cells, analysis, thresholds)),
        "calibration": pd.DataFrame(calibration),
        "calibration_curves": pd.concat(curves, ignore_index=True),
        "net_benefit": pd.concat(net_benefit_rows(cells), ignore_index=True),
        "precision_recall": pd.DataFrame(precision_recall_rows(cells)),
        "roc": pd.concat(roc_rows(cells), ignore_index=True),
    }
    return {
        name: rows[rows["part"] == "test"].assign(part=EXTERNAL).reset_index(drop=True)
        for name, rows in found.items()
    }
