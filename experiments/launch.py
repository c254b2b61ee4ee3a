"""The local launcher: each run its own process, as many at a time as there are device groups."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Protocol

from experiments.compose import Run
from experiments.errors import ConfigError
from experiments.progress import Progress
from experiments.status import read_status, write_status
from experiments.sweep import LauncherSettings

_POLL_SECONDS = 0.2
_WHY = {
    "failed": "failed",
    "running": "runs elsewhere",
    "pending": "is not part of this call",
    "done": "was done meanwhile: call again",
}


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
        ConfigError: If a run asks for more GPUs than there are, or a number is below 1.
    """
    each = settings.devices_per_run
    if each < 1 or (settings.parallel != "auto" and settings.parallel < 1):
        raise ConfigError(
            f"launcher must have parallel >= 1 (or auto) and devices_per_run >= 1, got {settings}. "
            "Correct the sweep's launcher settings."
        )
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
    count = len(groups) if settings.parallel == "auto" else settings.parallel
    return [Slot(groups[i % len(groups)], max(1, cores // (count * each))) for i in range(count)]


def launch(
    runs: Sequence[Run],
    total: int,
    settings: LauncherSettings,
    *,
    before: Callable[[], None],
    needs: Mapping[str, tuple[str, ...]] | None = None,
) -> list[tuple[Run, int]]:
    """Run what is given, a failed one not stopping the rest.

    Args:
        runs: To be run, in this order.
        total: Runs of the whole sweep, for the display.
        settings: How they are put on the machine.
        before: Called when all configurations are found good, before the first run starts.
        needs: For a run's id the ids of the runs that must be done before it starts. One whose need
            is not and will not be done here stays pending, its status saying why.

    Returns:
        Those that failed, each with its exit code: 2 for what the user can mend.

    Raises:
        ConfigError: If a configuration does not fit the constructors it names; nothing started.
    """
    queue = list(runs)
    free = slots(settings)
    active: dict[str, tuple[Run, Slot, _Process]] = {}
    failed = []
    lacking = {
        run.run_id: {
            name
            for name in (needs or {}).get(run.run_id, ())
            if read_status(run.folder.parent / name).state != "done"
        }
        for run in runs
    }
    context = _server()
    if runs:
        _check_all(context, runs)
    before()
    with Progress(done=total - len(runs), total=total) as progress:
        try:
            while queue or active:
                coming = {run.run_id for run in queue} | active.keys()
                queue = [run for run in queue if not _left_waiting(run, lacking, coming)]
                ready = [run for run in queue if not lacking.get(run.run_id)]
                while ready and free:
                    run, slot = ready.pop(0), free.pop(0)
                    queue.remove(run)
                    active[run.run_id] = (run, slot, _start(context, run, slot, settings))
                time.sleep(_POLL_SECONDS)
                for name, (run, slot, process) in list(active.items()):
                    code = process.poll()
                    if code is not None:
                        del active[name]
                        free.append(slot)
                        if not _ended_well(run, code):
                            failed.append((run, code))
                        else:
                            for names in lacking.values():
                                names.discard(name)
                        progress.ended(run)
                progress.show([run for run, _, _ in active.values()])
        finally:
            for _, _, process in active.values():
                process.kill()
    return failed


def _left_waiting(run: Run, lacking: Mapping[str, Set[str]], coming: Set[str]) -> bool:
    """Whether a run needs one that will not be done here; its status then says which."""
    lost = sorted(lacking.get(run.run_id, set()) - coming)
    if lost:
        state = read_status(run.folder.parent / lost[0]).state
        status = read_status(run.folder)
        reason = f"waits for {lost[0]}, which {_WHY[state]}"
        write_status(run.folder, replace(status, state="pending", reason=reason))
    return bool(lost)


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
