"""Guards of every statistic: what may be scored, and why a figure is undefined."""

from collections.abc import Sequence
from dataclasses import fields
from math import nan
from reprlib import repr as short_repr
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.errors import EvaluationError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Record = TypeVar("Record")


def checked(
    labels: ArrayLike, *scores: ArrayLike, patients: ArrayLike | None = None
) -> tuple[Bools, list[Floats]]:
    """Labels as (n,) bool and each of the scores as (n,) float64, or an error that says why not.

    Raises:
        EvaluationError: labels other than 0/1, NaN scores, unequal lengths, or, where the patients
            are given, one of them twice.
    """
    y = _vector("labels", labels)
    wrong = y[~np.isin(y, (0, 1))]
    if wrong.size:
        raise EvaluationError(
            f"labels must be 0 or 1, got {wrong[0]:g} ({wrong.size} of {y.size}). "
            "Leave out patients whose label is not known."
        )
    xs = [_vector("scores", each) for each in scores]
    for x in xs:
        same_length("scores", x, y.size)
        if missing := int(np.isnan(x).sum()):
            raise EvaluationError(
                f"scores must be numbers, got NaN ({missing} of {x.size}). "
                "A model that gives NaN has diverged; look at its log."
            )
    if patients is not None:
        names = np.asarray(patients)
        same_length("patients", names, y.size)
        distinct, counts = np.unique(names, return_counts=True)
        if distinct.size < names.size:
            raise EvaluationError(
                f"patients must be there once each, got {distinct[counts.argmax()]!s} "
                f"{counts.max()} times. Average a patient's scores first."
            )
    return y.astype(bool), xs


def checked_models(
    labels: ArrayLike, scores: ArrayLike, patients: ArrayLike | None = None
) -> tuple[Bools, Floats]:
    """As `checked`, of the scores of one model, (n,), or an array of several's, as (models, n)."""
    several = isinstance(scores, np.ndarray) and scores.ndim == 2 and len(scores)
    rows: list[ArrayLike] = list(np.asarray(scores)) if several else [scores]
    y, xs = checked(labels, *rows, patients=patients)
    return y, np.stack(xs)


def checked_probabilities(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Bools, Floats]:
    """As `checked`, of probabilities in [0, 1]."""
    y, (p,) = checked(labels, probabilities)
    outside = p[(p < 0) | (p > 1)]
    if outside.size:
        raise EvaluationError(
            f"probabilities must be in [0, 1], got {outside[0]:g} ({outside.size} of {p.size}). "
            "Give probabilities, not logits."
        )
    return y, p


def same_length(name: str, values: NDArray[Any], count: int) -> None:
    """Refuse a vector that is not one value a patient."""
    if values.shape != (count,):
        raise EvaluationError(
            f"{name} must be as many as labels ({count}), got {values.size}. "
            "Give one a patient, in the same order."
        )


def one_class(y: Bools) -> str:
    """Why a ROC curve over these labels is undefined, or "" when it is not."""
    if y.size == 0:
        return "no patients"
    if y.all():
        return "no negative patient"
    return "" if y.any() else "no positive patient"


def single_of_class(y: Bools) -> str:
    """Why a variance over these labels is undefined, or "" when it is not."""
    for kind, count in (("positive", y.sum()), ("negative", (~y).sum())):
        if count < 2:
            return f"a single {kind} patient: the variance over {kind}s is undefined"
    return ""


def undefined(record: type[Record], reason: str, **known: Any) -> Record:
    """A result that could not be computed: NaN in every field but those known, and why.

    Args:
        record: Dataclass of the result, with a field `reason`.
        reason: Why its figures are NaN.
        **known: Fields that have a value all the same.
    """
    names = [field.name for field in fields(record)]  # type: ignore[arg-type]
    return record(**dict.fromkeys(names, nan) | known | {"reason": reason})


def normal_quantile(level: float) -> float:
    """The z whose ±z holds `level` of the normal distribution."""
    # scipy is imported where it is used: commands that compute nothing should not pay for it.
    from scipy.special import ndtri

    if not 0 < level < 1:
        raise EvaluationError(f"level must be between 0 and 1, got {level!r}. Give 0.95 for 95 %.")
    return float(ndtri(0.5 + level / 2))


def check_share(name: str, value: float, *, ends: bool = False) -> None:
    """Refuse what is no share; with `ends`, 0 and 1 are shares too."""
    if not (0 <= value <= 1 if ends else 0 < value < 1):
        raise EvaluationError(f"{name} must be between 0 and 1, got {value!r}. Give a share.")


def one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse a choice that is not there."""
    if value not in allowed:
        choices = " or ".join(filter(None, [", ".join(map(repr, allowed[:-1])), repr(allowed[-1])]))
        raise EvaluationError(f"{name} must be {choices}, got {value!r}. Choose one of them.")


def _vector(name: str, values: ArrayLike) -> Floats:
    try:
        array: NDArray[Any] = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EvaluationError(
            f"{name} must be numbers, got {short_repr(values)}. Give one a patient."
        ) from error
    if array.ndim != 1:
        raise EvaluationError(
            f"{name} must have one dimension, got shape {array.shape}. Give one a patient."
        )
    return array
