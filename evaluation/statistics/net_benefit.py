"""Decision curves: what a model is worth at the risk where one would act."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import (
    Bools,
    Floats,
    checked_models,
    checked_probabilities,
    normal_quantile,
)


@dataclass(frozen=True, kw_only=True)
class DecisionCurve:
    """Net benefit over thresholds (Vickers & Elkin 2006, Medical Decision Making 26:565).

    Attributes:
        thresholds: (points,) risks at which one would act, in (0, 1).
        model: (points,) net benefit of acting where probability >= threshold: true positives less
            false positives weighted by the odds of the threshold, per patient.
        treat_all: (points,) of acting on everyone.
        treat_none: (points,) of acting on no one: 0.
        avoided: (points,) net interventions avoided per patient, against acting on everyone.
        low: (points,) lower end of the pointwise interval of `model`; NaN with one patient.
        high: (points,) upper end of it.
    """

    thresholds: Floats
    model: Floats
    treat_all: Floats
    treat_none: Floats
    avoided: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, kw_only=True)
class NetBenefitDifference:
    """How much more net benefit one side has than the other, on the same patients.

    Attributes:
        thresholds: (points,) risks at which one would act, in (0, 1).
        difference: (points,) of the first side less the second.
        low: (points,) lower end of its pointwise interval; NaN with one patient.
        high: (points,) upper end of it.
        mean: Mean of the difference over the thresholds.
        mean_low: Lower end of its interval.
        mean_high: Upper end of it.
    """

    thresholds: Floats
    difference: Floats
    low: Floats
    high: Floats
    mean: float
    mean_low: float
    mean_high: float


def decision_curve(
    labels: ArrayLike, probabilities: ArrayLike, *, thresholds: ArrayLike, level: float = 0.95
) -> DecisionCurve:
    """Net benefit of a model, of treating all and of treating none, as R's dcurves.

    A net benefit is the mean over patients of what acting on each is worth, so its interval is that
    of a mean: the variance over patients by n, the prevalence not being fixed (Sande et al. 2020,
    Statistics in Medicine 39:2980).

    Args:
        labels: (n,) 0 or 1; with one class the curve is defined as well.
        probabilities: (n,) in [0, 1].
        thresholds: (points,) in (0, 1).
        level: Pointwise coverage of the band, in (0, 1).

    Raises:
        EvaluationError: as `calibration`, without patients, or for a threshold out of its range.
    """
    y, p = checked_probabilities(labels, probabilities)
    at = _checked(y, thresholds)
    worth = _worth(y, p, at)
    odds = at / (1 - at)
    everyone = y.mean() - (~y).mean() * odds
    half = _half_width(worth, level)
    model = worth.mean(axis=1)
    return DecisionCurve(
        thresholds=at,
        model=model,
        treat_all=everyone,
        treat_none=np.zeros_like(at),
        avoided=(model - everyone) / odds,
        low=model - half,
        high=model + half,
    )


def net_benefit_difference(
    labels: ArrayLike,
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    *,
    thresholds: ArrayLike,
    level: float = 0.95,
) -> NetBenefitDifference:
    """The paired difference in net benefit of two models, or of two sets of models on average.

    Of each patient the worth of acting by the first less that by the second is one number a
    threshold, and on average one number; intervals are those of their means over patients.

    Args:
        labels: (n,) 0 or 1.
        probabilities_a: (n,) in [0, 1] of a model, or (models, n), whose net benefits are averaged.
        probabilities_b: The same of the other side.
        thresholds: (points,) in (0, 1); their mean weighs each alike.
        level: Coverage of the intervals, in (0, 1).

    Raises:
        EvaluationError: as `decision_curve`.
    """
    sides = []
    for probabilities in (probabilities_a, probabilities_b):
        _, models = checked_models(labels, probabilities)
        checked = [checked_probabilities(labels, model) for model in models]
        at = _checked(checked[0][0], thresholds)
        sides.append(np.mean([_worth(y, p, at) for y, p in checked], axis=0))
    apart = sides[0] - sides[1]
    mean, half = apart.mean(axis=1), _half_width(apart, level)
    overall = apart.mean(axis=0, keepdims=True)
    centre, around = float(overall.mean()), float(_half_width(overall, level)[0])
    return NetBenefitDifference(
        thresholds=at,
        difference=mean,
        low=mean - half,
        high=mean + half,
        mean=centre,
        mean_low=centre - around,
        mean_high=centre + around,
    )


def _checked(y: Bools, thresholds: ArrayLike) -> Floats:
    at = np.asarray(thresholds, dtype=np.float64)
    if not at.size or not ((at > 0) & (at < 1)).all():
        raise EvaluationError(
            f"thresholds must be above 0 and below 1, got {thresholds!r}. Give risks to act at."
        )
    if y.size == 0:
        raise EvaluationError("labels must hold patients, got none. There is nobody to treat.")
    return at


def _worth(y: Bools, p: Floats, at: Floats) -> Floats:
    """(points, n): 1 for a true positive, less the odds of the threshold for a false one, or 0."""
    called = p[None, :] >= at[:, None]
    return np.where(called, np.where(y[None, :], 1.0, -(at / (1 - at))[:, None]), 0.0)


def _half_width(worth: Floats, level: float) -> Floats:
    """Of the interval of the mean over patients, along the last axis."""
    z, n = normal_quantile(level), worth.shape[1]
    if n < 2:
        return np.full(len(worth), np.nan)
    return np.asarray(z * worth.std(axis=1, ddof=1) / np.sqrt(n))
