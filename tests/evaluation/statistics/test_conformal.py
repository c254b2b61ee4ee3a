"""Conformal sets against the definition by ranks, and their coverage."""

import numpy as np
import pytest

from evaluation.errors import EvaluationError
from evaluation.statistics.conformal import class_cuts, in_sets


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25, 0.5, 1 / 3])
@pytest.mark.parametrize("ties", [False, True])
def test_a_class_is_in_the_set_by_the_rank_of_its_oddness(alpha: float, ties: bool) -> None:
    rng = np.random.default_rng(int(100 * alpha))
    labels = np.r_[np.zeros(23), np.ones(11)]
    scores = rng.normal(2 * labels, 1.5)
    new = np.r_[rng.normal(1, 2, 40), scores[:5], scores[-5:]]
    if ties:
        scores, new = np.round(scores), np.round(new)
    inside = in_sets(class_cuts(labels, scores, alpha=alpha), new)
    for label, held in zip((0, 1), inside, strict=True):
        odd = scores[labels == label] * (1 if label == 0 else -1)
        mine = new * (1 if label == 0 else -1)
        # Vovk's p-value, (1 + those at least as odd) / (n + 1), has to be above alpha; at a tie
        # with the cut the set keeps the class.
        p = np.array([(1 + (odd >= each).sum()) / (odd.size + 1) for each in mine])
        assert (held == (p > alpha + 1e-12)).all()


def test_the_floor_is_stated_and_below_it_a_class_is_in_every_set() -> None:
    labels, scores = [0] * 9 + [1] * 8, np.arange(17.0)
    negative, positive = class_cuts(labels, scores, alpha=0.1)
    assert (negative.patients, negative.needed, negative.cut) == (9, 9, 8.0)
    assert (positive.patients, positive.needed, positive.cut) == (8, 9, -np.inf)
    assert [held.tolist() for held in in_sets((negative, positive), [-99.0, 99.0])] == [
        [True, False],
        [True, True],
    ]


def test_either_class_is_missed_no_more_often_than_chosen() -> None:
    rng = np.random.default_rng(3)
    missed = []
    for _ in range(400):
        labels = np.r_[np.zeros(30), np.ones(12)]
        cuts = class_cuts(labels, rng.normal(labels), alpha=0.2)
        new = rng.normal(size=50)
        missed.append([1 - in_sets(cuts, new)[0].mean(), 1 - in_sets(cuts, new + 1)[1].mean()])
    assert (np.mean(missed, axis=0) <= 0.2).all()
    assert (np.mean(missed, axis=0) > 0.12).all()


@pytest.mark.parametrize("alpha", [0.0, 1.0, float("nan")])
def test_a_level_must_be_a_share(alpha: float) -> None:
    with pytest.raises(EvaluationError, match="alpha must be above 0 and below 1"):
        class_cuts([0, 1], [0.0, 1.0], alpha=alpha)
