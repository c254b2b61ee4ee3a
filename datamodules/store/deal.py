"""Patients dealt to parts at random, each class by itself."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from datamodules.errors import DataError

Labels = Mapping[str, int]
Seed = tuple[int, ...]


def stratified_share(
    patients: Iterable[str], labels: Labels, fraction: float, *, seed: Seed
) -> list[str]:
    """That share of each class, at least one patient of each, sorted."""
    groups = _by_class(patients, labels, seed)
    return sorted(p for group in groups for p in group[: max(1, round(fraction * len(group)))])


def require_number(wanted: int, there: int, *, where: str) -> None:
    """As many patients as are trained on, one of each class at least.

    Raises:
        DataError: If there are fewer, or fewer than two are wanted.
    """
    if not 2 <= wanted <= there:
        raise DataError(
            f"train_patients must be 2 to {there}, those there are ({where}), got {wanted}. Leave "
            "it out for all."
        )


def deal(
    patients: Iterable[str], labels: Labels, num_folds: int, *, seed: Seed
) -> list[tuple[str, ...]]:
    """Deal the classes one after the other, round the table: sizes differ by at most one."""
    order = [p for group in _by_class(patients, labels, seed) for p in group]
    return [tuple(sorted(order[k::num_folds])) for k in range(num_folds)]


def require_enough(patients: Sequence[str], labels: Labels, *, num_folds: int, where: Path) -> None:
    """Each class must reach the out-of-fold, inner validation and training part of every fold.

    Raises:
        DataError: If one has fewer patients than that takes.
    """
    # The largest out-of-fold part takes ceil(n / k); one must be left to watch, one to train on.
    needed = next(n for n in count(num_folds) if n - -(-n // num_folds) >= 2)
    for label in (0, 1):
        number = sum(labels[p] == label for p in patients)
        if number < needed:
            raise DataError(
                f"patients of label {label} outside the hold-out must be {needed} or more for "
                f"num_folds = {num_folds}, got {number}: {needed - number} lacking ({where}). "
                "Use fewer folds or a smaller hold-out, or add patients."
            )


def _by_class(patients: Iterable[str], labels: Labels, seed: Seed) -> list[list[str]]:
    """Patients of label 0, then of label 1, each in a random order."""
    rng = np.random.default_rng(seed)
    patients = sorted(patients)
    classes = [[p for p in patients if labels[p] == label] for label in (0, 1)]
    return [[group[i] for i in rng.permutation(len(group))] for group in classes]
