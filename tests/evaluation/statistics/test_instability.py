"""Mean absolute prediction error of patients, by plain loops."""

import math

import numpy as np
import pytest

from evaluation import EvaluationError, mape


def test_each_patient_is_the_mean_of_its_models():
    rng = np.random.default_rng(0)
    p = rng.random((7, 20))
    p[rng.random(p.shape) < 0.3] = np.nan
    p[:, 0], p[1:, 1], p[0, 1] = np.nan, np.nan, 0.5
    reference = rng.random(20)
    found = mape(p, reference)
    for patient in range(20):
        apart = [abs(x - reference[patient]) for x in p[:, patient] if not math.isnan(x)]
        if len(apart) < 2:
            assert math.isnan(found[patient])
        else:
            assert found[patient] == pytest.approx(sum(apart) / len(apart), abs=1e-12)
    assert np.isnan(found[:2]).all()
    assert np.isfinite(found).sum() >= 15


def test_models_that_agree_have_none():
    assert mape(np.full((3, 4), 0.25), np.full(4, 0.25)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("p", "r", "match"),
    [
        ([[0.1, 0.2]], [0.1], "one a patient, got shapes"),
        ([0.1, 0.2], [0.1, 0.2], "one a patient, got shapes"),
        ([[1.2], [0.1]], [0.5], r"must be in \[0, 1\]"),
        ([[0.2], [0.1]], [float("nan")], r"must be in \[0, 1\]"),
    ],
)
def test_what_is_no_probability_is_refused(p, r, match):
    with pytest.raises(EvaluationError, match=match):
        mape(p, r)
