"""How processes of runs come to be, and end. Nothing here imports torch."""

import contextlib
import ctypes
import fcntl
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from functools import cache
from multiprocessing import forkserver, util
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from experiments.errors import ConfigError
from experiments.ffmpeg import ffmpeg_environment

MORE_MEMORY = (
    "Most likely main memory did not suffice: raise the limit (ulimit -v, that of the job or the "
    "container; torch alone maps some GB), or lower launcher.parallel, study.cache_gb or "
    "study.num_threads."
)
"""What to do where processes end that should not."""

_TEMPORARY, _LOCK = "ceus-", ".ceus-lock"
_LONGEST_ROOT = 60  # of the 107 bytes that a socket's path may have; the rest is names within
_own_temporary: dict[int, Path] = {}  # by process
_OF_MEMORY = re.compile(
    "failed to map segment|(cannot|can't|unable to) allocate|can't start new thread|bad_alloc|"
    "failed to launch worker thread",
    re.IGNORECASE,
)
_OF_A_LAUNCHER = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID",
    "SLURM_LOCALID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK",
)  # fmt: skip
"""What torchrun, srun and others say to a process of theirs. A sweep is none: its runs are not to
take themselves for ranks of what once ran in this shell."""


def warm_server() -> ForkServerContext:
    """A process that has imported torch and all else once, from which runs are forked.

    The imports cost a fresh interpreter about ten seconds of CPU, as much as a small run. The
    server runs none of our threads and opens no device, so its children are as good as fresh.
    It begins to import at once, while the caller goes on, and ends with the caller: with the
    thread that called first, so call it from the main one.

    Raises:
        ConfigError: If a memory limit leaves no room for torch.
    """
    require_address_space(4.0)
    use_own_temporary_folder()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.warm"])
    for name in _OF_A_LAUNCHER:
        os.environ.pop(name, None)
    # As `python -P`: an `experiments/` in the user's folder must not be taken for this one.
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ.update(ffmpeg_environment())
    forkserver.ensure_running()
    return context


@cache
def use_own_temporary_folder() -> str:
    """Have this process and those it starts make their temporary files in a folder of their own.

    W&B leaves empty folders for every run, and a killed process its sockets. The folder is removed
    when this process ends; those of killed ones are removed here, by the next that starts. Each
    holds a file that its process has locked: who else has a `ceus-…` there need not fear.

    Returns:
        The folder in which it was made, for programs that may outlive this one or run elsewhere.
    """
    root = Path(tempfile.gettempdir())
    if len(os.fsencode(root)) > _LONGEST_ROOT:
        root = Path("/tmp")
    try:
        for lock in root.glob(f"{_TEMPORARY}*/{_LOCK}"):
            with contextlib.suppress(OSError), lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=root))
        lock_file = os.open(folder / ".new", os.O_CREAT | os.O_RDONLY, 0o600)
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        (folder / ".new").rename(folder / _LOCK)  # held before anyone can find it
    except OSError:  # a temporary folder that is full or without locks: no reason not to train
        return str(root)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    _own_temporary[os.getpid()] = folder
    # After what multiprocessing has in it, which goes at -100.
    util.Finalize(None, remove_own_temporary_folder, exitpriority=-200)
    return str(root)


def remove_own_temporary_folder() -> None:
    """Remove it, if this process and no fork of it made it; for who ends without finalizers."""
    if folder := _own_temporary.pop(os.getpid(), None):
        shutil.rmtree(folder, ignore_errors=True)


def start(process: BaseProcess) -> None:
    """Start a process of the warm server's.

    Raises:
        ConfigError: If the server died, or the machine lets it start none.
    """
    try:
        process.start()
    except (EOFError, OSError) as error:
        raise ConfigError(
            f"processes of runs must start, got {type(error).__name__}: {error}. {MORE_MEMORY}"
        ) from error


def require_address_space(gigabytes: float) -> None:
    """Refuse a limit under which libraries are known to fail, or to wait for threads for ever.

    Raises:
        ConfigError: Naming the limit.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < gigabytes * 1e9:
        raise ConfigError(
            f"limit of a process's memory (ulimit -v) must be {gigabytes:g} GB at least, or none, "
            f"got {limit / 1e9:.1f} GB. Raise it, or ask for a larger job."
        )


def memory_complaint(error: BaseException) -> str | None:
    """What to tell a user where main memory did not suffice, be it for a library or a thread."""
    if isinstance(error, MemoryError) or _OF_MEMORY.search(str(error)):
        what = " ".join(f"{type(error).__name__} {error}".split())
        return f"main memory must suffice, got {what}. {MORE_MEMORY}"
    return None


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, so that a killed sweep leaves none.

    A parent that died before the asking sends no signal: its end of the pipe is then closed.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent and not parent.is_alive():
        os._exit(1)
