"""From prediction tables to statistics, figures and the report. Never torch.

Figures are in `evaluation.figures`, which needs matplotlib and is imported only by name.
"""

from evaluation.auc import AucInterval, AucTest, auc_interval, delong_test, overlapping_test
from evaluation.cross_validated import cv_auc, cv_auc_test
from evaluation.errors import EvaluationError
from evaluation.evaluate import Evaluation, evaluate
from evaluation.proportions import Interval, McNemar, clopper_pearson, holm, mcnemar, wilson
from evaluation.runs import Run, Sweep, read_sweep
from evaluation.seal import Seal, read_seal, unseal
from evaluation.tables import Tables, make_tables
from evaluation.thresholds import (
    Confusion,
    RocCurve,
    confusion,
    cross_fitted_thresholds,
    roc_curve,
    sensitivity_threshold,
    youden_threshold,
)

__all__ = [
    "AucInterval",
    "AucTest",
    "Confusion",
    "Evaluation",
    "EvaluationError",
    "Interval",
    "McNemar",
    "RocCurve",
    "Run",
    "Seal",
    "Sweep",
    "Tables",
    "auc_interval",
    "clopper_pearson",
    "confusion",
    "cross_fitted_thresholds",
    "cv_auc",
    "cv_auc_test",
    "delong_test",
    "evaluate",
    "holm",
    "make_tables",
    "mcnemar",
    "overlapping_test",
    "read_seal",
    "read_sweep",
    "roc_curve",
    "sensitivity_threshold",
    "unseal",
    "wilson",
    "youden_threshold",
]
