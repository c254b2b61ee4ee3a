"""Several readers, each without and with a model, on the same patients: whose AUC is higher?

The analysis of variance of Obuchowski & Rockette 1995 (Communications in Statistics – Simulation
and Computation 24:285) with the degrees of freedom of Hillis 2007 (Statistics in Medicine 26:596):
readers and patients are drawn at random, so that it speaks of other readers and other patients.
With covariances by the jackknife it is the test of Dorfman, Berbaum & Metz (Hillis et al. 2005,
Statistics in Medicine 24:1579); here they are DeLong's, as everywhere in this room.
"""

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import ArrayLike

from evaluation.errors import EvaluationError
from evaluation.statistics.auc import placements
from evaluation.statistics.checks import (
    Floats,
    checked,
    normal_quantile,
    one_class,
    single_of_class,
    undefined,
)


@dataclass(frozen=True, kw_only=True)
class ReaderMean:
    """The mean AUC of readers under one condition, from that condition's figures alone.

    Attributes:
        auc: Mean over the readers.
        se: Its standard error, readers and patients at random.
        df: Degrees of freedom.
        low: Lower end of the interval, in [0, 1].
        high: Upper end of it.
        reason: Why a figure is NaN; "" if none is.
    """

    auc: float
    se: float
    df: float
    low: float
    high: float
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class MrmcTest:
    """The test that two conditions have one mean AUC; signs are those of `auc_a - auc_b`.

    Attributes:
        auc_a: Mean AUC of the readers under the first.
        auc_b: Under the second.
        difference: `auc_a - auc_b`.
        se: Standard error of the difference.
        f: The statistic, of 1 and `df` degrees of freedom.
        df: Hillis' degrees of freedom.
        p_value: Two-sided.
        low: Lower end of the interval of the difference.
        high: Upper end of it.
        reason: Why a figure is NaN; "" if none is.
    """

    auc_a: float
    auc_b: float
    difference: float
    se: float
    f: float
    df: float
    p_value: float
    low: float
    high: float
    reason: str = ""


def delong_covariance(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """AUCs of several scores of the same patients, and DeLong's covariances of them.

    DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837).

    Args:
        labels: (n,) 0 or 1.
        scores: (k, n), higher means more likely 1.

    Returns:
        (k,) AUCs and (k, k) covariances; NaN where they are undefined for want of patients.

    Raises:
        EvaluationError: labels other than 0/1, NaN scores or unequal lengths.
    """
    y, rows = checked(labels, *np.atleast_2d(np.asarray(scores, np.float64)))
    x, k = np.stack(rows), len(rows)
    if one_class(y):
        return np.full(k, np.nan), np.full((k, k), np.nan)
    below, above = placements(x[:, y], x[:, ~y])
    if single_of_class(y):
        return below.mean(axis=1), np.full((k, k), np.nan)
    covariances = np.atleast_2d(np.cov(below)) / y.sum() + np.atleast_2d(np.cov(above)) / (~y).sum()
    return below.mean(axis=1), covariances


def mrmc_test(
    labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, *, level: float = 0.95
) -> MrmcTest:
    """Obuchowski & Rockette's test of two conditions, readers and patients at random.

    Args:
        labels: (n,) 0 or 1.
        scores_a: (readers, n) under the first condition.
        scores_b: (readers, n) under the second, the same readers and patients in the same order.
        level: Coverage of the interval, in (0, 1).

    Raises:
        EvaluationError: as `delong_covariance`, or of a wrong level.
    """
    a, b = np.atleast_2d(scores_a), np.atleast_2d(scores_b)
    if a.shape != b.shape:
        raise EvaluationError(
            f"scores must be of the same readers and patients, got {a.shape} and {b.shape}. "
            "Leave out readers who lack a condition."
        )
    aucs, covariances = delong_covariance(labels, np.concatenate([a, b]))
    if reason := _lacking(labels, len(a)):
        return undefined(MrmcTest, reason)
    return mrmc_from_covariance(aucs.reshape(2, -1), covariances, level=level)


def mrmc_from_covariance(aucs: Floats, covariances: Floats, *, level: float = 0.95) -> MrmcTest:
    """The same from AUCs and their covariances, by whatever estimator.

    With J readers, θ̄ the mean AUCs, Cov2 the mean covariance of different readers under one
    condition and Cov3 that of different readers under different ones (Hillis 2007):
    F = MS(T) / D with D = MS(T×R) + max(J (Cov2 − Cov3), 0), on 1 and D² (J − 1) / MS(T×R)²
    degrees of freedom; the interval is θ̄a − θ̄b ± t √(2 D / J).

    Args:
        aucs: (2, readers).
        covariances: (2 · readers, 2 · readers), all readers of the first condition before those of
            the second.
        level: Coverage of the interval, in (0, 1).
    """
    readers = aucs.shape[1]
    other = ~np.eye(readers, dtype=bool)
    blocks = covariances.reshape(2, readers, 2, readers).transpose(0, 2, 1, 3)
    cov2 = float(blocks[0, 0][other].mean() + blocks[1, 1][other].mean()) / 2
    cov3 = float(blocks[0, 1][other].mean())  # its transpose has the same
    gains = aucs[0] - aucs[1]
    difference = float(gains.mean())
    of_condition = readers * difference**2 / 2  # MS(T)
    interaction = float(gains.var(ddof=1)) / 2  # MS(T×R)
    within = interaction + max(readers * (cov2 - cov3), 0.0)
    df = _df(within, interaction, readers)
    half = _t(df, level) * sqrt(2 * within / readers)
    return MrmcTest(
        auc_a=float(aucs[0].mean()),
        auc_b=float(aucs[1].mean()),
        difference=difference,
        se=sqrt(2 * within / readers),
        f=of_condition / within if within else (inf if difference else 0.0),
        df=df,
        p_value=_two_sided(difference, sqrt(2 * within / readers), df),
        low=difference - half,
        high=difference + half,
    )


def reader_mean(labels: ArrayLike, scores: ArrayLike, *, level: float = 0.95) -> ReaderMean:
    """The mean AUC of readers under one condition, for other readers and other patients.

    Args:
        labels: (n,) 0 or 1.
        scores: (readers, n).
        level: Coverage of the interval, in (0, 1).

    Raises:
        EvaluationError: as `delong_covariance`, or of a wrong level.
    """
    aucs, covariances = delong_covariance(labels, scores)
    if reason := _lacking(labels, len(aucs)):
        known = {} if np.isnan(aucs).any() else {"auc": float(aucs.mean())}
        return undefined(ReaderMean, reason, **known)
    return reader_mean_from_covariance(aucs, covariances, level=level)


def reader_mean_from_covariance(
    aucs: Floats, covariances: Floats, *, level: float = 0.95
) -> ReaderMean:
    """The same from AUCs (readers,) and their covariances (Hillis 2007).

    θ̄ ± t √(D / J) with D = MS(R) + max(J Cov2, 0), on D² (J − 1) / MS(R)² degrees of freedom.
    """
    readers = len(aucs)
    spread = float(aucs.var(ddof=1))
    within = spread + max(readers * float(covariances[~np.eye(readers, dtype=bool)].mean()), 0.0)
    se, df, mean = sqrt(within / readers), _df(within, spread, readers), float(aucs.mean())
    half = _t(df, level) * se
    return ReaderMean(auc=mean, se=se, df=df, low=max(mean - half, 0), high=min(mean + half, 1))


def _lacking(labels: ArrayLike, readers: int) -> str:
    y, _ = checked(labels)
    if reason := one_class(y) or single_of_class(y):
        return reason
    return "" if readers > 1 else "a single reader: there is no variance over readers"


def _df(within: float, of_readers: float, readers: int) -> float:
    """Infinite where readers do not differ beyond their patients."""
    if of_readers <= 1e-12 * within:  # equal but for rounding
        return inf
    return (within / of_readers) ** 2 * (readers - 1)


def _t(df: float, level: float) -> float:
    from scipy.special import stdtrit

    return normal_quantile(level) if df == inf else float(stdtrit(df, 0.5 + level / 2))


def _two_sided(difference: float, se: float, df: float) -> float:
    from scipy.special import ndtr, stdtr

    if se == 0:
        return 0.0 if difference else 1.0
    t = -abs(difference) / se
    return float(2 * (ndtr(t) if df == inf else stdtr(df, t)))
