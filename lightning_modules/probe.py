"""A ridge-penalised logistic regression on features of frozen encoders, patients as the unit.

Its strength, and with two modalities the share of each, are chosen inside the training patients by
stratified cross-validation that keeps a patient's rows together, on the log loss; no other patient
takes part. What is returned is a linear rule in the features as they are, so that it can stand as
the head of the network that gave them (Kumar et al. 2022, arXiv:2202.10054).
"""

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

SHARES: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the video features that are tried where there are two modalities."""

_FOLDS, _REPEATS = 5, 3


@dataclass(frozen=True)
class LinearRule:
    """`logit = bias + sum over the modalities present of features @ weight + offset`.

    Attributes:
        weights: `(F,)` by modality; all 0 for one that has no say.
        offsets: By modality: what makes its term 0 at the mean of the training patients, so that
            one who lacks it is taken for average in it.
        bias: Log-odds of an average patient.
        strength: Of `STRENGTHS`, as chosen.
        share: Of `SHARES`, as chosen; 1 or 0 with one modality.
    """

    weights: Mapping[str, Array]
    offsets: Mapping[str, float]
    bias: float
    strength: float
    share: float


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
    rows: ProbeRows,
    *,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
    shares: Sequence[float] = SHARES,
) -> LinearRule:
    """Choose strength and share by inner cross-validation, then fit all rows.

    Args:
        rows: Of the training patients only.
        seed: Of the inner folds.
        strengths: Inverse penalties to choose from.
        shares: Shares of the video features to choose from; not used with one modality.

    Raises:
        ValueError: If the patients are of one class, or all have the same features.
    """
    patients, first = np.unique(rows.patients, return_index=True)
    labels = rows.labels[first]
    rarer = int(min(labels.sum(), len(labels) - labels.sum()))
    if rarer < 1:
        raise ValueError(
            f"patients of a probe must be of both labels, got {len(patients)} of one. Use fewer "
            "folds, or add patients."
        )
    candidates = [(c, s) for s in (shares if len(rows.features) > 1 else (1.0,)) for c in strengths]
    chosen = candidates[len(strengths) // 2]
    if rarer > 1 and len(candidates) > 1:
        losses = np.zeros(len(candidates))
        for train, held_out in _inner_folds(patients, labels, folds=min(_FOLDS, rarer), seed=seed):
            inside, outside = _of(rows, train), _of(rows, held_out)
            space = _Space(inside)
            losses += [_log_loss(space.fit(*candidate), outside) for candidate in candidates]
        chosen = candidates[int(losses.argmin())]
    return _Space(rows).fit(*chosen)


class _Space:
    """Standardised rows; a fit costs rows, not features."""

    def __init__(self, rows: ProbeRows) -> None:
        self._rows = rows
        self._row_weights = rows.weights
        self._scales = {name: self._standard(values) for name, values in rows.features.items()}
        self._blocks = {  # what is absent: the mean, which is 0
            name: np.nan_to_num((values - self._scales[name][0]) / self._scales[name][1])
            for name, values in rows.features.items()
        }
        self._products = {name: block @ block.T for name, block in self._blocks.items()}
        self._bases: dict[float, tuple[Array, Array]] = {}

    def _standard(self, features: Array) -> tuple[Array, Array]:
        present = ~np.isnan(features[:, 0])
        weights, values = self._row_weights[present], features[present]
        mean = np.average(values, axis=0, weights=weights)
        spread = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
        return mean, np.where(spread > 1e-8, spread, 1.0) * np.sqrt(features.shape[1])

    def fit(self, strength: float, share: float) -> LinearRule:
        """The ridge solution, in the features as they were."""
        from sklearn.linear_model import (
            LogisticRegression,
        )  # a second of imports, which sweeps pay once

        parts = {
            name: share if name == "video" or len(self._blocks) == 1 else 1 - share
            for name in self._blocks
        }
        if share not in self._bases:
            product = sum(part**2 * self._products[name] for name, part in parts.items())
            values, vectors = np.linalg.eigh(product)
            kept = values > 1e-10 * max(values[-1], 1e-20)
            if not kept.any():
                raise ValueError(
                    f"features of a probe must differ between patients, got the same for all "
                    f"{len(vectors)} rows. Check the weights of the encoder and its input."
                )
            self._bases[share] = np.sqrt(values[kept]), vectors[:, kept]
        lengths, vectors = self._bases[share]
        model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-8, max_iter=1000)
        model.fit(vectors * lengths, self._rows.labels, sample_weight=self._row_weights)
        of_rows = vectors @ (model.coef_[0] / lengths)
        weights, offsets = {}, {}
        for name, (mean, scale) in self._scales.items():
            weights[name] = parts[name] ** 2 * (of_rows @ self._blocks[name]) / scale
            offsets[name] = -float(weights[name] @ mean)
        return LinearRule(weights, offsets, float(model.intercept_[0]), strength, share)


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
    chosen = np.isin(rows.patients, patients)
    features = {name: values[chosen] for name, values in rows.features.items()}
    return ProbeRows(features, rows.patients[chosen], rows.items[chosen], rows.labels[chosen])


def _log_loss(rule: LinearRule, rows: ProbeRows) -> float:
    """Summed over patients, each with the mean of its items' mean logits."""
    logits = rule_logits(rule, rows.features)
    _, first, number = np.unique(rows.patients, return_index=True, return_inverse=True)
    means = np.bincount(number, logits * rows.weights)
    return float(np.logaddexp(0, -means * (2 * rows.labels[first] - 1)).sum())
