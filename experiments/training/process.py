"""One run in its own process: its output, its ranks, its exit code."""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from datamodules.cores import LIMIT
from experiments.config.files import load_yaml
from experiments.processes import die_with_parent, remove_own_temporary_folder
from experiments.run_folder.failures import (
    AGAIN,
    HELD,
    STORAGE,
    HalveError,
    HeldError,
    storage_complaint,
)
from experiments.training.execute import USER_ERRORS, concealer_of, execute, own_rank
from experiments.training.log import print_to
from experiments.training.ranks import fork_ranks
from experiments.training.watch import INTERRUPTED, StopRequestedError, Watch


def _print_traceback(folder: Path) -> None:
    """The traceback for `log.txt`, in which patients go by their hashes."""
    text = traceback.format_exc()
    shown = concealer_of(folder)(text)
    if shown != text:
        store = load_yaml(folder / "config.yaml")["study"]["store"]
        shown += f"Patients are written as hashes; ceus patient {store} HASH names one."
    print(shown, file=sys.stderr)


def run_and_exit(
    folder: Path, threads: int | None, *, has_terminal: bool = False, again: bool = False
) -> None:
    """Run with all output in the folder's `log.txt`, and end this process.

    Exit code 0 is done, 1 a bug, 2 the user's to mend; further ones are in
    `experiments.run_folder.failures`, and 130 for a run that was asked to stop.

    Args:
        folder: The run's folder.
        threads: Of torch in this process; None for its own choice.
        has_terminal: Whether Ctrl-C is meant for this process.
        again: Whether to start over in place where another attempt is due; else who started this
            process is told by the exit code.
    """
    before = dict(os.environ)
    # Processes of one machine can append to one file; those of several cannot on every file system.
    node = os.environ.get("SLURM_NODEID", "0")
    name = "log.txt" if node == "0" else f"log-node{node}.txt"
    log = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    finish_log = print_to(log, concealer_of(folder))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    # Before this process has threads of its own, and devices.
    ranks = fork_ranks(folder, partial(_further_rank, folder, threads, finish_log))
    code = _attempt(
        folder,
        threads,
        Watch(has_terminal=has_terminal, is_first=own_rank() == 0, ranks=ranks),
        finish_log,
    )
    ranks.end()
    if code == AGAIN and again:
        # The same process, so that who waits for it goes on waiting; without what was set here.
        remove_own_temporary_folder()
        command = [sys.executable, "-P", "-m", "experiments.training", *sys.argv[1:]]
        os.execve(sys.executable, command, before)
    remove_own_temporary_folder()
    # Not sys.exit: threads of decoders and of W&B may outlive the work and would be waited for.
    os._exit(code)


def _further_rank(folder: Path, threads: int | None, finish_log: Callable[[], None]) -> None:
    die_with_parent()
    watch = Watch(has_terminal=False, is_first=False)
    os._exit(_attempt(folder, threads, watch, finish_log))


def _attempt(
    folder: Path, threads: int | None, watch: Watch, finish_log: Callable[[], None]
) -> int:
    """Run once, watched; the exit code."""
    if threads:
        torch.set_num_threads(threads)
        os.environ[LIMIT] = str(threads)  # for those that read ahead, too
    watch.begin()
    code = 0
    try:
        execute(folder, watch)
    except BaseException as error:  # noqa: BLE001  the last frame of the process: all goes to the log
        code = _exit_code(error, watch)
        with contextlib.suppress(OSError):
            _print_traceback(folder)
    with contextlib.suppress(OSError):
        finish_log()
    return code


def _exit_code(error: BaseException, watch: Watch) -> int:
    if isinstance(error, StopRequestedError | KeyboardInterrupt) or watch.asked:
        return INTERRUPTED
    if isinstance(error, HeldError):
        return HELD
    if isinstance(error, HalveError):
        return AGAIN
    if storage_complaint(error):
        return STORAGE
    return 2 if isinstance(error, USER_ERRORS) else 1
