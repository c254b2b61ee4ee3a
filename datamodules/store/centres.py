"""Leaving one centre out: which patients were examined where."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.errors import DataError
from datamodules.store.deal import Labels
from datamodules.store.folder import Store

CENTRE = "centre"
"""Kept column of the cohort that names where a patient was examined."""


def centres_of(table: Store) -> dict[str, str]:
    """The centre of every patient, as the cohort's kept column `centre` says.

    Raises:
        DataError: If there is no such column, or it is empty or not the same for a patient.
    """
    if CENTRE not in table.covariates:
        raise DataError(
            f"store must have kept the column {CENTRE!r} to leave out centres, got none "
            f"({table.path}). Fill it in cohort.csv and prepare again: --covariates {CENTRE}."
        )
    column = table.items[CENTRE]
    names = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    of_patient: dict[str, set[str]] = {}
    for patient, name in zip(table.items["patient_id"], names, strict=True):
        of_patient.setdefault(patient, set()).add(name)
    bad = sorted(p for p, found in of_patient.items() if len(found) > 1 or "" in found)
    if bad:
        raise DataError(
            f"{CENTRE} must be filled, and the same in all rows of a patient, got "
            f"{sorted(of_patient[bad[0]])} (patient {bad[0]}; {len(bad)} such patients). Correct "
            "cohort.csv and prepare again."
        )
    return {patient: found.pop() for patient, found in of_patient.items()}


def deal_by_centre(
    development: Sequence[str], labels: Labels, centres: Mapping[str, str], *, where: Path
) -> list[tuple[str, ...]]:
    """The development patients of each centre, in the order of the centres' names.

    Raises:
        DataError: With fewer than two centres, or one that cannot be left out and scored.
    """
    remedy = (
        f"Merge small centres in the column {CENTRE!r} of cohort.csv and prepare again, or split "
        "by patient: --scheme patient."
    )
    names = sorted(set(centres.values()))
    if len(names) < 2:
        raise DataError(
            f"centres must be 2 or more to leave one out, got {len(names)} ({where}). {remedy}"
        )
    groups = [tuple(p for p in development if centres[p] == name) for name in names]
    for name, group in zip(names, groups, strict=True):
        for label in (0, 1):
            here = sum(labels[p] == label for p in group)
            elsewhere = sum(labels[p] == label for p in development) - here
            if not here or elsewhere < 2:
                raise DataError(
                    "each centre must have patients of both labels outside the hold-out, and the "
                    f"others together 2 or more of each, got {here} and {elsewhere} of label "
                    f"{label} (centre {name!r}, {where}). {remedy}"
                )
    return groups
