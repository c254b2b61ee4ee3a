"""Files that are old or new, never half-written."""

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from datamodules.errors import StorageError

TEMPORARY = ".tmp"  # end of the name of a file that is being written


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old or the new one whole."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` when it is whole and on the disk.

    It lies in the same folder, for only there is a rename one step.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            # A full disk does not say it, and the user knows no temporary one.
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def storing(folder: Path, advice: str) -> Iterator[None]:
    """To write inside: an error of the disk becomes one StorageError.

    Args:
        folder: What is being written, for the message.
        advice: What to do, besides making room.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"folder must be writable, got {error.strerror or error!r} ({folder}). Make room or "
            f"give the right to write there. {advice}"
        ) from error


def write_once(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read; of those who do so at once the first one wins."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def sweep_up(folder: Path, start: str = ".") -> None:
    """Remove what a killed process was writing; for who alone writes such names in the folder."""
    for left_over in folder.glob(f"{glob.escape(start)}*{TEMPORARY}"):
        left_over.unlink(missing_ok=True)
