"""`ceus prepare`: from a table and untrustworthy files to a store that training can trust."""

import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from datamodules.errors import DataError
from datamodules.ingest.cohort import Cohort, Problem, Row, find_repeats, read_cohort
from datamodules.ingest.item import ingest, inspect
from datamodules.ingest.review import LEAST_CONFIDENCE, read_approvals, review_path, write_review
from datamodules.ingest.tables import make_tables
from datamodules.ingest.task import (
    Outcome,
    Task,
    item_suffixes,
    make_item_id,
)
from datamodules.ingest.workers import Workers, run_all
from datamodules.store.folder import STORE_FORMAT, Store
from datamodules.store.pseudonyms import make_key


def prepare(
    cohort_csv: Path,
    store: Path,
    *,
    canvas: int = 256,
    covariates: Sequence[str] = (),
    skip_bad: bool = False,
    as_is: bool = False,
    require_review: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Decodes every file of a cohort once, checks it, and writes it into a store.

    Every file is opened, then decoded, before the store is touched: a failure leaves it as it was.
    Files that are in the store already, or that a killed call had finished, are not decoded again;
    rows taken out of the table leave the store.

    Args:
        cohort_csv: table, see `datamodules.ingest.cohort.read_cohort`.
        store: folder; made if it is not there.
        canvas: side of the stored frames, pixels, a multiple of 16 in 32..1024. The whole frame
            (or crop) is fitted in, aspect ratio kept, bars black.
        covariates: further columns of the table to copy.
        skip_bad: leave bad rows out (told on stderr, kept in skipped.csv) instead of failing.
        as_is: keep whole frames, or the table's crop: look for no panel, black out no writing.
        require_review: refuse clips whose panel was found with a confidence under 0.5, until they
            are approved (`datamodules.ingest.review`) or have a crop.
        workers: processes; by default one a core.
        progress: show a bar on stderr. What was done and left out is said there in any case.

    Returns:
        the store's folder.

    Raises:
        DataError: one that lists every bad row; or the table, the folder or a setting is not
            usable, or another `ceus prepare` is writing this store.
    """
    cohort_csv, store = Path(cohort_csv), Path(store)
    if canvas % 16 or not 32 <= canvas <= 1024:
        raise DataError(
            f"canvas must be a multiple of 16 in 32..1024, got {canvas} (ceus prepare). "
            "256 suits networks of 224 pixels."
        )
    if workers is not None and workers < 1:
        raise DataError(f"workers must be >= 1, got {workers} (ceus prepare). Leave it out.")
    cohort = read_cohort(cohort_csv, covariates=covariates)
    _check_folder(store, canvas)
    with _staging(store) as staging:
        known = _Known(store, staging)
        tasks = [
            Task(
                line=row.line, path=row.path, patient_id=row.patient_id, modality=row.modality,
                crop=row.crop, panel=row.panel, fps=row.fps, as_is=as_is, canvas=canvas,
                staging=staging, known=frozenset(known.items),
            )
            for row in cohort.rows
        ]  # fmt: skip
        keys = {task.line: _source_key(task.path) for task in tasks}
        outcomes = {task.line: known.find(task, keys[task.line]) for task in tasks}
        new = [task for task in tasks if not outcomes[task.line].item_id]
        with Workers(workers or len(os.sched_getaffinity(0))) as pool:
            for outcome in run_all(inspect, new, pool, label="inspect" if progress else ""):
                outcomes[outcome.line] = outcome
            cohort = cohort.without(_problems(cohort, outcomes, known))
            if not skip_bad:
                cohort.raise_problems()  # now: hours of decoding would not make them good
            usable = {row.line for row in cohort.rows}
            new = [task for task in new if task.line in usable]
            for outcome in run_all(ingest, new, pool, label="prepare" if progress else ""):
                outcomes[outcome.line] = outcome
        problems = _problems(cohort, outcomes, known)
        _show_panels(store, outcomes)
        if require_review:
            problems += _unapproved(cohort, outcomes, known, store=store)
        cohort = cohort.without(problems)
        if not skip_bad:
            cohort.raise_problems()
        if not cohort.rows:
            raise DataError(
                f"cohort must have usable rows, got none ({cohort_csv}):\n"
                f"{cohort.describe_problems()}\nNothing was written."
            )
        kept = {row.line: outcomes[row.line] for row in cohort.rows}
        before = known.stored
        for line, outcome in kept.items():
            known.sources[keys[line]] = outcome.source_sha
            if outcome.facts is not None:
                known.items[outcome.item_id] = outcome.facts
        _commit(store, staging, cohort, kept, known=known, canvas=canvas)
        make_key(store)
    _tell(cohort, store, new=sum(outcome.item_id not in before for outcome in kept.values()))
    return store


class _Known:
    """What the store holds already (`prepared.json`), and what a killed call had finished.

    Attributes:
        sources: hash of a file's place, size and time -> hash of its content.
        items: item_id -> facts, for items whose files are all there.
        stored: item_ids of those in the store.
    """

    def __init__(self, store: Path, staging: Path) -> None:
        self.sources: dict[str, str] = {}
        self.items: dict[str, dict[str, Any]] = {}
        self._read_store(store)
        self.stored = frozenset(self.items)
        for path in staging.glob("*.json"):
            self.items.setdefault(path.stem, json.loads(path.read_text()))

    def _read_store(self, store: Path) -> None:
        path = store / "prepared.json"
        if not path.is_file():
            return
        content = json.loads(path.read_text())
        self.sources = content["sources"]
        present = {entry.name for entry in (store / "items").iterdir()}
        for item_id, facts in content["items"].items():
            modality = "image" if facts["codec"] == "image" else "ceus"
            if present.issuperset(item_id + suffix for suffix in item_suffixes(modality)):
                self.items[item_id] = facts

    def find(self, task: Task, key: str) -> Outcome:
        """The task's item if it is here, else an outcome without an item."""
        source_sha = self.sources.get(key, "")
        item_id = make_item_id(task, source_sha) if source_sha else ""
        found = item_id in self.items
        return Outcome(task.line, source_sha=source_sha, item_id=item_id if found else "")


def _source_key(path: Path) -> str:
    text = str(path)
    for part in sorted(path.iterdir()) if path.is_dir() else (path,):
        status = part.stat()
        text += f"\0{part.name}\0{status.st_size}\0{status.st_mtime_ns}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _check_folder(store: Path, canvas: int) -> None:
    if not store.exists() or (store.is_dir() and not any(store.iterdir())):
        return
    if (
        store.is_dir()
        and (store / "store.json").is_file()
        and not (store / "cohort.parquet").is_file()
    ):
        return  # an earlier call was killed while it wrote
    there = Store(store)
    if there.canvas != canvas:
        raise DataError(
            f"canvas must be {there.canvas} as in the store there is, got {canvas} ({store}). "
            "Name a new folder for another canvas."
        )


@contextmanager
def _staging(store: Path) -> Iterator[Path]:
    """A folder beside the store, for one call at a time; gone afterwards.

    Of what a killed call left in it, whole items stay to be used. The lock is on the folder itself
    and ends with the process that holds it.
    """
    path = store.absolute().with_name(f".{store.name}.preparing")
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
        whole = {left.stem for left in path.glob("*.json") if "-" not in left.stem}
        for left in path.iterdir():
            if left.stem not in whole:
                left.unlink(missing_ok=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(fd)


def _problems(cohort: Cohort, outcomes: dict[int, Outcome], known: _Known) -> list[Problem]:
    """What opening, or decoding, found, row by row."""
    problems = []
    decoded: list[Row] = []
    for row in cohort.rows:
        outcome = outcomes[row.line]
        facts = outcome.facts or known.items.get(outcome.item_id)
        seconds = facts["seconds"] if facts else outcome.seconds
        reason = outcome.reason
        if seconds is not None and (row.arrival_s or 0) > seconds:
            reason = f"arrival_s must lie in the clip of {seconds:.2f} s, got {row.arrival_s}"
        if reason:
            problems.append(row.problem(reason))
        else:
            decoded.append(row)
    sources = {row.line: outcomes[row.line].source_sha for row in decoded}
    return problems + find_repeats(sources, decoded)


def _show_panels(store: Path, outcomes: dict[int, Outcome]) -> None:
    """Writes the contact sheet of the clips that this call looked at, if any."""
    items = [
        {"item_id": outcome.item_id, "line": line, **outcome.facts}
        for line, outcome in outcomes.items()
        if outcome.facts and outcome.facts.get("thumbnail")
    ]
    if items:
        write_review(store, items)
    for item in items:  # such frames are for the page alone
        outcomes[item["line"]].facts.pop("thumbnail")  # type: ignore[union-attr]


def _unapproved(
    cohort: Cohort, outcomes: dict[int, Outcome], known: _Known, *, store: Path
) -> list[Problem]:
    approved = read_approvals(store)
    problems = []
    for row in cohort.rows:
        outcome = outcomes[row.line]
        facts = outcome.facts or known.items.get(outcome.item_id)
        if not facts or row.modality == "image" or outcome.item_id in approved:
            continue
        confidence = facts["crop_confidence"]
        if confidence < LEAST_CONFIDENCE:
            reason = (
                f"panel must be approved, got confidence {confidence:.2f}; tick it in "
                f"{review_path(store).name} or give a crop"
            )
            problems.append(row.problem(reason))
    return problems


def _commit(
    store: Path,
    staging: Path,
    cohort: Cohort,
    outcomes: dict[int, Outcome],
    *,
    known: _Known,
    canvas: int,
) -> None:
    """Moves items into the store, then replaces its tables, the cohort's last.

    Item files are named by what they hold, so none is ever overwritten by something else: until
    the cohort table is replaced, the old store is whole.
    """
    items = store / "items"
    items.mkdir(parents=True, exist_ok=True)
    _replace(store / "store.json", json.dumps({"format": STORE_FORMAT, "canvas": canvas}).encode())
    modality = {row.line: row.modality for row in cohort.rows}
    wanted = {}
    for line, outcome in outcomes.items():
        for suffix in item_suffixes(modality[line]):
            name = outcome.item_id + suffix
            wanted[name] = items / name
            if (staging / name).exists():
                (staging / name).replace(items / name)
    present = {outcome.item_id for outcome in outcomes.values()}
    shas = {outcome.source_sha for outcome in outcomes.values()}
    prepared = {
        "sources": {key: sha for key, sha in sorted(known.sources.items()) if sha in shas},
        "items": {key: facts for key, facts in sorted(known.items.items()) if key in present},
    }
    item_ids = {line: outcome.item_id for line, outcome in outcomes.items()}
    table, quality = make_tables(cohort.rows, item_ids, known.items, items, split=cohort.has_split)
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
        if path.name not in wanted:
            path.unlink()


def _replace(path: Path, content: bytes) -> None:
    """Writes a file all at once or not at all; leaves an equal one alone."""
    if path.is_file() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _tell(cohort: Cohort, store: Path, *, new: int) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    patients = len({row.patient_id for row in cohort.rows})
    console.print(
        f"{store}: {len(cohort.rows)} items of {patients} patients, {new} of them new", markup=False
    )
    items = Store(store).items
    clips = items[items["modality"] == "ceus"]
    if clips["arrival_s"].isna().any():
        console.print(
            f"{clips['arrival_s'].isna().sum()} of {len(clips)} clips show no arrival of contrast; "
            "quality.csv says why, a column arrival_s of the cohort table sets it",
            markup=False,
        )
    if cohort.problems:
        bad = len({problem.line for problem in cohort.problems})
        console.print(f"{bad} rows left out:\n{cohort.describe_problems()}", markup=False)
