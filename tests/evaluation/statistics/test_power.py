"""Power and its simulation, and the coverage and level of what the study's conclusion rests on."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from datamodules.phantom.make import PRESETS
from evaluation import (
    EvaluationError,
    auc_interval,
    delong_test,
    minimum_detectable_difference,
    optimism_of_best,
    roc_band,
    roc_curve,
    simulate_power,
    single_auc_positives,
    single_auc_power,
)
from evaluation.statistics.auc import logit_interval, placements, variance_of
from evaluation.statistics.power import separation, within_class_correlation

FIXTURES = Path(__file__).parents[1] / "fixtures"


POSITIVES, NEGATIVES, COHORTS = 27, 89, 10_000


LABELS = np.repeat([1, 0], [POSITIVES, NEGATIVES])


def oracle_scores(modality, seed):
    """Latent scores of the published phantom on many test sets: positives and negatives."""
    preset = PRESETS["published"]
    d = {"image": separation(preset.image_auc), "video": separation(preset.video_auc)}
    used = list(d) if modality == "combined" else [modality]
    rng = np.random.default_rng(seed)
    shape = (COHORTS, POSITIVES + NEGATIVES)
    z = sum(d[name] * rng.normal(LABELS * d[name], size=shape) for name in used)
    auc = 0.5 * (1 + math.erf(math.hypot(*(d[name] for name in used)) / 2))
    return z, auc


@pytest.mark.parametrize("modality", ["image", "video", "combined"])
def test_logit_intervals_cover_the_analytic_auc(modality):
    assert (PRESETS["published"].test_positives, PRESETS["published"].test_patients) == (27, 116)
    scores, truth = oracle_scores(modality, seed=1)
    above, below = placements(scores[:, :POSITIVES], scores[:, POSITIVES:])
    low, high = logit_interval(above.mean(axis=1), variance_of(above, below), level=0.95)
    covered = np.mean((low <= truth) & (truth <= high))
    assert 0.935 <= covered <= 0.965
    for row in range(0, COHORTS, 500):  # the interval of many cohorts is the public one
        one = auc_interval(LABELS, scores[row], method="logit")
        assert (low[row], high[row]) == pytest.approx((one.low, one.high), abs=1e-12)


@pytest.mark.parametrize("modality", ["image", "combined"])
def test_primary_test_keeps_its_level(modality):
    a, _ = oracle_scores(modality, seed=2)
    b, _ = oracle_scores(modality, seed=3)
    (up_a, down_a), (up_b, down_b) = (
        placements(x[:, :POSITIVES], x[:, POSITIVES:]) for x in (a, b)
    )
    z = (up_a - up_b).mean(axis=1) / np.sqrt(variance_of(up_a - up_b, down_a - down_b))
    rejected = np.mean(np.abs(z) > 1.959963984540054)
    assert 0.04 <= rejected <= 0.07
    for row in range(0, COHORTS, 500):
        assert z[row] == pytest.approx(delong_test(LABELS, a[row], b[row]).z, abs=1e-10)


POWER = json.loads((FIXTURES / "power.json").read_text())["power"]


@pytest.mark.parametrize("theirs", [row for row in POWER if row["kind"].startswith("single")])
def test_power_of_one_auc_agrees_with_proc(theirs):
    auc, cases, controls = theirs["auc"], theirs["ncases"], theirs["ncontrols"]
    power = single_auc_power(auc, positives=cases, negatives=controls)
    assert power == pytest.approx(theirs["power"], abs=1e-10)
    for required in theirs["required"]:
        positives = single_auc_positives(
            auc, negatives_per_positive=controls / cases, power=required["power"]
        )
        assert positives == pytest.approx(required["ncases"], abs=1e-10)
        assert positives * controls / cases == pytest.approx(required["ncontrols"], abs=1e-10)


def test_simulated_power_is_the_level_without_a_difference_and_one_with_a_large_one():
    null = simulate_power(0.7, 0.7, positives=27, negatives=89, draws=4000)
    assert 0.03 <= null.value <= 0.075
    assert simulate_power(0.99, 0.5, positives=27, negatives=89, draws=200).value == 1
    assert null == simulate_power(0.7, 0.7, positives=27, negatives=89, draws=4000)


def test_minimum_detectable_difference_has_its_power():
    size = {"positives": 27, "negatives": 89, "correlation": 0.5}
    found = minimum_detectable_difference(0.65, **size, draws=2000)
    power = simulate_power(0.65 + found.value, 0.65, **size, draws=4000, seed=1)
    assert power.value == pytest.approx(0.8, abs=5 * power.error + 0.03)
    assert found.error < 0.01
    larger = minimum_detectable_difference(0.65, positives=270, negatives=890, draws=200)
    assert larger.value < found.value / 2


def test_a_difference_that_no_auc_reaches_is_undefined():
    found = minimum_detectable_difference(0.9, positives=3, negatives=3, draws=200)
    assert math.isnan(found.value)
    assert "no AUC up to 0.9999 is told from 0.900" in found.reason


def test_optimism_grows_with_the_choice_and_is_that_of_normal_order_statistics():
    size = {"positives": 55, "negatives": 225, "draws": 1500}
    one = optimism_of_best(0.7, models=1, correlation=0, **size)
    assert abs(one.value) < 4 * one.error
    fifteen = optimism_of_best(0.7, models=15, correlation=0, **size)
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], [55, 225])
    sd = (
        np.mean(
            [
                auc_interval(labels, rng.normal(labels * separation(0.7))).variance
                for _ in range(100)
            ]
        )
        ** 0.5
    )
    expected = 1.7359 * sd  # mean of the greatest of 15 standard normal draws
    assert fifteen.value == pytest.approx(expected, rel=0.06)
    alike = optimism_of_best(0.7, models=15, correlation=0.9, **size)
    assert alike.value < 0.5 * fifteen.value
    folds = optimism_of_best(0.7, models=15, correlation=0, folds=5, **size)
    assert folds.value == pytest.approx(fifteen.value, rel=0.1)


def test_correlation_within_the_classes_is_found():
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [400, 200])
    common = rng.normal(size=600)
    scores = [np.exp(3 * labels + common + rng.normal(size=600)) for _ in range(4)]
    assert within_class_correlation(labels, scores) == pytest.approx(0.5, abs=0.08)
    assert within_class_correlation(labels, [*scores[:1], -scores[0]]) == 0
    assert within_class_correlation(labels, [scores[0], np.ones(600)]) == 0
    assert math.isnan(within_class_correlation(labels, scores[:1]))


def test_band_holds_the_curve_and_narrows_with_patients():
    rng = np.random.default_rng(2)
    widths = []
    for n in (50, 500):
        labels = np.repeat([0, 1], n)
        scores = np.round(rng.normal(labels), 1)  # with ties
        band = roc_band(labels, scores)
        curve = roc_curve(labels, scores)
        sensitivity = np.interp(band.specificity, curve.specificity, curve.sensitivity)
        inside = (band.low <= sensitivity + 1e-12) & (sensitivity <= band.high + 1e-12)
        assert inside[1:-1].all()
        widths.append((band.high - band.low).mean())
    assert widths[1] < widths[0] / 2
    one = roc_band([0, 1], [0.0, 1.0], points=3)
    assert one.low.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: separation(1.0), "auc must be above 0 and below 1, got 1.0"),
        (lambda: single_auc_power(0.5, positives=5, negatives=5), "auc must be above 0.5"),
        (
            lambda: single_auc_power(0.7, positives=0, negatives=5),
            "positives and negatives must be above",
        ),
        (
            lambda: single_auc_positives(0.7, negatives_per_positive=3, power=1),
            "power must be between",
        ),
        (lambda: simulate_power(0.7, 0.6, positives=1, negatives=9), "must be 2 or more"),
        (
            lambda: simulate_power(0.7, 0.6, positives=9, negatives=9, correlation=2),
            "correlation must",
        ),
        (
            lambda: optimism_of_best(
                0.7, models=2, positives=3, negatives=9, correlation=0, folds=5
            ),
            "each of 5 folds must hold a patient",
        ),
        (lambda: roc_band([1, 1], [0.1, 0.2]), r"labels must hold both classes, got 2 patients"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(EvaluationError, match=message):
        call()
