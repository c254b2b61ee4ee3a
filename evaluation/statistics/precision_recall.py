"""Measures that look at positive calls: area under the precision-recall curve, F1, and MCC."""

from dataclasses import dataclass
from math import atanh, nan, sqrt, tanh
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from evaluation.statistics.checks import checked, normal_quantile, one_class, undefined
from evaluation.statistics.proportions import Interval, clopper_pearson
from evaluation.statistics.roc import Confusion, roc_curve


@dataclass(frozen=True, kw_only=True)
class AveragePrecision:
    """The area under the precision-recall curve; NaN where undefined, with the reason.

    Attributes:
        patients: Number of patients.
        events: Of them positive.
        baseline: The prevalence: what a score that tells nothing is expected to reach.
        pr_auc: Average precision: precision at each threshold, weighted by the recall it adds.
        low: Lower end of the interval of `pr_auc`.
        high: Upper end of it.
        reason: Why figures are NaN; "" if they are not.
    """

    patients: int
    events: int
    baseline: float
    pr_auc: float
    low: float
    high: float
    reason: str


def average_precision(
    labels: ArrayLike, scores: ArrayLike, *, level: float = 0.95
) -> AveragePrecision:
    """Average precision, as in scikit-learn, with the logit interval.

    The interval is Boyd, Eng & Page's (2013, ECML PKDD, LNCS 8190:451): on the log-odds of the
    area, with the variance of a proportion of the positive patients.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) higher means more likely 1; equal ones are one threshold.
        level: Coverage of the interval, in (0, 1).

    Raises:
        EvaluationError: as `auc_interval`.
    """
    from scipy.special import expit, logit

    y, (x,) = checked(labels, scores)
    z, events = normal_quantile(level), int(y.sum())
    known: dict[str, Any] = {
        "patients": y.size,
        "events": events,
        "baseline": y.mean() if y.size else nan,
    }
    if reason := one_class(y):
        return undefined(AveragePrecision, reason, **known)
    curve = roc_curve(y, x)
    true, called = curve.true_positives, curve.true_positives + curve.false_positives
    area = float((-np.diff(true) * true[:-1] / called[:-1]).sum() / events)
    if area >= 1:
        why = "all positives score above all negatives: no interval"
        return undefined(AveragePrecision, why, **known, pr_auc=area)
    half = z / sqrt(events * area * (1 - area))
    low, high = expit(logit(area) - half), expit(logit(area) + half)
    return AveragePrecision(**known, pr_auc=area, low=float(low), high=float(high), reason="")


def f1(counts: Confusion) -> float:
    """Harmonic mean of precision and sensitivity; NaN without a positive label or call."""
    total = 2 * counts.tp + counts.fp + counts.fn
    return 2 * counts.tp / total if total else nan


def f1_interval(counts: Confusion, *, level: float = 0.95) -> Interval:
    """Exact interval of F1, by Clopper & Pearson's of the proportion that it is a function of.

    F1 = 2J / (1 + J), where J = TP / (TP + FP + FN) is the share of true positives among patients
    that are positive or called so (Hand, Christen & Kirielle 2021, Machine Learning 110:451).

    Raises:
        EvaluationError: for a wrong level.
    """
    low, high = clopper_pearson(counts.tp, counts.tp + counts.fp + counts.fn, level=level)
    return Interval(2 * low / (1 + low), 2 * high / (1 + high))


def mcc(counts: Confusion) -> float:
    """Matthews' correlation of labels and calls (1975, Biochimica et Biophysica Acta 405:442).

    NaN where all patients are called alike or have one label.
    """
    product = (
        (counts.tp + counts.fp) * (counts.tp + counts.fn)
        * (counts.tn + counts.fp) * (counts.tn + counts.fn)
    )  # fmt: skip
    return (counts.tp * counts.tn - counts.fp * counts.fn) / sqrt(product) if product else nan


def mcc_interval(counts: Confusion, *, level: float = 0.95) -> Interval:
    """Wald's interval on Fisher's z, the variance being that of the phi coefficient.

    Bishop, Fienberg & Holland 1975 (Discrete Multivariate Analysis, section 11.3.4). NaN where the
    correlation is undefined or 1 or -1.

    Raises:
        EvaluationError: for a wrong level.
    """
    z, value = normal_quantile(level), mcc(counts)
    if not abs(value) < 1:
        return Interval(nan, nan)
    n = counts.tp + counts.fn + counts.tn + counts.fp
    label, call = (counts.tp + counts.fn) / n, (counts.tp + counts.fp) / n
    # How far labels and calls are from even, in units of their spread.
    skews = [(2 * p - 1) / sqrt(p * (1 - p)) for p in (label, call)]
    variance = 1 - value**2 + value * (1 + value**2 / 2) * skews[0] * skews[1]
    variance -= 0.75 * value**2 * (skews[0] ** 2 + skews[1] ** 2)
    half = z * sqrt(max(variance, 0) / n) / (1 - value**2)
    return Interval(tanh(atanh(value) - half), tanh(atanh(value) + half))
