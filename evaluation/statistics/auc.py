"""Area under the ROC curve with DeLong's variance, and the tests that go with it.

Written here because the libraries that offer it disagree with the reference implementation (R's
pROC) in edge cases. Only ranks are used, so any strictly increasing map of the scores gives the
same answer.
"""

from dataclasses import dataclass, replace
from math import inf, nan, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import (
    Bools,
    Floats,
    checked,
    normal_quantile,
    one_class,
    one_of,
    single_of_class,
)


@dataclass(frozen=True, kw_only=True)
class AucInterval:
    """An AUC in [0, 1] with its interval; NaN where undefined, with the reason.

    Attributes:
        auc: The probability that a positive scores above a negative, ties counting one half.
        variance: Of the AUC: DeLong's, or LeDell's for a cross-validated one.
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


@dataclass(frozen=True, kw_only=True)
class AucTest:
    """A test that two AUCs are equal; signs are those of `auc_a - auc_b`.

    Attributes:
        auc_a: AUC of the first scores.
        auc_b: AUC of the second.
        difference: `auc_a - auc_b`.
        z: The difference over its standard error.
        df: Degrees of freedom of the reference distribution: infinite for the normal one, those of
            Welch for unpaired scores.
        p_value: Two-sided.
        low: Lower end of the interval of the difference.
        high: Upper end of it.
        reason: Why a figure is NaN, or why the test says less than it seems to; "" if neither.
    """

    auc_a: float
    auc_b: float
    difference: float
    z: float
    df: float
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
    of_positives, of_negatives = placements(x[y], x[~y])
    auc = float(of_positives.mean())
    if reason := single_of_class(y):
        return result(auc, nan, nan, nan, reason)
    variance = float(variance_of(of_positives, of_negatives))
    se = sqrt(variance)
    separated = auc in (0.0, 1.0)
    if method == "wald":
        reason = "the classes are separated: the variance is 0 and the interval has no width"
        return result(
            auc, variance, max(auc - z * se, 0), min(auc + z * se, 1), reason if separated else ""
        )
    if separated:
        return result(auc, variance, nan, nan, "the log-odds of an AUC of 0 or 1 are infinite")
    low, high = logit_interval(auc, variance, level=level)
    return result(auc, variance, float(low), float(high))


def delong_test(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    *,
    paired: bool = True,
    labels_b: ArrayLike | None = None,
    level: float = 0.95,
    patients: ArrayLike | None = None,
) -> AucTest:
    """DeLong's test that two scores have one AUC, as `pROC::roc.test`.

    Paired: two scores that rank the patients alike give z = 0 and p = 1; where the difference has
    no variance but is not zero, z is infinite and p is 0. Unpaired: Welch's t, as pROC, on patients
    that are not the same.

    Args:
        labels: (n,) 0 or 1.
        scores_a: (n,) first scores.
        scores_b: (n,) second scores, same patients in the same order; unpaired, (m,).
        paired: Whether both scores are of the same patients.
        labels_b: (m,) labels of the second patients, if not paired; `labels` if not given.
        level: Coverage of the interval of the difference, in (0, 1).
        patients: (n,) if given, names that must not repeat.

    Raises:
        EvaluationError: labels other than 0/1, NaN scores, unequal lengths, a repeated patient, a
            wrong level, or second labels in a paired test.
    """
    z_level = normal_quantile(level)
    if not paired:
        y, (a,) = checked(labels, scores_a, patients=patients)
        y_b, (b,) = checked(labels if labels_b is None else labels_b, scores_b)
        return _unpaired_test(y, a, y_b, b, level)
    if labels_b is not None:
        raise EvaluationError(
            "labels_b must be left out of a paired test, got labels. The same patients have the "
            "same labels; set paired=False for others."
        )
    y, (a, b) = checked(labels, scores_a, scores_b, patients=patients)
    if reason := one_class(y):
        return undefined_test(reason)
    (positives_a, negatives_a) = placements(a[y], a[~y])
    (positives_b, negatives_b) = placements(b[y], b[~y])
    alone = single_of_class(y)
    variance = variance_of(positives_a - positives_b, negatives_a - negatives_b)
    return normal_test(
        float(positives_a.mean()),
        float(positives_b.mean()),
        # The mean of the differences, not the difference of the means: exactly 0 for equal ranks.
        difference=float((positives_a - positives_b).mean()),
        se=nan if alone else sqrt(variance),
        z_level=z_level,
        reason=alone or _separated(positives_a, positives_b),
    )


def overlapping_test(
    a: tuple[ArrayLike, ArrayLike, ArrayLike],
    b: tuple[ArrayLike, ArrayLike, ArrayLike],
    *,
    level: float = 0.95,
) -> AucTest:
    """The test of two AUCs whose patients are the same in part, each AUC over all of its own.

    DeLong's variances of the two, less twice the covariance that the shared patients carry; it is
    the paired test where all are shared, and one of independent AUCs where none is.

    Args:
        a: Patients, labels and scores of the first, (n,) each.
        b: Those of the second, (m,) each.
        level: Coverage of the interval of the difference, in (0, 1).

    Raises:
        EvaluationError: as `delong_test`, or if a shared patient has two labels.
    """
    z_level = normal_quantile(level)
    sides = []
    for names, labels, scores in (a, b):
        y, (x,) = checked(labels, scores, patients=names)
        if reason := one_class(y) or single_of_class(y):
            return undefined_test(reason)
        sides.append((np.asarray(names), y, placements(x[y], x[~y])))
    (names_a, y_a, of_a), (names_b, y_b, of_b) = sides
    _, at_a, at_b = np.intersect1d(names_a, names_b, return_indices=True)
    if (y_a[at_a] != y_b[at_b]).any():
        raise EvaluationError(
            "labels must be the same for a patient of both scores, got 0 and 1. "
            "Two cohorts were mixed up; compare scores of one."
        )
    variance = float(variance_of(*of_a) + variance_of(*of_b))
    for of_class, flip_a, flip_b in zip((0, 1), (y_a, ~y_a), (y_b, ~y_b), strict=True):
        _, i, j = np.intersect1d(names_a[flip_a], names_b[flip_b], return_indices=True)
        if i.size > 1:
            first, second = of_a[of_class], of_b[of_class]
            covariance = np.cov(first[i], second[j])[0, 1]
            variance -= 2 * covariance * i.size / (first.size * second.size)
    auc_a, auc_b = float(of_a[0].mean()), float(of_b[0].mean())
    return normal_test(
        auc_a, auc_b, difference=auc_a - auc_b, se=sqrt(max(variance, 0)), z_level=z_level
    )


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


def variance_of(of_positives: Floats, of_negatives: Floats) -> Any:
    """DeLong's variance of the mean placement, () or one a cohort; NaN with one of a class."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return _variance(of_positives) + _variance(of_negatives)


def normal_test(
    auc_a: float, auc_b: float, *, difference: float, se: float, z_level: float, reason: str = ""
) -> AucTest:
    """The two-sided normal test of a difference with its standard error."""
    from scipy.special import ndtr

    z = _ratio(difference, se)
    return AucTest(
        auc_a=auc_a,
        auc_b=auc_b,
        difference=difference,
        z=z,
        df=inf,
        p_value=float(2 * ndtr(-abs(z))),
        low=difference - z_level * se,
        high=difference + z_level * se,
        reason=reason,
    )


def undefined_test(reason: str, auc_a: float = nan, auc_b: float = nan) -> AucTest:
    """A test that cannot be done, and why."""
    return AucTest(
        auc_a=auc_a,
        auc_b=auc_b,
        difference=auc_a - auc_b,
        z=nan,
        df=nan,
        p_value=nan,
        low=nan,
        high=nan,
        reason=reason,
    )


def _separated(positives_a: Floats, positives_b: Floats) -> str:
    """Why p = 1 is no evidence that two perfect scores are alike, or ""."""
    placed = np.concatenate([positives_a, positives_b])
    if placed.min() == 1 or placed.max() == 0:
        return "both scores separate the classes: their difference has no variance"
    return ""


def _unpaired_test(y_a: Bools, a: Floats, y_b: Bools, b: Floats, level: float) -> AucTest:
    from scipy.special import stdtr, stdtrit

    for y in (y_a, y_b):
        if reason := one_class(y):
            return undefined_test(reason)
    of_a, of_b = placements(a[y_a], a[~y_a]), placements(b[y_b], b[~y_b])
    auc_a, auc_b = float(of_a[0].mean()), float(of_b[0].mean())
    for y in (y_a, y_b):
        if reason := single_of_class(y):
            return undefined_test(reason, auc_a, auc_b)
    variance_a, variance_b = float(variance_of(*of_a)), float(variance_of(*of_b))
    difference, se = auc_a - auc_b, sqrt(variance_a + variance_b)
    if se == 0:
        undefined = undefined_test("neither AUC has a variance: no t distribution", auc_a, auc_b)
        return replace(undefined, z=nan if difference == 0 else _ratio(difference, se))
    df = se**4 / (variance_a**2 / (a.size - 1) + variance_b**2 / (b.size - 1))
    t, half = difference / se, float(stdtrit(df, 0.5 + level / 2)) * se
    return AucTest(
        auc_a=auc_a,
        auc_b=auc_b,
        difference=difference,
        z=t,
        df=df,
        p_value=float(2 * stdtr(df, -abs(t))),
        low=difference - half,
        high=difference + half,
        reason="",
    )


def _variance(values: Floats) -> Any:
    count = values.shape[-1]
    spread = ((values - values.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return np.divide(spread, (count - 1) * count)


def _ratio(difference: float, se: float) -> float:
    if se == 0:
        return 0.0 if difference == 0 else inf if difference > 0 else -inf
    return difference / se
