"""Cross-validated AUC and its influence-curve interval against R's cvAUC."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtri

from evaluation import EvaluationError, auc_interval, cv_auc, cv_auc_test, delong_test

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def oof():
    with (FIXTURES / "oof_5fold.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}


@pytest.mark.parametrize("theirs", json.loads((FIXTURES / "cvauc.json").read_text())["results"])
def test_agrees_with_cvauc(oof, theirs):
    labels, scores = oof["y"], oof[theirs["score"]]
    for clusters, expected in ((None, theirs), (oof["pair_id"], theirs["pooled_ids"])):
        ours = cv_auc(labels, scores, oof["fold"], clusters=clusters, divisor="m")
        assert ours.auc == pytest.approx(expected["cvAUC"], abs=1e-10)
        assert math.sqrt(ours.variance) == pytest.approx(expected["se"], abs=1e-10)
        assert (ours.low, ours.high) == pytest.approx(expected["ci95"], abs=1e-10)
        assert ours.reason == ""
    for fold, auc in theirs["fold_auc"].items():
        mine = oof["fold"] == float(fold)
        assert auc_interval(labels[mine], scores[mine]).auc == pytest.approx(auc, abs=1e-10)
    pooled = auc_interval(labels, scores)
    assert pooled.auc == pytest.approx(theirs["pooled_auc_all_rows"], abs=1e-10)
    assert math.sqrt(pooled.variance) == pytest.approx(theirs["pooled_delong_se"], abs=1e-10)
    assert (pooled.low, pooled.auc, pooled.high) == pytest.approx(
        theirs["pooled_delong_ci95"], abs=1e-10
    )


def test_scores_are_compared_within_folds_only(oof):
    labels, folds = oof["y"], oof["fold"]
    test = cv_auc_test(labels, oof["calibrated"], oof["fold_shifted"], folds)
    assert (test.difference, test.z, test.p_value) == (0, 0, 1)


def test_difference_mirrors_and_agrees_with_its_interval():
    rng = np.random.default_rng(4)
    labels, folds = np.tile([0, 0, 1], 40), np.repeat(np.arange(4), 30)
    a, b = rng.normal(labels, 1.0), rng.normal(labels * 0.3, 1.0)
    ab, ba = cv_auc_test(labels, a, b, folds), cv_auc_test(labels, b, a, folds)
    assert (ab.z, ab.low, ab.high) == pytest.approx((-ba.z, -ba.high, -ba.low))
    assert ab.difference == pytest.approx(
        cv_auc(labels, a, folds).auc - cv_auc(labels, b, folds).auc
    )
    at_edge = cv_auc_test(labels, a, b, folds, level=1 - ab.p_value)
    assert min(abs(at_edge.low), abs(at_edge.high)) < 1e-12


def test_a_class_of_m_patients_of_a_fold_has_m_less_1_degrees_of_freedom():
    """One fold: the influence curve with m - 1 is DeLong's variance."""
    rng = np.random.default_rng(3)
    labels = np.repeat([1, 0], [9, 20])
    a, b = rng.normal(labels), rng.normal(labels)
    folds = np.zeros(29)
    assert cv_auc(labels, a, folds).variance == pytest.approx(
        auc_interval(labels, a).variance, rel=1e-12
    )
    ours, delong = cv_auc_test(labels, a, b, folds), delong_test(labels, a, b)
    assert (ours.z, ours.low) == pytest.approx((delong.z, delong.low), rel=1e-12)
    narrow = cv_auc_test(labels, a, b, folds, divisor="m")
    assert abs(narrow.z) > abs(ours.z)
    # A patient of several rows counts once.
    twice = cv_auc(*(np.repeat(v, 2) for v in (labels, a, folds)), clusters=np.arange(58) // 2)
    assert twice.variance == pytest.approx(cv_auc(labels, a, folds).variance, rel=1e-12)


def test_interval_covers_and_test_keeps_its_level():
    """Five folds of 11 + 45, as the reference study outside the hold-out, under the null."""
    rng = np.random.default_rng(8)
    labels, folds = np.tile(np.repeat([1, 0], [11, 45]), 5), np.repeat(np.arange(5), 56)
    truth = 0.76024993890652  # Φ(1/√2)
    covered = rejected = 0
    for _ in range(2_000):
        shared = rng.normal(labels, 0.5**0.5)
        a, b = (shared + rng.normal(scale=0.5**0.5, size=labels.size) for _ in "ab")
        interval = cv_auc(labels, a, folds)
        covered += interval.low <= truth <= interval.high
        rejected += cv_auc_test(labels, a, b, folds).p_value < 0.05
    assert 0.935 <= covered / 2_000 <= 0.965
    assert 0.04 <= rejected / 2_000 <= 0.065


def draw(rng, labels, aucs, *, share=0.5):
    """(models, n) normal scores of these AUCs; any two correlate alike within a class."""
    shared = rng.normal(size=labels.size)
    own = rng.normal(size=(len(aucs), labels.size))
    apart = 2**0.5 * ndtri(np.array(aucs))[:, None] * labels
    return apart + share**0.5 * shared + (1 - share) ** 0.5 * own


def test_the_contrast_of_means_keeps_its_size_where_one_modality_is_uneven():
    """Null: the means over five architectures are equal, 0.70, but one modality has four poor ones.

    That is the null of what is declared, the mean: its best architecture, 0.90, is far better. Both
    tests at 55/225: out-of-fold in five folds, and DeLong's on all of them.
    """
    rng = np.random.default_rng(21)
    labels, folds = np.tile(np.repeat([1, 0], [11, 45]), 5), np.repeat(np.arange(5), 56)
    uneven, even = (0.9, 0.65, 0.65, 0.65, 0.65), (0.7,) * 5
    rejected, covered = np.zeros(2), np.zeros(2)
    for _ in range(2_000):
        scores = draw(rng, labels, (*uneven, *even))
        for at, test in enumerate(
            (
                cv_auc_test(labels, scores[:5], scores[5:], folds),
                delong_test(labels, scores[:5], scores[5:]),
            )
        ):
            rejected[at] += test.p_value < 0.05
            covered[at] += test.low <= 0 <= test.high
    assert (rejected / 2_000 >= 0.04).all()
    assert (rejected / 2_000 <= 0.065).all()
    assert (covered + rejected == 2_000).all()


def test_the_mean_of_models_alike_is_that_of_one(oof):
    labels, folds, a, b = oof["y"], oof["fold"], oof["calibrated"], oof["y"] * 1.0
    b = np.random.default_rng(2).normal(b)
    for one, many in (
        (cv_auc_test(labels, a, b, folds), cv_auc_test(labels, np.stack([a] * 3), b, folds)),
        (delong_test(labels, a, b), delong_test(labels, a, np.stack([b] * 2))),
    ):
        assert vars(many) == pytest.approx(vars(one))
    means = [cv_auc(labels, x, folds).auc for x in (a, b)]
    assert cv_auc_test(labels, np.stack([a, b]), b, folds).auc_a == pytest.approx(np.mean(means))
    with pytest.raises(EvaluationError, match="scores must be as many as labels"):
        cv_auc_test(labels, np.stack([a, b]).T, b, folds)


def test_ties_count_one_half():
    labels, folds = [0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 1, 1, 1]
    constant = cv_auc(labels, [1.0] * 8, folds)
    assert (constant.auc, constant.variance) == (0.5, 0)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([], "no patients"),
        ([0, 1, 0, 0], "fold 1: no positive patient"),
        ([1, 1, 0, 0], "fold 0: no negative patient; fold 1: no positive patient"),
    ],
)
def test_a_fold_of_one_class_is_undefined_and_says_so(labels, reason):
    folds = [0, 0, 1, 1][: len(labels)]
    ours = cv_auc(labels, np.zeros(len(labels)), folds)
    test = cv_auc_test(labels, np.zeros(len(labels)), np.zeros(len(labels)), folds)
    assert ours.reason == test.reason == reason
    assert all(map(math.isnan, (ours.auc, ours.variance, ours.low, ours.high, test.p_value)))


def test_a_fold_with_a_single_positive_warns_of_its_interval():
    ours = cv_auc([0, 0, 1, 0, 0, 1, 1], [1, 3, 2, 1, 3, 2, 4], [0, 0, 0, 1, 1, 1, 1])
    assert ours.auc == 0.625
    assert ours.reason.startswith("fold 0: a single patient of a class adds nothing")


def test_wrong_lengths_are_refused():
    with pytest.raises(EvaluationError, match=r"folds must be as many as labels \(2\), got 1"):
        cv_auc([0, 1], [1, 2], [0])
    with pytest.raises(EvaluationError, match=r"clusters must be as many as labels \(2\), got 1"):
        cv_auc([0, 1], [1, 2], [0, 0], clusters=[0])
    with pytest.raises(EvaluationError, match="divisor must be 'm-1' or 'm', got 'n'"):
        cv_auc([0, 1], [1, 2], [0, 0], divisor="n")
