"""Writing results so that no reader ever sees half a file, and no spreadsheet computes a cell."""

import csv
import glob
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pandas as pd

_HOST = socket.gethostname()

# What spreadsheets take for a formula, or strip to get at one; the signs of full width likewise.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file by new content in one step: see `write_together`."""
    write_together({path: content})


def write_together(contents: Mapping[Path, str | bytes]) -> None:
    """Replace files by new content, each in one step, when all are on the disk.

    Text is written as UTF-8, newlines as they are.

    Raises:
        OSError: Naming the file; the old ones are there as they were, and nothing is beside them.
            What a killed process left beside them is removed by the next one.
    """
    temporary = {
        path: path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.tmp") for path in contents
    }
    for folder in {path.parent for path in contents}:
        _sweep_up(folder)
    try:
        for path, content in contents.items():
            with _named(path), temporary[path].open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            with _named(path):
                temporary[path].replace(path)
    finally:
        for left_over in temporary.values():
            with suppress(OSError):
                left_over.unlink(missing_ok=True)


def _sweep_up(folder: Path) -> None:
    """Remove what was being written here by a process of this machine that is no more.

    Of other machines, and of who writes right now, nothing is touched.
    """
    for left_over in folder.glob(f".*.{glob.escape(_HOST)}-*.tmp"):
        number = left_over.name.rpartition("-")[2].removesuffix(".tmp")
        if number.isdecimal() and not _is_alive(int(number)):
            with suppress(OSError):
                left_over.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A full disk does not say which file it is about, and the user knows no temporary one."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV with its header; text that a spreadsheet would compute has a `'` before it.

    Ids and covariates are the hospital's. Numbers are as they are; `read_csv` gives back the same.
    """
    text = table.rename(columns=as_text)
    quoting: Literal[0, 2] = csv.QUOTE_MINIMAL
    for name in text.select_dtypes(exclude="number"):
        text[name] = [as_text(value) for value in text[name]]
        if any("\r" in value for value in text[name] if isinstance(value, str)):
            quoting = csv.QUOTE_NONNUMERIC  # Python's csv takes it for no end of a line
    return text.to_csv(index=False, lineterminator="\n", quoting=quoting)


def as_text(value: Any) -> Any:
    """A cell as a spreadsheet shows it and does not compute it; what is no text as it is."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def read_parquet(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """A table of Parquet, read by this thread: one that a memory limit forbids is waited for.

    Raises:
        OSError, ValueError: If it cannot be read; pyarrow's own errors are one or the other.
    """
    return pd.read_parquet(path, columns=columns, use_threads=False, pre_buffer=False)


def read_csv(path: Path) -> pd.DataFrame:
    """A table that `csv_text` wrote.

    Raises:
        OSError, ValueError: If it cannot be read.
    """
    table = pd.read_csv(path)
    for name in table.select_dtypes(exclude="number"):
        table[name] = list(_without_mark(table[name]))
    return table.rename(columns=lambda name: next(_without_mark([name])))


def _without_mark(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        marked = isinstance(value, str) and value[:1] == "'" and _FORMULA.match(value)
        yield value[1:] if marked else value
