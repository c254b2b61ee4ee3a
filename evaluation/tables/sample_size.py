"""Riley's sample-size criteria for this cohort: what is met, and what is not."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from evaluation.errors import EvaluationError
from evaluation.statistics.sample_size import (
    cox_snell,
    development_size,
    supported_parameters,
    validation_size,
)
from evaluation.tables.scores import Cell, CellScores

DEVELOPMENT, VALIDATION = "development", "validation"

_COLUMNS = (
    "stage", "part", "criterion", "auc", "prevalence", "needed_patients", "needed_events",
    "patients", "events", "met", "parameters", "reason",
)  # fmt: skip
_SHRINKAGE = "overfitting of 10 % at most, a logistic model of one parameter"
_OPTIMISM = "optimism of R² of 0.05 at most, a logistic model of one parameter"
_RISK = "mean risk known to 0.05"
_RATIO = "O/E: interval of width 0.2"
_SLOPE = "calibration slope: interval of width 0.2"
_AUC = "AUC: interval of width 0.1"


def sample_size(cells: list[CellScores], aucs: Mapping[Cell, float]) -> pd.DataFrame:
    """A row a criterion, at the cohort's prevalence and the mean out-of-fold AUC of its cells.

    `parameters` is how many predictor parameters of a logistic model the patients support. While
    the hold-out is sealed, its events are taken in proportion to the development patients'.
    """
    usable = [scores for scores in cells if scores.cell in aucs]
    if not usable:
        return pd.DataFrame(columns=list(_COLUMNS))
    auc = float(np.mean([aucs[scores.cell] for scores in usable]))
    oof = max((scores.oof for scores in usable), key=len)
    tested = max((scores.test for scores in usable), key=len)
    n, events = len(oof), int(oof["label"].sum())
    prevalence = events / n
    test_events = round(len(tested) * prevalence)
    if not usable[0].sealed:
        test_events = int(tested["label"].sum())
    parts = {"oof": (n, events), "test": (len(tested), test_events)}

    def row(stage: str, part: str, criterion: str, needed: float, **more: Any) -> dict[str, Any]:
        patients, positive = parts[part]
        known = not np.isnan(needed)
        return {
            "stage": stage, "part": part, "criterion": criterion, "auc": auc,
            "prevalence": prevalence, "patients": patients, "events": positive,
            "needed_patients": needed, "reason": "",
            "needed_events": np.ceil(needed * prevalence) if known else np.nan,
            "met": ("yes" if patients >= needed else "no") if known else None, **more,
        }  # fmt: skip

    try:
        r2 = cox_snell(auc, prevalence)
        size, supported = development_size(prevalence, r2), supported_parameters(n, prevalence, r2)
        needed = validation_size(prevalence, auc)
    except EvaluationError as error:  # an AUC of 1, or none above 0.5
        return _typed([row("", "oof", "all", np.nan, reason=str(error))])
    rows = [
        row(DEVELOPMENT, "oof", _SHRINKAGE, size.shrinkage, parameters=supported[0]),
        row(DEVELOPMENT, "oof", _OPTIMISM, size.optimism, parameters=supported[1]),
        row(DEVELOPMENT, "oof", _RISK, size.risk),
    ]
    for part in parts:
        rows += [
            row(VALIDATION, part, _RATIO, needed.observed_over_expected),
            row(VALIDATION, part, _SLOPE, needed.slope),
            row(VALIDATION, part, _AUC, needed.auc),
        ]
    return _typed(rows)


def _typed(rows: list[dict[str, Any]]) -> pd.DataFrame:
    counts = ("needed_patients", "needed_events", "patients", "events", "parameters")
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(dict.fromkeys(counts, "Int64"))
