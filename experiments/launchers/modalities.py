"""Cells whose modality the patients lack are refused before anything starts."""

from collections.abc import Sequence
from functools import cache

from datamodules.store.deal import require_number
from datamodules.store.folder import Store
from datamodules.store.splits import Split
from experiments.config.pretraining import is_pretraining
from experiments.config.run import Run, open_cohort
from experiments.errors import ConfigError

_NEEDS = {
    "datamodules.ImageDataModule": ("image",),
    "datamodules.CeusVideoDataModule": ("ceus",),
    "datamodules.CombinedDataModule": ("image", "ceus"),
}
"""Modalities in the store that the rows of a datamodule are made of; others are the user's own."""


def check_modalities(runs: Sequence[Run]) -> None:
    """Each part of a run's split must have patients with all that its models see.

    Those who are trained on with all of it must be of both labels.

    Raises:
        ConfigError: Naming every cell that lacks them, and the first part where it does.
        DataError: If a store or split is not there or not whole, or a fold lacks as many patients
            as are to be trained on.
    """
    cohort, holders = cache(open_cohort), cache(_holders)
    lacking: dict[str, str] = {}
    for run in runs:
        needs = _NEEDS.get(str(run.config["data"].get("class_path")))
        if needs is None or is_pretraining(run.config):
            continue
        store, split = cohort(run.study.store, run.study.split)
        _check_number(split, run)
        whole = frozenset.intersection(*(holders(store, modality) for modality in needs))
        if part := _part_without(store, split, run, whole):
            cell = f"{run.study.architecture} {run.study.modality}"
            lacking.setdefault(cell, f"{' and '.join(needs)} in {part}")
    if lacking:
        told = "; ".join(f"{cell}: none with {what}" for cell, what in lacking.items())
        raise ConfigError(
            "each part of a split must have patients with every modality of a cell, and training "
            f"some of both labels, got {told} ({runs[0].study.store}). Leave these cells out, as "
            "by modality=image, or add items to the cohort."
        )


def _check_number(split: Split, run: Run) -> None:
    """Refuse more patients to train on than a fold has; none is trained without inner ones."""
    wanted = run.config["data"]["init_args"].get("train_patients")
    if wanted is None or run.study.fold == "none":
        return
    parts = split.parts(run.study.fold, run.study.repeat)
    inner = parts["inner_val"] if run.study.selection != "inner_bce" else ()
    where = f"fold {run.study.fold_name} of split {run.study.split!r}, {run.study.store}"
    require_number(wanted, len(parts["train"]) + len(inner), where=where)


def _holders(store: Store, modality: str) -> frozenset[str]:
    items = store.items
    return frozenset(items.loc[items["modality"] == modality, "patient_id"])


def _part_without(store: Store, split: Split, run: Run, whole: frozenset[str]) -> str | None:
    """The first part without one of these patients; of training also without one of a label."""
    if run.study.fold == "none":
        return None
    fold = run.study.fold_name
    for part, patients in split.parts(run.study.fold, run.study.repeat).items():
        there = whole.intersection(patients)
        if not there:
            return f"{part} of fold {fold}"
        labels = {store.labels[patient] for patient in there} if part == "train" else {0, 1}
        if missing := {0, 1} - labels:
            return f"{part} of fold {fold} of label {missing.pop()}"
    return None
