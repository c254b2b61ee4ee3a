"""A ridge-penalised logistic regression on features of frozen encoders, patients as the unit.

Its strength is chosen inside the training patients by stratified cross-validation on the log loss;
no other patient takes part. With two modalities each has a regression of its own, and their
log-odds ratios are added: the best rule there is where the two are independent given the class
(Neyman & Pearson 1933). What is returned is a linear rule in the features as they are, so that it
can stand as the head of the network that gave them (Kumar et al. 2022, arXiv:2202.10054).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

STRENGTHS: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Inverse penalties that are tried, for features standardised and divided by the root of their
number, so that they do not depend on the width; the loss is summed over patients. With some twenty
patients the choice runs to any larger one that is offered, and loses by it (docs/design.md,
"Recipe")."""

_FLOOR = 0.01
"""Share of the mean variance that is added to each feature's before it is standardised. Without it
one that hardly varies among the training patients, as a channel that is silent in all but one,
decides alone about the first new patient in whom it speaks."""

_FOLDS, _REPEATS = 5, 3


@dataclass(frozen=True)
class LinearRule:
    """`logit = bias + sum over the modalities present of features @ weight + offset`.

    Attributes:
        weights: `(F,)` by modality.
        offsets: By modality: what makes its term the log-odds that it adds, so that of a patient
            who lacks it nothing is assumed.
        bias: Log-odds of a patient of whom nothing is known.
        strengths: Of `STRENGTHS`, as chosen for each modality.
    """

    weights: Mapping[str, Array]
    offsets: Mapping[str, float]
    bias: float
    strengths: Mapping[str, float]


@dataclass(frozen=True)
class ProbeRows:
    """Features of rows, and whose they are.

    Attributes:
        features: `(N, F)` by modality, NaN throughout where the row lacks it.
        patients: `(N,)` patient of each row.
        items: `(N,)` item of each row: those of a patient weigh alike, whatever their windows.
        labels: `(N,)` 0 or 1.
    """

    features: Mapping[str, Array]
    patients: npt.NDArray[np.str_]
    items: npt.NDArray[np.str_]
    labels: Array


def fit_rule(
    rows: ProbeRows, *, seed: int = 0, strengths: Sequence[float] = STRENGTHS
) -> LinearRule:
    """Choose a strength by inner cross-validation and fit all patients, for each modality.

    A patient's features are the mean over the items of the means over their windows: by a linear
    rule, what is scored is the logit of that mean.

    Args:
        rows: Of the training patients only.
        seed: Of the inner folds.
        strengths: Inverse penalties to choose from.

    Raises:
        ValueError: If the patients with a modality are of one class, or all have the same features.
    """
    weights, offsets, chosen = {}, {}, {}
    for name in rows.features:
        features, labels = patient_means(rows, name)
        if not 0 < labels.sum() < len(labels):
            raise ValueError(
                f"patients of a probe must be of both labels, got {len(labels)} of one with "
                f"features of modality {name}. Use fewer folds, or add patients."
            )
        chosen[name] = _choose(features, labels, seed, strengths)
        weights[name], bias = _Space(features).fit(labels, chosen[name])
        offsets[name] = bias - _log_odds(labels)
    first = np.unique(rows.patients, return_index=True)[1]
    return LinearRule(weights, offsets, _log_odds(rows.labels[first]), chosen)


def patient_means(rows: ProbeRows, name: str) -> tuple[Array, Array]:
    """Features `(P, F)` and labels `(P,)` of the patients with a modality, in the order of ids."""
    present = ~np.isnan(rows.features[name][:, 0])
    patients, first, patient_of = np.unique(
        rows.patients[present], return_index=True, return_inverse=True
    )
    keys = np.stack([rows.patients[present], rows.items[present]])
    _, item_of, windows = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
    weights = 1 / windows[item_of.ravel()]
    weights /= np.bincount(patient_of, weights)[patient_of]
    means = np.zeros((len(patients), rows.features[name].shape[1]))
    np.add.at(means, patient_of, weights[:, None] * rows.features[name][present])
    return means, rows.labels[present][first]


def _choose(features: Array, labels: Array, seed: int, strengths: Sequence[float]) -> float:
    """The strength of the least log loss over inner folds; the middle one if there can be none."""
    rarer = int(min(labels.sum(), len(labels) - labels.sum()))
    if rarer == 1 or len(strengths) == 1:
        return strengths[len(strengths) // 2]
    losses = np.zeros(len(strengths))
    for train, held_out in _inner_folds(labels, folds=min(_FOLDS, rarer), seed=seed):
        space = _Space(features[train])
        for number, strength in enumerate(strengths):
            weight, bias = space.fit(labels[train], strength)
            odds = (features[held_out] @ weight + bias) * (2 * labels[held_out] - 1)
            losses[number] += np.logaddexp(0, -odds).sum()
    return strengths[int(losses.argmin())]


class _Space:
    """Standardised features of patients; a fit costs patients, not features."""

    def __init__(self, features: Array) -> None:
        self._mean = features.mean(axis=0)
        variance = features.var(axis=0)
        spread = np.sqrt(variance + _FLOOR * variance.mean())
        self._scale = np.where(spread > 1e-8, spread, 1.0) * np.sqrt(features.shape[1])
        self._block = (features - self._mean) / self._scale
        values, vectors = np.linalg.eigh(self._block @ self._block.T)
        kept = values > 1e-10 * max(values[-1], 1e-20)
        if not kept.any():
            raise ValueError(
                f"features of a probe must differ between patients, got the same for all "
                f"{len(features)}. Check the weights of the encoder and its input."
            )
        self._lengths, self._vectors = np.sqrt(values[kept]), vectors[:, kept]

    def fit(self, labels: Array, strength: float) -> tuple[Array, float]:
        """The ridge solution, in the features as they were: weights `(F,)` and bias."""
        from sklearn.linear_model import (
            LogisticRegression,
        )  # a second of imports, which sweeps pay once

        model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-8, max_iter=1000)
        model.fit(self._vectors * self._lengths, labels)
        of_patients = self._vectors @ (model.coef_[0] / self._lengths)
        weight = of_patients @ self._block / self._scale
        return weight, float(model.intercept_[0] - weight @ self._mean)


def rule_logits(rule: LinearRule, features: Mapping[str, Array]) -> Array:
    """Logits `(N,)` of rows; a modality that a row lacks adds nothing."""
    terms = [features[name] @ weight + rule.offsets[name] for name, weight in rule.weights.items()]
    return np.asarray(rule.bias + np.nan_to_num(terms).sum(axis=0))


def _inner_folds(
    labels: Array, *, folds: int, seed: int
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    from sklearn.model_selection import StratifiedKFold

    for repeat in range(_REPEATS):
        split = StratifiedKFold(folds, shuffle=True, random_state=seed * _REPEATS + repeat)
        yield from split.split(labels, labels)


def _log_odds(labels: Array) -> float:
    return math.log(labels.mean() / (1 - labels.mean()))
