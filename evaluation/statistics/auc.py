"""Area under the ROC curve with DeLong's variance.

Written here because the libraries that offer it disagree with the reference implementation (R's
pROC) in edge cases. Only ranks are used, so any strictly increasing map of the scores gives the
same answer.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from evaluation.statistics.checks import (
    Floats,
    checked,
    normal_quantile,
    one_class,
    one_of,
    single_of_class,
    undefined,
)


@dataclass(frozen=True, kw_only=True)
class AucInterval:
    """An AUC in [0, 1] with its interval; NaN where undefined, with the reason.

    Attributes:
        auc: The probability that a positive scores above a negative, ties counting one half.
        variance: Variance of the AUC: DeLong's, or LeDell's for a cross-validated one.
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Coverage the interval aims at.
        method: "wald", "logit" or "influence curve".
        reason: Why a figure is NaN, or why the interval says less than it seems to; "" if neither.
    """

    auc: float
    variance: float
    low: float
    high: float
    level: float
    method: str
    reason: str


def auc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    level: float = 0.95,
    method: Literal["wald", "logit"] = "wald",
    patients: ArrayLike | None = None,
) -> AucInterval:
    """AUC, DeLong's variance and confidence interval, as R's pROC gives them.

    The variance is that of DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837), computed from
    ranks in O(n log n) by Sun & Xu 2014 (IEEE Signal Processing Letters 21:1389).

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) any real scale; higher means more likely 1.
        level: Coverage, in (0, 1).
        method: "wald": AUC ± z·SE clipped to [0, 1], as `pROC::ci.auc`. "logit": the same on the
            log-odds of the AUC with SE / (AUC · (1 - AUC)), which stays inside (0, 1).
        patients: (n,) if given, names that must not repeat.

    Raises:
        EvaluationError: labels other than 0/1, NaN scores, unequal lengths, a repeated patient, a
            wrong level or method.
    """
    y, (x,) = checked(labels, scores, patients=patients)
    one_of("method", method, ("wald", "logit"))
    z = normal_quantile(level)
    known: dict[str, Any] = {"level": level, "method": method}
    if reason := one_class(y):
        return undefined(AucInterval, reason, **known)
    below, above = placements(x[y], x[~y])
    known["auc"] = auc = float(below.mean())
    if reason := single_of_class(y):
        return undefined(AucInterval, reason, **known)
    known["variance"] = variance = float(variance_of(below, above))
    separated = auc in (0.0, 1.0)
    if method == "wald":
        half = z * sqrt(variance)
        low, high = max(auc - half, 0), min(auc + half, 1)
        reason = "the classes are separated: the variance is 0 and the interval has no width"
        return AucInterval(low=low, high=high, reason=reason if separated else "", **known)
    if separated:
        return undefined(AucInterval, "the log-odds of an AUC of 0 or 1 are infinite", **known)
    low, high = map(float, logit_interval(auc, variance, level=level))
    return AucInterval(low=low, high=high, reason="", **known)


def logit_interval(auc: Any, variance: Any, *, level: float) -> tuple[Any, Any]:
    """Ends of the interval on the log-odds of an AUC, () or one a cohort; NaN for 0 and 1."""
    from scipy.special import expit, logit

    auc = np.asarray(auc, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = normal_quantile(level) * np.sqrt(variance) / (auc * (1 - auc))
        return expit(logit(auc) - half), expit(logit(auc) + half)


def placements(positives: Floats, negatives: Floats) -> tuple[Floats, Floats]:
    """For each positive the share of negatives below it, for each negative of positives above.

    Args:
        positives: (..., m) scores of the positives; leading axes are cohorts apart.
        negatives: (..., n) scores of the negatives.

    Returns:
        (..., m) and (..., n), in [0, 1], ties counting one half; the mean of either is the AUC.
    """
    from scipy.stats import rankdata

    m, n = positives.shape[-1], negatives.shape[-1]
    ranks = rankdata(np.concatenate([positives, negatives], axis=-1), axis=-1)
    below = (ranks[..., :m] - rankdata(positives, axis=-1)) / n
    above = 1 - (ranks[..., m:] - rankdata(negatives, axis=-1)) / m
    return below, above


def mean_placements(positives: Floats, negatives: Floats) -> tuple[Floats, Floats]:
    """As `placements`, each the mean over models: (models, m) and (models, n) to (m,) and (n,)."""
    below, above = placements(positives, negatives)
    return below.mean(axis=0), above.mean(axis=0)


def variance_of(below: Floats, above: Floats) -> Any:
    """DeLong's variance of an AUC by placements, () or one a cohort; NaN with one of a class."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return _variance(below) + _variance(above)


def _variance(values: Floats) -> Any:
    count = values.shape[-1]
    spread = ((values - values.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return np.divide(spread, (count - 1) * count)
