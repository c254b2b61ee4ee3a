"""AUC, DeLong's variance, intervals and paired test against R's pROC and against definitions."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from evaluation import EvaluationError, auc_interval, delong_test, overlapping_test

FIXTURES = Path(__file__).parents[1] / "fixtures"


NAMES = sorted(path.stem for path in FIXTURES.glob("*.json") if path.with_suffix(".csv").exists())


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
    counts = (answer["n_pos"], answer["n_neg"])
    assert counts == (data["y"].sum(), answer["n"] - data["y"].sum())
    for marker, theirs in answer["markers"].items():
        assert (theirs["n_pos"], theirs["n_neg"]) == counts
        wald = auc_interval(data["y"], data[marker])
        assert close(wald.auc, theirs["auc"])
        for key in ("delong_var", "delong_var_by_definition"):
            assert close(wald.variance, theirs[key], 1e-14)
        assert close(math.sqrt(wald.variance), theirs["delong_se"])
        # R answers NA where a class has one patient, and warns at an AUC of 1; we do at 0 as well.
        assert bool(wald.reason) == (math.isnan(wald.variance) or wald.low == wald.high != 0.5)
        assert wald.reason or not theirs["warnings"]
        assert theirs["error"] is None
        for level, key in ((0.95, "ci95_delong"), (0.90, "ci90_delong")):
            ours = auc_interval(data["y"], data[marker], level=level)
            assert close(ours.low, theirs[key][0])
            assert close(math.nan if math.isnan(ours.low) else ours.auc, theirs[key][1])
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
        assert bool(ours.reason) == (bool(theirs["warnings"]) or math.isnan(ours.z))
        if theirs["error"]:  # R stops
            assert all(map(math.isnan, (ours.z, ours.p_value, ours.low, ours.high)))
        assert close(ndtr(ours.z), theirs["p_less"])
        assert close(ndtr(-ours.z), theirs["p_greater"])
        of_a, of_b = (auc_interval(data["y"], data[theirs[side]]).variance for side in "ab")
        se = (ours.high - ours.low) / 2 / ndtri(0.975)
        assert close((of_a + of_b - se**2) / 2, theirs["cov"], 1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_unpaired_test_agrees_with_proc(name, reference):
    answer, data = reference(name)
    for theirs in answer["unpaired"]:
        assert theirs["how"] == "same patients treated as if independent"
        ours = delong_test(data["y"], data[theirs["a"]], data[theirs["b"]], paired=False)
        check_unpaired(ours, theirs)


def test_unpaired_test_of_two_cohorts_agrees_with_proc(reference):
    columns = {name: reference(name)[1] for name in ("study_train_55_225", "study_test_27_89")}
    for theirs in json.loads((FIXTURES / "transfer.json").read_text())["unpaired_train_vs_test"]:
        (name_a, a), (name_b, b) = (theirs[side].split(":") for side in "ab")
        first, second = columns[name_a], columns[name_b]
        ours = delong_test(first["y"], first[a], second[b], paired=False, labels_b=second["y"])
        check_unpaired(ours, theirs)


def check_unpaired(ours, theirs):
    assert close(ours.auc_a, theirs["auc1"])
    assert close(ours.auc_b, theirs["auc2"])
    assert close(ours.z, theirs["D"])
    assert close(ours.df, theirs["df"])
    assert close(ours.p_value, theirs["p"])
    assert bool(ours.reason) == math.isnan(ours.p_value) == math.isnan(ours.low)
    assert theirs["error"] is None
    # R warns of two AUCs of 1, and, as it should here, that the patients are the same.
    if any("AUC == 1" in warning for warning in theirs["warnings"]):
        assert ours.reason


def test_unpaired_interval_and_test_agree_at_its_edge():
    rng = np.random.default_rng(5)
    labels, a, b = np.repeat([0, 1], 30), rng.normal(size=60), rng.normal(size=60)
    p = delong_test(labels, a, b, paired=False).p_value
    at_edge = delong_test(labels, a, b, paired=False, level=1 - p)
    assert min(abs(at_edge.low), abs(at_edge.high)) < 1e-12


def test_overlapping_test_lies_between_paired_and_independent():
    rng = np.random.default_rng(6)
    names, labels = np.arange(90), np.tile([0, 0, 1], 30)
    common = rng.normal(labels, 1.0)
    a, b = common + rng.normal(size=90), common + rng.normal(size=90)
    paired = delong_test(labels, a, b)
    all_shared = overlapping_test((names, labels, a), (names, labels, b))
    for name in ("auc_a", "auc_b", "z", "p_value", "low", "high"):
        assert getattr(all_shared, name) == pytest.approx(getattr(paired, name), abs=1e-12)
    none_shared = overlapping_test((names, labels, a), (names + 90, labels, b))
    unpaired = delong_test(labels, a, b, paired=False)
    assert none_shared.z == pytest.approx(unpaired.z, abs=1e-12)
    half = overlapping_test((names[:60], labels[:60], a[:60]), (names, labels, b))
    assert (half.auc_a, half.auc_b) == (
        auc_interval(labels[:60], a[:60]).auc,
        auc_interval(labels, b).auc,
    )
    half_unpaired = delong_test(labels[:60], a[:60], b, paired=False, labels_b=labels)
    assert abs(half.z) > abs(half_unpaired.z)


def test_overlapping_test_keeps_its_level():
    """Cohorts whose scores share a part of their noise and of their patients, under the null."""
    rng = np.random.default_rng(7)
    labels, names = np.tile([0, 0, 1], 40), np.arange(120)
    rejected = 0
    for _ in range(400):
        common = rng.normal(labels * 0.8, 1.0)
        a, b = common + rng.normal(size=120), common + rng.normal(size=120)
        of_b = names >= 30
        test = overlapping_test(
            (names[:90], labels[:90], a[:90]), (names[of_b], labels[of_b], b[of_b])
        )
        rejected += test.p_value < 0.05
    assert 8 <= rejected <= 36  # 20 expected, five binomial standard errors and a little


def test_every_fixture_is_there():
    assert len(NAMES) == 13


@st.composite
def cohorts(draw):
    """Labels with both classes and two scores of few values, so that ties are common."""
    n = draw(st.integers(2, 40))
    labels = np.array([0, 1, *draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))])
    values = st.integers(-5, 5) | st.floats(-1e6, 1e6)
    a, b = (
        np.array(draw(st.lists(values, min_size=n + 2, max_size=n + 2)), float) for _ in range(2)
    )
    return labels, a, b


# A fixed seed: a test either fails or does not. No deadline: two cores may be busy.
bounded = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@bounded
@given(cohorts())
def test_auc_is_the_share_of_pairs_in_order(cohort):
    labels, scores, _ = cohort
    assert auc_interval(labels, scores).auc == pytest.approx(pair_count(labels, scores), abs=1e-12)


@bounded
@given(cohorts(), st.sampled_from([lambda x: 3 * x - 7, lambda x: x**3, np.cbrt]))
def test_increasing_maps_change_nothing(cohort, increasing):
    labels, scores, other = cohort
    mapped = increasing(scores)
    # A map may join or part scores that rounding holds together; ranks are what must be kept.
    _, before = np.unique(scores, return_inverse=True)
    _, after = np.unique(mapped, return_inverse=True)
    if (before == after).all():
        assert auc_interval(labels, mapped) == auc_interval(labels, scores)
        assert_same(delong_test(labels, mapped, other), delong_test(labels, scores, other))


@bounded
@given(cohorts(), st.booleans())
def test_swapping_models_swaps_signs(cohort, paired):
    labels, a, b = cohort
    ab = delong_test(labels, a, b, paired=paired)
    ba = delong_test(labels, b, a, paired=paired)
    mirrored = replace(
        ba,
        auc_a=ba.auc_b,
        auc_b=ba.auc_a,
        difference=-ba.difference,
        z=-ba.z,
        low=-ba.high,
        high=-ba.low,
    )
    assert_same(ab, mirrored)


@bounded
@given(cohorts())
def test_reversing_scores_mirrors_the_auc(cohort):
    labels, scores, _ = cohort
    up, down = auc_interval(labels, scores), auc_interval(labels, -scores)
    assert up.auc == pytest.approx(1 - down.auc, abs=1e-12)
    assert up.variance == pytest.approx(down.variance, abs=1e-14, nan_ok=True)


@bounded
@given(cohorts())
def test_one_model_is_never_better_than_itself(cohort):
    labels, scores, _ = cohort
    test = delong_test(labels, scores, scores)
    assert test.difference == 0
    if not test.reason:
        assert (test.z, test.p_value, test.low, test.high) == (0, 1, 0, 0)


def assert_same(one, other):
    for name, value in asdict(one).items():
        if isinstance(value, str):
            assert value == getattr(other, name)
        else:
            assert value == pytest.approx(getattr(other, name), abs=1e-12, nan_ok=True)


def test_a_hundred_thousand_patients():
    """A cohort a hundred times over has the same AUCs and variances that follow from the small."""
    rng = np.random.default_rng(9)
    labels = np.tile([0, 0, 0, 1], 250)
    a, b = np.round(rng.normal(labels, 1.0, (2, 1000)), 2)
    one, many = (delong_test(np.tile(labels, k), np.tile(a, k), np.tile(b, k)) for k in (1, 100))
    assert many.difference == pytest.approx(one.difference, abs=1e-12)
    single = auc_interval(labels, a)
    assert single.auc == pytest.approx(pair_count(labels, a), abs=1e-12)
    # n / (n - 1) of the sample variances is all that does not scale with the number of copies.
    variance = auc_interval(np.tile(labels, 100), np.tile(a, 100)).variance
    assert variance == pytest.approx(single.variance / 100, rel=1 / 249)
    assert many.z == pytest.approx(10 * one.z, rel=1 / 249)


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
    with pytest.raises(EvaluationError, match=message):
        delong_test(labels, scores, scores, paired=False)


def test_repeated_patients_are_refused():
    message = "patients must be there once each, got p2 2 times"
    with pytest.raises(EvaluationError, match=message):
        auc_interval([0, 1, 1], [1, 2, 3], patients=["p1", "p2", "p2"])
    with pytest.raises(EvaluationError, match=message):
        delong_test([0, 1, 1], [1, 2, 3], [1, 2, 3], patients=["p1", "p2", "p2"])
    with pytest.raises(EvaluationError, match=r"patients must be as many as labels \(3\), got 1"):
        auc_interval([0, 1, 1], [1, 2, 3], patients=["p1"])


def test_second_labels_need_an_unpaired_test():
    with pytest.raises(EvaluationError, match="labels_b must be left out of a paired test"):
        delong_test([0, 1], [1, 2], [1, 2], labels_b=[0, 1])


def test_a_shared_patient_has_one_label():
    names, scores = ["p1", "p2", "p3", "p4"], [1, 2, 3, 4]
    with pytest.raises(EvaluationError, match="labels must be the same for a patient of both"):
        overlapping_test((names, [0, 0, 1, 1], scores), (names, [0, 1, 0, 1], scores))


def test_overlapping_test_without_a_variance_is_undefined():
    side = (["p1", "p2", "p3"], [0, 0, 1], [1, 2, 3])
    assert "a single positive" in overlapping_test(side, side).reason


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, math.nan])
def test_wrong_level_is_refused(level):
    with pytest.raises(EvaluationError, match="level must be between 0 and 1"):
        auc_interval([0, 1], [1, 2], level=level)


def test_wrong_method_is_refused():
    with pytest.raises(EvaluationError, match="method must be 'wald' or 'logit', got 'bootstrap'"):
        auc_interval([0, 1], [1, 2], method="bootstrap")  # type: ignore[arg-type]
