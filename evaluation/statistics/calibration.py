"""Do predicted probabilities agree with observed rates? Intercept, slope, Brier, ICI."""

from dataclasses import dataclass, fields
from math import nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import (
    Bools,
    Floats,
    checked,
    checked_probabilities,
    normal_quantile,
    one_class,
    one_of,
    undefined,
)
from evaluation.statistics.logistic import fit_logistic
from evaluation.statistics.recalibration import joint_fit
from evaluation.statistics.smoothers import SMOOTHERS, Smoother, TooFewValuesError, smooth


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Agreement of probabilities with labels; NaN where undefined, with the reason.

    Attributes:
        patients: Number of patients.
        events: Of them positive.
        mean_probability: Mean prediction.
        observed: Observed rate.
        observed_over_expected: Their ratio, observed by mean; `observed_over_expected_low` and
            `observed_over_expected_high`, its interval.
        intercept: Calibration in the large: logistic intercept with the log-odds as offset; 0 is
            right, below 0 the predictions are too high.
        intercept_error: Its standard error; `intercept_low` and `intercept_high`, Wald's interval.
        slope: Logistic slope on the log-odds; 1 is right, below 1 they are too extreme.
        slope_error: Its standard error; `slope_low` and `slope_high`, Wald's interval.
        joint_intercept: The intercept that goes with the slope; `joint_intercept_error`.
        brier: Mean squared difference of probability and label; `brier_low`, `brier_high`.
        brier_null: The same for the observed rate given to everyone.
        brier_scaled: 1 - brier / brier_null; `brier_scaled_low`, `brier_scaled_high`.
        log_loss: Mean negative log-likelihood.
        ici: Integrated calibration index: the mean distance of prediction and smoothed rate
            (Austin & Steyerberg 2019, Statistics in Medicine 38:4051).
        e50: Median of the distances; `e90` their 90th percentile, `e_max` the greatest.
        smoother: What smoothed the rate: one of SMOOTHERS.
        reason: Why a figure is NaN; "" if none is.
    """

    patients: int
    events: int
    mean_probability: float
    observed: float
    observed_over_expected: float
    observed_over_expected_low: float
    observed_over_expected_high: float
    intercept: float
    intercept_error: float
    intercept_low: float
    intercept_high: float
    slope: float
    slope_error: float
    slope_low: float
    slope_high: float
    joint_intercept: float
    joint_intercept_error: float
    brier: float
    brier_low: float
    brier_high: float
    brier_null: float
    brier_scaled: float
    brier_scaled_low: float
    brier_scaled_high: float
    log_loss: float
    ici: float
    e50: float
    e90: float
    e_max: float
    smoother: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class IciInterval:
    """Percentile intervals of the distances of prediction and smoothed rate.

    Attributes:
        ici_low: Lower end of the interval of the ICI.
        ici_high: Upper end of it.
        e50_low: Lower end of the interval of the median distance.
        e50_high: Upper end of it.
        e90_low: Lower end of the interval of the 90th percentile of the distance.
        e90_high: Upper end of it.
        draws: Bootstrap cohorts on which the rate could be smoothed.
        reason: Why the ends are NaN; "" if they are not.
    """

    ici_low: float
    ici_high: float
    e50_low: float
    e50_high: float
    e90_low: float
    e90_high: float
    draws: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class CalibrationCurve:
    """A smoothed event rate over the probabilities that occur.

    Attributes:
        probability: (points,) distinct probabilities, increasing.
        observed: (points,) smoothed rates; local polynomials may leave [0, 1].
        reason: Why there are no points; "" if there are.
    """

    probability: Floats
    observed: Floats
    reason: str


def calibration(
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    log_odds: ArrayLike | None = None,
    level: float = 0.95,
    smoother: Smoother = "loess",
) -> Calibration:
    """All figures of the agreement of probabilities with labels.

    Intercept and slope are those of Cox 1958 (Biometrika 45:562), as in Van Calster et al. 2019
    (BMC Medicine 17:230). Intervals of O/E (on the logarithm), of the Brier score and of the scaled
    one are Wald's by the delta method, patients being drawn at random with their predictions; of a
    Brier score that is the interval of a mean (Bradley et al. 2008, Weather and Forecasting
    23:992). Those of the ICI are `ici_interval`'s.

    Args:
        labels: (n,) 0 or 1.
        probabilities: (n,) in [0, 1].
        log_odds: (n,) of the same predictions, which a probability that rounds to 0 or 1 has lost;
            by default those of the probabilities.
        level: Coverage of the intervals, in (0, 1).
        smoother: For the ICI; "loess" is what its authors use.

    Raises:
        EvaluationError: labels other than 0/1, NaN or probabilities outside [0, 1], unequal
            lengths, log-odds of other probabilities, a wrong level or smoother.
    """
    y, p = checked_probabilities(labels, probabilities)
    with np.errstate(divide="ignore"):
        odds = np.log(p / (1 - p)) if log_odds is None else _checked_odds(y, p, log_odds)
    one_of("smoother", smoother, SMOOTHERS)
    z = normal_quantile(level)
    figures: dict[str, Any] = {field.name: nan for field in fields(Calibration)}
    figures |= {"patients": y.size, "events": int(y.sum()), "smoother": smoother}
    reasons = []
    if y.size:
        figures |= _scores(y, p, odds, z)
    if reason := one_class(y) or _infinite(odds):
        reasons.append(reason)
    else:
        estimates, reason = _recalibration(y, odds)
        reasons.append(reason)
        figures |= estimates
        for name in ("intercept", "slope"):
            figures[f"{name}_low"] = figures[name] - z * figures[f"{name}_error"]
            figures[f"{name}_high"] = figures[name] + z * figures[f"{name}_error"]
    rate, reason = _smoothed(y, p, smoother)
    if not reason:
        figures |= dict(zip(("ici", "e50", "e90", "e_max"), _distances(rate, p), strict=True))
    distinct = dict.fromkeys(filter(None, [*reasons, reason]))
    return Calibration(**figures | {"reason": "; ".join(distinct)})


def ici_interval(
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    level: float = 0.95,
    smoother: Smoother = "loess",
    draws: int = 200,
    seed: int = 0,
) -> IciInterval:
    """Percentile intervals of ICI, E50 and E90 by drawing patients with replacement.

    As Austin & Steyerberg 2019 (Statistics in Medicine 38:4051). They are distances, so that even
    perfect predictions have an ICI above 0 by chance, and 0 lies in no interval: of 280 patients
    with well calibrated predictions the mean ICI is 0.04. From a true ICI of 0.08 on it covers 93
    to 95 %.

    Args:
        labels: (n,) 0 or 1.
        probabilities: (n,) in [0, 1].
        level: Coverage of the intervals, in (0, 1).
        smoother: As of `calibration`.
        draws: Bootstrap cohorts.
        seed: Seed of the draws.

    Raises:
        EvaluationError: as `calibration`, or without a draw.
    """
    y, p = checked_probabilities(labels, probabilities)
    one_of("smoother", smoother, SMOOTHERS)
    normal_quantile(level)
    if draws < 1:
        raise EvaluationError(f"draws must be 1 or more, got {draws}. Draw some cohorts.")
    if reason := _smoothed(y, p, smoother)[1]:
        return undefined(IciInterval, reason, draws=0)
    rng = np.random.default_rng(seed)
    found = []
    for drawn in rng.integers(0, y.size, (draws, y.size)):
        rate, reason = _smoothed(y[drawn], p[drawn], smoother)
        if not reason:
            found.append(_distances(rate, p[drawn])[:3])
    if 2 * len(found) < draws:
        few = f"only {len(found)} of {draws} bootstrap cohorts could be smoothed"
        return undefined(IciInterval, few, draws=len(found))
    ends = np.quantile(found, ((1 - level) / 2, (1 + level) / 2), axis=0)
    names = ("ici_low", "e50_low", "e90_low", "ici_high", "e50_high", "e90_high")
    return IciInterval(
        **dict(zip(names, ends.ravel().tolist(), strict=True)), draws=len(found), reason=""
    )


def calibration_curve(
    labels: ArrayLike, probabilities: ArrayLike, *, smoother: Smoother = "loess"
) -> CalibrationCurve:
    """The smoothed event rate over the predicted probability, for a figure.

    Raises:
        EvaluationError: as `calibration`.
    """
    y, p = checked_probabilities(labels, probabilities)
    one_of("smoother", smoother, SMOOTHERS)
    rate, reason = _smoothed(y, p, smoother)
    if reason:
        return CalibrationCurve(probability=np.empty(0), observed=np.empty(0), reason=reason)
    distinct, first = np.unique(p, return_index=True)
    return CalibrationCurve(probability=distinct, observed=rate[first], reason="")


def _checked_odds(y: Bools, p: Floats, log_odds: ArrayLike) -> Floats:
    from scipy.special import expit

    _, (odds,) = checked(y, log_odds)
    off = np.abs(expit(odds) - p)
    if (off > 1e-6).any():
        raise EvaluationError(
            f"log_odds must be those of the probabilities, got {odds[off.argmax()]:g} beside "
            f"{p[off.argmax()]:g}. Give both of the same predictions."
        )
    return odds


def _scores(y: Bools, p: Floats, odds: Floats, z: float) -> dict[str, float]:
    squares, rate = (p - y) ** 2, float(y.mean())
    brier, null = float(squares.mean()), rate * (1 - rate)
    figures = {
        "mean_probability": float(p.mean()),
        "observed": rate,
        "observed_over_expected": rate / float(p.mean()) if p.any() else nan,
        "brier": brier,
        "brier_null": null,
        "brier_scaled": 1 - brier / null if null else nan,
        "log_loss": float(np.logaddexp(0, np.where(y, -odds, odds)).mean()),
    }
    # What each patient adds to the figure, or to its logarithm; their mean square is its variance.
    influences = {"brier": squares - brier}
    if null:
        influences["brier_scaled"] = (
            brier * (1 - 2 * rate) / null * (y - rate) - squares + brier
        ) / null
        if p.any():
            influences["observed_over_expected"] = y / rate - p / p.mean()
    for name, influence in influences.items():
        if y.size > 1:
            half = z * float(influence.std(ddof=1)) / np.sqrt(y.size)
            is_ratio = name == "observed_over_expected"
            for end, way in (("low", -half), ("high", half)):
                value = figures[name]
                figures[f"{name}_{end}"] = float(value * np.exp(way) if is_ratio else value + way)
    return figures


def _distances(rate: Floats, p: Floats) -> list[float]:
    """Mean, median, 90th percentile and maximum of the distance of prediction and rate."""
    distance = np.abs(rate - p)
    return [float(distance.mean()), *np.quantile(distance, (0.5, 0.9, 1)).tolist()]


def _recalibration(y: Bools, odds: Floats) -> tuple[dict[str, float], str]:
    large = fit_logistic(y.astype(np.float64), np.ones((y.size, 1)), offset=odds)
    estimates = {
        "intercept": float(large.coefficients[0]),
        "intercept_error": float(large.errors[0]),
    }
    joint, reason = joint_fit(y, odds)
    if joint is None:
        return estimates, reason
    return estimates | {
        "slope": float(joint.coefficients[1]),
        "slope_error": float(joint.errors[1]),
        "joint_intercept": float(joint.coefficients[0]),
        "joint_intercept_error": float(joint.errors[0]),
    }, ""


def _smoothed(y: Bools, p: Floats, smoother: Smoother) -> tuple[Floats, str]:
    with np.errstate(divide="ignore"):
        reason = _infinite(np.log(p / (1 - p))) if smoother == "rcs" else ""
    if reason := one_class(y) or reason:
        return np.empty(0), reason
    try:
        return smooth(y.astype(np.float64), p, smoother), ""
    except TooFewValuesError as error:
        return np.empty(0), str(error)


def _infinite(odds: Floats) -> str:
    certain = int(np.isinf(odds).sum())
    return f"{certain} probabilities of 0 or 1: their log-odds are infinite" if certain else ""
