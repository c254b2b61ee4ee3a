"""Distances from the training cohort against scikit-learn, and the rates of false alarms."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf, ShrunkCovariance, ledoit_wolf_shrinkage
from sklearn.neighbors import NearestNeighbors

from evaluation.errors import EvaluationError
from evaluation.statistics.unlike import NEIGHBOURS, fit_region, outside


@pytest.mark.parametrize("width", [5, 60])
def test_distances_are_those_of_scikit_learn(width: int) -> None:
    rng = np.random.default_rng(width)
    training = rng.normal(3, rng.uniform(0.1, 4, width), (25, width))
    new = rng.normal(3, 2, (6, width))
    region = fit_region(training)
    oracle = LedoitWolf().fit(training)
    assert region.mahalanobis(new) == pytest.approx(np.sqrt(oracle.mahalanobis(new)), rel=1e-9)
    shrinkage = ledoit_wolf_shrinkage(training)
    for i, patient in enumerate(training):
        others = ShrunkCovariance(shrinkage=shrinkage).fit(np.delete(training, i, axis=0))
        expected = np.sqrt(others.mahalanobis(patient[None])[0])
        assert region.apart[i] == pytest.approx(expected, rel=1e-9)
    scaled = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (training, new)]
    neighbours = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(scaled[0])
    assert region.alone == pytest.approx(neighbours.kneighbors()[0][:, -1])
    assert region.nearest(new) == pytest.approx(neighbours.kneighbors(scaled[1])[0][:, -1])


def test_a_step_where_nobody_varied_is_far_and_equal_patients_are_no_error() -> None:
    flat = np.zeros((20, 8))
    flat[:, :2] = np.random.default_rng(0).normal(size=(20, 2))
    region = fit_region(flat)
    step = np.zeros((1, 8))
    step[0, 7] = 3.0
    assert region.mahalanobis(step) > 5 * region.apart.max()
    same = fit_region(np.ones((5, 3)))
    assert (same.apart == 0).all()
    assert same.mahalanobis(np.full((1, 3), 2.0)) > 1e6


@pytest.mark.parametrize("features", [np.ones((2, 3)), np.full((5, 3), np.nan), np.ones(5)])
def test_a_region_needs_finite_features_of_three_patients(features: np.ndarray) -> None:
    with pytest.raises(EvaluationError, match="3 or more training patients"):
        fit_region(features)


def test_false_alarms_are_those_of_each_patient_judged_by_the_others() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 9.0])
    alarm = outside(values, [0.5, 2.5, 9.0, 20.0])
    assert alarm.unlike.tolist() == [True, False, False, True]
    assert alarm.false_alarms == pytest.approx(2 / 5)  # the least and the greatest
    one_sided = outside(values, [-5.0, 20.0], both_sides=False)
    assert one_sided.unlike.tolist() == [False, True]
    assert one_sided.false_alarms == pytest.approx(1 / 5)
    grouped = outside(values, [0.5], patients=["a", "a", "b", "b", "a"])
    assert grouped.false_alarms == pytest.approx(1 / 2)  # b lies within what a has


def test_large_cohorts_alarm_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    alarm = outside(rng.normal(size=2000), rng.normal(size=20000))
    assert alarm.false_alarms == pytest.approx(0.01, abs=0.004)
    assert alarm.unlike.mean() == pytest.approx(0.01, abs=0.005)


def test_a_constant_fact_alarms_for_another_value_only() -> None:
    alarm = outside([25.0, 25.0, 25.0], [25.0, 25.0000001, 30.0])
    assert alarm.unlike.tolist() == [False, False, True]
    assert alarm.false_alarms == 0
    assert np.isnan(outside([1.0, 2.0], [1.0], patients=["a", "a"]).false_alarms)
    with pytest.raises(EvaluationError, match="finite"):
        outside([np.nan], [1.0])
