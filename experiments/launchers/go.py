"""Start what a sweep has left to do, locally or on SLURM, and say how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.launchers.order import Startable
    from experiments.launchers.slurm import Submitted
    from experiments.sweeps.expand import Sweep


def go(sweep: Sweep, *, extend: bool, wait: bool = True, freeze_only: bool = False) -> int:
    """Run what is neither done nor under way, and print how it ended.

    Args:
        sweep: All its runs.
        extend: Whether runs may be added to a frozen sweep.
        wait: Whether runs handed to SLURM are followed until they end.
        freeze_only: Whether no run is started, for `ceus work` does.

    Returns:
        The exit code: 0 done, 1 runs failed, 2 for what the user can mend.
    """
    from experiments.launchers.local import launch
    from experiments.launchers.slurm import queued
    from experiments.run_folder.failures import STORAGE
    from experiments.run_folder.status import read_status
    from experiments.sweeps.expand import pending
    from experiments.sweeps.freeze import freeze
    from experiments.tracking.wandb_run import check_environment

    if any(run.study.wandb for run in sweep.runs):
        check_environment()
    in_queue = queued(sweep.folder)
    queue = [run for run in pending(sweep) if run.run_id not in in_queue]
    before = partial(freeze, sweep, extend=extend)
    if freeze_only:
        from experiments.launchers.check import check_runs

        check_runs(queue)
        before()
        print(f"sweep {sweep.name}: {len(sweep.runs)} runs, frozen; ceus work {sweep.folder}")
        return 0
    if sweep.launcher.kind == "slurm":
        from experiments.launchers.check import check_runs
        from experiments.launchers.follow import follow
        from experiments.launchers.slurm import submit

        check_runs(queue)
        before()
        _print_jobs(sweep, submit(sweep, queue), len(in_queue))
        if not wait:
            return 0
        failed = [(run, 1) for run in follow(sweep)]
    else:
        failed = launch(queue, len(sweep.runs), sweep.launcher, before=before, needs=sweep.needs)
    print_ends(sweep.folder, sweep.runs, failed)
    if failed and all(code in (2, STORAGE) for _, code in failed):
        return 2
    waiting = any(
        run.run_id in sweep.needs and read_status(run.folder).state == "pending" for run in queue
    )
    return 1 if failed or waiting else 0


def _print_jobs(sweep: Sweep, jobs: Sequence[Submitted], queued: int) -> None:
    count = sum(len(job.runs) for job in jobs)
    print(f"sweep {sweep.name}: {count} runs submitted, {queued} were in the queue")
    for job in jobs:
        print(f"  job {job.job_id}: {len(job.runs)} runs, {sweep.folder / 'slurm' / job.script}")
    print(
        f"follow them: ceus status {sweep.folder}; called again, only what is missing is submitted"
    )


def print_ends(
    folder: Path, runs: Sequence[Startable], failed: Sequence[tuple[Startable, int]]
) -> None:
    """Print how the runs of a sweep stand, and why those failed that did.

    Args:
        folder: Of the sweep.
        runs: All its runs.
        failed: Those of them that failed, each with its exit code.
    """
    from experiments.run_folder.failures import reason_of_code
    from experiments.run_folder.lock import is_locked
    from experiments.run_folder.status import read_status

    states = {run.run_id: read_status(run.folder) for run in runs}
    done = sum(status.state == "done" for status in states.values())
    held = sum(is_locked(run.folder) for run in runs)
    print(
        f"sweep {folder.name}: {done} done, {len(failed)} failed, "
        f"{len(states) - done - len(failed)} left"
        + (f", {held} of them under way in another process" if held else "")
        + f" ({folder})"
    )
    for run, code in failed:
        status = states[run.run_id]
        reason = reason_of_code(code) if status.state == "running" else status.reason
        log = run.folder / "log.txt"
        shown = log if log.is_file() else run.folder
        print(f"  {run.run_id}: {reason or status.state} ({shown})")
    ended = {run.run_id for run, _ in failed}
    for run in runs:
        status = states[run.run_id]
        if status.state == "pending" and status.reason and run.run_id not in ended:
            print(f"  {run.run_id}: {status.reason}")
