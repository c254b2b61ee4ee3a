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
)
from evaluation.statistics.logistic import fit_logistic
from evaluation.statistics.smoothers import SMOOTHERS, Smoother, TooFewValuesError, smooth


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Agreement of probabilities with labels; NaN where undefined, with the reason.

    Attributes:
        patients: Number of patients.
        events: Of them positive.
        mean_probability: Mean prediction.
        observed: Observed rate.
        observed_over_expected: Their ratio.
        intercept: Calibration in the large: logistic intercept with the log-odds as offset; 0 is
            right, below 0 the predictions are too high.
        intercept_error: Its standard error; `intercept_low` and `intercept_high`, Wald's interval.
        slope: Logistic slope on the log-odds; 1 is right, below 1 they are too extreme.
        slope_error: Its standard error; `slope_low` and `slope_high`, Wald's interval.
        joint_intercept: The intercept that goes with the slope; `joint_intercept_error`.
        brier: Mean squared difference of probability and label.
        brier_null: The same for the observed rate given to everyone.
        brier_scaled: 1 - brier / brier_null.
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
    brier_null: float
    brier_scaled: float
    log_loss: float
    ici: float
    e50: float
    e90: float
    e_max: float
    smoother: str
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
    (BMC Medicine 17:230).

    Args:
        labels: (n,) 0 or 1.
        probabilities: (n,) in [0, 1].
        log_odds: (n,) of the same predictions, which a probability that rounds to 0 or 1 has lost;
            by default those of the probabilities.
        level: Coverage of the intervals of intercept and slope, in (0, 1).
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
        figures |= _scores(y, p, odds)
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
        distance = np.abs(rate - p)
        e50, e90 = np.quantile(distance, (0.5, 0.9))
        figures |= {
            "ici": float(distance.mean()),
            "e50": float(e50),
            "e90": float(e90),
            "e_max": float(distance.max()),
        }
    distinct = dict.fromkeys(filter(None, [*reasons, reason]))
    return Calibration(**figures | {"reason": "; ".join(distinct)})


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


def _scores(y: Bools, p: Floats, odds: Floats) -> dict[str, float]:
    brier, rate = float(np.mean((p - y) ** 2)), float(y.mean())
    null = rate * (1 - rate)
    return {
        "mean_probability": float(p.mean()),
        "observed": rate,
        "observed_over_expected": rate / float(p.mean()) if p.any() else nan,
        "brier": brier,
        "brier_null": null,
        "brier_scaled": 1 - brier / null if null else nan,
        "log_loss": float(np.logaddexp(0, np.where(y, -odds, odds)).mean()),
    }


def _recalibration(y: Bools, odds: Floats) -> tuple[dict[str, float], str]:
    labels = y.astype(np.float64)
    large = fit_logistic(labels, np.ones((y.size, 1)), offset=odds)
    estimates = {
        "intercept": float(large.coefficients[0]),
        "intercept_error": float(large.errors[0]),
    }
    positives, negatives = odds[y], odds[~y]
    if odds.min() == odds.max():
        return estimates, "one probability for all patients has no slope"
    if positives.min() >= negatives.max() or positives.max() <= negatives.min():
        return estimates, "the classes are separated: the slope is infinite"
    joint = fit_logistic(labels, np.column_stack([np.ones_like(odds), odds]))
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
