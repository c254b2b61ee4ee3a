"""ROC points and Youden's threshold against pROC; the threshold of the other folds by hand."""

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from evaluation import (
    EvaluationError,
    confusion,
    cross_fitted_thresholds,
    npv_threshold,
    roc_curve,
    youden_threshold,
)
from evaluation.statistics.roc import RATES

FIXTURES = Path(__file__).parents[1] / "fixtures"


NAMES = sorted(path.stem for path in FIXTURES.glob("*.json") if path.with_suffix(".csv").exists())


@pytest.mark.parametrize("name", NAMES)
def test_curve_threshold_and_counts_agree_with_proc(name, reference):
    answer, data = reference(name)
    for marker, theirs in answer["markers"].items():
        curve = roc_curve(data["y"], data[marker])
        if "roc" in theirs:
            thresholds = np.array(theirs["roc"]["thresholds"], dtype=float)
            # Where scores are so small that halving them rounds, midpoints may differ by an ulp.
            np.testing.assert_allclose(curve.thresholds, thresholds, rtol=1e-15, atol=0)
            np.testing.assert_allclose(
                curve.sensitivity, theirs["roc"]["sensitivities"], atol=1e-15
            )
            np.testing.assert_allclose(
                curve.specificity, theirs["roc"]["specificities"], atol=1e-15
            )
        threshold = youden_threshold(data["y"], data[marker])
        first = theirs["youden_first_confusion"]
        assert threshold == pytest.approx(float(first["threshold"]), rel=1e-15)
        counts = confusion(data["y"], data[marker], threshold)
        assert (counts.tp, counts.fn, counts.tn, counts.fp) == tuple(
            first[key] for key in ("tp", "fn", "tn", "fp")
        )
        for rate in ("sensitivity", "specificity", "accuracy"):
            assert getattr(counts, rate) == pytest.approx(first[rate]["estimate"], abs=1e-12)
        gain = curve.sensitivity + curve.specificity
        corner = (1 - curve.sensitivity) ** 2 + (1 - curve.specificity) ** 2
        for key, best in (
            ("youden_best", gain >= gain.max() - 1e-12),
            ("topleft_best", corner <= corner.min() + 1e-12),
        ):
            for row in theirs[key]:  # where rounding parts equal ones, R gives one of them
                cut = float(row["threshold"])
                assert np.isclose(curve.thresholds[best], cut, rtol=1e-15, atol=0).any()
                counts = confusion(data["y"], data[marker], cut)
                at = asdict(counts) | {rate: getattr(counts, rate) for rate in RATES}
                at["youden"] = at["sensitivity"] + at["specificity"]
                for figure in row.keys() - {"threshold"}:
                    assert at[figure] == pytest.approx(row[figure], abs=1e-10)


@pytest.mark.parametrize("seed", range(10))
def test_youden_is_the_best_of_all_cuts_and_the_lowest_of_equals(seed):
    rng = np.random.default_rng(seed)
    labels = np.array([0, 1, *rng.integers(0, 2, 30)])
    scores = rng.integers(0, 8, 32).astype(float)

    def gain(cut: float) -> float:
        called = scores >= cut
        return called[labels == 1].mean() - called[labels == 0].mean()

    cuts = [-np.inf, *(np.unique(scores)[1:] - 0.5), np.inf]
    best = max(map(gain, cuts))
    lowest = next(cut for cut in cuts if gain(cut) > best - 1e-12)
    threshold = youden_threshold(labels, scores)
    assert gain(threshold) == pytest.approx(best)
    np.testing.assert_array_equal(scores >= threshold, scores >= lowest)


def test_a_threshold_between_infinite_scores_is_usable():
    labels, scores = [0, 0, 1, 1], [-np.inf, -np.inf, np.inf, np.inf]
    threshold = youden_threshold(labels, scores)
    assert confusion(labels, scores, threshold).accuracy == 1


def test_confusion_counts_by_hand():
    counts = confusion([1, 1, 1, 0, 0], [0.9, 0.5, 0.1, 0.5, 0.2], 0.5)
    assert (counts.tp, counts.fn, counts.tn, counts.fp) == (2, 1, 1, 1)
    assert counts.accuracy == 0.6
    apart = confusion([1, 0], [0.5, 0.5], [0.6, 0.4])
    assert (apart.fn, apart.fp) == (1, 1)


def test_rates_without_a_denominator_are_nan():
    assert math.isnan(confusion([0, 0], [1, 2], 1.5).sensitivity)
    assert math.isnan(confusion([1], [1], 1.5).specificity)
    assert math.isnan(confusion([], [], 1.5).accuracy)


def test_each_fold_is_cut_at_the_threshold_of_the_others():
    rng = np.random.default_rng(3)
    labels, folds = np.tile([0, 1], 30), np.repeat(["0", "1", "2"], 20)
    scores = rng.normal(labels, 1.0)
    thresholds, reasons = cross_fitted_thresholds(labels, scores, folds)
    assert not reasons
    for fold in "012":
        mine, others = folds == fold, folds != fold
        places = np.concatenate(
            [scores[folds == f].argsort().argsort() for f in "012"]  # folds lie one after another
        )
        cut = youden_threshold(labels[others], places[others] / 20)
        calls = scores[mine] >= thresholds[fold]
        np.testing.assert_array_equal(calls, places[mine] / 20 >= cut)
        below, above = scores[mine][~calls].max(), scores[mine][calls].min()
        assert thresholds[fold] == pytest.approx((below + above) / 2)


@pytest.mark.parametrize("change", [lambda x: 30 * x + 400, lambda x: np.exp(3 * x), np.arctan])
def test_calls_do_not_change_with_the_scale_of_a_fold(change):
    """What broke the threshold as a score: one fold's model on another scale."""
    rng = np.random.default_rng(3)
    labels, folds = np.tile([0, 0, 1], 40), np.repeat([0, 1, 2], 40)
    scores = rng.normal(labels * 1.5, 1.0)
    moved = np.where(folds == 1, change(scores), scores)
    rates = []
    for x in (scores, moved):
        by_fold, _ = cross_fitted_thresholds(labels, x, folds)
        cut = np.array([by_fold[fold] for fold in folds])
        rates.append((x >= cut).tolist())
    assert rates[0] == rates[1]
    per_fold = [np.mean(np.array(rates[0])[(folds == f) & (labels == 1)]) for f in range(3)]
    assert min(per_fold) > 0.4


def test_a_rule_that_calls_all_or_none_is_infinite_and_ties_stay_together():
    labels, folds = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    reversed_ = np.array([2.0, 1, 5, 5])
    thresholds, _ = cross_fitted_thresholds(labels, reversed_, folds)
    assert thresholds[1] == -math.inf  # no threshold of fold 0 does better than chance
    none = cross_fitted_thresholds(labels, reversed_, folds, rule=lambda *_: 2.0)[0]
    assert set(none.values()) == {math.inf}
    tied = np.array([3.0, 3, 3, 3])
    assert set(cross_fitted_thresholds(labels, tied, folds)[0].values()) == {-math.inf}


def test_a_fold_whose_others_lack_a_class_has_no_threshold():
    thresholds, reasons = cross_fitted_thresholds([0, 1, 1, 1], [1, 2, 3, 4], ["a", "a", "b", "b"])
    assert math.isnan(thresholds["a"])
    assert reasons == {"a": "no threshold from the other folds: no negative patient"}
    assert thresholds["b"] == 3.5  # the quantile of 1.5 between 1 and 2


@pytest.mark.parametrize(("positives", "accuracy"), [(2, 0.8), (8, 0.8), (5, 0.5), (10, 1.0)])
def test_the_accuracy_to_beat_is_that_of_the_commoner_class(positives, accuracy):
    labels = np.repeat([1, 0], [positives, 10 - positives])
    assert confusion(labels, np.arange(10), 3.5).accuracy_commoner_class == accuracy


def test_wrong_input_is_refused():
    with pytest.raises(EvaluationError, match=r"labels must hold both classes, got 2 patients"):
        roc_curve([1, 1], [1, 2])
    with pytest.raises(EvaluationError, match="threshold must be a number, got NaN"):
        confusion([0, 1], [1, 2], math.nan)
    with pytest.raises(EvaluationError, match=r"folds must be as many as labels \(2\), got 1"):
        cross_fitted_thresholds([0, 1], [1, 2], ["a"])


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("npv", [0.5, 0.9, 0.95, 1.0])
def test_npv_threshold_rules_out_the_most_that_the_share_allows(seed, npv):
    rng = np.random.default_rng(seed)
    labels = rng.uniform(size=60) < 0.3
    scores = (labels + rng.normal(size=60)).round(1 + seed % 2)
    found = npv_threshold(labels, scores, npv)
    allowed = []
    for cut in [*np.unique(scores), math.inf]:
        negative = labels[scores < cut]
        if negative.size and (~negative).sum() >= npv * negative.size - 1e-9:
            allowed.append(negative.size)
    if not allowed:
        assert math.isnan(found)
    else:
        assert (scores < found).sum() == max(allowed)


def test_npv_threshold_of_those_that_none_or_all_reach():
    assert math.isnan(npv_threshold([1, 0, 0, 1], [0.1, 0.2, 0.3, 0.4], 0.95))
    assert npv_threshold([1] + [0] * 39, [0.1] * 40, 0.95) == math.inf
    # 19 of 20: 0.95 to the last digit.
    assert npv_threshold([1, *[0] * 19, 1, 1], [*range(20), 30, 31], 0.95) == 24.5
    for wrong in (0, 1.2, math.nan):
        with pytest.raises(EvaluationError, match="npv must be above 0 and at most 1"):
            npv_threshold([0, 1], [0.1, 0.2], wrong)


def test_npv_threshold_goes_over_folds_as_a_quantile():
    rng = np.random.default_rng(5)
    labels = rng.uniform(size=300) < 0.2
    scores, folds = labels * 1.5 + rng.normal(size=300), np.arange(300) % 3
    rule = partial(npv_threshold, npv=0.95)
    once, _ = cross_fitted_thresholds(labels, scores, folds, rule=rule)
    # A fold whose model scores on another scale is cut at the same patients.
    other = np.where(folds == 1, 40 * scores - 7, scores)
    again, _ = cross_fitted_thresholds(labels, other, folds, rule=rule)
    assert again[1] == pytest.approx(40 * once[1] - 7)
    assert (again[0], again[2]) == (once[0], once[2])
    kept = np.array([score < once[fold] for score, fold in zip(scores, folds, strict=True)])
    assert (~labels[kept]).mean() > 0.9
    assert kept.mean() > 0.3


def test_a_fold_whose_others_never_reach_it_says_so():
    labels, scores = np.array([0, 1, 1, 0] * 4), np.array([0, -1, 2, 1] * 4) + 0.0
    rule = partial(npv_threshold, npv=0.99)
    thresholds, reasons = cross_fitted_thresholds(labels, scores, [0, 1] * 8, rule=rule)
    undefined = [fold for fold, cut in thresholds.items() if math.isnan(cut)]
    assert undefined
    assert {reasons[fold] for fold in undefined} == {"no threshold on the other folds reaches it"}
