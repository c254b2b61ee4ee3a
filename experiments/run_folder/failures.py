"""Why a run ended badly, in one line, and what is to be done about it."""

import contextlib
import errno
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

from datamodules.files import write_atomic
from experiments.errors import ConfigError
from experiments.processes import MORE_MEMORY, memory_complaint


def duration(seconds: float) -> str:
    """A time as a person says it: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


AGAIN = 75
"""Exit code of a run that is to be started again at once, with a smaller micro-batch."""

STORAGE = 74
"""Exit code of a run whose folder cannot be written: the next one would fare no better."""

HELD = 73
"""Exit code of a process that found the run held by another one."""

SERVER_GONE = 255
"""What multiprocessing says of a process whose server died, and which then dies as well."""

_STORAGE = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some of your quota",
    errno.EFBIG: "Raise the limit (ulimit -f)",
    errno.EROFS: "Mount it for writing, or give another folder",
    errno.EACCES: "Give yourself the right to write there, or give another folder",
    errno.EPERM: "Give yourself the right to write there, or give another folder",
}

# What one process sees when another is gone.
_ECHO = re.compile(
    r"gloo|nccl|connection (closed|reset)|broken pipe|heartbeat|process group", re.IGNORECASE
)


class HeldError(ConfigError):
    """The run is under way in another process."""


class HalveError(Exception):
    """Device memory did not suffice, and half the micro-batch is the same work."""


def storage_complaint(error: BaseException) -> str | None:
    """What to tell a user whose disk is full or whose folder cannot be written; None if neither."""
    if not isinstance(error, OSError) or error.errno not in _STORAGE:
        return None
    where = error.filename or "the run folder"
    return (
        f"folder must be writable, got {os.strerror(error.errno)!r} ({where}). "
        f"{_STORAGE[error.errno]} and call the same command again; what was finished is kept."
    )


def one_line(error: BaseException, users: tuple[type[BaseException], ...]) -> str:
    """An error as the reason in a status: the users' own as they are, others with their type."""
    text = storage_complaint(error) or " ".join(str(error).split())
    if isinstance(error, (*users, HalveError)) or storage_complaint(error):
        return text
    if complaint := memory_complaint(error):
        return complaint
    return f"{type(error).__name__}: {text}"


def reason_of_signal(number: int) -> str:
    """What a process that a signal ended most likely died of."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL:
        return (
            "killed by SIGKILL, most likely by the system for want of main memory. Lower "
            "study.cache_gb, study.num_threads or launcher.parallel"
        )
    if number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
        return f"crashed by {name}; the stack is in log.txt"
    return f"ended by {name}; see log.txt"


def reason_of_code(code: int) -> str:
    """What is known of a process that ended with this code and left no word."""
    if code == STORAGE:
        return "its folder could not be written: the disk is full, or it is read-only"
    if code == SERVER_GONE:
        return f"the process that runs are forked from died. {MORE_MEMORY}"
    return reason_of_signal(-code) if code < 0 else f"ended with exit code {code}; see log.txt"


def is_echo(error: BaseException) -> bool:
    """Whether an error only says that another process of the run is gone."""
    return not isinstance(error, ConfigError | HalveError) and bool(_ECHO.search(str(error)))


def leave_note(folder: Path, rank: int, error: BaseException, reason: str) -> None:
    """Let a further rank say why it ends, for the first or the sweep to read."""
    content = {
        "rank": rank,
        "reason": reason,
        "halve": isinstance(error, HalveError),
        "echo": is_echo(error),
    }
    write_atomic(folder / f".rank-{rank}.json", json.dumps(content))


def take_notes(folder: Path) -> dict[str, Any] | None:
    """The note of the rank that failed first, if one left any that is no echo; all are removed."""
    notes: list[dict[str, Any]] = []
    for path in sorted(folder.glob(".rank-*.json")):
        with contextlib.suppress(ValueError):  # cut off: the signal says what is known
            notes.append(json.loads(path.read_text(encoding="utf-8")))
        path.unlink()
    causes = [note for note in notes if not note["echo"]]
    return causes[0] if causes else None
