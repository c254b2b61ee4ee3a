"""How processes of runs come to be, and end. Nothing here imports torch."""

import ctypes
import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext


def warm_server() -> ForkServerContext:
    """A process that has imported torch and all else once, from which runs are forked.

    The imports cost a fresh interpreter about ten seconds of CPU, as much as a small run. The
    server runs none of our threads and opens no device, so its children are as good as fresh.
    It begins to import at once, while the caller goes on, and ends with the caller: with the
    thread that called first, so call it from the main one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.warm"])
    # As `python -P`: an `experiments/` in the user's folder must not be taken for this one.
    os.environ["PYTHONSAFEPATH"] = "1"
    forkserver.ensure_running()
    return context


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
