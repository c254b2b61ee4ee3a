"""Intervals of proportions, McNemar's test of paired calls, and Holm's adjustment."""

from dataclasses import dataclass
from math import nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import Floats, normal_quantile, undefined


class Interval(NamedTuple):
    """Ends of a confidence interval; NaN where there is nothing to count."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """McNemar's test of calls that disagree; NaN without a disagreement, as in R.

    Attributes:
        only_a: Patients whom only the first calls right (or positive).
        only_b: Patients whom only the second does.
        p_exact: Two-sided exact binomial p-value.
        chi2: Chi-squared statistic without continuity correction.
        p_chi2: Its p-value.
        chi2_corrected: With the correction, as `mcnemar.test` in R by default.
        p_corrected: Its p-value.
        reason: Why the figures are NaN; "" if they are not.
    """

    only_a: int
    only_b: int
    p_exact: float
    chi2: float
    p_chi2: float
    chi2_corrected: float
    p_corrected: float
    reason: str


def clopper_pearson(count: int, total: int, *, level: float = 0.95) -> Interval:
    """Exact interval of a proportion (Clopper & Pearson 1934, Biometrika 26:404).

    Raises:
        EvaluationError: a count that is not between 0 and the total, or a wrong level.
    """
    from scipy.special import betaincinv

    _check_count(count, total)
    normal_quantile(level)
    tail = (1 - level) / 2
    if total == 0:
        return Interval(nan, nan)
    low = 0.0 if count == 0 else float(betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(betaincinv(count + 1, total - count, 1 - tail))
    return Interval(low, high)


def wilson(count: int, total: int, *, level: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927, JASA 22:209), without continuity correction.

    Raises:
        EvaluationError: a count that is not between 0 and the total, or a wrong level.
    """
    _check_count(count, total)
    z = normal_quantile(level)
    if total == 0:
        return Interval(nan, nan)
    share, weight = count / total, 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / weight
    half = z / weight * sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return Interval(max(centre - half, 0), min(centre + half, 1))


def mcnemar(only_a: int, only_b: int) -> McNemar:
    """McNemar's test from the two kinds of disagreement (1947, Psychometrika 12:153).

    Args:
        only_a: Patients whom only the first calls right (or positive).
        only_b: Patients whom only the second does.

    Raises:
        EvaluationError: a negative count.
    """
    from scipy.special import bdtr, chdtrc

    total = only_a + only_b
    _check_count(only_a, total)
    if total == 0:
        return undefined(McNemar, "the calls never disagree", only_a=0, only_b=0)
    apart = abs(only_a - only_b)
    chi2, corrected = apart**2 / total, max(apart - 1, 0) ** 2 / total
    return McNemar(
        only_a=only_a,
        only_b=only_b,
        p_exact=min(1.0, 2 * float(bdtr(min(only_a, only_b), total, 0.5))),
        chi2=chi2,
        p_chi2=float(chdtrc(1, chi2)),
        chi2_corrected=corrected,
        p_corrected=float(chdtrc(1, corrected)),
        reason="",
    )


def holm(p_values: ArrayLike, *, size: int | None = None) -> Floats:
    """Holm's adjusted p-values of a family (1979, Scandinavian Journal of Statistics 6:65).

    Args:
        p_values: (n,) of the family; NaN stays NaN.
        size: Tests of the family as it was declared, where some could not be done; by default those
            that are not NaN, as `p.adjust` in R.

    Raises:
        EvaluationError: a p-value outside [0, 1], or a family smaller than its p-values.
    """
    p = np.asarray(p_values, dtype=np.float64)
    defined = np.flatnonzero(~np.isnan(p))
    if ((p[defined] < 0) | (p[defined] > 1)).any():
        raise EvaluationError(f"p_values must be in [0, 1], got {p_values!r}. Give p-values.")
    size = defined.size if size is None else size
    if size < defined.size:
        raise EvaluationError(
            f"size must be at least the number of p-values ({defined.size}), got {size}. "
            "Count every test of the family."
        )
    adjusted = np.full(p.shape, nan)
    order = defined[np.argsort(p[defined], kind="stable")]
    steps = p[order] * (size - np.arange(order.size))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def _check_count(count: int, total: int) -> None:
    if not 0 <= count <= total:
        raise EvaluationError(
            f"count must be between 0 and the total ({total}), got {count}. Count again."
        )
