"""Calibration and decision curves against R's glm, loess, lowess, rms and dcurves."""

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import chdtrc, expit, ndtr

from evaluation import (
    EvaluationError,
    auc_interval,
    calibration,
    calibration_curve,
    confusion,
    decision_curve,
    ici_interval,
)
from evaluation.statistics.logistic import fit_logistic
from evaluation.statistics.smoothers import SMOOTHERS

FIXTURES = Path(__file__).parents[1] / "fixtures"


bounded = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def read(name):
    return json.loads((FIXTURES / f"{name}.json").read_text())


def columns(name):
    with (FIXTURES / name).open() as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}


@pytest.mark.parametrize(
    "theirs", read("calibration")["results"], ids=lambda r: r["csv"][:12] + r["marker"]
)
def test_agrees_with_r(theirs):
    data = columns(theirs["csv"])
    ours = calibration(data["y"], data[theirs["marker"]])
    odds = np.log(data[theirs["marker"]] / (1 - data[theirs["marker"]]))
    rms = fit_logistic(data["y"], np.column_stack([np.ones_like(odds), odds]), like="lrm")
    large, slope, joint = (
        theirs[name] for name in ("calibration_in_the_large", "slope", "intercept_with_slope")
    )
    val_prob = theirs["rms_val_prob"]
    auc = auc_interval(data["y"], data[theirs["marker"]])
    n, fit, rate = ours.patients, rms.fitted, ours.observed
    of_fit = -2 * np.log(np.where(data["y"] == 1, fit, 1 - fit)).sum()
    of_given = 2 * n * ours.log_loss
    of_rate = -2 * n * (rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    for mine, their in (
        (ours.patients, theirs["n"]),
        (ours.events, theirs["events"]),
        (ours.mean_probability, theirs["mean_p"]),
        (ours.observed, theirs["observed"]),
        (ours.observed_over_expected, theirs["OE"]),
        (1 / ours.observed_over_expected, theirs["EO"]),
        (ours.brier, theirs["brier"]),
        (ours.brier_null, theirs["brier_null"]),
        (ours.brier_scaled, theirs["brier_scaled"]),
        (ours.log_loss, theirs["log_loss"]),
        (ours.intercept, large["estimate"]),
        (ours.intercept_error, large["se"]),
        ((ours.intercept_low, ours.intercept_high), large["ci95_wald"]),
        (ours.slope, slope["estimate"]),
        (ours.slope_error, slope["se"]),
        ((ours.slope_low, ours.slope_high), slope["ci95_wald"]),
        (ours.joint_intercept, joint["estimate"]),
        (ours.joint_intercept_error, joint["se"]),
        (2 * ndtr(-abs(ours.intercept / ours.intercept_error)), large["p"]),
        (ours.brier, val_prob["Brier"]),
        # Likelihood ratios: of the given probabilities against the observed rate, and of the fit
        # against them; discrimination D, unreliability U and quality Q follow.
        (of_rate - of_given, val_prob["D:Chi-sq"]),
        ((of_rate - of_given - 1) / n, val_prob["D"]),
        (of_given - of_fit, val_prob["U:Chi-sq"]),
        (chdtrc(2, of_given - of_fit), val_prob["U:p"]),
        ((of_given - of_fit - 2) / n, val_prob["U"]),
        ((of_rate - 2 * of_given + of_fit + 1) / n, val_prob["Q"]),
        (np.expm1((of_given - of_rate) / n) / np.expm1(-of_rate / n), val_prob["R2"]),
        # rms stops its fit earlier than glm does, 1e-9 from the maximum.
        (rms.coefficients, (val_prob["Intercept"], val_prob["Slope"])),
    ):
        assert mine == pytest.approx(their, abs=1e-10)
    # rms counts pairs after sorting probabilities into bins of 0.002.
    assert auc.auc == pytest.approx(val_prob["C (ROC)"], abs=0.001)
    assert val_prob["Dxy"] == pytest.approx(2 * val_prob["C (ROC)"] - 1, abs=1e-10)
    assert ours.reason == ""
    assert ours.smoother == "loess"


THEIR_SMOOTHERS = {
    "loess": "ici_loess_default",
    "loess direct": "ici_loess_direct",
    "lowess": "ici_lowess_iter0",
    "lowess direct": "ici_lowess_iter0_delta0",
    "rcs": "ici_rcs3_on_logit",
}


@pytest.mark.parametrize("smoother", SMOOTHERS)
@pytest.mark.parametrize(
    "theirs", read("calibration")["results"], ids=lambda r: r["csv"][:12] + r["marker"]
)
def test_ici_agrees_with_r(theirs, smoother):
    data = columns(theirs["csv"])
    ours = calibration(data["y"], data[theirs["marker"]], smoother=smoother)
    expected = theirs[THEIR_SMOOTHERS[smoother]]
    assert ours.ici == pytest.approx(expected["ICI"], abs=1e-10)
    assert ours.e50 == pytest.approx(expected["E50"], abs=1e-10)
    assert ours.e90 == pytest.approx(expected["E90"], abs=1e-10)
    assert ours.e_max == pytest.approx(expected["Emax"], abs=1e-10)
    if smoother == "lowess":
        val_prob = theirs["rms_val_prob"]
        assert (ours.ici, ours.e90, ours.e_max) == pytest.approx(
            [val_prob[name] for name in ("Eavg", "E90", "Emax")], abs=1e-10
        )


def test_curve_holds_the_smoothed_rates_of_the_ici():
    data = columns("calibration_400.csv")
    curve = calibration_curve(data["y"], data["good"])
    assert (np.diff(curve.probability) > 0).all()
    distance = np.abs(np.interp(data["good"], curve.probability, curve.observed) - data["good"])
    assert distance.mean() == pytest.approx(calibration(data["y"], data["good"]).ici, abs=1e-12)


@pytest.mark.parametrize("smoother", SMOOTHERS)
def test_probabilities_with_many_ties_are_smoothed(smoother):
    rng = np.random.default_rng(1)
    p = rng.integers(1, 10, 200) / 10
    labels = rng.uniform(size=200) < p
    ours = calibration(labels, p, smoother=smoother)
    assert 0 <= ours.ici < 0.15
    assert ours.reason == ""


@bounded
@given(st.integers(0, 10_000), st.integers(4, 60), st.sampled_from(SMOOTHERS))
def test_every_figure_is_defined_or_explained(seed, n, smoother):
    rng = np.random.default_rng(seed)
    p = rng.integers(0, 12, n) / 11 if seed % 2 else rng.uniform(0.01, 0.99, n)
    ours = calibration(rng.integers(0, 2, n), p, smoother=smoother)
    undefined = [v for v in vars(ours).values() if isinstance(v, float) and math.isnan(v)]
    assert bool(undefined) == bool(ours.reason)


@bounded
@given(st.integers(0, 10_000), st.floats(0.3, 3), st.floats(-2, 2))
def test_slope_and_joint_intercept_undo_a_change_of_the_log_odds(seed, slope, shift):
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 1, 300)
    labels = rng.uniform(size=300) < 1 / (1 + np.exp(-odds))
    before = calibration(labels, 1 / (1 + np.exp(-odds)))
    changed = calibration(labels, 1 / (1 + np.exp(-(slope * odds + shift))))
    assert changed.slope == pytest.approx(before.slope / slope, rel=1e-6)
    assert changed.joint_intercept == pytest.approx(
        before.joint_intercept - before.slope * shift / slope, abs=1e-6
    )


@pytest.mark.parametrize(
    ("labels", "p", "reason", "undefined"),
    [
        ([], [], "no patients", ("brier", "intercept", "slope", "ici")),
        ([0, 0, 0], [0.1, 0.2, 0.3], "no positive patient", ("intercept", "slope", "ici")),
        ([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.8], "the classes are separated", ("slope",)),
        ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3], "one probability for all", ("slope", "ici")),
        ([0, 1, 0, 1], [0.0, 0.3, 0.7, 0.9], "1 probabilities of 0 or 1", ("intercept", "slope")),
    ],
)
def test_what_is_undefined_says_why(labels, p, reason, undefined):
    ours = calibration(labels, p)
    assert reason in ours.reason
    assert all(math.isnan(getattr(ours, name)) for name in undefined)


@pytest.mark.parametrize("scale", [1, 30, 300, 3000])
def test_slope_and_intercept_of_odds_that_probabilities_have_lost(scale):
    """A network that is certain: its probabilities round to 0 and 1, its log-odds do not."""
    rng = np.random.default_rng(6)
    odds = rng.normal(0.3, 1.5, 280)
    labels = rng.uniform(size=280) < 1 / (1 + np.exp(-odds))
    certain = scale * odds
    p = expit(certain)
    modest = calibration(labels, expit(odds), log_odds=odds)
    ours = calibration(labels, p, log_odds=certain)
    assert ours.reason == ""
    assert ours.slope == pytest.approx(modest.slope / scale, rel=1e-9)
    assert ours.joint_intercept == pytest.approx(modest.joint_intercept, abs=1e-9)
    # The intercept is where as many events are expected as there are.
    assert expit(certain + ours.intercept).sum() == pytest.approx(labels.sum(), abs=1e-6)
    assert math.isfinite(ours.log_loss)
    if scale >= 300:
        assert ((p == 0) | (p == 1)).any()
        assert "probabilities of 0 or 1" in calibration(labels, p).reason


def test_log_odds_of_other_probabilities_are_refused():
    with pytest.raises(EvaluationError, match="log_odds must be those of the probabilities"):
        calibration([0, 1], [0.2, 0.8], log_odds=[-1.0, 3.0])


def test_a_wrong_certainty_has_an_infinite_log_loss():
    assert calibration([0, 1, 0, 1], [1.0, 0.3, 0.7, 0.9]).log_loss == math.inf


@pytest.mark.parametrize("smoother", SMOOTHERS)
def test_a_curve_that_cannot_be_drawn_says_why(smoother):
    curve = calibration_curve([0, 1, 0], [0.5, 0.5, 0.5], smoother=smoother)
    assert curve.probability.size == 0
    assert curve.reason


@pytest.mark.parametrize("theirs", read("dca")["curves"], ids=lambda r: r["csv"])
def test_net_benefit_agrees_with_dcurves(theirs):
    data = columns(theirs["csv"])
    rows = {}
    for row in theirs["rows"]:
        rows.setdefault(row["model"], []).append(row)
    thresholds = [row["threshold"] for row in rows["all"]]
    for model in rows.keys() - {"all", "none"}:
        ours = decision_curve(data["y"], data[model], thresholds=thresholds)
        for name, values in (
            (model, ours.model),
            ("all", ours.treat_all),
            ("none", ours.treat_none),
        ):
            expected = [row["net_benefit"] for row in rows[name]]
            np.testing.assert_allclose(values, expected, atol=1e-10, rtol=0)
        odds = ours.thresholds / (1 - ours.thresholds)
        for name, values in (
            (model, ours.avoided),
            ("all", np.zeros_like(odds)),
            ("none", (ours.treat_none - ours.treat_all) / odds),
        ):
            expected = [row["net_intervention_avoided"] for row in rows[name]]
            np.testing.assert_allclose(values, expected, atol=1e-10, rtol=0)
        assert [row["threshold"] for row in rows[model]] == thresholds
    for name, mine in rows.items():
        for row in mine:
            cut = {"all": -math.inf, "none": math.inf}.get(name, row["threshold"])
            counts = confusion(data["y"], data.get(name, data["y"]), cut)
            for rate, count in (
                ("tp_rate", counts.tp),
                ("fp_rate", counts.fp),
                ("pos_rate", counts.tp + counts.fn),
            ):
                assert count / data["y"].size == pytest.approx(row[rate], abs=1e-10)


@bounded
@given(st.integers(0, 10_000))
def test_a_perfect_model_gains_the_prevalence_and_none_gains_more(seed):
    rng = np.random.default_rng(seed)
    labels, p = rng.integers(0, 2, 30), rng.uniform(size=30)
    at = np.linspace(0.05, 0.95, 19)
    perfect = decision_curve(labels, labels.astype(float), thresholds=at).model
    assert perfect == pytest.approx(labels.mean())
    assert (decision_curve(labels, p, thresholds=at).model <= perfect + 1e-12).all()


def test_wrong_input_is_refused():
    with pytest.raises(EvaluationError, match=r"probabilities must be in \[0, 1\], got 1.5"):
        calibration([0, 1], [0.5, 1.5])
    with pytest.raises(
        EvaluationError, match=r"smoother must be 'loess', 'loess direct', .* or 'rcs'"
    ):
        calibration([0, 1], [0.5, 0.5], smoother="spline")  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="thresholds must be above 0 and below 1"):
        decision_curve([0, 1], [0.5, 0.5], thresholds=[0.0, 0.5])
    with pytest.raises(EvaluationError, match="labels must hold patients, got none"):
        decision_curve([], [], thresholds=[0.5])


def test_the_smallest_cohorts_have_figures_or_a_reason_and_no_warning():
    """Of 2 to 8 patients, log-odds of any scale, ties and near separation; warnings are errors."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(2, 9))
        labels = rng.permutation(np.arange(n) < rng.integers(1, n))
        odds = rng.normal(0, 10.0 ** rng.integers(-9, 4), n) + rng.choice([0, -30, 5])
        odds = np.where(rng.random(n) < 0.2, odds[0], odds)
        for smoother in ("loess", "rcs"):
            found = calibration(labels, expit(odds), log_odds=odds, smoother=smoother)
            missing = np.isnan([found.slope, found.ici])
            assert bool(found.reason) == missing.any()


def test_intervals_have_the_width_of_the_bootstrap():
    """Of O/E (its logarithm), Brier and scaled Brier, on R's own data set."""
    data = columns("calibration_400.csv")
    labels, p = data["y"], data["good"]
    ours = calibration(labels, p)
    rng = np.random.default_rng(2)
    draws = [calibration(labels[i], p[i]) for i in rng.integers(0, p.size, (500, p.size))]
    for name, of in (
        ("observed_over_expected", np.log),
        ("brier", np.array),
        ("brier_scaled", np.array),
    ):
        low, value, high = (of(getattr(ours, name + end)) for end in ("_low", "", "_high"))
        assert (low + high) / 2 == pytest.approx(value, abs=1e-12)
        spread = np.std([of(getattr(each, name)) for each in draws])
        assert (high - low) / 2 / 1.959964 == pytest.approx(spread, rel=0.1), name


def test_intervals_of_the_brier_scores_and_of_o_e_cover():
    """400 cohorts at the size of the study: 92.5 to 97.5 % hold the true values."""
    rng = np.random.default_rng(3)
    odds = rng.normal(-1.7, 1.2, 300_000)
    labels, p = rng.uniform(size=odds.size) < expit(odds), expit(0.8 * odds + 0.1)
    truth = calibration(labels, p, smoother="lowess")
    inside = dict.fromkeys(("observed_over_expected", "brier", "brier_scaled"), 0)
    for _ in range(400):
        i = rng.integers(0, odds.size, 280)
        ours = calibration(labels[i], p[i], smoother="lowess")
        for name in inside:
            ends = getattr(ours, f"{name}_low"), getattr(ours, f"{name}_high")
            inside[name] += ends[0] <= getattr(truth, name) <= ends[1]
    assert all(0.925 <= count / 400 <= 0.975 for count in inside.values()), inside


def test_ici_interval_is_the_percentiles_of_drawn_cohorts():
    data = columns("calibration_400.csv")
    labels, p = data["y"], data["good"]
    ours = ici_interval(labels, p, draws=60, seed=5)
    rng = np.random.default_rng(5)
    drawn = [calibration(labels[i], p[i]) for i in rng.integers(0, p.size, (60, p.size))]
    for name in ("ici", "e50", "e90"):
        values = [getattr(each, name) for each in drawn]
        ends = getattr(ours, f"{name}_low"), getattr(ours, f"{name}_high")
        assert ends == pytest.approx(np.quantile(values, (0.025, 0.975)), abs=1e-12)
    assert ours.draws == 60
    assert ours == ici_interval(labels, p, draws=60, seed=5)


@pytest.mark.parametrize(
    ("labels", "p", "reason"),
    [
        ([], [], "no patients"),
        ([0, 0, 0], [0.1, 0.2, 0.3], "no positive patient"),
        ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3], "loess needs"),
        ([0, 1], [0.3, 0.4], "only .* bootstrap cohorts could be smoothed|loess needs"),
    ],
)
def test_an_ici_interval_that_is_undefined_says_why(labels, p, reason):
    ours = ici_interval(labels, p)
    assert re.search(reason, ours.reason)
    assert math.isnan(ours.ici_low)
    with pytest.raises(EvaluationError, match="draws must be 1 or more"):
        ici_interval(labels, p, draws=0)
