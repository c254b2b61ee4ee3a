"""The local launcher: each run its own process, as many at a time as there are device groups.

With a command of the user's (`launcher.kind: command`) the process becomes that command.
"""

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
from experiments.launchers.command import LOG, become, check_command, words_of
from experiments.launchers.order import Queue, Startable
from experiments.launchers.progress import Progress
from experiments.launchers.slots import Slot, slots
from experiments.processes import die_with_parent, start, use_own_temporary_folder
from experiments.run_folder.failures import (
    AGAIN,
    HELD,
    SERVER_GONE,
    STORAGE,
    reason_of_code,
    take_notes,
)
from experiments.run_folder.lock import is_locked
from experiments.run_folder.status import read_status, write_status
from experiments.sweeps.file import LauncherSettings

_POLL_SECONDS = 0.2
_STOP_SECONDS = 20.0
"""How long runs that were asked to stop may take: their own grace, and slow disks."""

_Active = dict[str, tuple[Startable, Slot, BaseProcess]]


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
    if settings.kind == "command" and runs:
        check_command(settings, runs[0].folder.parent)
    free = slots(settings, runs)
    context = check_runs(runs)
    before()
    with Progress(done=total - len(runs), total=total) as progress:
        failed = work_off(Queue(runs, needs), free, settings, context, progress)
    return [(run, failed[run.run_id]) for run in runs if run.run_id in failed]


def work_off(
    queue: Queue,
    free: list[Slot],
    settings: LauncherSettings,
    context: ForkServerContext,
    progress: Progress,
) -> dict[str, int]:
    """Start runs as slots get free, until none is left that can be started here.

    Args:
        queue: What is to be started.
        free: All slots; taken from and given back.
        settings: How runs are put on the machine.
        context: A process from which they are forked.
        progress: The display.

    Returns:
        For each run that failed its exit code.

    Raises:
        KeyboardInterrupt: After Ctrl-C or SIGTERM, when no run is left.
    """
    active: _Active = {}
    failed: dict[str, int] = {}
    with _sigterm_as_ctrl_c():
        try:
            while queue.left or active:
                while free and (ready := queue.take(progress.elsewhere)):
                    slot = free.pop(0)
                    process = _start(context, ready, slot, settings)
                    active[ready.run_id] = (ready, slot, process)
                if not active and not queue.is_waiting:
                    break
                _pause(active)
                failed |= _collect(queue, free, active, progress)
                progress.show([run for run, _, _ in active.values()])
        except KeyboardInterrupt:
            _stop(active, progress)
            raise
        finally:
            for _, _, process in active.values():
                process.kill()
    queue.leave_waiting()
    return failed


def _pause(active: _Active) -> None:
    """Wait a little, or until a run ends."""
    if active:
        wait([process.sentinel for _, _, process in active.values()], _POLL_SECONDS)
    else:
        time.sleep(_POLL_SECONDS)


def _collect(queue: Queue, free: list[Slot], active: _Active, progress: Progress) -> dict[str, int]:
    """Take note of the runs that ended since; those that failed, with their exit codes."""
    failed = {}
    for name, (run, slot, process) in list(active.items()):
        code = process.exitcode
        if code is None:
            continue
        del active[name]
        free.append(slot)
        end = _end(run, code)
        if end == "again":
            queue.left.insert(0, run)
            progress.say(f"{run.run_id}: {read_status(run.folder).reason}")
        elif end == "elsewhere":
            queue.is_held(run, progress.elsewhere)
        else:
            progress.ended(run)
        if end == "failed":
            failed[run.run_id] = code
        if code == STORAGE and queue.left:
            progress.say(f"{len(queue.left)} runs are not started: they could not write either")
            queue.left.clear()
    return failed


def _end(run: Startable, code: int) -> Literal["done", "again", "elsewhere", "failed"]:
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
    if status.state == "pending" and not status.reason:
        shown = LOG if (run.folder / LOG).is_file() else "log.txt"
        reason = f"ended with exit code {code} before it began; see its {shown}"
        write_status(run.folder, replace(status, state="failed", reason=reason))
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


def _start(
    context: ForkServerContext, run: Startable, slot: Slot, settings: LauncherSettings
) -> BaseProcess:
    if settings.kind == "command":
        words, root = words_of(settings, run.folder), use_own_temporary_folder()
        process = context.Process(target=become, args=(words, run.folder, root))
    else:
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
