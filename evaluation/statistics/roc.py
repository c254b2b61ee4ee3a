"""ROC curves, Youden's threshold, and what comes of cutting scores at a threshold."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf, nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import Floats, checked, one_class, same_length

RATES = ("sensitivity", "specificity", "accuracy", "ppv", "npv")
"""Shares of a confusion table."""

Rule = Callable[[ArrayLike, ArrayLike], float]
"""Finds a threshold from labels and scores."""


@dataclass(frozen=True, kw_only=True)
class RocCurve:
    """All operating points of a score, from everyone positive to no one positive.

    Attributes:
        thresholds: (points,) increasing, from -inf to inf; a patient is called positive when
            score >= threshold. Halfway between neighbouring scores, as in pROC.
        true_positives: (points,) counts.
        false_positives: (points,) counts.
        sensitivity: (points,) from 1 down to 0.
        specificity: (points,) from 0 up to 1.
    """

    thresholds: Floats
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    sensitivity: Floats
    specificity: Floats


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Counts of calls against labels, and the shares that follow (NaN without a denominator)."""

    tp: int
    fn: int
    tn: int
    fp: int

    def share(self, rate: str) -> tuple[int, int]:
        """Count and total of one of RATES, for an interval of it."""
        return {
            "sensitivity": (self.tp, self.tp + self.fn),
            "specificity": (self.tn, self.tn + self.fp),
            "accuracy": (self.tp + self.tn, self.tp + self.fn + self.tn + self.fp),
            "ppv": (self.tp, self.tp + self.fp),
            "npv": (self.tn, self.tn + self.fn),
        }[rate]

    @property
    def sensitivity(self) -> float:
        """Share of positives called positive."""
        return _share(*self.share("sensitivity"))

    @property
    def specificity(self) -> float:
        """Share of negatives called negative."""
        return _share(*self.share("specificity"))

    @property
    def accuracy(self) -> float:
        """Share of all patients called right."""
        return _share(*self.share("accuracy"))

    @property
    def ppv(self) -> float:
        """Share of positive calls that are right."""
        return _share(*self.share("ppv"))

    @property
    def npv(self) -> float:
        """Share of negative calls that are right."""
        return _share(*self.share("npv"))

    @property
    def accuracy_commoner_class(self) -> float:
        """What calling everyone the commoner class would get right: the accuracy to beat."""
        negatives, positives = self.tn + self.fp, self.tp + self.fn
        return _share(max(negatives, positives), negatives + positives)


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """All distinct operating points of a score.

    Args:
        labels: (n,) 0 or 1, both present.
        scores: (n,) higher means more likely 1.

    Raises:
        EvaluationError: as `auc_interval`, or if a class is lacking.
    """
    y, (x,) = checked(labels, scores)
    if reason := one_class(y):
        raise EvaluationError(
            f"labels must hold both classes, got {y.size} patients ({reason}). "
            "A ROC curve over one class is undefined."
        )
    values, group = np.unique(x, return_inverse=True)
    positives = np.bincount(group, weights=y).astype(np.int64)
    negatives = np.bincount(group, weights=~y).astype(np.int64)
    middle = _between(values[:-1], values[1:])
    thresholds = np.concatenate([[-np.inf], middle, [np.inf]])
    true = positives.sum() - np.concatenate([[0], positives.cumsum()])
    false = negatives.sum() - np.concatenate([[0], negatives.cumsum()])
    return RocCurve(
        thresholds=thresholds,
        true_positives=true,
        false_positives=false,
        sensitivity=true / positives.sum(),
        specificity=1 - false / negatives.sum(),
    )


def youden_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """The threshold with the greatest sensitivity + specificity - 1 (Youden 1950, Cancer 3:32).

    Compared as whole numbers, so rounding cannot break a tie; of equal thresholds the lowest is
    taken, which is the one with the higher sensitivity. It is -inf (everyone positive) if no
    threshold does better than chance.

    Raises:
        EvaluationError: as `roc_curve`.
    """
    curve = roc_curve(labels, scores)
    total_positives, total_negatives = curve.true_positives[0], curve.false_positives[0]
    gain = curve.true_positives * total_negatives - curve.false_positives * total_positives
    return float(curve.thresholds[gain.argmax()])


def confusion(labels: ArrayLike, scores: ArrayLike, threshold: ArrayLike) -> Confusion:
    """Counts of calls (`score >= threshold`) against labels.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) higher means more likely 1.
        threshold: One for all patients or (n,), one a patient; infinite is allowed.

    Raises:
        EvaluationError: as `auc_interval`, or if a threshold is NaN.
    """
    y, (x,) = checked(labels, scores)
    cut = np.asarray(threshold, dtype=np.float64)
    if np.isnan(cut).any():
        raise EvaluationError(
            "threshold must be a number, got NaN. Where it is undefined there is nothing to count."
        )
    called = x >= cut
    cells = {"tp": y & called, "fn": y & ~called, "tn": ~y & ~called, "fp": ~y & called}
    return Confusion(**{name: int(patients.sum()) for name, patients in cells.items()})


def sensitivity_threshold(labels: ArrayLike, scores: ArrayLike, sensitivity: float) -> float:
    """The highest threshold that reaches a sensitivity, so the one with the best specificity.

    Args:
        labels: (n,) 0 or 1, both present.
        scores: (n,) higher means more likely 1.
        sensitivity: To reach at least, in (0, 1].

    Raises:
        EvaluationError: as `roc_curve`, or for a sensitivity out of its range.
    """
    if not 0 < sensitivity <= 1:
        raise EvaluationError(
            f"sensitivity must be above 0 and at most 1, got {sensitivity!r}. Give 0.9 for 90 %."
        )
    curve = roc_curve(labels, scores)
    total = int(curve.true_positives[0])
    # ceil of what rounding has not lifted: 0.9 of 10 positives is 9, not 10.
    needed = ceil(sensitivity * total - 1e-9)
    return float(curve.thresholds[np.flatnonzero(curve.true_positives >= needed)[-1]])


def npv_threshold(labels: ArrayLike, scores: ArrayLike, npv: float) -> float:
    """The highest threshold of which the negative calls are right often enough.

    So the one that rules out most patients. NaN where no threshold reaches it; inf where calling
    everyone negative does, which says more of the prevalence than of the score.

    Args:
        labels: (n,) 0 or 1, both present.
        scores: (n,) higher means more likely 1.
        npv: Share of negative calls that must be right at least, in (0, 1].

    Raises:
        EvaluationError: as `roc_curve`, or for a share out of its range.
    """
    if not 0 < npv <= 1:
        raise EvaluationError(
            f"npv must be above 0 and at most 1, got {npv!r}. Give 0.95 for 95 %."
        )
    curve = roc_curve(labels, scores)
    true = curve.false_positives[0] - curve.false_positives
    called = true + curve.true_positives[0] - curve.true_positives
    # Less what rounding adds, so that 19 of 20 reach 0.95.
    reached = np.flatnonzero((called > 0) & (true >= npv * called - 1e-9))
    return float(curve.thresholds[reached[-1]]) if reached.size else nan


def cross_fitted_thresholds(
    labels: ArrayLike, scores: ArrayLike, folds: ArrayLike, *, rule: Rule = youden_threshold
) -> tuple[dict[Any, float], dict[Any, str]]:
    """For each fold the threshold that a rule finds on the patients of all other folds.

    Models of different folds may score on different scales, so what transfers is not a score but a
    quantile: each score is replaced by its place among its own fold's, (rank - 1/2) / n, ties
    sharing their mean rank (Hyndman & Fan 1996, The American Statistician 50:361, definition 5).
    The rule finds a quantile on the other folds, and this fold is cut at that quantile of its own
    scores. So no label helps to choose the threshold of its own patient; the scores of a fold, all
    together, do. Folds should be stratified: one of fewer events is cut at the same share.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) out-of-fold scores.
        folds: (n,) name of the fold that each patient belongs to.
        rule: Finds a threshold from labels and scores; Youden's by default.

    Returns:
        Threshold by fold, in its scores (NaN where the other folds lack a class, or the rule finds
        none there), halfway between
        the last called negative and the first called positive; and the reasons of the NaNs.
    """
    y, (x,) = checked(labels, scores)
    fold = np.asarray(folds)
    same_length("folds", fold, y.size)
    names = np.unique(fold).tolist()
    quantile = np.empty(y.size)
    for name in names:
        quantile[fold == name] = _quantiles(x[fold == name])
    thresholds: dict[Any, float] = {}
    reasons: dict[Any, str] = {}
    for name in names:
        own, others = fold == name, fold != name
        if reason := one_class(y[others]):
            thresholds[name], reasons[name] = nan, f"no threshold from the other folds: {reason}"
            continue
        cut = rule(y[others], quantile[others])
        if np.isnan(cut):
            thresholds[name], reasons[name] = nan, "no threshold on the other folds reaches it"
            continue
        called = quantile[own] >= cut
        negative, positive = x[own][~called], x[own][called]
        if not (negative.size and positive.size):
            thresholds[name] = inf if negative.size else -inf
        else:
            thresholds[name] = float(_between(negative.max(), positive.min()))
    return thresholds, reasons


def _quantiles(x: Floats) -> Floats:
    from scipy.stats import rankdata

    return np.asarray((rankdata(x) - 0.5) / x.size)


def _between(low: Any, high: Any) -> Any:
    """Halfway between scores, or the upper of two an ulp apart, which cuts the same patients."""
    # Halving each first saves huge scores from overflow.
    with np.errstate(invalid="ignore"):  # between -inf and inf
        middle = low / 2 + high / 2
    return np.where(middle > low, middle, high)


def _share(count: int, total: int) -> float:
    return count / total if total else nan
