"""The best of several models: how good it seems, and how good once the choice is allowed for.

Patients are drawn with replacement within fold and class, and the choice is made again each time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import (
    Bools,
    Floats,
    checked_models,
    normal_quantile,
    same_length,
    undefined,
)
from evaluation.statistics.cross_validated import cv_auc, fold_reasons


@dataclass(frozen=True, kw_only=True)
class BestOf:
    """The fold-mean AUC of the best of several models; NaN where undefined, with the reason.

    Attributes:
        model: Index of the best; of equal ones the first. -1 where undefined.
        naive: Its AUC on the patients that it was chosen on.
        optimism: By how much the choice is expected to flatter.
        auc: `naive - optimism`.
        low: Lower end of the interval of `auc`.
        high: Upper end of it.
        draws: Bootstrap cohorts.
        reason: Why the figures are NaN, or why the interval says less than it seems to; "" if
            neither.
    """

    model: int
    naive: float
    optimism: float
    auc: float
    low: float
    high: float
    draws: int
    reason: str


def best_of(
    labels: ArrayLike,
    scores: ArrayLike,
    folds: ArrayLike,
    *,
    draws: int = 1_000,
    level: float = 0.95,
    seed: int = 0,
) -> BestOf:
    """The best of several models by fold-mean AUC, corrected for having been chosen.

    In each bootstrap cohort the best is chosen anew; its AUC there less its AUC on all patients is
    the optimism of that choice, and the mean of it is taken off (Efron 1983, JASA 78:316; of the
    choice among models Tibshirani & Tibshirani 2009, Annals of Applied Statistics 3:822). That is
    most of the optimism, not all: where all models are alike, a quarter of it stays. The interval
    is LeDell's of the chosen model, moved by the optimism (Noma et al. 2021, Statistics in Medicine
    40:5691). With one model nothing is chosen, and the optimism is 0.

    Args:
        labels: (n,) 0 or 1.
        scores: (models, n) array of out-of-fold scores.
        folds: (n,) name of the fold that each patient belongs to.
        draws: Bootstrap cohorts.
        level: Coverage of the interval, in (0, 1).
        seed: Seed of the draws.

    Raises:
        EvaluationError: as `cv_auc`, or without a draw.
    """
    y, x = checked_models(labels, scores)
    fold = np.asarray(folds)
    same_length("folds", fold, y.size)
    normal_quantile(level)
    if reason := fold_reasons(y, fold)[0]:
        return undefined(BestOf, reason, model=-1, draws=0)
    observed, drawn = resampled_aucs(y, x, fold, draws=draws, seed=seed)
    chosen = drawn.argmax(axis=1)
    best = int(observed.argmax())
    optimism = float((drawn.max(axis=1) - observed[chosen]).mean()) if len(x) > 1 else 0.0
    naive = cv_auc(y, x[best], fold, level=level)
    return BestOf(
        model=best,
        naive=naive.auc,
        optimism=optimism,
        auc=naive.auc - optimism,
        low=max(naive.low - optimism, 0),
        high=min(naive.high - optimism, 1),
        draws=draws,
        reason=naive.reason,
    )


def resampled_aucs(
    y: Bools, x: Floats, fold: NDArray[np.generic], *, draws: int, seed: int | np.random.Generator
) -> tuple[Floats, Floats]:
    """Fold-mean AUCs of models, (models,), and of them on bootstrap cohorts, (draws, models).

    Patients are drawn within fold and class, the same for every model.
    """
    if draws < 1:
        raise EvaluationError(f"draws must be 1 or more, got {draws}. Draw some cohorts.")
    rng = np.random.default_rng(seed)
    names = np.unique(fold)
    observed, drawn = np.zeros(len(x)), np.zeros((draws, len(x)))
    for name in names:
        up, down = x[:, (fold == name) & y], x[:, (fold == name) & ~y]
        weights = [
            rng.multinomial(n, np.full(n, 1 / n), size=draws) / n
            for n in (up.shape[1], down.shape[1])
        ]
        for model in range(len(x)):
            apart = up[model][:, None] - down[model][None, :]
            wins = (apart > 0) + 0.5 * (apart == 0)
            observed[model] += wins.mean() / names.size
            drawn[:, model] += ((weights[0] @ wins) * weights[1]).sum(axis=1) / names.size
    return observed, drawn
