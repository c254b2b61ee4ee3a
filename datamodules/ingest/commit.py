"""Into the store all at once: the folder where items are made, and what then replaces what."""

import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.errors import DataError
from datamodules.files import sweep_up, write_atomic
from datamodules.ingest.cohort import Cohort
from datamodules.ingest.tables import make_tables
from datamodules.ingest.task import Outcome, item_suffixes, mask_file
from datamodules.store.folder import STORE_FORMAT, Store


def check_folder(store: Path, canvas: int) -> None:
    """Raises DataError for a folder that is no store, and a store of another canvas."""
    if not store.exists() or (store.is_dir() and not any(store.iterdir())):
        return
    if (
        store.is_dir()
        and (store / "store.json").is_file()
        and not (store / "cohort.parquet").is_file()
    ):
        return  # an earlier call was killed while it wrote
    old = Store(store, with_unlabelled=True)
    if old.canvas != canvas:
        raise DataError(
            f"canvas must be {old.canvas} as in the store there is, got {canvas} ({store}). "
            "Name a new folder for another canvas."
        )


@contextmanager
def staging_folder(store: Path) -> Iterator[Path]:
    """A folder beside the store, for one call at a time; gone when all went well.

    Whole items of a call that failed or was killed stay to be used. The lock is on the folder
    itself and ends with the process that holds it.

    Raises:
        DataError: If another call holds it.
    """
    store = store.resolve()  # two names of one store are one store
    path = store.with_name(f".{store.name}.preparing")
    path.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"store must be written by one call at a time, got another at work ({store}). "
                "Wait for the other `ceus prepare` to end."
            ) from None
        whole_items = {facts.stem for facts in path.glob("*.json") if "-" not in facts.stem}
        for file in path.iterdir():
            if file.is_dir():
                shutil.rmtree(file)
            elif file.stem not in whole_items:
                file.unlink(missing_ok=True)
        sweep_up(store.parent, f".{store.name}-review.html")
        try:
            yield path
        except BaseException:
            if any("-" not in facts.stem for facts in path.glob("*.json")):
                raise
            shutil.rmtree(path, ignore_errors=True)
            raise
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(fd)


def commit(
    store: Path,
    staging: Path,
    cohort: Cohort,
    outcomes: dict[int, Outcome],
    *,
    facts: Mapping[str, dict[str, Any]],
    sources: Mapping[str, str],
    canvas: int,
    as_is: bool,
) -> None:
    """Moves items into the store, then replaces its tables, the cohort's last.

    Item files are named by what they hold, so none is ever overwritten by something else: until
    the cohort table is replaced, the old store is whole.
    """
    items = store / "items"
    items.mkdir(parents=True, exist_ok=True)
    sweep_up(store)
    header = {"format": STORE_FORMAT, "canvas": canvas, "as_is": as_is}
    _replace(store / "store.json", json.dumps(header).encode())
    modality = {row.line: row.modality for row in cohort.rows}
    wanted = {
        outcome.item_id + suffix
        for line, outcome in outcomes.items()
        for suffix in item_suffixes(modality[line])
    }
    masks = {line: outcome.mask for line, outcome in outcomes.items() if outcome.mask}
    wanted |= {mask_file(mask) for mask in masks.values()}
    for name in wanted:
        if (staging / name).exists():
            (staging / name).replace(items / name)
    present = {outcome.item_id for outcome in outcomes.values()}
    shas = {outcome.source_sha for outcome in outcomes.values()}
    prepared = {
        "sources": {key: sha for key, sha in sorted(sources.items()) if sha in shas},
        "items": {item_id: facts[item_id] for item_id in sorted(present)},
    }
    item_ids = {line: outcome.item_id for line, outcome in outcomes.items()}
    table, quality = make_tables(cohort.rows, item_ids, facts, masks, items, split=cohort.has_split)
    # Only the rule that a row breaks: what it has instead might name somebody. A patient with
    # nothing left is a number here, so that such patients can be counted.
    lost = {patient: number for number, patient in enumerate(cohort.lost, start=1)}
    skipped = pd.DataFrame(
        [
            (p.line, p.reason.partition(", got")[0], p.modality, lost.get(p.patient_id))
            for p in cohort.problems
        ],
        columns=["line", "reason", "modality", "lost_patient"],
    ).astype({"lost_patient": "Int64"})
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    _replace(store / "quality.csv", quality.to_csv(index=False).encode())
    _replace(store / "skipped.csv", skipped.to_csv(index=False).encode())
    _replace(store / "prepared.json", json.dumps(prepared).encode())
    _replace(store / "cohort.parquet", buffer.getvalue())
    for path in items.iterdir():
        if path.name not in wanted and not path.is_dir():  # a file server's own folders stay
            path.unlink()


def _replace(path: Path, content: bytes) -> None:
    """Writes a file all at once or not at all; leaves an equal one alone."""
    if not path.is_file() or path.read_bytes() != content:
        write_atomic(path, content)
