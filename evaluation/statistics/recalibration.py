"""Maps from a model's log-odds to better calibrated ones, fitted on patients of other folds."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from evaluation.statistics.checks import Bools, Floats, checked, one_class, same_length, undefined
from evaluation.statistics.logistic import LogisticFit, fit_logistic


@dataclass(frozen=True, kw_only=True)
class Recalibration:
    """Logistic recalibration: recalibrated log-odds = intercept + slope · log-odds.

    Attributes:
        patients: That it was fitted on.
        events: Of them positive.
        intercept: 0 leaves log-odds where they are; `intercept_error`, its standard error.
        slope: 1 leaves their spread as it is; `slope_error`, its standard error.
        reason: Why there is no map, and the figures are NaN; "" if there is.
    """

    patients: int
    events: int
    intercept: float
    intercept_error: float
    slope: float
    slope_error: float
    reason: str

    def log_odds(self, log_odds: ArrayLike) -> Floats:
        """The map of (n,) log-odds; NaN without one."""
        return np.asarray(self.intercept + self.slope * np.asarray(log_odds, dtype=np.float64))


def recalibration(labels: ArrayLike, log_odds: ArrayLike) -> Recalibration:
    """The logistic regression of the labels on a model's log-odds (Cox 1958, Biometrika 45:562).

    Its slope must be above 0, or the map would turn the order of patients around: of scores that do
    not tell the classes apart there is none.

    Args:
        labels: (n,) 0 or 1.
        log_odds: (n,) of a model's predictions.

    Raises:
        EvaluationError: labels other than 0/1, NaN, unequal lengths.
    """
    y, (odds,) = checked(labels, log_odds)
    known: dict[str, Any] = {"patients": y.size, "events": int(y.sum())}
    fit, reason = joint_fit(y, odds)
    if fit is None:
        return undefined(Recalibration, reason, **known)
    intercept, slope = fit.coefficients.tolist()
    if slope <= 0:
        low = (
            f"the slope must be above 0, got {slope:.3g}: the scores do not tell the classes apart"
        )
        return undefined(Recalibration, low, **known)
    errors = fit.errors.tolist()
    return Recalibration(
        **known, intercept=intercept, intercept_error=errors[0], slope=slope,
        slope_error=errors[1], reason="",
    )  # fmt: skip


def cross_fitted_recalibration(
    labels: ArrayLike, log_odds: ArrayLike, folds: ArrayLike
) -> tuple[Floats, dict[Any, Recalibration]]:
    """Each fold's log-odds by the map fitted on the scores of all other folds.

    So no label helps to recalibrate its own patient. Models of different folds may score on
    different scales, which such a map cannot undo: what it leaves is part of the result.

    Args:
        labels: (n,) 0 or 1.
        log_odds: (n,) out-of-fold.
        folds: (n,) name of the fold that each patient belongs to.

    Returns:
        (n,) log-odds, NaN in a fold for which there is no map; and the map of each fold.

    Raises:
        EvaluationError: as `recalibration`.
    """
    y, (odds,) = checked(labels, log_odds)
    fold = np.asarray(folds)
    same_length("folds", fold, y.size)
    mapped = np.empty(y.size)
    maps = {}
    for name in np.unique(fold).tolist():
        own = fold == name
        maps[name] = recalibration(y[~own], odds[~own])
        mapped[own] = maps[name].log_odds(odds[own])
    return mapped, maps


def joint_fit(y: Bools, odds: Floats) -> tuple[LogisticFit | None, str]:
    """Intercept and slope of the labels on the log-odds; or None, and why they are undefined."""
    if reason := one_class(y):
        return None, reason
    if certain := int(np.isinf(odds).sum()):
        return None, f"{certain} probabilities of 0 or 1: their log-odds are infinite"
    if odds.min() == odds.max():
        return None, "one probability for all patients has no slope"
    positives, negatives = odds[y], odds[~y]
    if positives.min() >= negatives.max() or positives.max() <= negatives.min():
        return None, "the classes are separated: the slope is infinite"
    return fit_logistic(y.astype(np.float64), np.column_stack([np.ones_like(odds), odds])), ""
