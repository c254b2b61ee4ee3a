"""How far models of one recipe disagree about a patient.

Riley & Collins 2023 (Biometrical Journal 65:2200302): of models that training again gives, the mean
absolute prediction error (MAPE) of a patient is the mean distance of their predictions from the
prediction that is meant to be used. Theirs are bootstrap models; here they are those of other seeds
and other partitions into folds, none of which saw the patient, and what is meant to be used is
their mean.
"""

import numpy as np
from numpy.typing import ArrayLike

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import Floats


def mape(probabilities: ArrayLike, reference: ArrayLike) -> Floats:
    """Mean absolute prediction error of each patient.

    Args:
        probabilities: (models, n) in [0, 1]; NaN where a model did not score a patient.
        reference: (n,) in [0, 1], what is meant to be used.

    Returns:
        (n,) in [0, 1]; NaN for a patient whom fewer than two models scored.

    Raises:
        EvaluationError: for another shape, or values outside [0, 1].
    """
    p, r = np.asarray(probabilities, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if p.ndim != 2 or r.shape != p.shape[1:]:
        raise EvaluationError(
            f"probabilities must be (models, patients) and the reference one a patient, got shapes "
            f"{p.shape} and {r.shape}. Give a row a model."
        )
    known = ~np.isnan(p)
    if ((p[known] < 0) | (p[known] > 1)).any() or not ((r >= 0) & (r <= 1)).all():
        raise EvaluationError("probabilities must be in [0, 1], got others. Give no log-odds.")
    scored = known.sum(axis=0)
    total = np.where(known, np.abs(p - r), 0).sum(axis=0)
    return np.where(scored > 1, total / np.maximum(scored, 1), np.nan)
