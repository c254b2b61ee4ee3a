"""Sets of classes that miss a patient's own with no more than a chosen probability."""

from dataclasses import dataclass
from math import ceil, inf

import numpy as np
from numpy.typing import ArrayLike

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import Bools, checked


@dataclass(frozen=True)
class ClassCut:
    """From where on a class is in the set.

    Attributes:
        label: 0 or 1.
        patients: Of this class that it was calibrated on.
        needed: The least number for this level: fewer, and the class is in every set.
        cut: A score up to which class 0 is in the set, from which on class 1 is.
    """

    label: int
    patients: int
    needed: int
    cut: float


def class_cuts(labels: ArrayLike, scores: ArrayLike, *, alpha: float) -> tuple[ClassCut, ClassCut]:
    """Class-conditional split-conformal prediction (Vovk 2012, PMLR 25:475, "label conditional").

    Of new patients of a class, the set misses the class in a share of at most alpha, whatever the
    scores are, if they and the calibration patients of that class are exchangeable: drawn alike,
    and scored by one model that has seen none of them. The guarantee is on average over calibration
    cohorts. The cut is the k-th oddest score of the class, k = ⌊(n + 1)·alpha⌋; so it takes
    n >= 1/alpha - 1 patients of a class.

    Args:
        labels: (n,) 0 or 1 of the calibration patients.
        scores: (n,) of them; a higher one speaks for class 1.
        alpha: Share of misses allowed in each class, in (0, 1).

    Returns:
        The cuts of class 0 and of class 1.

    Raises:
        EvaluationError: as `checked`, or for an alpha out of its range.
    """
    y, (values,) = checked(labels, scores)
    if not 0 < alpha < 1:
        raise EvaluationError(
            f"alpha must be above 0 and below 1, got {alpha!r}. Give 0.1 for 10 %."
        )
    needed = ceil(1 / alpha - 1 - 1e-9)
    cuts = []
    for label, sign in ((0, -1.0), (1, 1.0)):
        own = np.sort(sign * values[y == bool(label)])  # the oddest first
        k = int((own.size + 1) * alpha + 1e-9)
        cuts.append(ClassCut(label, own.size, needed, sign * (own[k - 1] if k else -inf)))
    return cuts[0], cuts[1]


def in_sets(cuts: tuple[ClassCut, ClassCut], scores: ArrayLike) -> tuple[Bools, Bools]:
    """Whether class 0 and class 1 are in the set of each of the (m,) scores."""
    values = np.asarray(scores, dtype=np.float64)
    return values <= cuts[0].cut, values >= cuts[1].cut
