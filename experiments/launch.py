"""The local launcher: each run its own process, as many at a time as there are device groups."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Protocol

from experiments.compose import Run
from experiments.errors import ConfigError
from experiments.needs import leave_waiting, take_ready, unmet
from experiments.progress import Progress
from experiments.status import read_status, write_status
from experiments.sweep import LauncherSettings

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Slot:
    """What one run at a time may use.

    Attributes:
        gpus: Indices for CUDA_VISIBLE_DEVICES; None on a machine without.
        threads: CPU threads of each process of the run.
    """

    gpus: tuple[str, ...] | None
    threads: int


class _Process(Protocol):
    def poll(self) -> int | None: ...
    def kill(self) -> None: ...


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
    """
    queue = list(runs)
    free = slots(settings)
    active: dict[str, tuple[Run, Slot, _Process]] = {}
    failed = []
    context = check_runs(runs)
    before()
    with Progress(done=total - len(runs), total=total) as progress:
        try:
            while queue or active:
                while free and (ready := take_ready(queue, needs)):
                    slot = free.pop(0)
                    active[ready.run_id] = (ready, slot, _start(context, ready, slot, settings))
                if not active:
                    break
                time.sleep(_POLL_SECONDS)
                for name, (run, slot, process) in list(active.items()):
                    code = process.poll()
                    if code is not None:
                        del active[name]
                        free.append(slot)
                        if not _ended_well(run, code):
                            failed.append((run, code))
                        progress.ended(run)
                progress.show([run for run, _, _ in active.values()])
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
    context = _server()
    if runs:
        _check_all(context, runs)
    return context


def _ended_well(run: Run, code: int) -> bool:
    status = read_status(run.folder)
    if status.state == "running":  # it died without a word: killed, out of memory, a crash
        reason = f"process died with exit code {code}; see log.txt"
        write_status(run.folder, replace(status, state="failed", reason=reason))
    return read_status(run.folder).state == "done"


def _server() -> ForkServerContext:
    """A process that has imported torch and all else once, from which runs are forked.

    The imports cost a fresh interpreter about ten seconds of CPU, as much as a small run. The
    server starts no thread and opens no device, so its children are as good as fresh.
    """
    context = multiprocessing.get_context("forkserver")
    # wandb.init imports its launch package, half of what a small run costs.
    context.set_forkserver_preload(["experiments.run", "wandb.sdk.launch"])
    return context


def _check_all(context: ForkServerContext, runs: Sequence[Run]) -> None:
    """Hold every configuration against the constructors, in a child: this process has no torch."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_check_child, args=(theirs, [run.config for run in runs]))
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
    from experiments.build import check

    try:
        check(configs)
        answer.send(None)
    except ConfigError as error:
        answer.send(str(error))


def _start(
    context: ForkServerContext, run: Run, slot: Slot, settings: LauncherSettings
) -> _Process:
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(slot.gpus)} if slot.gpus else {}
    # Inside of a SLURM job Lightning would take that job's tasks for the run's ranks.
    environment["SLURM_JOB_NAME"] = "interactive"
    if settings.devices_per_run > 1:
        # Lightning starts the further ranks by calling the command line again: it needs one.
        command = [sys.executable, "-m", "experiments.run", str(run.folder)]
        command += ["--threads", str(slot.threads), "--launcher", str(os.getpid())]
        return subprocess.Popen(command, env=os.environ | environment, stdin=subprocess.DEVNULL)
    process = context.Process(target=_child, args=(run.folder, slot.threads, environment))
    process.start()
    return _Forked(process)


def _child(folder: Path, threads: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    from experiments.run import die_with_parent, run_and_exit

    die_with_parent()
    run_and_exit(folder, threads)


class _Forked:
    """A multiprocessing process with the two verbs of Popen that are needed."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


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
