"""Decision curves: what a model is worth at the risk where one would act."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import Floats, checked_probabilities


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
    """

    thresholds: Floats
    model: Floats
    treat_all: Floats
    treat_none: Floats
    avoided: Floats


def decision_curve(
    labels: ArrayLike, probabilities: ArrayLike, *, thresholds: ArrayLike
) -> DecisionCurve:
    """Net benefit of a model, of treating all and of treating none, as R's dcurves.

    Args:
        labels: (n,) 0 or 1; with one class the curve is defined as well.
        probabilities: (n,) in [0, 1].
        thresholds: (points,) in (0, 1).

    Raises:
        EvaluationError: as `calibration`, without patients, or for a threshold out of its range.
    """
    y, p = checked_probabilities(labels, probabilities)
    at = np.asarray(thresholds, dtype=np.float64)
    if not ((at > 0) & (at < 1)).all():
        raise EvaluationError(
            f"thresholds must be above 0 and below 1, got {thresholds!r}. Give risks to act at."
        )
    if y.size == 0:
        raise EvaluationError("labels must hold patients, got none. There is nobody to treat.")
    called = p[None, :] >= at[:, None]
    odds = at / (1 - at)
    model = (called & y).mean(axis=1) - (called & ~y).mean(axis=1) * odds
    everyone = y.mean() - (~y).mean() * odds
    return DecisionCurve(
        thresholds=at,
        model=model,
        treat_all=everyone,
        treat_none=np.zeros_like(at),
        avoided=(model - everyone) / odds,
    )
