"""The cross-validated AUC: the mean of the folds' AUCs, with LeDell's influence-curve interval.

LeDell, Petersen & van der Laan 2015 (Electronic Journal of Statistics 9:1583). A tie counts one
half here, where the influence curve of R's cvAUC counts it 0. Within a fold the squares of a class
of m patients are divided by m - 1, as in DeLong's variance (DeLong, DeLong & Clarke-Pearson 1988,
Biometrics 44:837): their mean has been taken off, and with a few events a fold LeDell's m, which
cvAUC has, makes intervals too narrow. `divisor="m"` is cvAUC's.

The AUC of several models is the mean of theirs, and its influence curve the mean of their curves,
for the influence curve is linear.

The interval is that of the models as they were trained, on the folds as they were drawn: it leaves
out what training again, or another partition of the patients, would change (`repeated` has them).
"""

from math import sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.statistics.auc import AucInterval, mean_placements
from evaluation.statistics.auc_tests import AucTest, normal_test
from evaluation.statistics.checks import (
    Bools,
    Floats,
    checked,
    checked_models,
    normal_quantile,
    one_class,
    one_of,
    same_length,
    undefined,
)

_METHOD = "influence curve"

Divisor = Literal["m-1", "m"]
"""By what the squares of a class of m patients of a fold are divided."""


def cv_auc(
    labels: ArrayLike,
    scores: ArrayLike,
    folds: ArrayLike,
    *,
    level: float = 0.95,
    clusters: ArrayLike | None = None,
    divisor: Divisor = "m-1",
) -> AucInterval:
    """Mean over folds of the AUC within the fold, with its interval (Wald, clipped to [0, 1]).

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) out-of-fold scores; they are only compared within a fold.
        folds: (n,) name of the fold that each patient belongs to.
        level: Coverage, in (0, 1).
        clusters: (n,) the patient of each row, where a patient has several; by default each row is
            a patient.
        divisor: Of the squares of a class of m patients of a fold; "m" as cvAUC.

    Returns:
        NaN with the reason where a fold lacks a class; with a reason where a fold holds a single
        patient of a class, who adds nothing to the variance.

    Raises:
        EvaluationError: labels other than 0/1, NaN scores, unequal lengths, a wrong level or
            divisor.
    """
    y, (x,) = checked(labels, scores)
    fold = _folds(folds, y)
    names = np.arange(y.size) if clusters is None else np.asarray(clusters)
    same_length("clusters", names, y.size)
    z = normal_quantile(level)
    reason, weak = fold_reasons(y, fold)
    if reason:
        return undefined(AucInterval, reason, level=level, method=_METHOD)
    aucs, curve = influence(y, x[None], fold, names, divisor)
    auc = float(np.mean(list(aucs.values())))
    variance = _variance(curve, fold, names)
    half = z * sqrt(variance)
    low, high = max(auc - half, 0), min(auc + half, 1)
    return AucInterval(
        auc=auc, variance=variance, low=low, high=high, level=level, method=_METHOD, reason=weak
    )


def cv_auc_test(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    folds: ArrayLike,
    *,
    level: float = 0.95,
    divisor: Divisor = "m-1",
) -> AucTest:
    """Paired test of two cross-validated AUCs on the same patients in the same folds.

    Args:
        labels: (n,) 0 or 1.
        scores_a: (n,) first out-of-fold scores, or (models, n), of which the mean AUC is tested.
        scores_b: The second, of the same patients in the same order.
        folds: (n,) name of the fold that each patient belongs to.
        level: Coverage of the interval of the difference, in (0, 1).
        divisor: As in `cv_auc`.

    Raises:
        EvaluationError: as `cv_auc`.
    """
    for scores in (scores_a, scores_b):
        checked_models(labels, scores)
    names = np.arange(np.size(labels))
    a, b = (names, labels, scores_a, folds), (names, labels, scores_b, folds)
    return cv_overlapping_test(a, b, level=level, divisor=divisor)


def cv_overlapping_test(
    a: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike],
    b: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike],
    *,
    level: float = 0.95,
    divisor: Divisor = "m-1",
) -> AucTest:
    """Test of two cross-validated AUCs whose patients are the same in part.

    The influence curve of a difference is the difference of the influence curves, each being 0 for
    the patients that its AUC does not have.

    Args:
        a: Patients, labels, scores and folds of the first, (n,) each; scores of several models
            are (models, n), and their mean AUC is tested.
        b: Those of the second, of m patients.
        level: Coverage of the interval of the difference, in (0, 1).
        divisor: As in `cv_auc`.

    Raises:
        EvaluationError: as `cv_auc`, or for a repeated patient.
    """
    z_level = normal_quantile(level)
    aucs, shares, weak = [], [], ""
    for names, labels, scores, folds in (a, b):
        y, x = checked_models(labels, scores, patients=names)
        fold = _folds(folds, y)
        reason, weak = fold_reasons(y, fold)
        if reason:
            return undefined(AucTest, reason)
        fold_aucs, curve = influence(y, x, fold, np.asarray(names), divisor)
        aucs.append(float(np.mean(list(fold_aucs.values()))))
        # So weighted, the sum of squares is the mean over folds of the mean square, over n.
        _, place, size = np.unique(fold, return_inverse=True, return_counts=True)
        shares.append(curve / np.sqrt(size.size * size[place] * y.size))
    names_a, names_b = np.asarray(a[0]), np.asarray(b[0])
    union = np.union1d(names_a, names_b)
    apart = np.zeros(union.size)
    apart[np.searchsorted(union, names_a)] += shares[0]
    apart[np.searchsorted(union, names_b)] -= shares[1]
    se = sqrt((apart**2).sum())
    return normal_test(*aucs, difference=aucs[0] - aucs[1], se=se, z_level=z_level, reason=weak)


def fold_reasons(y: Bools, fold: NDArray[Any]) -> tuple[str, str]:
    """Why the mean over folds is undefined, and why its interval is too narrow; "" if not."""
    if y.size == 0:
        return one_class(y), ""
    lacking, weak = [], []
    for name in np.unique(fold).tolist():
        labels = y[fold == name]
        if reason := one_class(labels):
            lacking.append(f"fold {name}: {reason}")
        elif min(labels.sum(), (~labels).sum()) < 2:
            weak.append(str(name))
    narrow = f"fold {', '.join(weak)}: a single patient of a class adds nothing to the variance"
    return "; ".join(lacking), narrow if weak else ""


def _folds(folds: ArrayLike, y: Bools) -> NDArray[Any]:
    fold = np.asarray(folds)
    same_length("folds", fold, y.size)
    return fold


def influence(
    y: Bools, x: Floats, fold: NDArray[Any], names: NDArray[Any], divisor: Divisor = "m-1"
) -> tuple[dict[Any, float], Floats]:
    """AUC by fold, and the (n,) influence curve: a patient's placement less its fold's AUC.

    Both are means over the models of `x`, (models, n).
    """
    one_of("divisor", divisor, ("m-1", "m"))
    curve = np.empty(y.size)
    aucs = {}
    for name in np.unique(fold).tolist():
        positives, negatives = (fold == name) & y, (fold == name) & ~y
        below, above = mean_placements(x[:, positives], x[:, negatives])
        aucs[name] = float(below.mean())
        # Weighted by the inverse share of the class among all patients, as cvAUC does.
        curve[positives] = (below - aucs[name]) / y.mean()
        curve[negatives] = (above - aucs[name]) / (~y).mean()
        for of_class in (positives, negatives):
            m = np.unique(names[of_class]).size
            if divisor == "m-1" and m > 1:
                curve[of_class] *= sqrt(m / (m - 1))
    return aucs, curve


def _variance(curve: Floats, fold: NDArray[Any], names: NDArray[Any]) -> float:
    """Mean over folds of the mean square of the curve, over the number of patients."""
    patients, patient = np.unique(names, return_inverse=True)
    rows_per_patient = names.size / patients.size
    squares = []
    for name in np.unique(fold).tolist():
        present, index = np.unique(patient[fold == name], return_inverse=True)
        sums = np.bincount(index, weights=curve[fold == name], minlength=present.size)
        squares.append(np.mean((sums / rows_per_patient) ** 2))
    return float(np.mean(squares) / patients.size)
