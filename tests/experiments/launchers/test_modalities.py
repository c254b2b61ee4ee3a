"""Cells whose modality patients lack are refused before anything starts, all in one error."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from datamodules.store.splits import Split, load_split
from tests import command

OWN = Path(__file__).parents[1] / "own"


def without_clips(store: Path, patients: set[str], to: Path) -> Path:
    """The store, less the clips of some patients."""
    copy = Path(shutil.copytree(store, to / "store"))
    items = pd.read_parquet(store / "cohort.parquet")
    lost = (items["modality"] == "ceus") & items["patient_id"].isin(patients)
    items[~lost].to_parquet(copy / "cohort.parquet", index=False)
    return copy


def lacking(split: Split, part: str, store: Path) -> set[str]:
    items = pd.read_parquet(store / "cohort.parquet")
    if part == "everyone":
        return set(items["patient_id"])
    patients = set(split.parts(0)[part.partition(" ")[0]])
    if part.endswith("of label 1"):
        patients &= set(items.loc[items["label"] == 1, "patient_id"])
    return patients


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("everyone", "train of fold 0"),
        ("inner_val", "inner_val of fold 0"),
        ("oof", "oof of fold 0"),
        ("test", "test of fold 0"),
        ("train of label 1", "train of fold 0 of label 1"),
    ],
)
@pytest.mark.parametrize("plan", [(), ("--plan",)])
def test_all_cells_without_clips_are_named_and_nothing_starts(
    store: Path, tmp_path: Path, part: str, told: str, plan: tuple[str, ...]
) -> None:
    copy = without_clips(store, lacking(load_split(store, "default"), part, store), tmp_path)
    settings = (f"architecture={OWN / 'tiny.yaml'}", f"store={copy}", f"runs={tmp_path / 'runs'}")
    done = command.ceus("sweep", OWN / "tiny_sweep.yaml", *settings, *plan, packages=OWN)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"tiny video: none with ceus in {told}" in line
    assert f"tiny combined: none with image and ceus in {told}" in line
    assert "tiny image" not in line
    assert not (tmp_path / "runs").exists()


def test_one_fit_is_refused_likewise(store: Path, tmp_path: Path) -> None:
    holdout = set(load_split(store, "default").holdout)
    copy = without_clips(store, holdout, tmp_path)
    settings = (f"architecture={OWN / 'tiny.yaml'}", f"store={copy}", f"runs={tmp_path / 'runs'}")
    done = command.ceus("fit", "modality=combined", *settings, packages=OWN)
    assert done.returncode == 2
    assert "none with image and ceus in test of fold 0" in done.stderr
