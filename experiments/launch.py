"""The local launcher: each run its own process, as many at a time as there are device groups."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

from experiments.compose import Run
from experiments.errors import ConfigError
from experiments.failures import AGAIN, HELD, STORAGE, reason_of_code, take_notes
from experiments.needs import leave_waiting, take_ready, unmet
from experiments.processes import die_with_parent, warm_server
from experiments.progress import Progress
from experiments.status import is_locked, read_status, write_status
from experiments.sweep import LauncherSettings

_POLL_SECONDS = 0.2
_STOP_SECONDS = 20.0
"""How long runs that were asked to stop may take: their own grace, and slow disks."""


@dataclass(frozen=True)
class Slot:
    """What one run at a time may use.

    Attributes:
        gpus: Indices for CUDA_VISIBLE_DEVICES; None on a machine without.
        threads: CPU threads of each process of the run.
    """

    gpus: tuple[str, ...] | None
    threads: int


_Active = dict[str, tuple[Run, Slot, BaseProcess]]


def slots(settings: LauncherSettings) -> list[Slot]:
    """Share out the machine: device groups on GPUs, else the cores among the runs.

    Raises:
        ConfigError: If a run asks for more GPUs than there are.
    """
    each = settings.devices_per_run
    cores = os.cpu_count() or 1
    gpus = _gpus()
    if not gpus:
        count = min(2, cores) if settings.parallel == "auto" else settings.parallel
        return [Slot(None, max(1, cores // (count * each)))] * count
    if each > len(gpus):
        raise ConfigError(
            f"launcher.devices_per_run must be at most the {len(gpus)} GPUs found, got {each}. "
            "Lower it, or set CUDA_VISIBLE_DEVICES."
        )
    groups = [tuple(gpus[i : i + each]) for i in range(0, len(gpus) - each + 1, each)]
    shared = len(groups) * settings.runs_per_device
    count = shared if settings.parallel == "auto" else settings.parallel
    return [Slot(groups[i % len(groups)], max(1, cores // (count * each))) for i in range(count)]


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
    free = slots(settings)
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


def check_runs(runs: Sequence[Run]) -> ForkServerContext:
    """Hold every configuration against the constructors that it names.

    Returns:
        A process from which runs are forked.

    Raises:
        ConfigError: For the first that does not fit.
    """
    context = warm_server()
    if runs:
        _check_all(context, runs)
    return context


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


def _check_all(context: ForkServerContext, runs: Sequence[Run]) -> None:
    """Hold every configuration against the constructors, in a child: this process has no torch."""
    ours, theirs = context.Pipe(duplex=False)
    # One of each cell: the name of a cell holds all but fold and seed, which are checked already.
    configs = list(
        {(run.study.architecture, run.study.modality): run.config for run in runs}.values()
    )
    # A daemon: after Ctrl-C nobody waits for it.
    process = context.Process(target=_check_child, args=(theirs, configs), daemon=True)
    process.start()
    theirs.close()
    try:
        complaint = ours.recv()
    except EOFError:
        process.join()
        complaint = f"the check of the configurations died with exit code {process.exitcode}"
    if complaint:
        raise ConfigError(complaint)


def _check_child(answer: Connection, configs: list[dict[str, Any]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from experiments.build import check

    try:
        check(configs)
        answer.send(None)
    except ConfigError as error:
        answer.send(str(error))


def _start(context: ForkServerContext, run: Run, slot: Slot) -> BaseProcess:
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(slot.gpus)} if slot.gpus else {}
    # Inside of a SLURM job Lightning would take that job's tasks for the run's ranks.
    environment["SLURM_JOB_NAME"] = "interactive"
    process = context.Process(target=_child, args=(run.folder, slot.threads, environment))
    process.start()
    return process


def _child(folder: Path, threads: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    from experiments.run import run_and_exit

    die_with_parent()
    run_and_exit(folder, threads)


def _gpus() -> list[str]:
    """GPUs this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    listing = subprocess.run([command, "-L"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i, line in enumerate(listing.splitlines()) if line.startswith("GPU ")]
