"""Who holds a run, where a lock of the kernel does not say it to every machine.

flock is exact on one machine, and on NFS and Lustre where they are mounted to pass locks on. Other
mounts keep locks to the machine (`local_lock`, `localflock`) or have none. So the holder writes its
host into the lock file and touches that every few seconds: to other hosts the run is held as long
as the file is fresh. A run that was killed on another host is thus free after `STALE_SECONDS`,
unless SLURM has put the same job back into the queue, which it does when the old one is gone.
"""

import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

STALE_SECONDS = 90.0
_BEAT_SECONDS = 20.0


def held_elsewhere(file: IO[Any]) -> bool:
    """Whether the holder that an open lock file names is on another host, and lives."""
    file.seek(0)
    host, _, job = file.read().partition(" ")
    if not host or host == socket.gethostname() or (job and job == _job()):
        return False
    return time.time() - os.fstat(file.fileno()).st_mtime < STALE_SECONDS


@contextmanager
def beating(file: IO[Any]) -> Iterator[None]:
    """Name this process in a lock file that it holds, and keep the file fresh."""
    file.seek(0)
    file.truncate()
    file.write(f"{socket.gethostname()} {_job()}")
    file.flush()
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_BEAT_SECONDS):
            os.utime(file.fileno())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        file.seek(0)
        file.truncate()


def _job() -> str:
    return os.environ.get("SLURM_JOB_ID", "")


@contextmanager
def run_lock(folder: Path) -> Iterator[bool]:
    """Hold a run for the living process; the kernel lets go when it dies.

    On a file system shared by several machines see `experiments.run_folder.lock`.

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
