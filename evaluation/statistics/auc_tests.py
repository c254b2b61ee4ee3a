"""Tests that two AUCs are equal: paired, unpaired, and of patients that are the same in part."""

from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np
from numpy.typing import ArrayLike

from evaluation.errors import EvaluationError
from evaluation.statistics.auc import mean_placements, placements, variance_of
from evaluation.statistics.checks import (
    Bools,
    Floats,
    checked,
    checked_models,
    normal_quantile,
    one_class,
    single_of_class,
    undefined,
)


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

    Paired, either score may be of several models: their mean AUC is tested. Its structural
    components are the means of theirs, for the AUC is linear in them.

    Args:
        labels: (n,) 0 or 1.
        scores_a: (n,) first scores; paired, also (models, n).
        scores_b: Second scores, same patients in the same order; unpaired, (m,).
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
    y, models_a = checked_models(labels, scores_a, patients=patients)
    _, models_b = checked_models(labels, scores_b)
    if reason := one_class(y):
        return undefined(AucTest, reason)
    positives_a, negatives_a = mean_placements(models_a[:, y], models_a[:, ~y])
    positives_b, negatives_b = mean_placements(models_b[:, y], models_b[:, ~y])
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
        a: Patients, labels and scores of the first, (n,) each; scores of several models are
            (models, n), and their mean AUC is tested.
        b: Those of the second, of m patients.
        level: Coverage of the interval of the difference, in (0, 1).

    Raises:
        EvaluationError: as `delong_test`, or if a shared patient has two labels.
    """
    z_level = normal_quantile(level)
    sides = []
    for names, labels, scores in (a, b):
        y, x = checked_models(labels, scores, patients=names)
        if reason := one_class(y) or single_of_class(y):
            return undefined(AucTest, reason)
        sides.append((np.asarray(names), y, mean_placements(x[:, y], x[:, ~y])))
    (names_a, y_a, placed_a), (names_b, y_b, placed_b) = sides
    _, at_a, at_b = np.intersect1d(names_a, names_b, return_indices=True)
    if (y_a[at_a] != y_b[at_b]).any():
        raise EvaluationError(
            "labels must be the same for a patient of both scores, got 0 and 1. "
            "Two cohorts were mixed up; compare scores of one."
        )
    variance = float(variance_of(*placed_a) + variance_of(*placed_b))
    # Positives, then negatives, as `placements` returns them.
    for first, second, is_a, is_b in zip(placed_a, placed_b, (y_a, ~y_a), (y_b, ~y_b), strict=True):
        _, i, j = np.intersect1d(names_a[is_a], names_b[is_b], return_indices=True)
        if i.size > 1:
            covariance = np.cov(first[i], second[j])[0, 1]
            variance -= 2 * covariance * i.size / (first.size * second.size)
    auc_a, auc_b = float(placed_a[0].mean()), float(placed_b[0].mean())
    return normal_test(
        auc_a, auc_b, difference=auc_a - auc_b, se=sqrt(max(variance, 0)), z_level=z_level
    )


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


def _separated(positives_a: Floats, positives_b: Floats) -> str:
    """Why p = 1 is no evidence that two perfect scores are alike, or ""."""
    placed = np.concatenate([positives_a, positives_b])
    if placed.min() == 1 or placed.max() == 0:
        return "both scores separate the classes: their difference has no variance"
    return ""


def _unpaired_test(y_a: Bools, a: Floats, y_b: Bools, b: Floats, level: float) -> AucTest:
    from scipy.special import stdtr, stdtrit

    if reason := one_class(y_a) or one_class(y_b):
        return undefined(AucTest, reason)
    placed_a, placed_b = placements(a[y_a], a[~y_a]), placements(b[y_b], b[~y_b])
    auc_a, auc_b = float(placed_a[0].mean()), float(placed_b[0].mean())
    difference = auc_a - auc_b
    aucs = {"auc_a": auc_a, "auc_b": auc_b, "difference": difference}
    if reason := single_of_class(y_a) or single_of_class(y_b):
        return undefined(AucTest, reason, **aucs)
    variance_a, variance_b = float(variance_of(*placed_a)), float(variance_of(*placed_b))
    se = sqrt(variance_a + variance_b)
    if se == 0:
        z = _ratio(difference, se) or nan
        return undefined(AucTest, "neither AUC has a variance: no t distribution", z=z, **aucs)
    df = se**4 / (variance_a**2 / (a.size - 1) + variance_b**2 / (b.size - 1))
    t, half = difference / se, float(stdtrit(df, 0.5 + level / 2)) * se
    return AucTest(
        **aucs,
        z=t,
        df=df,
        p_value=float(2 * stdtr(df, -abs(t))),
        low=difference - half,
        high=difference + half,
        reason="",
    )


def _ratio(difference: float, se: float) -> float:
    if se == 0:
        return 0.0 if difference == 0 else inf if difference > 0 else -inf
    return difference / se
