"""PR-AUC, F1 and MCC against scikit-learn; their intervals against exact sums and drawn tables."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef

from evaluation import Confusion, EvaluationError, average_precision, confusion
from evaluation.statistics.precision_recall import f1, f1_interval, mcc, mcc_interval


def arrays(counts):
    labels = [1] * (counts.tp + counts.fn) + [0] * (counts.tn + counts.fp)
    calls = [1] * counts.tp + [0] * counts.fn + [0] * counts.tn + [1] * counts.fp
    return np.array(labels), np.array(calls)


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    labels = rng.uniform(size=80) < 0.3
    scores = (labels + rng.normal(size=80)).round(seed % 3)
    ours = average_precision(labels, scores)
    assert ours.pr_auc == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert ours.baseline == labels.mean()
    assert 0 < ours.low < ours.pr_auc < ours.high < 1


def test_the_interval_of_the_area_covers():
    """1,000 cohorts of 55 events in 280 patients: 92 to 98 % hold the true area."""
    rng = np.random.default_rng(1)

    def draw(events, others):
        scores = np.concatenate([rng.normal(1.2, 1, events), rng.normal(0, 1, others)])
        return np.repeat([1, 0], [events, others]), scores

    truth = average_precision(*draw(55_000, 225_000)).pr_auc
    found = [average_precision(*draw(55, 225)) for _ in range(1000)]
    assert 0.92 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.98
    # A score that tells nothing reaches the prevalence.
    labels = np.arange(40_000) % 5 == 0
    nothing = average_precision(labels, rng.normal(size=40_000))
    assert nothing.pr_auc == pytest.approx(nothing.baseline, abs=0.01)


@pytest.mark.parametrize(
    ("labels", "scores", "reason"),
    [
        ([], [], "no patients"),
        ([1, 1], [0.1, 0.2], "no negative patient"),
        ([0, 0], [0.1, 0.2], "no positive patient"),
        ([0, 1], [0.1, 0.2], "all positives score above all negatives"),
    ],
)
def test_an_undefined_area_says_why(labels, scores, reason):
    ours = average_precision(labels, scores)
    assert reason in ours.reason
    assert math.isnan(ours.low)


TABLES = [
    Confusion(tp=tp, fn=fn, tn=tn, fp=fp)
    for tp, fn, tn, fp in product((0, 1, 20), (0, 5), (0, 60, 7), (0, 9))
    if tp + fn + tn + fp
]


@pytest.mark.parametrize("counts", TABLES, ids=str)
def test_f1_and_mcc_are_scikit_learns_or_undefined(counts):
    labels, calls = arrays(counts)
    if counts.tp + counts.fp + counts.fn:
        assert f1(counts) == pytest.approx(f1_score(labels, calls), abs=1e-12)
        low, high = f1_interval(counts)
        assert low <= f1(counts) <= high
    else:
        assert math.isnan(f1(counts))
    if len(set(labels)) == len(set(calls)) == 2:
        assert mcc(counts) == pytest.approx(matthews_corrcoef(labels, calls), abs=1e-12)
    else:
        assert math.isnan(mcc(counts))
    low, high = mcc_interval(counts)
    assert math.isnan(low) if not abs(mcc(counts)) < 1 else -1 < low <= mcc(counts) <= high < 1


def test_the_interval_of_f1_covers_whatever_the_truth_is():
    """Exactly, over all tables with as many patients that are positive or called so."""
    total = 40
    for share in (0.1, 0.35, 0.6, 0.9):
        truth = 2 * share / (1 + share)
        inside = 0.0
        for tp in range(total + 1):
            low, high = f1_interval(Confusion(tp=tp, fn=total - tp, tn=100, fp=0))
            inside += binom.pmf(tp, total, share) * (low <= truth <= high)
        assert inside >= 0.95


@pytest.mark.parametrize("shares", [(0.14, 0.06, 0.6, 0.2), (0.05, 0.15, 0.7, 0.1)])
def test_the_variance_of_mcc_is_that_of_drawn_tables(shares):
    rng = np.random.default_rng(3)
    names = ("tp", "fn", "tn", "fp")
    n = 4000
    expected = dict(zip(names, (round(share * n) for share in shares), strict=True))
    counts = Confusion(**expected)
    drawn = [
        mcc(Confusion(**dict(zip(names, map(int, row), strict=True))))
        for row in rng.multinomial(n, shares, 4000)
    ]
    low, high = mcc_interval(counts)
    half = (math.atanh(high) - math.atanh(low)) / 2 / 1.959964
    assert half == pytest.approx(np.std(np.arctanh(drawn)), rel=0.04)
    truth, inside = mcc(counts), []
    for row in rng.multinomial(280, shares, 3000):
        ends = mcc_interval(Confusion(**dict(zip(names, map(int, row), strict=True))))
        inside.append(ends[0] <= truth <= ends[1])
    assert 0.935 <= np.mean(inside) <= 0.965


def test_wrong_input_is_refused():
    with pytest.raises(EvaluationError, match="labels must be 0 or 1"):
        average_precision([0, 2], [0.1, 0.2])
    with pytest.raises(EvaluationError, match="level must be between 0 and 1"):
        mcc_interval(confusion([0, 1], [0, 1], 0.5), level=2)
