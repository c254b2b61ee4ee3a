"""What a run folder says of its run: state, attempts, progress; written atomically."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from experiments.errors import ConfigError
from experiments.heartbeat import beating, held_elsewhere

State = Literal["pending", "running", "done", "failed"]


@dataclass(frozen=True)
class Status:
    """The content of `status.json`.

    Attributes:
        state: Where the run stands. `running` with nobody holding the lock means it was killed.
        reason: Why it failed, one line.
        attempts: How often it was started.
        epoch: Epochs finished in this attempt.
        max_epochs: Epochs it may take at most.
        inner_auroc: Of the best epoch so far; None where undefined or not yet known.
        started: Unix time of this attempt's start.
        seconds: Wall time of this attempt so far.
    """

    state: State = "pending"
    reason: str | None = None
    attempts: int = 0
    epoch: int = 0
    max_epochs: int | None = None
    inner_auroc: float | None = None
    started: float | None = None
    seconds: float = 0.0


def read_status(folder: Path) -> Status:
    """The status of a run folder; `pending` where none was written yet.

    Raises:
        ConfigError: If the file is not what `write_status` writes.
    """
    path = folder / "status.json"
    try:
        return Status(**json.loads(path.read_text()))
    except FileNotFoundError:
        return Status()
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"status must be readable, got {error} ({path}). Delete this file to run it again."
        ) from error


def write_status(folder: Path, status: Status) -> None:
    """Replace the status of a run folder in one step."""
    write_atomic(folder / "status.json", json.dumps(asdict(status), indent=1))


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old or the new one whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


@contextmanager
def run_lock(folder: Path) -> Iterator[bool]:
    """Hold a run for the living process; the kernel lets go when it dies.

    On a file system shared by several machines see `experiments.heartbeat`.

    Yields:
        Whether the lock was had; False if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        if not _try_lock(file) or held_elsewhere(file):
            yield False
            return
        with beating(file):
            yield True


def is_locked(folder: Path) -> bool:
    """Whether a living process holds the run."""
    try:
        with (folder / ".lock").open() as file:
            # Shared, for NFS gives the other kind to writers only.
            return not _try_lock(file, fcntl.LOCK_SH) or held_elsewhere(file)
    except FileNotFoundError:
        return False


def _try_lock(file: IO[Any], kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # A file system without locks: the heartbeat is all there is.
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    return True
