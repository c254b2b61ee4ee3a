"""The local launcher: each run its own process, as many at a time as there are device groups."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn

from experiments.config.run import Run
from experiments.launchers.check import check_runs
from experiments.launchers.order import take_ready
from experiments.launchers.progress import Progress
from experiments.launchers.slots import Slot, slots
from experiments.processes import die_with_parent, start
from experiments.run_folder.failures import (
    AGAIN,
    HELD,
    SERVER_GONE,
    STORAGE,
    reason_of_code,
    take_notes,
)
from experiments.run_folder.lock import is_locked
from experiments.run_folder.needs import leave_waiting, unmet
from experiments.run_folder.status import read_status, write_status
from experiments.sweeps.file import LauncherSettings

_POLL_SECONDS = 0.2
_STOP_SECONDS = 20.0
"""How long runs that were asked to stop may take: their own grace, and slow disks."""

_Active = dict[str, tuple[Run, Slot, BaseProcess]]


def launch(
    runs: Sequence[Run],
    total: int,
    settings: LauncherSettings,
    *,
    before: Callable[[], None],
    needs: Mapping[str, Sequence[str]],
) -> list[tuple[Run, int]]:
    """Run what is given, a failed one not stopping the rest but those that need it.

    A run that another process has under way, or has done meanwhile, is left to it. Ctrl-C and
    SIGTERM ask the runs to stop and wait for them; the second time they are ended at once.

    Args:
        runs: To be run, in this order.
        total: Runs of the whole sweep, for the display.
        settings: How they are put on the machine.
        before: Called when all configurations are found good, before the first run starts.
        needs: For a run's id the ids that must be done first. What waits in vain stays `pending`
            with the reason.

    Returns:
        Those that failed, each with its exit code: 2 for what the user can mend.

    Raises:
        ConfigError: If a configuration does not fit the constructors it names; nothing started.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, when no run is left.
    """
    queue = list(runs)
    free = slots(settings, runs)
    active: _Active = {}
    failed: list[tuple[Run, int]] = []
    context = check_runs(runs)
    before()
    with _sigterm_as_ctrl_c(), Progress(done=total - len(runs), total=total) as progress:
        try:
            while queue or active:
                while free and (ready := take_ready(queue, needs)):
                    if read_status(ready.folder).state == "done" or is_locked(ready.folder):
                        progress.elsewhere(ready)
                        continue
                    slot = free.pop(0)
                    active[ready.run_id] = (ready, slot, _start(context, ready, slot))
                if not active:
                    break
                wait([process.sentinel for _, _, process in active.values()], _POLL_SECONDS)
                failed += _collect(queue, free, active, progress)
                progress.show([run for run, _, _ in active.values()])
        except KeyboardInterrupt:
            _stop(active, progress)
            raise
        finally:
            for _, _, process in active.values():
                process.kill()
    for run in queue:
        leave_waiting(run.folder, str(unmet(run.folder, needs[run.run_id])))
    return failed


def _collect(
    queue: list[Run], free: list[Slot], active: _Active, progress: Progress
) -> list[tuple[Run, int]]:
    """Take note of the runs that ended since; those that failed, with their exit codes."""
    failed = []
    for name, (run, slot, process) in list(active.items()):
        code = process.exitcode
        if code is None:
            continue
        del active[name]
        free.append(slot)
        end = _end(run, code)
        if end == "again":
            queue.insert(0, run)
            progress.say(f"{run.run_id}: {read_status(run.folder).reason}")
        elif end == "elsewhere":
            progress.elsewhere(run)
        else:
            progress.ended(run)
        if end == "failed":
            failed.append((run, code))
        if code == STORAGE and queue:
            progress.say(f"{len(queue)} runs are not started: they could not write either")
            queue.clear()
    return failed


def _end(run: Run, code: int) -> Literal["done", "again", "elsewhere", "failed"]:
    """How a run's process ended; of one that died without a word its reason is written down."""
    if code == SERVER_GONE:
        time.sleep(1.0)  # until it is dead, too, and has let go of its lock
    status = read_status(run.folder)
    if code == HELD or is_locked(run.folder):
        return "elsewhere"
    if status.state == "running":
        note = take_notes(run.folder) or {"halve": False}
        reason = f"rank {note['rank']}: {note['reason']}" if "rank" in note else None
        ended = replace(status, state="failed", reason=reason or reason_of_code(code))
        if note["halve"]:
            ended, code = replace(ended, state="pending", halvings=status.halvings + 1), AGAIN
        with contextlib.suppress(OSError):  # of a full disk
            write_status(run.folder, ended)
        status = ended
    if code == AGAIN:
        return "again"
    return "done" if status.state == "done" else "failed"


def _stop(active: _Active, progress: Progress) -> None:
    """Ask runs to stop, wait for them, end those that do not, and write down which they were."""
    if active:
        progress.say(f"Stopping {len(active)} runs. Ctrl-C again ends them at once.")
    try:
        _ask(active)
    except KeyboardInterrupt:
        progress.say("Ending them.")
    for run, _, process in active.values():
        process.kill()
        process.join()
        status = read_status(run.folder)
        if status.state == "running" and not is_locked(run.folder):
            with contextlib.suppress(OSError):
                write_status(run.folder, replace(status, state="interrupted", reason="ended"))


def _ask(active: _Active) -> None:
    for _, _, process in active.values():
        process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline and any(p.is_alive() for _, _, p in active.values()):
        time.sleep(0.05)


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM, as schedulers send it, does what Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(context: ForkServerContext, run: Run, slot: Slot) -> BaseProcess:
    # Inside of a SLURM job Lightning would take that job's tasks for the run's ranks.
    environment = slot.environment() | {"SLURM_JOB_NAME": "interactive"}
    process = context.Process(target=_child, args=(run.folder, slot.threads, environment))
    start(process)
    return process


def _child(folder: Path, threads: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    from experiments.training.process import run_and_exit

    die_with_parent()
    run_and_exit(folder, threads)
