"""Area under the ROC curve with DeLong's variance, and the paired test that goes with it.

Written here because the libraries that offer it disagree with the reference implementation (R's
pROC) in edge cases. Only ranks are used, so any strictly increasing map of the scores gives the
same answer.
"""

from dataclasses import dataclass
from math import exp, inf, log, nan, sqrt
from reprlib import repr as short_repr
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.errors import EvaluationError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class AucInterval:
    """An AUC in [0, 1] with its DeLong interval; NaN where undefined, with the reason.

    Attributes:
        auc: The probability that a positive scores above a negative, ties counting one half.
        variance: DeLong's variance of it.
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Coverage the interval aims at.
        method: "wald" or "logit".
        reason: Why a figure is NaN, or why the interval says less than it seems to; "" if neither.
    """

    auc: float
    variance: float
    low: float
    high: float
    level: float
    method: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """DeLong's test of two AUCs on the same patients; signs are those of `auc_a - auc_b`.

    Attributes:
        auc_a: AUC of the first scores.
        auc_b: AUC of the second.
        difference: `auc_a - auc_b`.
        z: The difference over its standard error.
        p_value: Two-sided.
        low: Lower end of the interval of the difference.
        high: Upper end of it.
        reason: Why a figure is NaN; "" if none is.
    """

    auc_a: float
    auc_b: float
    difference: float
    z: float
    p_value: float
    low: float
    high: float
    reason: str


def auc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    level: float = 0.95,
    method: Literal["wald", "logit"] = "wald",
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

    Raises:
        EvaluationError: labels other than 0/1, NaN scores, unequal lengths, a wrong level or
            method.
    """
    y, (x,) = checked(labels, scores)
    if method not in ("wald", "logit"):
        raise EvaluationError(f"method must be 'wald' or 'logit', got {method!r}.")
    z = _normal_quantile(level)

    def result(
        auc: float, variance: float, low: float, high: float, reason: str = ""
    ) -> AucInterval:
        return AucInterval(
            auc=auc,
            variance=variance,
            low=low,
            high=high,
            level=level,
            method=method,
            reason=reason,
        )

    if reason := one_class(y):
        return result(nan, nan, nan, nan, reason)
    of_positives, of_negatives = _placements(y, x)
    auc = float(of_positives.mean())
    if reason := _too_few(y):
        return result(auc, nan, nan, nan, reason)
    variance = _variance(of_positives, of_negatives)
    se = sqrt(variance)
    separated = auc in (0.0, 1.0)
    if method == "wald":
        reason = "the classes are separated: the variance is 0 and the interval has no width"
        return result(
            auc, variance, max(auc - z * se, 0), min(auc + z * se, 1), reason if separated else ""
        )
    if separated:
        return result(auc, variance, nan, nan, "the log-odds of an AUC of 0 or 1 are infinite")
    centre, half = log(auc / (1 - auc)), z * se / (auc * (1 - auc))
    return result(auc, variance, _sigmoid(centre - half), _sigmoid(centre + half))


def delong_test(
    labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, *, level: float = 0.95
) -> PairedTest:
    """DeLong's test that two scores have one AUC on the same patients, as `pROC::roc.test`.

    Two scores that rank the patients alike give z = 0 and p = 1; where the difference has no
    variance but is not zero, z is infinite and p is 0.

    Args:
        labels: (n,) 0 or 1.
        scores_a: (n,) first scores.
        scores_b: (n,) second scores, same patients in the same order.
        level: Coverage of the interval of the difference, in (0, 1).

    Raises:
        EvaluationError: labels other than 0/1, NaN scores, unequal lengths or a wrong level.
    """
    y, (a, b) = checked(labels, scores_a, scores_b)
    z_level = _normal_quantile(level)
    if reason := one_class(y):
        return PairedTest(
            auc_a=nan,
            auc_b=nan,
            difference=nan,
            z=nan,
            p_value=nan,
            low=nan,
            high=nan,
            reason=reason,
        )
    (positives_a, negatives_a), (positives_b, negatives_b) = _placements(y, a), _placements(y, b)
    auc_a, auc_b = float(positives_a.mean()), float(positives_b.mean())
    # The mean of the differences, not the difference of the means: exactly 0 for equal ranks.
    difference = float((positives_a - positives_b).mean())
    reason = _too_few(y)
    se = nan if reason else sqrt(_variance(positives_a - positives_b, negatives_a - negatives_b))
    if se == 0:
        z = 0.0 if difference == 0 else inf if difference > 0 else -inf
    else:
        z = difference / se
    from scipy.special import ndtr

    return PairedTest(
        auc_a=auc_a,
        auc_b=auc_b,
        difference=difference,
        z=z,
        p_value=float(2 * ndtr(-abs(z))),
        low=difference - z_level * se,
        high=difference + z_level * se,
        reason=reason,
    )


def checked(labels: ArrayLike, *scores: ArrayLike) -> tuple[NDArray[np.bool_], list[Floats]]:
    """Labels as (n,) bool and each of the scores as (n,) float64, or an error that says why not."""
    y = _vector("labels", labels)
    wrong = y[~np.isin(y, (0, 1))]
    if wrong.size:
        raise EvaluationError(
            f"labels must be 0 or 1, got {wrong[0]:g} ({wrong.size} of {y.size}). "
            "Leave out patients whose label is not known."
        )
    xs = [_vector("scores", each) for each in scores]
    for x in xs:
        if x.shape != y.shape:
            raise EvaluationError(
                f"scores must be as many as labels ({y.size}), got {x.size}. "
                "Give one score and one label a patient, in the same order."
            )
        if missing := int(np.isnan(x).sum()):
            raise EvaluationError(
                f"scores must be numbers, got NaN ({missing} of {x.size}). "
                "A model that gives NaN has diverged; look at its log."
            )
    return y.astype(bool), xs


def one_class(y: NDArray[np.bool_]) -> str:
    """Why a ROC curve over these labels is undefined, or "" when it is not."""
    if y.size == 0:
        return "no patients"
    if y.all():
        return "no negative patient"
    return "" if y.any() else "no positive patient"


def _too_few(y: NDArray[np.bool_]) -> str:
    for kind, count in (("positive", y.sum()), ("negative", (~y).sum())):
        if count < 2:
            return f"a single {kind} patient: the variance over {kind}s is undefined"
    return ""


def _placements(y: NDArray[np.bool_], x: Floats) -> tuple[Floats, Floats]:
    """For each positive the share of negatives below it, for each negative of positives above."""
    # scipy.stats takes a second to import, which every command that never ranks would pay.
    from scipy.stats import rankdata

    positives, negatives = x[y], x[~y]
    ranks = rankdata(x)
    below = (ranks[y] - rankdata(positives)) / negatives.size
    above = 1 - (ranks[~y] - rankdata(negatives)) / positives.size
    return below, above


def _variance(of_positives: Floats, of_negatives: Floats) -> float:
    return float(
        of_positives.var(ddof=1) / of_positives.size + of_negatives.var(ddof=1) / of_negatives.size
    )


def _vector(name: str, values: ArrayLike) -> Floats:
    try:
        array: NDArray[Any] = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{name} must be numbers, got {short_repr(values)}.") from error
    if array.ndim != 1:
        raise EvaluationError(f"{name} must have one dimension, got shape {array.shape}.")
    return array


def _normal_quantile(level: float) -> float:
    from scipy.special import ndtri

    if not 0 < level < 1:
        raise EvaluationError(f"level must be between 0 and 1, got {level!r}. Give 0.95 for 95 %.")
    return float(ndtri(0.5 + level / 2))


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x > -700 else 0.0
