"""AUC, DeLong's variance, intervals and paired test against R's pROC and against definitions."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation import EvaluationError, auc_interval, delong_test

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.json"))


def close(ours: float, theirs: Any, tolerance: float = 1e-10) -> bool:
    theirs = float(theirs)  # "NaN" and "Inf" are text
    if math.isnan(theirs) or math.isinf(theirs):
        return ours == theirs or (math.isnan(ours) and math.isnan(theirs))
    return abs(ours - theirs) <= tolerance


def pair_count(labels: np.ndarray, scores: np.ndarray) -> float:
    differences = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    return float(((differences > 0) + 0.5 * (differences == 0)).mean())


@pytest.mark.parametrize("name", NAMES)
def test_interval_agrees_with_proc(name, reference):
    answer, data = reference(name)
    for marker, theirs in answer["markers"].items():
        wald = auc_interval(data["y"], data[marker])
        assert close(wald.auc, theirs["auc"])
        assert close(wald.variance, theirs["delong_var"], 1e-14)
        for level, key in ((0.95, "ci95_delong"), (0.90, "ci90_delong")):
            ours = auc_interval(data["y"], data[marker], level=level)
            assert close(ours.low, theirs[key][0])
            assert close(ours.high, theirs[key][2])
        logit = auc_interval(data["y"], data[marker], method="logit")
        low, high = theirs["ci95_logit_own"] or ("NaN", "NaN")
        assert close(logit.low, low)
        assert close(logit.high, high)
        assert bool(logit.reason) == math.isnan(logit.low)


@pytest.mark.parametrize("name", NAMES)
def test_paired_test_agrees_with_proc(name, reference):
    answer, data = reference(name)
    for theirs in answer["paired"]:
        ours = delong_test(data["y"], data[theirs["a"]], data[theirs["b"]])
        assert close(ours.auc_a, theirs["auc1"])
        assert close(ours.auc_b, theirs["auc2"])
        assert close(ours.z, theirs["Z"])
        assert close(ours.p_value, theirs["p_two_sided"])
        low, high = theirs["ci95_difference"] or ("NaN", "NaN")
        assert close(ours.low, low)
        assert close(ours.high, high)
        assert bool(ours.reason) == math.isnan(ours.z)


def test_every_fixture_is_there():
    assert len(NAMES) == 11


@pytest.mark.parametrize("seed", range(20))
def test_auc_is_the_share_of_pairs_in_order(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    labels = np.array([0, 1, *rng.integers(0, 2, n)])
    scores = rng.integers(0, 10, n + 2) / 4 if seed % 2 else rng.normal(size=n + 2)
    assert auc_interval(labels, scores).auc == pytest.approx(pair_count(labels, scores), abs=1e-12)


@pytest.mark.parametrize("increasing", [np.exp, np.cbrt, lambda x: 3 * x - 7, np.arctan])
def test_increasing_maps_change_nothing(increasing):
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, 80), np.round(rng.normal(size=80), 1)
    assert auc_interval(labels, increasing(scores)) == auc_interval(labels, scores)
    assert delong_test(labels, scores, increasing(scores)).p_value == 1


def test_reversing_scores_or_models_mirrors():
    rng = np.random.default_rng(2)
    labels, a, b = rng.integers(0, 2, 80), rng.normal(size=80), rng.normal(size=80)
    up, down = auc_interval(labels, a), auc_interval(labels, -a)
    assert up.auc == pytest.approx(1 - down.auc, abs=1e-12)
    assert up.variance == pytest.approx(down.variance, abs=1e-14)
    ab, ba = delong_test(labels, a, b), delong_test(labels, b, a)
    assert (ab.z, ab.p_value) == (pytest.approx(-ba.z), pytest.approx(ba.p_value))
    assert (ab.low, ab.high) == (pytest.approx(-ba.high), pytest.approx(-ba.low))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [([], "no patients"), ([0, 0], "no positive patient"), ([1, 1], "no negative patient")],
)
def test_one_class_is_undefined_and_says_so(labels, reason):
    ours = auc_interval(labels, np.zeros(len(labels)))
    assert ours.reason == reason
    assert all(map(math.isnan, (ours.auc, ours.variance, ours.low, ours.high)))
    paired = delong_test(labels, np.zeros(len(labels)), np.zeros(len(labels)))
    assert paired.reason == reason
    assert all(map(math.isnan, (paired.auc_a, paired.difference, paired.z, paired.p_value)))


@pytest.mark.parametrize(
    ("labels", "kind"), [([0, 0, 1], "a single positive"), ([0, 1, 1], "a single negative")]
)
def test_a_single_patient_of_a_class_has_an_auc_and_no_variance(labels, kind):
    ours = auc_interval(labels, [0.1, 0.2, 0.3])
    assert ours.auc == 1
    assert math.isnan(ours.variance)
    assert kind in ours.reason


def test_separated_classes_warn_of_their_interval():
    ours = auc_interval([0, 0, 1, 1], [1, 2, 3, 4])
    assert (ours.auc, ours.low, ours.high) == (1, 1, 1)
    assert "no width" in ours.reason


def test_infinite_scores_are_ranked():
    labels = [0, 1, 0, 1, 1]
    infinite, finite = [-np.inf, np.inf, 0, 1, -np.inf], [-9, 9, 0, 1, -9]
    assert auc_interval(labels, infinite) == auc_interval(labels, finite)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1, 2], [1, 2, 3], r"labels must be 0 or 1, got 2 \(1 of 3\)"),
        ([0, 1, np.nan], [1, 2, 3], "labels must be 0 or 1, got nan"),
        (["a", "b"], [1, 2], "labels must be numbers, got"),
        ([0, 1], ["x", "y"], "scores must be numbers, got"),
        ([0, 1], [np.nan, 1], r"scores must be numbers, got NaN \(1 of 2\)"),
        ([0, 1], [1, 2, 3], r"scores must be as many as labels \(2\), got 3"),
        ([[0, 1]], [1, 2], r"labels must have one dimension, got shape \(1, 2\)"),
    ],
)
def test_wrong_input_is_refused(labels, scores, message):
    with pytest.raises(EvaluationError, match=message):
        auc_interval(labels, scores)
    with pytest.raises(EvaluationError, match=message):
        delong_test(labels, scores, scores)


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, math.nan])
def test_wrong_level_is_refused(level):
    with pytest.raises(EvaluationError, match="level must be between 0 and 1"):
        auc_interval([0, 1], [1, 2], level=level)


def test_wrong_method_is_refused():
    with pytest.raises(EvaluationError, match="method must be 'wald' or 'logit', got 'bootstrap'"):
        auc_interval([0, 1], [1, 2], method="bootstrap")  # type: ignore[arg-type]
