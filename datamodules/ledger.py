"""The ledger of a store: which hold-outs were frozen, which sweeps began, and who opened what.

`ledger.jsonl`, an entry a line: its `kind` (`split`, `sweep`, `opening`; `ledger` for the first),
`time` (UTC), `holdout`, facts of its kind, and two hashes: `sha` of itself, `previous` of the entry
before. A line that is changed, or taken out of the middle, thus shows. One cut off at the end does
not: for that the `head`, the hash of the last entry, is lodged elsewhere. Patients go by a hash
under the ledger's own random key, so that hold-outs can be compared and the file names nobody. A
sweep's folder keeps one of the same form on external tests of its models (`test-external`).

Of the standard library alone, for every room may import it (`tools/house.py`).
"""

import errno
import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

LEDGER = "ledger.jsonl"

Kind = Literal["split", "sweep", "opening", "test-external"]


@dataclass(frozen=True)
class Ledger:
    """What a ledger holds.

    Attributes:
        entries: As written, oldest first; a line that is none is left out.
        problems: Lines that are not as they were written, each in words; none if all are.
        head: Hash of the last line.
    """

    entries: tuple[dict[str, Any], ...]
    problems: tuple[str, ...]
    head: str

    @property
    def key(self) -> str:
        """What the hashes of patients are made with, and what tells this ledger from others."""
        return str(self.entries[0].get("key", "")) if self.entries else ""

    def of(self, kind: Kind) -> list[dict[str, Any]]:
        """Entries of a kind, oldest first."""
        return [entry for entry in self.entries if entry["kind"] == kind]

    def hashes(self, patients: Iterable[str]) -> frozenset[str]:
        """How patients go here."""
        return frozenset(_patient(self.key, patient) for patient in patients)


def read_ledger(store: Path) -> Ledger | None:
    """The ledger of a store; None where it keeps none yet.

    Raises:
        OSError: If it cannot be read.
    """
    try:
        content = (Path(store) / LEDGER).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _ledger(content) if content else None


def enter(store: Path, kind: Kind, holdout: Iterable[str], **facts: Any) -> str:
    """Append an entry, on the disk when this returns; the first one begins the ledger.

    Args:
        store: Folder of the store.
        kind: What happened.
        holdout: Patients of the hold-out that it happened to.
        **facts: Of its kind, plain values; no patient and no file is to be in them.

    Returns:
        Hash of the entry.

    Raises:
        OSError: If it cannot be written; then the ledger is as it was.
    """
    path = Path(store) / LEDGER
    with path.open("a+b", buffering=0) as file:
        _lock(file.fileno())  # until it is closed
        file.seek(0)
        content = file.read()
        lines = [] if content else [_line("ledger", None, key=secrets.token_hex(16))]
        ledger = _ledger(content or lines[0])
        names = sorted(ledger.hashes(holdout))
        lines.append(_line(kind, ledger.head, holdout=names, **facts))
        if content and not content.endswith(b"\n"):  # cut off: stays, and shows
            lines.insert(0, b"\n")
        left = b"".join(lines)
        try:
            while left:
                left = left[os.write(file.fileno(), left) :]
            os.fsync(file.fileno())
        except BaseException as error:
            os.ftruncate(file.fileno(), len(content))
            if isinstance(error, OSError):
                error.filename = str(path)
            raise
    return str(json.loads(lines[-1])["sha"])


def _ledger(content: bytes) -> Ledger:
    entries, problems, head = [], [], None
    for number, line in enumerate(content.splitlines(), start=1):
        entry = _entry(line)
        if entry is None:
            problems.append(f"line {number} cannot be read: it was cut off or changed")
            head = hashlib.sha256(line).hexdigest()
            continue
        if entry.get("previous") != head:
            problems.append(f"line {number} does not follow the one before: a line was changed")
        elif entry["sha"] != _sha(entry):
            problems.append(f"line {number} is not as it was written")
        entries.append(entry)
        head = _sha(entry)
    return Ledger(tuple(entries), tuple(problems), head or "")


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        texts = (entry["kind"], entry["time"], entry["sha"], *entry.get("holdout", ()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return entry if all(isinstance(text, str) for text in texts) else None


def _line(kind: str, previous: str | None, **facts: Any) -> bytes:
    time = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"kind": kind, "time": time, **facts, "previous": previous}
    return json.dumps(entry | {"sha": _sha(entry)}).encode() + b"\n"


def _sha(entry: dict[str, Any]) -> str:
    content = {name: value for name, value in entry.items() if name != "sha"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _patient(key: str, patient: str) -> str:
    return hmac.digest(key.encode(), patient.encode(), hashlib.sha256).hex()[:16]


def _lock(file: int) -> None:
    """Wait for other writers; where the file system has no locks there is nothing to wait for."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
