"""`log.txt`: all that a run and a user's own code print, patients by their hashes."""

import io
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any


class _Lines(io.BufferedIOBase):
    """Writes whole lines to a descriptor, each after it went through a function.

    Args:
        fd: Open for appending, where other processes append as well.
        conceal: Takes out what a log must not hold.
    """

    def __init__(self, fd: int, conceal: Callable[[str], str]) -> None:
        self._fd, self._conceal = fd, conceal
        self._begun = b""
        self._lock = threading.RLock()  # a signal's handler may print amid a print

    def fileno(self) -> int:
        """Where it writes: for what writes there without Python."""
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        with self._lock:
            text = self._begun + bytes(content)
            end = 1 + max(text.rfind(b"\n"), text.rfind(b"\r"))
            whole, self._begun = text[:end], text[end:]
            if whole:
                self._put(whole)
        return len(content)

    def finish(self) -> None:
        """Write what no line's end follows."""
        with self._lock:
            whole, self._begun = self._begun, b""
            self._put(whole)

    def _put(self, whole: bytes) -> None:
        shown = self._conceal(whole.decode(errors="replace")).encode(errors="replace")
        while shown:
            shown = shown[os.write(self._fd, shown) :]


def print_to(fd: int, conceal: Callable[[str], str]) -> Callable[[], None]:
    """Send what this process prints, warns and logs to a descriptor, and 1 and 2 likewise.

    What is not written by Python (a decoder, a dying process's stack, a program that a user's code
    starts) goes there as it is.

    Returns:
        To be called at the end: writes what no line's end follows.
    """
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    before = (sys.stdout, sys.stderr)
    lines = (_Lines(1, conceal), _Lines(2, conceal))
    # One encoding, whatever the terminal's is: no print of a user's code may end a run.
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(each, "utf-8", errors="backslashreplace", write_through=True)  # type: ignore[type-var]
        for each in lines
    )
    # Lightning's loggers took theirs when they were imported.
    for logger in (logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)):
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in before:
                handler.setStream(sys.stderr)

    def finish() -> None:
        for each in lines:
            each.finish()

    return finish
