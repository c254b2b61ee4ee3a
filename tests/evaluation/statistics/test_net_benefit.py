"""Intervals of net benefit and its paired difference, against plain sums and the bootstrap."""

import math

import numpy as np
import pytest

from evaluation import EvaluationError, decision_curve, net_benefit_difference

AT = (0.1, 0.2, 0.35)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(4)
    odds = rng.normal(-1.4, 1.2, 240)
    labels = rng.uniform(size=240) < 1 / (1 + np.exp(-odds))
    models = [1 / (1 + np.exp(-(odds + rng.normal(0, s, 240)))) for s in (0.4, 0.8, 1.5, 2.0)]
    return labels, np.array(models)


def plain(labels, p, at):
    """Net benefit by the definition, from counts."""
    tp = sum(y and q >= at for y, q in zip(labels, p, strict=True))
    fp = sum(not y and q >= at for y, q in zip(labels, p, strict=True))
    return tp / len(labels) - fp / len(labels) * at / (1 - at)


def test_the_band_has_the_width_of_the_bootstrap(data):
    labels, (p, *_) = data
    ours = decision_curve(labels, p, thresholds=AT)
    rng = np.random.default_rng(0)
    drawn = np.array(
        [
            decision_curve(labels[i], p[i], thresholds=AT).model
            for i in rng.integers(0, len(p), (3000, len(p)))
        ]
    )
    half = (ours.high - ours.low) / 2
    np.testing.assert_allclose(half / 1.959964, drawn.std(axis=0), rtol=0.05)
    np.testing.assert_allclose((ours.high + ours.low) / 2, ours.model, atol=1e-12)
    wider = decision_curve(labels, p, thresholds=AT, level=0.99)
    np.testing.assert_allclose((wider.high - wider.low) / 2 / half, 2.575829 / 1.959964, rtol=1e-6)


def test_the_difference_of_means_over_models_is_that_of_the_definition(data):
    labels, models = data
    ours = net_benefit_difference(labels, models[:2], models[2:], thresholds=AT)
    expected = [
        np.mean([plain(labels, p, at) for p in models[:2]])
        - np.mean([plain(labels, p, at) for p in models[2:]])
        for at in AT
    ]
    np.testing.assert_allclose(ours.difference, expected, atol=1e-12)
    assert ours.mean == pytest.approx(np.mean(expected), abs=1e-12)
    rng = np.random.default_rng(0)
    drawn = [
        net_benefit_difference(labels[i], models[:2, i], models[2:, i], thresholds=AT)
        for i in rng.integers(0, len(labels), (1500, len(labels)))
    ]
    spread = np.std([each.difference for each in drawn], axis=0)
    np.testing.assert_allclose((ours.high - ours.low) / 2 / 1.959964, spread, rtol=0.08)
    overall = np.std([each.mean for each in drawn])
    assert (ours.mean_high - ours.mean_low) / 2 / 1.959964 == pytest.approx(overall, rel=0.08)


def test_the_pairing_is_used(data):
    """Two models that call almost alike differ by less than their own intervals say."""
    labels, models = data
    near = np.clip(models[0] + 0.01, 0, 1)
    apart = net_benefit_difference(labels, models[0], near, thresholds=AT)
    own = decision_curve(labels, models[0], thresholds=AT)
    assert (apart.high - apart.low < (own.high - own.low) / 2).all()
    same = net_benefit_difference(labels, models[0], models[0], thresholds=AT)
    assert (same.mean, same.mean_low, same.mean_high) == (0, 0, 0)


def test_intervals_cover(data):
    """Of 2,000 drawn cohorts of 55 events in 280 patients, 93.5 to 96.5 % hold the true value."""
    rng = np.random.default_rng(8)
    odds = rng.normal(-1.75, 1.3, 400_000)
    labels = rng.uniform(size=odds.size) < 1 / (1 + np.exp(-odds))
    a, b = (1 / (1 + np.exp(-(odds + rng.normal(0, s, odds.size)))) for s in (0.5, 1.2))
    truth = net_benefit_difference(labels, a, b, thresholds=AT).mean
    inside = 0
    for _ in range(2000):
        i = rng.integers(0, odds.size, 280)
        ours = net_benefit_difference(labels[i], a[i], b[i], thresholds=AT)
        inside += ours.mean_low <= truth <= ours.mean_high
    assert 0.935 <= inside / 2000 <= 0.965


def test_one_patient_has_no_interval_and_one_class_has_one():
    one = decision_curve([1], [0.3], thresholds=[0.2])
    assert one.model[0] == 1
    assert math.isnan(one.low[0])
    none = net_benefit_difference([0, 0, 0], [0.1, 0.3, 0.5], [0.5, 0.3, 0.1], thresholds=[0.2])
    assert none.difference[0] == 0
    assert none.high[0] > 0


@pytest.mark.parametrize(
    ("labels", "a", "at", "message"),
    [
        ([0, 1], [0.2, 1.2], [0.1], "probabilities must be in"),
        ([0, 1], [0.2, 0.7], [1.0], "thresholds must be above 0 and below 1"),
        ([0, 1], [0.2, 0.7], [], "thresholds must be above 0 and below 1"),
        ([], [], [0.1], "labels must hold patients, got none"),
        ([0, 1], [0.2, 0.7, 0.1], [0.1], "scores must be as many as labels"),
    ],
)
def test_wrong_input_is_refused(labels, a, at, message):
    with pytest.raises(EvaluationError, match=message):
        net_benefit_difference(labels, a, [0.5] * len(labels), thresholds=at)
