"""Pointwise confidence band of a ROC curve."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import Floats, checked, normal_quantile, one_class


@dataclass(frozen=True, kw_only=True)
class RocBand:
    """Where the sensitivity lies at each specificity.

    Attributes:
        specificity: (points,) from 0 to 1.
        low: (points,) lower end of the pointwise interval of the sensitivity.
        high: (points,) upper end.
    """

    specificity: Floats
    low: Floats
    high: Floats


def roc_band(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    level: float = 0.95,
    points: int = 51,
    draws: int = 500,
    seed: int = 0,
) -> RocBand:
    """Percentile band by resampling patients within their class, as `pROC::ci.se`.

    Args:
        labels: (n,) 0 or 1, both present.
        scores: (n,) higher means more likely 1.
        level: Pointwise coverage, in (0, 1).
        points: Specificities, evenly spaced.
        draws: Resampled cohorts.
        seed: Seed of the draws.

    Raises:
        EvaluationError: as `auc_interval`, or if a class is lacking.
    """
    y, (x,) = checked(labels, scores)
    normal_quantile(level)
    if reason := one_class(y):
        raise EvaluationError(
            f"labels must hold both classes, got {y.size} patients ({reason}). "
            "A band over one class is undefined."
        )
    rng = np.random.default_rng(seed)
    values, place = np.unique(x, return_inverse=True)
    above = []  # share of resampled positives, and of negatives, at or above each distinct score
    for of_class in (y, ~y):
        places, count = place[of_class], int(of_class.sum())
        weights = np.zeros((draws, values.size))
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws)
        np.add.at(weights.T, places, drawn.T)
        above.append(weights[:, ::-1].cumsum(axis=1)[:, ::-1] / count)
    at = np.linspace(0, 1, points)
    # From no one called positive to everyone, as np.interp wants its x increasing.
    true, false = (
        np.pad(share[:, ::-1], ((0, 0), (1, 1)), constant_values=(0, 1)) for share in above
    )
    sensitivity = [np.interp(1 - at, x, y) for x, y in zip(false, true, strict=True)]
    low, high = np.quantile(sensitivity, ((1 - level) / 2, (1 + level) / 2), axis=0)
    return RocBand(specificity=at, low=low, high=high)
