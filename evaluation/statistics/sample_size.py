"""Riley's criteria: how many patients a prediction model with a binary outcome needs.

Development: Riley et al. 2019 (Statistics in Medicine 38:1276) and 2020 (BMJ 368:m441). Validation:
Riley et al. 2021 (Statistics in Medicine 40:4230) and 2024 (BMJ 384:e074821). Where a figure of the
model must be assumed, it follows from its AUC and the prevalence by the binormal model, negatives
N(0, 1) and positives N(d, 1), whose log-odds are linear in the score: as Riley, Van Calster &
Collins 2021 (Statistics in Medicine 40:859), by integration instead of simulation.
"""

from dataclasses import dataclass
from math import asinh, ceil, floor, log, sqrt

import numpy as np

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import Floats, check_share
from evaluation.statistics.power import separation

_Z = 1.96  # as published


@dataclass(frozen=True, kw_only=True)
class DevelopmentSize:
    """Patients that a logistic model needs to be developed, by criterion.

    Attributes:
        shrinkage: So that its predictors' effects are overfitted by 10 % at most.
        optimism: So that apparent and true Nagelkerke's R² differ by 0.05 at most.
        risk: So that the mean risk is known to 0.05.
    """

    shrinkage: int
    optimism: int
    risk: int


@dataclass(frozen=True, kw_only=True)
class ValidationSize:
    """Patients on whom a model must be scored for 95 % intervals of the widths asked for.

    Attributes:
        observed_over_expected: Of the ratio of observed to expected events, at a true 1.
        slope: Of the calibration slope, at a true 1.
        auc: Of the AUC.
    """

    observed_over_expected: int
    slope: int
    auc: int


def cox_snell(auc: float, prevalence: float) -> float:
    """Cox and Snell's R² of a well calibrated model with this AUC.

    Raises:
        EvaluationError: an AUC or a prevalence that is not between 0 and 1.
    """
    check_share("prevalence", prevalence)
    x, weight = _scores(auc, prevalence)
    odds = _log_odds(x, auc, prevalence)
    events = prevalence * _normal(x - separation(auc))
    others = weight - events
    gained = (-events * np.logaddexp(0, -odds) - others * np.logaddexp(0, odds)).sum()
    null = prevalence * log(prevalence) + (1 - prevalence) * log(1 - prevalence)
    step = x[1] - x[0]
    return float(1 - np.exp(2 * (null - gained * step)))


def development_size(prevalence: float, r2: float, *, parameters: int = 1) -> DevelopmentSize:
    """Riley's three criteria for the development of a logistic model.

    Args:
        prevalence: In (0, 1).
        r2: Cox and Snell's R² that the model is expected to have.
        parameters: Candidate predictor parameters, without the intercept.

    Raises:
        EvaluationError: a value out of its range.
    """
    if parameters < 1:
        raise EvaluationError(f"parameters must be 1 or more, got {parameters}. Count them.")
    first, second = (parameters / rate for rate in _per_patient(prevalence, r2))
    risk = (_Z / 0.05) ** 2 * prevalence * (1 - prevalence)
    return DevelopmentSize(shrinkage=ceil(first), optimism=ceil(second), risk=ceil(risk))


def supported_parameters(patients: int, prevalence: float, r2: float) -> tuple[int, int]:
    """How many predictor parameters this many patients support, by the first two criteria.

    Raises:
        EvaluationError: as `development_size`.
    """
    first, second = (floor(patients * rate) for rate in _per_patient(prevalence, r2))
    return first, second


def validation_size(
    prevalence: float,
    auc: float,
    *,
    log_odds: tuple[float, float] | None = None,
    oe_width: float = 0.2,
    slope_width: float = 0.2,
    auc_width: float = 0.1,
) -> ValidationSize:
    """Riley's criteria for the external validation of a model with a binary outcome.

    Args:
        prevalence: In (0, 1).
        auc: Expected, above 0.5 and below 1.
        log_odds: Mean and SD of the predicted log-odds, if they are normal; by default those that
            follow from AUC and prevalence.
        oe_width: Width of the interval of O/E.
        slope_width: Of the calibration slope.
        auc_width: Of the AUC.

    Raises:
        EvaluationError: a value out of its range.
    """
    check_share("prevalence", prevalence)
    if not 0.5 < auc < 1:
        raise EvaluationError(
            f"auc must be above 0.5 and below 1, got {auc!r}. No size can be found for others."
        )
    if min(oe_width, slope_width, auc_width) <= 0:
        raise EvaluationError("widths must be above 0, got one that is not. Give a width.")
    error = asinh(oe_width / 2) / _Z  # of the logarithm
    ratio = (1 - prevalence) / (prevalence * error**2)
    return ValidationSize(
        observed_over_expected=ceil(ratio),
        slope=ceil(_slope_variance(auc, prevalence, log_odds) / (slope_width / 2 / _Z) ** 2),
        auc=_auc_size(auc, prevalence, auc_width / 2 / _Z),
    )


def _per_patient(prevalence: float, r2: float) -> tuple[float, float]:
    """Parameters that a patient pays for, by shrinkage and by optimism."""
    check_share("prevalence", prevalence)
    null = prevalence * log(prevalence) + (1 - prevalence) * log(1 - prevalence)
    largest = 1 - np.exp(2 * null)
    if not 0 < r2 < largest:
        raise EvaluationError(
            f"r2 must be above 0 and below {largest:.3f}, the largest at this prevalence, got "
            f"{r2!r}. Give Cox and Snell's R²."
        )
    shrinkages = 0.9, r2 / (r2 + 0.05 * largest)
    first, second = (float((s - 1) * np.log(1 - r2 / s)) for s in shrinkages)
    return first, second


def _slope_variance(auc: float, prevalence: float, log_odds: tuple[float, float] | None) -> float:
    """Of one patient, the variance of the calibration slope of a model that is right."""
    if log_odds is None:
        x, weight = _scores(auc, prevalence)
        odds = _log_odds(x, auc, prevalence)
    else:
        x = np.linspace(-9, 9, 4001)
        weight, odds = _normal(x), log_odds[0] + log_odds[1] * x
    step = x[1] - x[0]
    information = weight * np.exp(-np.logaddexp(0, odds) - np.logaddexp(0, -odds)) * step
    a, b, c = (float((information * odds**power).sum()) for power in range(3))
    return a / (a * c - b**2)


def _auc_size(auc: float, prevalence: float, error: float) -> int:
    """The fewest patients of whom Newcombe's standard error is this small.

    Newcombe 2006 (Statistics in Medicine 25:559), method 4.
    """

    def reached(n: int) -> bool:
        spread = 1 + (n / 2 - 1) * ((1 - auc) / (2 - auc) + auc / (1 + auc))
        variance = auc * (1 - auc) * spread / (n**2 * prevalence * (1 - prevalence))
        return sqrt(variance) <= error

    low, high = 1, 2
    while not reached(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _scores(auc: float, prevalence: float) -> tuple[Floats, Floats]:
    """Binormal scores, evenly spaced, and the density of all patients at each."""
    d = separation(auc)
    x = np.linspace(min(0, d) - 9, max(0, d) + 9, 4001)
    return x, np.asarray((1 - prevalence) * _normal(x) + prevalence * _normal(x - d))


def _log_odds(x: Floats, auc: float, prevalence: float) -> Floats:
    d = separation(auc)
    return np.asarray(log(prevalence / (1 - prevalence)) + d * x - d**2 / 2)


def _normal(x: Floats) -> Floats:
    return np.asarray(np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))
