"""What a worker is asked, what it answers, and how it is watched."""

import faulthandler
import hashlib
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from datamodules.files import storing
from datamodules.ingest.readers.pictures import MediaError
from datamodules.store.folder import MASK_SUFFIX, STORE_FORMAT

GO_ON = "What was finished is kept; the same command goes on from there."

_MAX_SECONDS = 3600  # of work on one file
_silence: IO[str] | None = None
_deadline = math.inf


@dataclass(frozen=True)
class Task:
    """A row to be turned into files in `staging`, unless its item is among `known`.

    With `as_is` whole frames (or the crop) are kept: no panel is looked for, nothing blacked out. A
    decoder that gives no frame for `stall_seconds` is taken for hanging.
    """

    line: int
    path: Path
    patient_id: str
    modality: str
    crop: tuple[int, int, int, int] | None
    canvas: int
    staging: Path
    known: frozenset[str]
    fps: float | None = None
    panel: str = ""
    as_is: bool = False
    stall_seconds: float = 120.0
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a task: a reason if it failed, else an item; facts are None for a known one.

    Facts are plain values (they are kept as JSON): the columns of the store's tables. Seconds are
    what the header promises, where it does: all that is known before a file is decoded. The trace
    is that of an error nobody foresaw. The mask is the name that its file got by its content.
    """

    line: int
    reason: str = ""
    source_sha: str = ""
    item_id: str = ""
    facts: dict[str, Any] | None = None
    seconds: float | None = None
    trace: str = ""
    mask: str = ""


def item_suffixes(modality: str) -> tuple[str, ...]:
    """The files of an item."""
    return (".png",) if modality == "image" else (".h264", ".idx")


def mask_file(mask: str) -> str:
    """Name of the file of an item's mask."""
    return f"{mask}{MASK_SUFFIX}"


def make_item_id(task: Task, source_sha: str) -> str:
    """16 hex digits of what an item is made from, and how; they tell nobody's name."""
    parts = [
        task.patient_id, source_sha, task.modality, task.crop, task.panel, task.as_is, task.canvas,
        task.fps, STORE_FORMAT,
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def running_marker(staging: Path, line: int) -> Path:
    """A file that is there while a worker is at a row: it tells whose decoder crashed."""
    return staging / f"{line}.running"


@contextmanager
def watched(task: Task) -> Iterator[None]:
    """Marks the row as being worked at; a standstill ends this process, as a crash would."""
    global _deadline  # noqa: PLW0603  a worker is at one file at a time
    marker = running_marker(task.staging, task.line)
    with storing(task.staging, GO_ON):
        marker.touch()
    _deadline = time.monotonic() + _MAX_SECONDS
    still_alive(task)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        marker.unlink(missing_ok=True)


def still_alive(task: Task) -> None:
    """Start the wait for the next frame. Not a Python thread: a decoder may hold the GIL.

    Raises:
        MediaError: If the file takes longer than any clip does.
    """
    if time.monotonic() > _deadline:
        raise MediaError(f"file must decode within {_MAX_SECONDS} s, got one that goes on")
    global _silence  # noqa: PLW0603  faulthandler needs a file that stays open
    if _silence is None:
        _silence = Path(os.devnull).open("w")  # noqa: SIM115
    faulthandler.dump_traceback_later(task.stall_seconds, exit=True, file=_silence)
