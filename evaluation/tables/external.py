"""The deployed model on labelled patients of elsewhere: the figures that a test set gets."""

from collections.abc import Mapping
from math import nan
from typing import Final

import pandas as pd

from evaluation.errors import EvaluationError
from evaluation.records.analysis import Analysis
from evaluation.statistics.recalibration import Recalibration
from evaluation.tables.cells import auc_rows
from evaluation.tables.curves import (
    CellMap,
    calibration_rows,
    net_benefit_rows,
    precision_recall_rows,
    roc_rows,
)
from evaluation.tables.operating import operating_points
from evaluation.tables.scores import DEPLOYED, Cell, CellScores, sigmoid

EXTERNAL: Final = "test-external"
"""Part of such patients in every table."""

_COLUMNS = ["fold", "patient_id", "label", "seeds", "score"]


def external_tables(
    cell: Cell,
    patients: pd.DataFrame,
    *,
    analysis: Analysis,
    thresholds: Mapping[str, float],
    intercept: float,
    slope: float,
) -> dict[str, pd.DataFrame]:
    """AUC, operating points, calibration, decision curve and the like of a deployed model.

    Nothing is fitted to these patients: thresholds and recalibration map are the sweep's own.

    Args:
        cell: Architecture and modality.
        patients: `patient_id`, `label` 0 or 1, `score` (log-odds of the deployed model, mean over
            seeds) and `seeds`, each patient once.
        analysis: What the sweep declared before training.
        thresholds: Log-odds by rule, frozen.
        intercept: Of the recalibration map of log-odds; NaN where there is none.
        slope: Of the same.

    Returns:
        By the names that they have in `Tables`, rows of this part only.

    Raises:
        EvaluationError: if there are no patients.
    """
    if patients.empty:
        raise EvaluationError("an external test needs patients with a label, got none. Add some.")
    table = patients.assign(fold="all")[_COLUMNS].astype({"label": float})
    table = table.assign(probability=sigmoid(table["score"])).reset_index(drop=True)
    nobody = table[:0]
    cells = [
        CellScores(
            architecture=cell[0], modality=cell[1], runs=(), oof_by_repeat={0: nobody},
            models=nobody, test=table, source=DEPLOYED, train=nobody, train_deployed=nobody,
            sealed=False,
        )
    ]  # fmt: skip
    own = Recalibration(
        patients=0, events=0, intercept=intercept, slope=slope, intercept_error=nan,
        slope_error=nan, reason="",
    )  # fmt: skip
    calibration, curves = calibration_rows(cells, [CellMap(cell, DEPLOYED, own)])
    frozen = {(*cell, rule): threshold for rule, threshold in thresholds.items()}
    found = {
        "aucs": pd.DataFrame(auc_rows(cells[0])),
        "operating": pd.DataFrame(operating_points(cells, analysis, frozen)),
        "calibration": pd.DataFrame(calibration),
        "calibration_curves": pd.concat(curves, ignore_index=True),
        "net_benefit": net_benefit_rows(cells)[-1],
        "precision_recall": pd.DataFrame(precision_recall_rows(cells)),
        "roc": roc_rows(cells)[-1],
    }
    return {
        name: rows[rows["part"] == "test"].assign(part=EXTERNAL).reset_index(drop=True)
        for name, rows in found.items()
    }
