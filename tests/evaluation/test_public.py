"""What others may rely on: names, parameters and fields that stay."""

import inspect
from dataclasses import fields

import pytest

import evaluation

SIGNATURES = {
    "auc_interval": "labels, scores, level=0.95, method='wald'",
    "delong_test": "labels, scores_a, scores_b, paired=True",
    "cv_auc": "labels, scores, folds, level=0.95",
    "cv_auc_test": "labels, scores_a, scores_b, folds, level=0.95",
    "holm": "p_values, size=None",
    "clopper_pearson": "count, total, level=0.95",
    "wilson": "count, total, level=0.95",
    "mcnemar": "only_a, only_b",
    "decision_curve": "labels, probabilities, thresholds",
    "calibration": "labels, probabilities, level=0.95, smoother='loess'",
    "minimum_detectable_difference": "auc, positives, negatives, correlation=0.5, power=0.8",
    "simulate_power": "auc_a, auc_b, positives, negatives, correlation=0.5",
    "optimism_of_best": "auc, models, positives, negatives, correlation",
    "cohen_kappa": "calls_a, calls_b, level=0.95",
    "rank_cells": "patients, draws=2000, level=0.95, seed=0",
    "patient_difficulty": "patients",
    "concordance": "patients, between='modality'",
}
FIELDS = {
    "AucInterval": "auc variance low high",
    "AucTest": "auc_a auc_b difference z p_value low high",
    "Calibration": "intercept slope brier brier_scaled ici smoother",
    "DecisionCurve": "thresholds model treat_all treat_none",
    "McNemar": "p_exact chi2 p_chi2",
    "Simulated": "value error draws",
}


def test_all_is_sorted_and_there():
    assert evaluation.__all__ == sorted(evaluation.__all__)
    assert all(hasattr(evaluation, name) for name in evaluation.__all__)


@pytest.mark.parametrize("name", SIGNATURES)
def test_parameters_keep_their_names_and_defaults(name):
    found = [
        p.name if p.default is p.empty else f"{p.name}={p.default!r}"
        for p in inspect.signature(getattr(evaluation, name)).parameters.values()
    ]
    assert set(SIGNATURES[name].split(", ")) <= set(found)
    assert all("=" in more for more in set(found) - set(SIGNATURES[name].split(", ")))


@pytest.mark.parametrize("name", FIELDS)
def test_results_keep_their_fields(name):
    found = {field.name for field in fields(getattr(evaluation, name))}
    assert set(FIELDS[name].split()) <= found
