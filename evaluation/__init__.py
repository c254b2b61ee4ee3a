"""From prediction tables to statistics, figures and the report. Never torch.

Figures are in `evaluation.figures`, which needs matplotlib and is imported only by name.
"""

from evaluation.errors import EvaluationError
from evaluation.evaluate import evaluate
from evaluation.records.runs import Run, Sweep, read_sweep
from evaluation.records.study import Study, read_study
from evaluation.result import Evaluation, compute
from evaluation.statistics.auc import AucInterval, auc_interval
from evaluation.statistics.auc_tests import AucTest, delong_test, overlapping_test
from evaluation.statistics.calibration import (
    Calibration,
    CalibrationCurve,
    IciInterval,
    calibration,
    calibration_curve,
    ici_interval,
)
from evaluation.statistics.cross_validated import cv_auc, cv_auc_test
from evaluation.statistics.instability import mape
from evaluation.statistics.kappa import Kappa, cohen_kappa, stratified_spearman
from evaluation.statistics.net_benefit import (
    DecisionCurve,
    NetBenefitDifference,
    decision_curve,
    net_benefit_difference,
)
from evaluation.statistics.power import (
    Simulated,
    minimum_detectable_difference,
    optimism_of_best,
    simulate_power,
)
from evaluation.statistics.precision_recall import AveragePrecision, average_precision
from evaluation.statistics.proportions import (
    Interval,
    McNemar,
    clopper_pearson,
    holm,
    mcnemar,
    wilson,
)
from evaluation.statistics.recalibration import (
    Recalibration,
    cross_fitted_recalibration,
    recalibration,
)
from evaluation.statistics.repeated import Partition, repeated_cv_auc, repeated_cv_test
from evaluation.statistics.roc import (
    Confusion,
    RocCurve,
    confusion,
    cross_fitted_thresholds,
    npv_threshold,
    roc_curve,
    sensitivity_threshold,
    youden_threshold,
)
from evaluation.statistics.roc_band import RocBand, roc_band
from evaluation.statistics.sample_size import (
    DevelopmentSize,
    ValidationSize,
    development_size,
    supported_parameters,
    validation_size,
)
from evaluation.statistics.selection import BestOf, best_of
from evaluation.statistics.single_auc import single_auc_positives, single_auc_power
from evaluation.tables.make import Tables, make_tables
from evaluation.tables.patients import (
    auc_spread,
    concordance,
    misranked,
    patient_difficulty,
    run_aucs,
)
from evaluation.tables.ranking import Ranking, rank_cells
from evaluation.tables.seal import Seal, read_seal, unseal
from evaluation.text.terminal import render

__all__ = [
    "AucInterval",
    "AucTest",
    "AveragePrecision",
    "BestOf",
    "Calibration",
    "CalibrationCurve",
    "Confusion",
    "DecisionCurve",
    "DevelopmentSize",
    "Evaluation",
    "EvaluationError",
    "IciInterval",
    "Interval",
    "Kappa",
    "McNemar",
    "NetBenefitDifference",
    "Partition",
    "Ranking",
    "Recalibration",
    "RocBand",
    "RocCurve",
    "Run",
    "Seal",
    "Simulated",
    "Study",
    "Sweep",
    "Tables",
    "ValidationSize",
    "auc_interval",
    "auc_spread",
    "average_precision",
    "best_of",
    "calibration",
    "calibration_curve",
    "clopper_pearson",
    "cohen_kappa",
    "compute",
    "concordance",
    "confusion",
    "cross_fitted_recalibration",
    "cross_fitted_thresholds",
    "cv_auc",
    "cv_auc_test",
    "decision_curve",
    "delong_test",
    "development_size",
    "evaluate",
    "holm",
    "ici_interval",
    "make_tables",
    "mape",
    "mcnemar",
    "minimum_detectable_difference",
    "misranked",
    "net_benefit_difference",
    "npv_threshold",
    "optimism_of_best",
    "overlapping_test",
    "patient_difficulty",
    "rank_cells",
    "read_seal",
    "read_study",
    "read_sweep",
    "recalibration",
    "render",
    "repeated_cv_auc",
    "repeated_cv_test",
    "roc_band",
    "roc_curve",
    "run_aucs",
    "sensitivity_threshold",
    "simulate_power",
    "single_auc_positives",
    "single_auc_power",
    "stratified_spearman",
    "supported_parameters",
    "unseal",
    "validation_size",
    "wilson",
    "youden_threshold",
]
