"""Keyed hashes of patients: one a patient of a store, found again; no ids in logs."""

import hashlib
import hmac
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from datamodules.errors import DataError
from datamodules.store.pseudonyms import KEY_FILE, Pseudonyms, conceal, make_key


@pytest.fixture
def own(store: Path, tmp_path: Path) -> Path:
    """The tables of the store, to be written to; half of its patients are mere numbers."""
    path = tmp_path / "store"
    path.mkdir()
    shutil.copy(store / "store.json", path)
    table = pd.read_parquet(store / "cohort.parquet")
    numbers = {patient: str(i) for i, patient in enumerate(table["patient_id"].unique()) if i % 2}
    table["patient_id"] = table["patient_id"].replace(numbers)
    table.to_parquet(path / "cohort.parquet")
    return path


def patients(store: Path) -> list[str]:
    return sorted(pd.read_parquet(store / "cohort.parquet")["patient_id"].unique())


def test_preparing_makes_a_key_for_its_owner_only(store: Path) -> None:
    path = store / KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    key = path.read_bytes()
    assert len(key) == 32
    patient = patients(store)[0]
    expected = hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:16]
    assert Pseudonyms(store).of(patient) == expected


def test_hashes_are_one_a_patient_and_another_in_another_store(store: Path, own: Path) -> None:
    here, there = Pseudonyms(store), Pseudonyms(own)
    names = patients(store)
    assert len({here.of(name) for name in names}) == len(names)
    assert [here.of(name) for name in names] == [Pseudonyms(store).of(name) for name in names]
    assert not {here.of(name) for name in names} & {there.of(name) for name in names}


def test_a_hash_finds_its_patient(store: Path, own: Path) -> None:
    here = Pseudonyms(store)
    for patient in patients(store):
        assert here.find(here.of(patient).upper()) == patient
    with pytest.raises(DataError, match="hash must be that of one of the store's 26 patients"):
        here.find(Pseudonyms(own).of(patients(own)[0]))


def test_runs_that_begin_at_once_make_one_key(own: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(make_key, [own] * 32))
    assert len(keys) == 1
    assert {path.name for path in own.iterdir()} == {"store.json", "cohort.parquet", KEY_FILE}


def test_ids_in_a_text_become_hashes(own: Path) -> None:
    here = Pseudonyms(own)
    name = next(p for p in patients(own) if not p.isdecimal())
    text = f"line 3: Row(patient_id='{name}'), Row(patient_id=\"3\"), {name}. {name}0 {name}_1"
    concealed = here.conceal(text)
    assert concealed == (
        f"line 3: Row(patient_id='{here.of(name)}'), Row(patient_id=\"{here.of('3')}\"), "
        f"{here.of(name)}. {name}0 {name}_1"
    )
    assert conceal(text, own) == concealed


def test_a_text_is_withheld_where_no_hash_can_be_made(own: Path, tmp_path: Path) -> None:
    (own / KEY_FILE).write_text("00")
    assert conceal("P0001", own).startswith("(withheld, for it may name patients: key of the")
    assert conceal("P0001", tmp_path / "none") == "P0001"


def test_a_damaged_key_is_named(own: Path) -> None:
    (own / KEY_FILE).mkdir()
    with pytest.raises(DataError, match=r"must be readable, got IsADirectory.*patient\.key"):
        Pseudonyms(own)
    (own / KEY_FILE).rmdir()
    (own / KEY_FILE).write_text("00")
    with pytest.raises(DataError, match="must have 32 bytes, got 2"):
        Pseudonyms(own)
