"""Keyed hashes of patients: one a patient of a store, found again; no ids in logs."""

import hashlib
import hmac
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from datamodules.errors import DataError
from datamodules.store.pseudonyms import KEY_FILE, Pseudonyms, concealer, make_key


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


HIDDEN = (
    "P-001",
    "P_001",
    "p-001",
    "clip_P-001_a.avi",
    "'P-001'",
    "/raw/P-001/x.png",
    "P-001.",
    "(p 001)",
    "167683",
    "scan_167683.avi",
    "167683/a.png",
    "['167683']",
    "patient 167683",
    "x=167683,",
    "007",
    "frame-007.png",
    "'12'",
    '"12"',
    "clip_12_a.avi",
    "patient 12",
    "patient_id: 12",
    "ID=12,",
    "M\u00fcller",
    "M\u00dcLLER_2",
    "Mu\u0308ller",
    "2024/77-1",
    "2024/77-1_crop.mp4",
    "'ab'",
)
SHOWN = (
    "12 rows",
    "line 12, in f",
    "[12/30]",
    "0.1676",
    "3.167683",
    "18:40:02,007 start",
    "P-0010",
    "xP-001",
    "P001",
    "1676839",
    "ab initio",
    "12.5 s",
    "2024/78-1",
    "2024 77 1",
    "epoch 12",
)


@pytest.fixture
def odd(own: Path) -> Path:
    """The store with ids of every kind."""
    table = pd.read_parquet(own / "cohort.parquet")
    kinds = ("P-001", "167683", "007", "12", "M\u00fcller", "2024/77-1", "ab")
    names = dict(zip(table["patient_id"].unique(), kinds, strict=False))
    table["patient_id"] = table["patient_id"].replace(names)
    table.to_parquet(own / "cohort.parquet")
    return own


@pytest.mark.parametrize("text", HIDDEN)
def test_an_id_is_hidden_as_a_word_in_any_case_and_joined(odd: Path, text: str) -> None:
    here = Pseudonyms(odd)
    ids = {"P-001", "167683", "007", "12", "M\u00fcller", "2024/77-1", "ab"}
    (expected,) = {here.of(name) for name in ids} & set(
        re.findall("[0-9a-f]{16}", hidden(odd, text))
    )
    assert here.find(expected).casefold().split("-")[0][:2] in text.casefold().replace(
        "u\u0308", "\u00fc"
    )


@pytest.mark.parametrize("text", SHOWN)
def test_what_is_no_id_stays(odd: Path, text: str) -> None:
    assert hidden(odd, text) == text


def hidden(store: Path, text: str) -> str:
    return concealer(store)(text)


def test_a_text_is_kept_around_its_ids(own: Path) -> None:
    here = Pseudonyms(own)
    name = next(p for p in patients(own) if not p.isdecimal())
    text = f"line 3: Row(patient_id='{name}'), Row(patient_id=\"3\"), {name}. {name}0 {name}_x\n"
    assert hidden(own, text) == (
        f"line 3: Row(patient_id='{here.of(name)}'), Row(patient_id=\"{here.of('3')}\"), "
        f"{here.of(name)}. {name}0 {here.of(name)}_x\n"
    )


def test_a_text_is_withheld_where_no_hash_can_be_made(own: Path, tmp_path: Path) -> None:
    (own / KEY_FILE).write_text("00")
    assert concealer(own)("P0001").startswith("(withheld, for it may name patients: key of the")
    assert concealer(tmp_path / "none")("P0001") == "P0001"


def test_a_damaged_key_is_named(own: Path) -> None:
    (own / KEY_FILE).mkdir()
    with pytest.raises(DataError, match=r"must be readable, got IsADirectory.*patient\.key"):
        Pseudonyms(own)
    (own / KEY_FILE).rmdir()
    (own / KEY_FILE).write_text("00")
    with pytest.raises(DataError, match="must have 32 bytes, got 2"):
        Pseudonyms(own)
