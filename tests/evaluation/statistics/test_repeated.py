"""The AUC over several partitions, and its bootstrap over patients, seeds and partitions."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation import EvaluationError, cv_auc, cv_auc_test
from evaluation.statistics.repeated import Partition, repeated_cv_auc, repeated_cv_test


def partitions_of(scores, labels, folds, *, keep=slice(None)):
    """Scores (partitions, models, seeds, n) and folds (partitions, n), of the patients kept."""
    names = np.array([f"p{i:03d}" for i in range(len(labels))])
    return [
        Partition(
            patients=names[keep], labels=labels[keep], folds=fold[keep], scores=each[..., keep]
        )
        for each, fold in zip(scores, folds, strict=True)
    ]


def drawn(*, partitions=4, models=1, seeds=1, n=90, noise=0.7, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.tile([0, 0, 1], n // 3)
    own = rng.normal(labels, 1.0)
    scores = own + rng.normal(0, noise, (partitions, models, seeds, n))
    folds = np.zeros((partitions, n), int)
    for fold in folds:
        for label in (0, 1):
            mine = np.flatnonzero(labels == label)
            fold[mine] = rng.permutation(np.arange(mine.size) % 3)
    return labels, scores, folds


def fold_mean(labels, score, fold):
    return np.mean([roc_auc_score(labels[fold == k], score[fold == k]) for k in np.unique(fold)])


def placements_less_auc(labels, score, fold):
    """Each patient's influence on the fold-mean AUC, by pairs; balanced folds, squares over m-1."""
    curve = np.zeros(len(labels))
    for k in np.unique(fold):
        for label in (0, 1):
            mine = np.flatnonzero((fold == k) & (labels == label))
            others = np.flatnonzero((fold == k) & (labels != label))
            sign = 1 if label else -1
            wins = [np.mean(sign * (score[i] - score[others]) > 0) for i in mine]
            curve[mine] = (np.array(wins) - np.mean(wins)) / np.sqrt(mine.size * (mine.size - 1))
    return curve / np.unique(fold).size


def means_of(scores, labels, folds):
    """Of each partition, the mean over models, of the mean over seeds."""
    return np.array(
        [
            np.mean([fold_mean(labels, score.mean(axis=0), fold) for score in part])
            for part, fold in zip(scores, folds, strict=True)
        ]
    )


@pytest.mark.parametrize("models", [1, 2])
def test_the_auc_is_the_mean_over_partitions_and_its_variance_that_of_theory(models):
    labels, scores, folds = drawn(models=models)
    auc = repeated_cv_auc(partitions_of(scores, labels, folds), draws=40_000)
    each = means_of(scores, labels, folds)
    assert auc.auc == pytest.approx(each.mean(), abs=1e-12)
    influence = np.array(
        [
            np.mean([placements_less_auc(labels, s.mean(axis=0), fold) for s in part], axis=0)
            for part, fold in zip(scores, folds, strict=True)
        ]
    )
    partition = each.var(ddof=1) / 4
    patients = (influence.mean(axis=0) ** 2).sum()
    assert auc.variance == pytest.approx(partition + patients, rel=0.03)
    half = 1.959963984540054 * np.sqrt(auc.variance)
    assert (auc.low, auc.high) == pytest.approx((auc.auc - half, auc.auc + half))
    assert auc.reason == ""


def test_one_partition_over_and_over_has_the_interval_of_one():
    labels, scores, folds = drawn(partitions=1)
    alone = cv_auc(labels, scores[0, 0, 0], folds[0])
    same = repeated_cv_auc(partitions_of([scores[0]] * 5, labels, [folds[0]] * 5), draws=40_000)
    assert same.auc == pytest.approx(alone.auc, abs=1e-12)
    assert same.variance == pytest.approx(alone.variance, rel=0.03)


def test_seeds_are_drawn_where_there_are_several():
    labels, scores, folds = drawn(partitions=3, seeds=3, noise=1.5)
    # Mean scores are one model a partition: what seeds add is what this interval lacks.
    averaged = partitions_of(scores.mean(axis=2, keepdims=True), labels, folds)
    one, several = (
        repeated_cv_auc(each, draws=20_000)
        for each in (averaged, partitions_of(scores, labels, folds))
    )
    assert several.auc == pytest.approx(one.auc, abs=1e-12)
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    chance = np.array([1, 2, 2, 1, 2, 1]) / 9
    means = np.array(
        [
            [fold_mean(labels, part[0][list(p)].mean(axis=0), f) for p in pairs]
            for part, f in zip(scores, folds, strict=True)
        ]
    )
    # Two of three seeds are drawn, the same for all partitions, and two of three partitions.
    patients = one.variance - means_of(scores, labels, folds).var() / 2
    crossed = chance @ (means.mean(axis=0) - chance @ means.mean(axis=0)) ** 2
    crossed += chance @ means.var(axis=0) / 2
    assert several.variance == pytest.approx(crossed + patients, rel=0.03)


def test_the_test_pairs_patients_and_partitions():
    labels, scores, folds = drawn(models=2, partitions=5)
    a, b = partitions_of(scores, labels, folds), partitions_of(scores[:, :1] * 0.5, labels, folds)
    test, mirrored = repeated_cv_test(a, b), repeated_cv_test(b, a)
    singles = [repeated_cv_auc(side).auc for side in (a, b)]
    assert (test.auc_a, test.auc_b) == pytest.approx(singles, abs=1e-12)
    assert test.difference == pytest.approx(singles[0] - singles[1], abs=1e-12)
    assert (mirrored.z, mirrored.p_value) == pytest.approx((-test.z, test.p_value))
    same = repeated_cv_test(a, a)
    assert (same.difference, same.z, same.p_value) == (0, 0, 1)
    # Of the same partition five times it is the paired test of one.
    x, y, fold = scores[0, :1], scores[0, 1:], folds[0]
    five = [partitions_of([s] * 5, labels, [fold] * 5) for s in (x, y)]
    once = cv_auc_test(labels, x[:, 0], y[:, 0], fold)
    assert repeated_cv_test(*five, draws=40_000).z == pytest.approx(once.z, rel=0.02)


def test_patients_of_one_side_only_move_that_side():
    labels, scores, folds = drawn(partitions=3, n=120)
    some = np.arange(120) % 5 != 0
    some[:30] = True
    a, b = partitions_of(scores, labels, folds), partitions_of(scores, labels, folds, keep=some)
    test = repeated_cv_test(a, b)
    assert test.auc_b == pytest.approx(repeated_cv_auc(b).auc, abs=1e-12)
    assert 0 < test.high - test.low < repeated_cv_auc(b).high - repeated_cv_auc(b).low


def test_the_interval_covers_where_partition_and_training_vary_and_that_of_one_does_not():
    """55 of 280 patients, 5 folds; each fold model is good or less so, by training and folds."""
    rng = np.random.default_rng(5)
    labels = np.r_[np.ones(55, int), np.zeros(225, int)]
    cohorts, number = 150, 5

    def cohort():
        own, parts, folds = rng.normal(1.2 * labels, 1.0), [], []
        for _ in range(number):
            fold = np.r_[rng.permutation(np.arange(55) % 5), rng.permutation(np.arange(225) % 5)]
            quality = np.clip(rng.normal(0.7, 0.45, 5), 0.05, None)
            parts.append((quality[fold] * own + rng.normal(0, 0.6, 280))[None, None])
            folds.append(fold)
        return np.array(parts), np.array(folds)

    found = []
    for _ in range(cohorts):
        scores, folds = cohort()
        several = repeated_cv_auc(partitions_of(scores, labels, folds), draws=500)
        one = cv_auc(labels, scores[0, 0, 0], folds[0])
        found.append((several.auc, several.low, several.high, one.low, one.high))
    auc, low, high, one_low, one_high = np.array(found).T
    truth = auc.mean()
    assert 0.92 <= np.mean((low <= truth) & (truth <= high)) <= 0.99
    assert np.mean((one_low <= truth) & (truth <= one_high)) < 0.93


def test_draws_are_those_of_the_seed():
    labels, scores, folds = drawn()
    parts = partitions_of(scores, labels, folds)
    assert repeated_cv_auc(parts) == repeated_cv_auc(parts)
    assert repeated_cv_auc(parts).low != repeated_cv_auc(parts, seed=1).low


def test_what_is_undefined_or_wrong_says_so():
    labels, scores, folds = drawn()
    parts = partitions_of(scores, labels, folds)
    lonely = folds.copy()
    lonely[1] = np.where(labels == 1, 0, folds[1])
    assert "no positive patient" in repeated_cv_auc(partitions_of(scores, labels, lonely)).reason
    assert np.isnan(repeated_cv_test(parts, partitions_of(scores, labels, lonely)).z)
    for wrong in ([parts[0]], []):
        with pytest.raises(EvaluationError, match="partitions must be 2 or more"):
            repeated_cv_auc(wrong)
    with pytest.raises(EvaluationError, match=r"equally many of each side.*got 4, 3"):
        repeated_cv_test(parts, parts[:3])
