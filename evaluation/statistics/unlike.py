"""Is a new patient unlike the training cohort? Distances, and how often each would alarm in vain.

Every rule is tried on the training patients themselves, each left out of what it is judged by:
that rate of false alarms is what the rule costs, and stands beside each warning.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import Bools, Floats

ALARM = 0.01
"""Share of the training patients beyond whom a new one counts as unlike them."""

NEIGHBOURS = 5
_TOLERANCE = 1e-3  # of a value: what a rate of 29.97 and one of 30000/1001 differ by


@dataclass(frozen=True)
class Alarm:
    """A rule's answer.

    Attributes:
        unlike: (new,) whether each is beyond the bounds.
        low: Lower bound; -inf where there is none.
        high: Upper bound.
        false_alarms: Share of training patients who would be, judged by the others; NaN with one.
    """

    unlike: Bools
    low: float
    high: float
    false_alarms: float


def outside(
    training: ArrayLike,
    new: ArrayLike,
    *,
    patients: ArrayLike | None = None,
    both_sides: bool = True,
    share: float = ALARM,
) -> Alarm:
    """Whether values are beyond the quantiles of the training cohort.

    Args:
        training: (n,) values, one or several a patient.
        new: (m,) values.
        patients: (n,) whose each training value is; each is its own by default. A patient with one
            value beyond the bounds of all others is a false alarm.
        both_sides: Whether low values are odd, too; the share is then of both sides together.
        share: Of the training values that may be beyond, in (0, 1).

    Raises:
        EvaluationError: without training values, or where one is not finite.
    """
    values, tried = np.asarray(training, np.float64), np.asarray(new, np.float64)
    owner = np.arange(values.size) if patients is None else np.asarray(patients)
    if not values.size or not np.isfinite(values).all():
        raise EvaluationError(
            f"training values must be finite numbers, got {values.size} with NaN or none at all. "
            "Leave out what was not measured."
        )

    def bounds(known: Floats) -> tuple[float, float]:
        tail = share / 2 if both_sides else share
        low = float(np.quantile(known, tail, method="lower"))
        high = float(np.quantile(known, 1 - tail, method="higher"))
        low = low - _TOLERANCE * abs(low) if both_sides else -np.inf
        return low, high + _TOLERANCE * abs(high)

    def beyond(some: Floats, known: Floats) -> Bools:
        low, high = bounds(known)
        return np.asarray((some < low) | (some > high))

    names = np.unique(owner)
    alarms = [
        beyond(values[owner == name], values[owner != name]).any()
        for name in (names if names.size > 1 else ())
    ]
    rate = float(np.mean(alarms)) if alarms else np.nan
    return Alarm(beyond(tried, values), *bounds(values), rate)


@dataclass(frozen=True)
class Region:
    """Where the training patients lie in the space of features; made by `fit_region`.

    Attributes:
        centre: (F,) mean.
        axes: (r, F) directions in which they vary, r at most n.
        variances: (r,) along them, shrunk.
        floor: Variance in every other direction.
        features: (n, F) float32.
        apart: (n,) Mahalanobis distance of each to all others.
        alone: (n,) distance of each to its k-th neighbour.
    """

    centre: Floats
    axes: Floats
    variances: Floats
    floor: float
    features: NDArray[np.float32]
    apart: Floats
    alone: Floats

    def mahalanobis(self, new: ArrayLike) -> Floats:
        """(m,) distances of (m, F) features."""
        shift = np.asarray(new, np.float64) - self.centre
        along = shift @ self.axes.T
        off_span = np.square(shift - along @ self.axes).sum(axis=1)
        squared = (np.square(along) / self.variances).sum(axis=1) + off_span / self.floor
        return np.asarray(np.sqrt(squared))

    def nearest(self, new: ArrayLike) -> Floats:
        """(m,) distances of (m, F) features to the k-th nearest training patient."""
        return _kth(_unit(new), _unit(self.features), _neighbours(len(self.features)))


def fit_region(features: ArrayLike) -> Region:
    """Mahalanobis distances with a shrunk covariance, and nearest neighbours.

    The covariance is (1 - δ)·S + δ·tr(S)/F·1 (Ledoit & Wolf 2004, J Multivar Anal 88:365), so that
    it has an inverse with fewer patients than features, too, and a step in a direction in which
    nobody varied is far. δ is that of all patients, also where one is left out. Neighbours are
    looked for among features scaled to length 1 (Sun et al. 2022, PMLR 162:20827); k is
    `NEIGHBOURS`, or all but one of a small cohort.

    Args:
        features: (n, F) of the training patients, n >= 3.

    Raises:
        EvaluationError: with fewer patients, or where a feature is not finite.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage  # slow to import, and needed once

    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) < 3 or not np.isfinite(x).all():
        raise EvaluationError(
            f"features must be finite, of 3 or more training patients, got {x.shape}. A cohort so "
            "small has no region."
        )
    n, width = x.shape
    delta, tiny = float(ledoit_wolf_shrinkage(x)), np.finfo(np.float64).tiny
    # In the axes of S the covariance is diagonal; outside of their span nobody varied.
    centre = x.mean(axis=0)
    spread, axes = np.linalg.svd(x - centre, full_matrices=False)[1:]
    own, variances = (x - centre) @ axes.T, np.square(spread) / n
    floor = max(delta * variances.sum() / width, tiny)
    # Without one patient S is n/(n-1)·S less n/(n-1)² times his own outer product: its inverse is
    # that of a diagonal matrix with a term taken off (Sherman & Morrison 1950).
    ratio, dropped = n / (n - 1), (1 - delta) * n / (n - 1) ** 2
    traces = ratio * variances.sum() - n / (n - 1) ** 2 * np.square(own).sum(axis=1)
    floors = np.maximum(delta * traces / width, tiny)[:, None]
    q = (np.square(own) / ((1 - delta) * ratio * variances + floors)).sum(axis=1)
    unit = _unit(x)
    return Region(
        centre=centre,
        axes=axes,
        variances=(1 - delta) * variances + floor,
        floor=floor,
        features=x.astype(np.float32),
        apart=ratio * np.sqrt(q / np.maximum(1 - dropped * q, tiny)),
        alone=_kth(unit, unit, _neighbours(n) + 1),  # the first is the patient himself
    )


def _neighbours(patients: int) -> int:
    return min(NEIGHBOURS, patients - 2)


def _kth(some: Floats, known: Floats, k: int) -> Floats:
    squared = np.maximum(2 - 2 * some @ known.T, 0)  # of rows of length 1
    return np.asarray(np.sqrt(np.sort(squared, axis=1)[:, k - 1]))


def _unit(values: ArrayLike) -> Floats:
    rows = np.asarray(values, np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, np.finfo(np.float64).tiny))
