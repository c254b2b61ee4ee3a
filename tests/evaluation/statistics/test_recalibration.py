"""Recalibration maps against scikit-learn without a penalty, and fold by fold by hand."""

import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from evaluation import EvaluationError, calibration, cross_fitted_recalibration, recalibration


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(11)
    truth = rng.normal(-1.4, 1.2, 280)
    labels = rng.uniform(size=280) < expit(truth)
    return labels, 2.5 * truth + 1.0, np.arange(280) % 5


def sklearn_map(labels, odds):
    fit = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(odds[:, None], labels)
    return fit.intercept_[0], fit.coef_[0, 0]


def test_the_map_is_that_of_scikit_learn(data):
    labels, odds, _ = data
    ours = recalibration(labels, odds)
    assert (ours.intercept, ours.slope) == pytest.approx(sklearn_map(labels, odds), abs=1e-5)
    p = expit(ours.log_odds(odds))
    after = calibration(labels, p, log_odds=ours.log_odds(odds))
    # On the patients that it was fitted on a map leaves nothing to mend.
    assert (after.intercept, after.slope) == pytest.approx((0, 1), abs=1e-8)
    assert after.observed_over_expected == pytest.approx(1, abs=1e-9)


def test_each_fold_is_mapped_by_the_others(data):
    labels, odds, folds = data
    mapped, maps = cross_fitted_recalibration(labels, odds, folds)
    for fold in range(5):
        own = folds == fold
        intercept, slope = sklearn_map(labels[~own], odds[~own])
        np.testing.assert_allclose(mapped[own], intercept + slope * odds[own], atol=1e-4)
        assert (maps[fold].patients, maps[fold].events) == (224, labels[~own].sum())


def test_no_label_maps_its_own_patient(data):
    labels, odds, folds = data
    before, _ = cross_fitted_recalibration(labels, odds, folds)
    other = labels.copy()
    other[folds == 2] = ~other[folds == 2]
    after, _ = cross_fitted_recalibration(other, odds, folds)
    assert (before[folds == 2] == after[folds == 2]).all()
    assert not np.isclose(before[folds != 2], after[folds != 2]).any()


def test_it_mends_what_is_too_extreme(data):
    labels, odds, folds = data
    mapped, _ = cross_fitted_recalibration(labels, odds, folds)
    before = calibration(labels, expit(odds), log_odds=odds)
    after = calibration(labels, expit(mapped), log_odds=mapped)
    assert before.slope < 0.5
    assert 0.9 < after.slope < 1.1
    assert after.brier < before.brier
    assert after.ici < before.ici / 2


@pytest.mark.parametrize(
    ("labels", "odds", "reason"),
    [
        ([], [], "no patients"),
        ([0, 0, 0], [0.1, 0.2, 0.3], "no positive patient"),
        ([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.8], "the classes are separated"),
        ([0, 1, 0], [0.3, 0.3, 0.3], "one probability for all patients"),
        ([0, 1, 1, 0, 1], [0.3, -0.5, -0.1, 0.4, 0.35], "the slope must be above 0"),
        ([0, 1, 0, 1], [-np.inf, 0.3, 0.7, 0.9], "1 probabilities of 0 or 1"),
    ],
)
def test_where_there_is_no_map_it_says_why(labels, odds, reason):
    ours = recalibration(labels, odds)
    assert reason in ours.reason
    assert math.isnan(ours.slope)
    assert np.isnan(ours.log_odds([1.0])).all()


def test_a_fold_without_a_map_is_left_open():
    labels = np.array([0, 1, 0, 1, 0, 1, 1, 0])
    odds = np.array([-1, 0.5, 0.6, 1, -1, 0.5, -0.6, 1])
    mapped, maps = cross_fitted_recalibration(labels, odds, [0, 0, 0, 0, 1, 1, 1, 1])
    assert np.isnan(mapped[:4]).all() == bool(maps[0].reason)
    assert np.isfinite(mapped[4:]).all()
    assert maps[0].reason.startswith("the slope must be above 0")


def test_wrong_input_is_refused():
    with pytest.raises(EvaluationError, match="labels must be 0 or 1"):
        recalibration([0, 2], [0.1, 0.2])
    with pytest.raises(EvaluationError, match="folds must be as many as labels"):
        cross_fitted_recalibration([0, 1], [0.1, 0.2], [0])
