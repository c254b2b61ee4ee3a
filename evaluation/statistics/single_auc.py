"""Power of the test that one AUC is 0.5, and the patients it needs, by formula.

Obuchowski & McClish 1997 (Statistics in Medicine 16:1529), with Obuchowski, Lieber & Wians 2004
(Clinical Chemistry 50:1118).
"""

from math import inf, sqrt

import numpy as np

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import check_share, normal_quantile


def single_auc_power(
    auc: float, *, positives: float, negatives: float, level: float = 0.95
) -> float:
    """Power of the two-sided test that one AUC is 0.5, as `pROC::power.roc.test`.

    Raises:
        EvaluationError: an AUC not above 0.5 and below 1, no patients of a class or a wrong level.
    """
    from scipy.special import ndtr

    null, variance = _obuchowski(auc, positives=positives, negatives=negatives)
    z = normal_quantile(level)
    return float(ndtr((sqrt(positives) * (auc - 0.5) - z * sqrt(null)) / sqrt(variance)))


def single_auc_positives(
    auc: float, *, negatives_per_positive: float, power: float = 0.8, level: float = 0.95
) -> float:
    """Positives needed to tell an AUC from 0.5, as `pROC::power.roc.test`; not rounded up.

    Raises:
        EvaluationError: as `single_auc_power`, or a power not in (0, 1).
    """
    from scipy.special import ndtri

    check_share("power", power)
    null, variance = _obuchowski(auc, positives=1, negatives=negatives_per_positive)
    z, z_power = normal_quantile(level), float(ndtri(power))
    return (z * sqrt(null) + z_power * sqrt(variance)) ** 2 / (auc - 0.5) ** 2


def _obuchowski(auc: float, *, positives: float, negatives: float) -> tuple[float, float]:
    """n·variance of the AUC under the null and under the alternative, n positives."""
    from scipy.special import ndtri

    if not 0.5 < auc < 1:
        raise EvaluationError(f"auc must be above 0.5 and below 1, got {auc!r}. Give a true AUC.")
    if not (0 < positives < inf and 0 < negatives < inf):
        raise EvaluationError(
            f"positives and negatives must be above 0, got {positives!r} and {negatives!r}. "
            "Give the size of the cohort."
        )
    ratio = negatives / positives
    a = float(ndtri(auc)) * 1.414  # pROC's own rounding of √2
    variance = 0.0099 * np.exp(-(a**2) / 2) * (5 * a**2 + 8 + (a**2 + 8) / ratio)
    return 0.0792 * (1 + 1 / ratio), float(variance)
