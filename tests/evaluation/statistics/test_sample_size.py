"""Riley's criteria against the examples that pmsampsize and pmvalsampsize document."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from evaluation import EvaluationError, recalibration
from evaluation.statistics.power import separation
from evaluation.statistics.sample_size import (
    cox_snell,
    development_size,
    supported_parameters,
    validation_size,
)


def test_development_of_the_documented_examples():
    """Chagas disease, BMJ 2020: 24 parameters, R² 0.288, or an AUC of 0.89, at 17.4 %."""
    size = development_size(0.174, 0.288, parameters=24)
    assert (size.shrinkage, size.optimism, size.risk) == (623, 662, 221)
    size = development_size(0.174, cox_snell(0.89, 0.174), parameters=24)
    assert (size.shrinkage, size.optimism, size.risk) == (615, 660, 221)


def test_validation_of_the_documented_example():
    """Mechanical heart valves, 2021: events 1.8 %, AUC 0.8, log-odds N(-5, 2.5), O/E width 1.

    They print 905, 4544 and 4252. The first is found there in steps of 0.0001 of the standard
    error, the second by simulation.
    """
    size = validation_size(0.018, 0.8, log_odds=(-5, 2.5), oe_width=1)
    assert size.observed_over_expected == pytest.approx(905, abs=1)
    assert size.slope == pytest.approx(4544, rel=0.005)
    assert size.auc == 4252


@pytest.mark.parametrize(("auc", "prevalence"), [(0.7, 0.2), (0.85, 0.4), (0.95, 0.05)])
def test_r2_is_that_of_a_regression_on_drawn_scores(auc, prevalence):
    rng = np.random.default_rng(0)
    n = 200_000
    labels = rng.uniform(size=n) < prevalence
    x = rng.normal(labels * separation(auc), 1)
    fit = LogisticRegression(C=np.inf).fit(x[:, None], labels)
    p = fit.predict_proba(x[:, None])[:, 1]
    rate = labels.mean()
    gained = np.where(labels, np.log(p / rate), np.log((1 - p) / (1 - rate))).mean()
    assert cox_snell(auc, prevalence) == pytest.approx(1 - np.exp(-2 * gained), rel=0.02)


def test_the_slope_of_so_many_patients_is_as_precise_as_asked_for():
    n = validation_size(0.2, 0.8, slope_width=0.6).slope
    rng = np.random.default_rng(1)
    slopes = []
    for _ in range(300):
        labels = rng.uniform(size=n) < 0.2
        d = separation(0.8)
        odds = np.log(0.25) + d * rng.normal(labels * d, 1) - d**2 / 2
        slopes.append(recalibration(labels, odds).slope)
    assert 2 * 1.96 * np.std(slopes) == pytest.approx(0.6, rel=0.12)
    assert np.mean(slopes) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("patients", [100, 280, 5000])
def test_what_is_supported_needs_no_more_patients_than_there_are(patients):
    r2 = cox_snell(0.8, 0.2)
    for at, name in enumerate(("shrinkage", "optimism")):
        most = supported_parameters(patients, 0.2, r2)[at]
        assert most == 0 or getattr(development_size(0.2, r2, parameters=most), name) <= patients
        assert getattr(development_size(0.2, r2, parameters=most + 1), name) > patients


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: development_size(0.2, 0.9), "r2 must be above 0 and below 0.632"),
        (lambda: development_size(0.2, 0.0), "r2 must be above 0"),
        (lambda: development_size(1.0, 0.1), "prevalence must be between 0 and 1"),
        (lambda: development_size(0.2, 0.1, parameters=0), "parameters must be 1 or more"),
        (lambda: validation_size(0.2, 0.5), "auc must be above 0.5 and below 1"),
        (lambda: validation_size(0.2, 0.8, auc_width=0), "widths must be above 0"),
        (lambda: cox_snell(1.0, 0.2), "auc must be above 0 and below 1"),
    ],
)
def test_values_out_of_range_are_refused(call, message):
    with pytest.raises(EvaluationError, match=message):
        call()
