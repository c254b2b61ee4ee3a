"""The cross-validated AUC over several partitions of the same patients, with a bootstrap interval.

Its AUC is the mean over partitions of the fold-mean AUC, each of the patients' mean scores over
seeds. It varies by who the patients are, how they were dealt into folds, and how the models were
trained (Bouthillier et al. 2021, Proceedings of Machine Learning and Systems 3:747). Patients,
partitions and seeds are crossed, so each is drawn anew by itself, the others kept (Owen 2007, the
pigeonhole bootstrap, Annals of Applied Statistics 1:386). What two of them share counts for both,
so that the interval errs on the wide side.

- Patients are drawn with replacement within their class, and carry their influence curve
  (`cross_validated`), averaged over the partitions.
- Of P partitions P - 1 are drawn with replacement, and of S seeds S - 1: so the variance of a mean
  is right on average, where drawing all of them again makes it too small by 1/P (Rao & Wu 1988,
  JASA 83:231). A partition brings models of its own, so that a single seed does not leave training
  out.

Retraining is in the interval as far as other folds and seeds show it; what other patients to train
on would change is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.errors import EvaluationError
from evaluation.statistics.auc import AucInterval, placements
from evaluation.statistics.auc_tests import AucTest, normal_test
from evaluation.statistics.checks import (
    Bools,
    Floats,
    checked_models,
    normal_quantile,
    same_length,
    undefined,
)
from evaluation.statistics.cross_validated import fold_reasons, influence

METHOD = "bootstrap over patients, seeds and partitions"
DRAWS = 2_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Partition:
    """Out-of-fold scores of one partition of the patients into folds.

    Attributes:
        patients: (n,) names, each once.
        labels: (n,) 0 or 1.
        folds: (n,) name of the fold that each patient belongs to.
        scores: (models, seeds, n) array; of several models the mean AUC is taken.
    """

    patients: ArrayLike
    labels: ArrayLike
    folds: ArrayLike
    scores: Floats


@dataclass(frozen=True, eq=False)
class _Spread:
    """What a partition's AUC varies by.

    Attributes:
        auc: Of the mean over seeds.
        patients: (n,) names.
        labels: (n,) 0 or 1.
        influence: (n,) of each patient on `auc`; their squares sum to its variance.
        by_draw: (draws,) AUC of the mean over the drawn seeds.
    """

    auc: float
    patients: NDArray[Any]
    labels: Bools
    influence: Floats
    by_draw: Floats


def repeated_cv_auc(
    partitions: Sequence[Partition], *, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> AucInterval:
    """Mean over partitions of the cross-validated AUC, with its interval (Wald, clipped to [0, 1]).

    Args:
        partitions: Two or more. Seeds are drawn where all have equally many.
        level: Coverage, in (0, 1).
        draws: Of the bootstrap, 2 or more.
        seed: Of the draws.

    Returns:
        NaN with the reason where a fold lacks a class; with a reason where one holds a single
        patient of a class, who adds nothing to the variance.

    Raises:
        EvaluationError: as `cv_auc`, or for a repeated patient, fewer than two partitions or draws.
    """
    z = normal_quantile(level)
    aucs, se, reason = _bootstrapped([partitions], draws, seed)
    if not aucs:
        return undefined(AucInterval, reason, level=level, method=METHOD)
    auc = aucs[0]
    low, high = max(auc - z * se, 0), min(auc + z * se, 1)
    return AucInterval(
        auc=auc, variance=se**2, low=low, high=high, level=level, method=METHOD, reason=reason
    )


def repeated_cv_test(
    a: Sequence[Partition],
    b: Sequence[Partition],
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> AucTest:
    """Test of two such AUCs; patients, partitions and seeds are drawn for both sides together.

    Args:
        a: Partitions of the first side.
        b: The same partitions of the second, in the same order; patients may be the same in part.
        level: Coverage of the interval of the difference, in (0, 1).
        draws: Of the bootstrap, 2 or more.
        seed: Of the draws.

    Raises:
        EvaluationError: as `repeated_cv_auc`, or for unequal numbers of partitions.
    """
    z_level = normal_quantile(level)
    aucs, se, reason = _bootstrapped([a, b], draws, seed)
    if not aucs:
        return undefined(AucTest, reason)
    return normal_test(*aucs, difference=aucs[0] - aucs[1], se=se, z_level=z_level, reason=reason)


def _bootstrapped(
    sides: Sequence[Sequence[Partition]], draws: int, seed: int
) -> tuple[list[float], float, str]:
    """AUC of each side, none where undefined, the difference's standard error, and the reason."""
    number = len(sides[0])
    if number < 2 or any(len(side) != number for side in sides) or draws < 2:
        raise EvaluationError(
            "partitions must be 2 or more, equally many of each side, with 2 draws or more, got "
            f"{', '.join(str(len(side)) for side in sides)} and {draws} draws. Of one partition "
            "take cv_auc."
        )
    rng = np.random.default_rng(seed)
    shapes = {np.shape(partition.scores)[1] for side in sides for partition in side}
    seeds = shapes.pop() if len(shapes) == 1 else 1
    # All partitions are trained with the same seeds.
    drawn_seeds = rng.integers(seeds, size=(draws, seeds - 1)) if seeds > 1 else None
    spreads: list[list[_Spread]] = []
    weak = []
    for side in sides:
        spreads.append([])
        for partition in side:
            spread, reason = _spread(partition, drawn_seeds, draws)
            if spread is None:
                return [], nan, reason
            spreads[-1].append(spread)
            weak.append(reason)
    # How often each partition is drawn, as a share.
    chosen = rng.multinomial(number - 1, np.full(number, 1 / number), size=draws) / (number - 1)
    union, labels = _union(spreads)
    influence_of, moved = np.zeros(union.size), np.zeros(draws)
    for sign, side_spreads in zip((1, -1), spreads, strict=False):
        for row, spread in enumerate(side_spreads):
            share = sign * spread.influence / number
            influence_of[np.searchsorted(union, spread.patients)] += share
            moved += sign * chosen[:, row] * spread.by_draw
    for of_class in (influence_of[labels], influence_of[~labels]):
        again = rng.integers(of_class.size, size=(draws, of_class.size))
        moved += of_class[again].sum(axis=1)
    aucs = [float(np.mean([spread.auc for spread in side])) for side in spreads]
    return aucs, float(moved.std(ddof=1)), "; ".join(dict.fromkeys(filter(None, weak)))


def _spread(
    partition: Partition, drawn_seeds: NDArray[np.int64] | None, draws: int
) -> tuple[_Spread | None, str]:
    names, fold = np.asarray(partition.patients), np.asarray(partition.folds)
    y, x = checked_models(partition.labels, partition.scores.mean(axis=1), patients=names)
    same_length("folds", fold, y.size)
    reason, weak = fold_reasons(y, fold)
    if reason:
        return None, reason
    aucs, curve = influence(y, x, fold, names)
    _, place, size = np.unique(fold, return_inverse=True, return_counts=True)
    auc = float(np.mean(list(aucs.values())))
    by_draw = np.full(draws, auc)
    if drawn_seeds is not None:
        # The same seeds in another order are the same mean.
        several, which = np.unique(np.sort(drawn_seeds, axis=1), axis=0, return_inverse=True)
        means = np.stack([partition.scores[:, each].mean(axis=1) for each in several])
        by_draw = np.mean([_aucs_in(fold == name, y, means) for name in aucs], axis=0)[
            which.ravel()
        ]
    # So weighted, the squares sum to the variance of `cv_auc`.
    share = curve / np.sqrt(size.size * size[place] * y.size)
    return _Spread(auc, names, y, share, by_draw), weak


def _aucs_in(here: Bools, y: Bools, scores: Floats) -> Floats:
    """AUC in a fold, the mean over models, of scores (draws, models, n)."""
    below, _ = placements(scores[..., here & y], scores[..., here & ~y])
    return np.asarray(below.mean(axis=(1, 2)))


def _union(spreads: Sequence[Sequence[_Spread]]) -> tuple[NDArray[Any], Bools]:
    """Patients of all partitions, sorted, and their labels."""
    label_of: Mapping[Any, bool] = {
        name: bool(label)
        for side in spreads
        for spread in side
        for name, label in zip(spread.patients.tolist(), spread.labels, strict=True)
    }
    union = np.array(sorted(label_of))
    return union, np.array([label_of[name] for name in union.tolist()])
