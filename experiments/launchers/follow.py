"""Watching a sweep that SLURM runs: the same live display, fed by the run folders."""

import time

from experiments.config.run import Run
from experiments.errors import ConfigError
from experiments.launchers.progress import Progress
from experiments.launchers.slurm import Task, queued
from experiments.run_folder.lock import is_locked
from experiments.run_folder.status import read_status
from experiments.sweeps.expand import Sweep

_POLL_SECONDS = 1.0
_SQUEUE_SECONDS = 2.0, 30.0  # between two questions: at first, and at most


def follow(sweep: Sweep) -> list[Run]:
    """Show a submitted sweep until each of its runs is done, or neither queued nor held.

    Returns:
        Runs that ended without being done.

    Raises:
        ConfigError: If squeue does not answer the first time; later it is asked again.
    """
    watched = [run for run in sweep.runs if not _is_done(run)]
    waiting = queued(sweep.folder)
    begun = asked = time.monotonic()
    lost = []
    with Progress(done=len(sweep.runs) - len(watched), total=len(sweep.runs)) as progress:
        while watched:
            held = [run for run in watched if is_locked(run.folder)]
            for run in list(watched):
                done = _is_done(run)
                if done or (run.run_id not in waiting and run not in held):
                    watched.remove(run)
                    progress.ended(run)
                    lost += [] if done else [run]
            progress.show(held)
            time.sleep(_POLL_SECONDS)
            now = time.monotonic()
            least, most = _SQUEUE_SECONDS
            # Controllers serve many: the longer it takes, the less often it is asked.
            if now - asked > min(most, max(least, (now - begun) / 20)):
                waiting, asked = _ask_again(sweep, waiting), now
    return lost


def _ask_again(sweep: Sweep, before: dict[str, Task]) -> dict[str, Task]:
    try:
        return queued(sweep.folder)
    except ConfigError:  # a controller that restarts; what runs is not harmed by it
        return before


def _is_done(run: Run) -> bool:
    return read_status(run.folder).state == "done"
