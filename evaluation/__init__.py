"""From prediction tables to statistics, figures and the report. Never torch.

Figures are in `evaluation.figures`, which needs matplotlib and is imported only by name.
"""

from evaluation.auc import AucInterval, PairedTest, auc_interval, delong_test
from evaluation.errors import EvaluationError
from evaluation.evaluate import Evaluation, evaluate
from evaluation.runs import Run, Sweep, read_sweep
from evaluation.seal import Seal, read_seal, unseal
from evaluation.tables import Tables, make_tables
from evaluation.thresholds import (
    Confusion,
    RocCurve,
    confusion,
    cross_fitted_thresholds,
    roc_curve,
    youden_threshold,
)

__all__ = [
    "AucInterval",
    "Confusion",
    "Evaluation",
    "EvaluationError",
    "PairedTest",
    "RocCurve",
    "Run",
    "Seal",
    "Sweep",
    "Tables",
    "auc_interval",
    "confusion",
    "cross_fitted_thresholds",
    "delong_test",
    "evaluate",
    "make_tables",
    "read_seal",
    "read_sweep",
    "roc_curve",
    "unseal",
    "youden_threshold",
]
