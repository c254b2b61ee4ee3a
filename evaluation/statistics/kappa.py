"""Agreement of two readers or models: Cohen's kappa and a stratified rank correlation."""

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import ArrayLike

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import normal_quantile, same_length, undefined


@dataclass(frozen=True, kw_only=True)
class Kappa:
    """Agreement of two series of calls beyond chance; NaN where undefined, with the reason.

    Attributes:
        kappa: 1 is full agreement, 0 what chance gives.
        low: Lower end of the interval.
        high: Upper end.
        agreement: Share of patients called alike.
        reason: Why the figures are NaN; "" if they are not.
    """

    kappa: float
    low: float
    high: float
    agreement: float
    reason: str


def cohen_kappa(calls_a: ArrayLike, calls_b: ArrayLike, *, level: float = 0.95) -> Kappa:
    """Cohen's kappa (1960, Educational and Psychological Measurement 20:37) of two 0/1 calls.

    With the large-sample interval of Fleiss, Cohen & Everitt (1969, Psychological Bulletin 72:323).

    Args:
        calls_a: (n,) 0 or 1.
        calls_b: (n,) 0 or 1, same patients in the same order.
        level: Coverage, in (0, 1).

    Raises:
        EvaluationError: calls other than 0/1, unequal lengths or a wrong level.
    """
    z = normal_quantile(level)
    a, b = np.asarray(calls_a, dtype=np.float64), np.asarray(calls_b, dtype=np.float64)
    same_length("calls_b", b, a.size)
    wrong = [x for x in (*a, *b) if x not in (0, 1)]
    if wrong:
        raise EvaluationError(
            f"calls must be 0 or 1, got {wrong[0]:g} ({len(wrong)} of {2 * a.size}). "
            "Leave out patients without a call."
        )
    if a.size == 0:
        return undefined(Kappa, "no patients")
    # (2, 2) shares: rows the first's calls, columns the second's.
    p = np.array([[np.mean((a == i) & (b == j)) for j in (0, 1)] for i in (0, 1)])
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    observed, expected = float(np.trace(p)), float(rows @ columns)
    if expected == 1:
        reason = "both make one and the same call for all: nothing beyond chance to agree on"
        return undefined(Kappa, reason, agreement=observed)
    kappa = (observed - expected) / (1 - expected)
    apart = 1 - kappa
    same = sum(p[i, i] * (1 - (rows[i] + columns[i]) * apart) ** 2 for i in (0, 1))
    crossed = apart**2 * sum(p[i, 1 - i] * (columns[i] + rows[1 - i]) ** 2 for i in (0, 1))
    variance = same + crossed - (kappa - expected * apart) ** 2
    half = z * sqrt(max(float(variance), 0) / a.size) / (1 - expected)
    low, high = max(kappa - half, -1), min(kappa + half, 1)
    return Kappa(kappa=kappa, low=low, high=high, agreement=observed, reason="")


def stratified_spearman(scores_a: ArrayLike, scores_b: ArrayLike, strata: ArrayLike) -> float:
    """Spearman's rank correlation within strata, averaged by their size.

    Two good models agree on who is positive; whether they err alike shows within a class only, and
    scores of two folds come from two models, so a stratum is a fold × class (Taylor 1987,
    Biometrics 43:409, on correlations with a blocking variable).

    Args:
        scores_a: (n,) any real scale.
        scores_b: (n,) same patients in the same order.
        strata: (n,) name of the stratum of each patient.

    Returns:
        In [-1, 1]; NaN without a stratum of three or more in which both scores vary.

    Raises:
        EvaluationError: unequal lengths.
    """
    from scipy.stats import rankdata

    a, b = np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)
    stratum = np.asarray(strata)
    same_length("scores_b", b, a.size)
    same_length("strata", stratum, a.size)
    total, weight = 0.0, 0
    for name in np.unique(stratum):
        inside = stratum == name
        ranks = np.array([rankdata(a[inside]), rankdata(b[inside])])
        if inside.sum() > 2 and (ranks.std(axis=1) > 0).all():
            total += inside.sum() * np.corrcoef(ranks)[0, 1]
            weight += int(inside.sum())
    return total / weight if weight else nan
