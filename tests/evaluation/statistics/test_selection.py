"""The best of several models, corrected for the choice: against brute force, and by simulation."""

import math

import numpy as np
import pytest
from scipy.special import ndtri

from evaluation import EvaluationError, auc_interval, best_of, cv_auc
from evaluation.statistics.selection import resampled_aucs

LABELS, FOLDS = np.tile(np.repeat([1, 0], [11, 45]), 5), np.repeat(np.arange(5), 56)


def test_a_cohort_drawn_is_a_cohort_scored():
    """Every drawn AUC is one of a cohort with patients repeated within fold and class."""
    labels, folds = np.array([1, 0, 0, 1, 0, 0]), np.array([0, 0, 0, 1, 1, 1])
    scores = np.array([[2.0, 1, 3, 5, 5, 4], [1.0, 2, 3, 3, 2, 1]])
    observed, drawn = resampled_aucs(labels == 1, scores, folds, draws=400, seed=0)
    assert observed == pytest.approx([cv_auc(labels, x, folds).auc for x in scores])
    possible = set()
    for first in ([1, 1], [1, 2], [2, 2]):
        for second in ([4, 4], [4, 5], [5, 5]):
            rows = [0, *first], [3, *second]
            possible.add(
                tuple(
                    round(sum(auc_interval(labels[r], x[r]).auc for r in rows) / 2, 12)
                    for x in scores
                )
            )
    assert {tuple(row) for row in drawn.round(12).tolist()} == possible


def test_the_correction_removes_most_of_the_optimism_and_its_interval_covers():
    """Five architectures alike, correlated by half, at the size of the reference study."""
    rng = np.random.default_rng(5)
    naive, corrected, covered, truth = [], [], 0, 0.7
    for seed in range(300):
        shared, own = rng.normal(size=LABELS.size), rng.normal(size=(5, LABELS.size))
        scores = 2**0.5 * ndtri(truth) * LABELS + 0.5**0.5 * (shared + own)
        best = best_of(LABELS, scores, FOLDS, draws=200, seed=seed)
        naive.append(best.naive - truth)
        corrected.append(best.auc - truth)
        covered += best.low <= truth <= best.high
    assert np.mean(naive) > 0.02
    assert abs(np.mean(corrected)) < np.mean(naive) / 2
    assert 0.93 <= covered / 300 <= 0.99


def test_of_one_model_nothing_is_chosen_and_seeds_give_the_same_again():
    scores = np.random.default_rng(1).normal(LABELS, size=(3, LABELS.size))
    one = best_of(LABELS, scores[0], FOLDS)
    assert (one.optimism, one.naive, one.auc) == (0, one.auc, cv_auc(LABELS, scores[0], FOLDS).auc)
    assert best_of(LABELS, scores, FOLDS) == best_of(LABELS, scores, FOLDS)
    assert best_of(LABELS, scores, FOLDS).draws == 1_000


def test_what_is_undefined_says_why():
    best = best_of([0, 0, 1, 0], np.zeros((2, 4)), [0, 0, 1, 1])
    assert best.reason == "fold 0: no positive patient"
    assert best.model == -1
    assert math.isnan(best.auc)
    with pytest.raises(EvaluationError, match="draws must be 1 or more, got 0"):
        best_of(LABELS, np.zeros((2, LABELS.size)), FOLDS, draws=0)
