"""A ridge-penalised logistic regression on features of frozen encoders, patients as the unit.

Its strength is chosen inside the training patients by stratified cross-validation that keeps a
patient's rows together, on the log loss; no other patient takes part. With two modalities each has
a regression of its own, and their log-odds ratios are added: the best rule there is where the two
are independent given the class (Neyman & Pearson 1933). What is returned is a linear rule in the
features as they are, so that it can stand as the head of the network that gave them (Kumar et al.
2022, arXiv:2202.10054).
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

    @property
    def weights(self) -> Array:
        """`(N,)`, of a patient in sum 1: as patients are scored, items are the means of windows."""
        _, item, windows = np.unique(
            np.stack([self.patients, self.items]), axis=1, return_inverse=True, return_counts=True
        )
        of_item = 1 / windows[item.ravel()]
        _, patient = np.unique(self.patients, return_inverse=True)
        return np.asarray(of_item / np.bincount(patient, of_item)[patient])


def fit_rule(
    rows: ProbeRows, *, seed: int = 0, strengths: Sequence[float] = STRENGTHS
) -> LinearRule:
    """Choose a strength by inner cross-validation and fit all rows, for each modality.

    Args:
        rows: Of the training patients only.
        seed: Of the inner folds.
        strengths: Inverse penalties to choose from.

    Raises:
        ValueError: If the patients with a modality are of one class, or all have the same features.
    """
    rules = [_fit_one(_with(rows, name), seed, strengths) for name in rows.features]
    return LinearRule(
        weights={name: weight for rule in rules for name, weight in rule.weights.items()},
        offsets={
            name: offset + rule.bias - _prior(_with(rows, name))
            for rule in rules
            for name, offset in rule.offsets.items()
        },
        bias=_prior(rows),
        strengths={name: chosen for rule in rules for name, chosen in rule.strengths.items()},
    )


def _fit_one(rows: ProbeRows, seed: int, strengths: Sequence[float]) -> LinearRule:
    """The rule of rows that all have their one modality."""
    patients, first = np.unique(rows.patients, return_index=True)
    labels = rows.labels[first]
    rarer = int(min(labels.sum(), len(labels) - labels.sum()))
    if rarer < 1:
        (name,) = rows.features
        raise ValueError(
            f"patients of a probe must be of both labels, got {len(patients)} of one with "
            f"features of modality {name}. Use fewer folds, or add patients."
        )
    chosen = strengths[len(strengths) // 2]
    if rarer > 1 and len(strengths) > 1:
        losses = np.zeros(len(strengths))
        for train, held_out in _inner_folds(patients, labels, folds=min(_FOLDS, rarer), seed=seed):
            inside, outside = _of(rows, train), _of(rows, held_out)
            space = _Space(inside)
            losses += [_log_loss(space.fit(strength), outside) for strength in strengths]
        chosen = strengths[int(losses.argmin())]
    return _Space(rows).fit(chosen)


class _Space:
    """Standardised rows of one modality; a fit costs rows, not features."""

    def __init__(self, rows: ProbeRows) -> None:
        ((self._name, features),) = rows.features.items()
        self._labels, self._row_weights = rows.labels, rows.weights
        self._mean = np.average(features, axis=0, weights=self._row_weights)
        variance = np.average((features - self._mean) ** 2, axis=0, weights=self._row_weights)
        spread = np.sqrt(variance + _FLOOR * variance.mean())
        self._scale = np.where(spread > 1e-8, spread, 1.0) * np.sqrt(features.shape[1])
        self._block = (features - self._mean) / self._scale
        values, vectors = np.linalg.eigh(self._block @ self._block.T)
        kept = values > 1e-10 * max(values[-1], 1e-20)
        if not kept.any():
            raise ValueError(
                f"features of a probe must differ between patients, got the same for all "
                f"{len(vectors)} rows. Check the weights of the encoder and its input."
            )
        self._lengths, self._vectors = np.sqrt(values[kept]), vectors[:, kept]

    def fit(self, strength: float) -> LinearRule:
        """The ridge solution, in the features as they were."""
        from sklearn.linear_model import (
            LogisticRegression,
        )  # a second of imports, which sweeps pay once

        model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-8, max_iter=1000)
        model.fit(self._vectors * self._lengths, self._labels, sample_weight=self._row_weights)
        of_rows = self._vectors @ (model.coef_[0] / self._lengths)
        weight = of_rows @ self._block / self._scale
        return LinearRule(
            weights={self._name: weight},
            offsets={self._name: -float(weight @ self._mean)},
            bias=float(model.intercept_[0]),
            strengths={self._name: strength},
        )


def rule_logits(rule: LinearRule, features: Mapping[str, Array]) -> Array:
    """Logits `(N,)` of rows; a modality that a row lacks adds nothing."""
    terms = [features[name] @ weight + rule.offsets[name] for name, weight in rule.weights.items()]
    return np.asarray(rule.bias + np.nan_to_num(terms).sum(axis=0))


def _inner_folds(
    patients: npt.NDArray[np.str_], labels: Array, *, folds: int, seed: int
) -> Iterator[tuple[npt.NDArray[np.str_], npt.NDArray[np.str_]]]:
    from sklearn.model_selection import StratifiedKFold

    for repeat in range(_REPEATS):
        split = StratifiedKFold(folds, shuffle=True, random_state=seed * _REPEATS + repeat)
        for train, held_out in split.split(patients, labels):
            yield patients[train], patients[held_out]


def _of(rows: ProbeRows, patients: npt.NDArray[np.str_]) -> ProbeRows:
    return _chosen(rows, np.isin(rows.patients, patients))


def _with(rows: ProbeRows, name: str) -> ProbeRows:
    """One modality, of the rows that have it."""
    alone = ProbeRows({name: rows.features[name]}, rows.patients, rows.items, rows.labels)
    return _chosen(alone, ~np.isnan(rows.features[name][:, 0]))


def _chosen(rows: ProbeRows, chosen: npt.NDArray[np.bool_]) -> ProbeRows:
    features = {name: values[chosen] for name, values in rows.features.items()}
    return ProbeRows(features, rows.patients[chosen], rows.items[chosen], rows.labels[chosen])


def _prior(rows: ProbeRows) -> float:
    """Log-odds of the label over patients, each of weight 1."""
    mean = float(np.average(rows.labels, weights=rows.weights))
    return math.log(mean / (1 - mean))


def _log_loss(rule: LinearRule, rows: ProbeRows) -> float:
    """Summed over patients, each with the mean of its items' mean logits."""
    logits = rule_logits(rule, rows.features)
    _, first, number = np.unique(rows.patients, return_index=True, return_inverse=True)
    means = np.bincount(number, logits * rows.weights)
    return float(np.logaddexp(0, -means * (2 * rows.labels[first] - 1)).sum())
