"""What a cohort of this size can show: power, detectable differences, optimism of choosing.

Scores are drawn from the binormal model: negatives N(0, 1), positives N(d, 1), AUC = Φ(d/√2); the
scores of two models on a patient correlate within its class.
"""

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import ArrayLike

from evaluation.errors import EvaluationError
from evaluation.statistics.auc import mean_placements, placements, variance_of
from evaluation.statistics.checks import Floats, check_share, checked, normal_quantile, undefined


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A figure found by simulation.

    Attributes:
        value: The figure.
        error: Its Monte Carlo standard error.
        draws: Cohorts drawn.
        reason: Why the value is NaN; "" if it is not.
    """

    value: float
    error: float
    draws: int
    reason: str = ""


def separation(auc: float) -> float:
    """Distance d of two unit-variance normal score distributions whose AUC is Φ(d/√2)."""
    from scipy.special import ndtri

    if not 0 < auc < 1:
        raise EvaluationError(f"auc must be above 0 and below 1, got {auc!r}. Give a true AUC.")
    return float(sqrt(2) * ndtri(auc))


def simulate_power(
    auc_a: float,
    auc_b: float,
    *,
    positives: int,
    negatives: int,
    correlation: float = 0.5,
    models: int = 1,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Simulated:
    """Share of drawn cohorts in which the paired DeLong test tells two AUCs apart.

    Args:
        auc_a: True AUC of the first scores, in (0, 1).
        auc_b: True AUC of the second.
        positives: Patients with the event, 2 or more.
        negatives: Patients without, 2 or more.
        correlation: Correlation of any two scores within a class, in [0, 1].
        models: Models on either side, of which the mean AUC is tested.
        level: 1 less the level of the test.
        draws: Cohorts to draw.
        seed: Seed of the draws.

    Raises:
        EvaluationError: a value out of its range.
    """
    draw = _Pairs(positives, negatives, correlation, models=models, draws=draws, seed=seed)
    return draw.power(auc_a, draw.placed(1, auc_b), normal_quantile(level))


def minimum_detectable_difference(
    auc: float,
    *,
    positives: int,
    negatives: int,
    correlation: float = 0.5,
    power: float = 0.8,
    level: float = 0.95,
    draws: int = 2_000,
    seed: int = 0,
) -> Simulated:
    """The smallest ΔAUC above `auc` that the paired DeLong test finds with this power.

    Bisection on the same draws; the error is that of the power, carried over by the local slope.

    Args:
        auc: True AUC of the worse scores, in (0, 1).
        positives: Patients with the event, 2 or more.
        negatives: Patients without, 2 or more.
        correlation: Correlation of the two scores within a class, in [0, 1].
        power: Power to reach, in (0, 1).
        level: 1 less the level of the test.
        draws: Cohorts to draw.
        seed: Seed of the draws.

    Raises:
        EvaluationError: a value out of its range.
    """
    check_share("power", power)
    z = normal_quantile(level)
    draw = _Pairs(positives, negatives, correlation, draws=draws, seed=seed)
    worse = draw.placed(1, auc)

    def reached(better: float) -> float:
        return draw.power(better, worse, z).value

    low, high = auc, 1 - 1e-4
    if high <= low or reached(high) < power:
        reason = f"no AUC up to {high} is told from {auc:.3f} with a power of {power:g}"
        return undefined(Simulated, reason, draws=draws)
    while high - low > 5e-4:  # finer than the Monte Carlo error
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) >= power else (middle, high)
    step = min(0.01, (high - auc) / 2, (1 - high) / 2)
    slope = (reached(high + step) - reached(high - step)) / (2 * step)
    error = sqrt(power * (1 - power) / draws) / slope if slope > 0 else nan
    return Simulated(value=high - auc, error=error, draws=draws)


def optimism_of_best(
    auc: float,
    *,
    models: int,
    positives: int,
    negatives: int,
    correlation: float,
    folds: int = 1,
    draws: int = 1_000,
    seed: int = 0,
) -> Simulated:
    """How much the best of several equally good models is expected to seem better than it is.

    Args:
        auc: True AUC of all models, in (0, 1).
        models: Number of models to choose from.
        positives: Patients with the event, at least one a fold.
        negatives: Patients without, at least one a fold.
        correlation: Correlation of any two models' scores within a class, in [0, 1].
        folds: The choice is by the mean over this many folds.
        draws: Cohorts to draw.
        seed: Seed of the draws.

    Raises:
        EvaluationError: a value out of its range.
    """
    check_share("correlation", correlation, ends=True)
    if models < 1 or folds < 1 or min(positives, negatives) < folds:
        raise EvaluationError(
            f"each of {folds} folds must hold a patient of each class and there must be a model, "
            f"got {positives} positive, {negatives} negative, {models} models. Change the numbers."
        )
    d = separation(auc)
    rng = np.random.default_rng(seed)
    best = np.empty(draws)
    for at in range(0, draws, 100):  # in blocks, so that memory stays small
        block = min(100, draws - at)
        up, down = (
            np.array_split(_correlated(rng, models, block, count, correlation), folds, axis=-1)
            for count in (positives, negatives)
        )
        aucs = [placements(p + d, n)[0].mean(axis=-1) for p, n in zip(up, down, strict=True)]
        best[at : at + block] = np.mean(aucs, axis=0).max(axis=0)
    return Simulated(
        value=float(best.mean() - auc), error=float(best.std(ddof=1) / sqrt(draws)), draws=draws
    )


def within_class_correlation(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean correlation of any two models' scores within a class, on normal scores of the ranks.

    Args:
        labels: (n,) 0 or 1.
        scores: (models, n).

    Returns:
        In [0, 1], a negative mean being 0; NaN with one model or no three patients of a class.

    Raises:
        EvaluationError: as `auc_interval`.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    y, xs = checked(labels, *np.asarray(scores, dtype=np.float64))
    table = np.array(xs)
    sums, count = 0.0, 0
    for of_class in (table[:, y], table[:, ~y]):
        if len(xs) > 1 and of_class.shape[1] > 2:
            normal = ndtri((rankdata(of_class, axis=1) - 0.5) / of_class.shape[1])
            # A constant score correlates with nothing.
            spread = normal.std(axis=1) > 0
            correlations = np.corrcoef(normal[spread]) if spread.sum() > 1 else np.eye(1)
            pairs = len(xs) * (len(xs) - 1) / 2
            sums += of_class.shape[1] * (correlations.sum() - len(correlations)) / 2 / pairs
            count += of_class.shape[1]
    return max(float(sums / count), 0.0) if count else nan


class _Pairs:
    """Noise of two models, or of twice as many, on many cohorts, drawn once, shifted to any AUC."""

    def __init__(
        self,
        positives: int,
        negatives: int,
        correlation: float,
        *,
        draws: int,
        seed: int,
        models: int = 1,
    ) -> None:
        check_share("correlation", correlation, ends=True)
        if min(positives, negatives) < 2 or min(draws, models) < 1:
            raise EvaluationError(
                "positives and negatives must be 2 or more, draws and models 1 or more, got "
                f"{positives}, {negatives}, {draws} and {models}. A variance needs two patients of "
                "a class."
            )
        rng = np.random.default_rng(seed)
        self.draws, self.models = draws, models
        self.up = _correlated(rng, 2 * models, draws, positives, correlation)
        self.down = _correlated(rng, 2 * models, draws, negatives, correlation)

    def placed(self, side: int, auc: float) -> tuple[Floats, Floats]:
        """Placements of one of the sides, the mean over its models, if that is their true AUC."""
        mine = slice(side * self.models, (side + 1) * self.models)
        return mean_placements(self.up[mine] + separation(auc), self.down[mine])

    def power(self, auc: float, placed_b: tuple[Floats, Floats], z: float) -> Simulated:
        """Of the paired test of the first side, if that is its AUC, against the second."""
        (up_a, down_a), (up_b, down_b) = self.placed(0, auc), placed_b
        difference = (up_a - up_b).mean(axis=-1)
        se = np.sqrt(variance_of(up_a - up_b, down_a - down_b))
        share = float(np.mean(np.abs(difference) > z * se))
        return Simulated(
            value=share, error=sqrt(share * (1 - share) / self.draws), draws=self.draws
        )


def _correlated(
    rng: np.random.Generator, models: int, draws: int, count: int, correlation: float
) -> Floats:
    """(models, draws, count) standard normal noise, any two models correlated alike."""
    shared = rng.standard_normal((draws, count))
    own = rng.standard_normal((models, draws, count))
    return np.asarray(sqrt(correlation) * shared + sqrt(1 - correlation) * own)
