"""The SLURM launcher: a sweep as job arrays, and what stands in the queue.

The truth is the run folders. `SWEEP/slurm/` holds the scripts and `jobs.json`, which says what
task of which script is which run. Whether a task is still in the queue only squeue knows, by the
job's id or by the script that it was made from: so a submission whose answer was lost, or one made
by hand, is found, too. sacct is never asked: many clusters keep no accounting.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from datamodules.files import write_atomic
from experiments.config.run import Run
from experiments.errors import ConfigError
from experiments.launchers.order import waves
from experiments.launchers.slurm_script import array_script
from experiments.run_folder.lock import run_lock
from experiments.sweeps.expand import Sweep
from experiments.sweeps.file import LauncherSettings

_PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Submitted:
    """A job array.

    Attributes:
        script: Name of its script in the sweep's `slurm/`.
        runs: Ids of its runs in the order of the task numbers.
        job_id: SLURM's; None until sbatch has answered.
    """

    script: str
    runs: tuple[str, ...]
    job_id: str | None = None


@dataclass(frozen=True)
class Task:
    """A run's place in the queue.

    Attributes:
        job: Id of its job array.
        number: Number of the task in it.
        state: As squeue says it: `PENDING`, `RUNNING`, …
        reason: Why it waits: `Resources`, `Dependency`, …; `None` if it does not.
    """

    job: str
    number: int
    state: str
    reason: str


def queued(folder: Path) -> dict[str, Task]:
    """Runs of a sweep folder that stand in SLURM's queue, waiting or running, by run id.

    Raises:
        ConfigError: If squeue does not answer.
    """
    jobs = _read_jobs(folder)
    # A folder that came from a cluster: nothing of it can be queued here.
    if not jobs or shutil.which("squeue") is None:
        return {}
    form = "--format=%F|%K|%T|%r|%o"
    listing = _ask("squeue", "--noheader", "--array", f"--user={os.getuid()}", form)
    by_id = {job.job_id: job for job in jobs if job.job_id}
    by_script = {str(_script(folder, job.script)): job for job in jobs}
    tasks: dict[str, Task] = {}
    for line in listing.splitlines():
        job_id, number, state, reason, script = line.strip().split("|", 4)
        job = by_id.get(job_id) or by_script.get(script)
        if job and number.isdecimal() and int(number) < len(job.runs):
            tasks[job.runs[int(number)]] = Task(job_id, int(number), state, reason)
    return tasks


def submit(sweep: Sweep, runs: Sequence[Run]) -> list[Submitted]:
    """Put runs into the queue, as few job arrays as their needs and the cluster allow.

    A run is in a later array than what it needs, and starts when all of that array has ended, well
    or not: whether its own needs are done it sees itself, so one failure holds up only the runs
    that need it.

    Args:
        sweep: A frozen sweep.
        runs: Those of it that are neither done, nor held, nor queued.

    Raises:
        ConfigError: If sbatch refuses, with what it said. Arrays accepted before stay submitted.
    """
    folder = sweep.folder
    where = str(folder.absolute())
    if not where.isprintable() or '"' in where:
        raise ConfigError(
            "folder of a sweep must have a path without '\"' and control characters for SLURM, "
            f"which reads it from a script, got {where!r}. Set another runs=."
        )
    (folder / "slurm").mkdir(exist_ok=True)
    with run_lock(folder / "slurm") as free:
        if not free:
            raise ConfigError(
                f"sweep must be submitted by one process at a time, got a second ({folder}). "
                "Wait for the other and call again."
            )
        waiting = queued(folder)  # again, for another may just have submitted
        places = {name: task.job for name, task in waiting.items()}
        made: list[Submitted] = []
        left = [run for run in runs if run.run_id not in waiting]
        largest = _max_array_size() if left else 1
        throttle = _throttle(sweep.launcher)
        for wave in waves(left, sweep.needs):
            before: str | None = None  # so that the throttle holds over the arrays of a wave
            for i in range(0, len(wave), largest):
                part = wave[i : i + largest]
                needs = {name for run in part for name in sweep.needs.get(run.run_id, ())}
                after = {places[name] for name in needs if name in places}
                after |= {before} if before and throttle else set()
                try:
                    job = _submit_array(
                        sweep, part, after=sorted(after, key=int), throttle=throttle
                    )
                except ConfigError as error:
                    raise ConfigError(f"{error}{_told(made)}") from error
                before = job.job_id
                places |= dict.fromkeys(job.runs, str(job.job_id))
                made.append(job)
        return made


def partitions() -> list[str]:
    """Names of the cluster's partitions.

    Raises:
        ConfigError: If sinfo is not there or does not answer.
    """
    return sorted(set(_ask("sinfo", "--noheader", "--format=%R").split()))


def _submit_array(
    sweep: Sweep, runs: Sequence[Run], *, after: Sequence[str], throttle: int | None
) -> Submitted:
    jobs = _read_jobs(sweep.folder)
    number = 1 + max((int(Path(job.script).stem) for job in jobs), default=0)
    job = Submitted(f"{number:03d}.sbatch", tuple(run.run_id for run in runs))
    path = _script(sweep.folder, job.script)
    dependency = [f"--dependency=afterany:{':'.join(after)}"] if after else []
    text = array_script(
        sweep.launcher.slurm,
        path=path,
        name=sweep.name,
        run_ids=job.runs,
        throttle=throttle,
        devices=sweep.launcher.devices_per_run,
        after=" ".join(dependency),
    )
    write_atomic(path, text)
    # Before the call: if this process dies in it, squeue tells by the script what was submitted.
    _write_jobs(sweep.folder, [*jobs, job])
    try:
        answer = _ask("sbatch", "--parsable", *dependency, str(path))
    except ConfigError:
        _write_jobs(sweep.folder, jobs)
        path.unlink()
        raise
    job = Submitted(job.script, job.runs, answer.strip().split(";")[0])
    _write_jobs(sweep.folder, [*jobs, job])
    return job


def _told(made: Sequence[Submitted]) -> str:
    if not made:
        return ""
    count = sum(len(job.runs) for job in made)
    return f" Before that {count} runs were queued: {', '.join(str(job.job_id) for job in made)}."


def _throttle(settings: LauncherSettings) -> int | None:
    return None if settings.parallel == "auto" else settings.parallel


def _max_array_size() -> int:
    """Most tasks of a job array here; SLURM's default where scontrol does not say."""
    limit = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"))
    return int(limit[1]) if limit else 1001


def _ask(*command: str) -> str:
    # Called inside of a job, what that one was given must not pass for options of the new one.
    outer = ("SLURM_CONF", "SLURM_CLUSTERS")
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("SLURM_") or key in outer
    }
    try:
        result = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_SECONDS,
        )
    except FileNotFoundError as error:
        raise ConfigError(
            f"{command[0]} must be installed for launcher.kind=slurm, got none on PATH. Call the "
            "sweep on a login node of the cluster, or set launcher.kind=local."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"{command[0]} must answer, got nothing for {_PATIENCE_SECONDS} s. The cluster's "
            "controller may be down: call again later; nothing is submitted twice."
        ) from error
    if result.returncode:
        answer = " ".join((result.stderr or result.stdout).split())
        raise ConfigError(
            f"{command[0]} must accept what it is asked, got: {answer} "
            f"({shlex.join(command)}). Correct launcher.slurm, or ask your cluster's support."
        )
    return result.stdout


def _script(folder: Path, name: str) -> Path:
    return folder.absolute() / "slurm" / name


def _read_jobs(folder: Path) -> list[Submitted]:
    path = folder / "slurm" / "jobs.json"
    if not path.is_file():
        return []
    try:
        return [
            Submitted(str(job["script"]), tuple(map(str, job["runs"])), job["job_id"])
            for job in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"jobs.json must be as the sweep wrote it, got {error!r} ({path}). "
            "It says which job is which run: cancel the sweep's jobs if squeue shows any, delete "
            "the file and call the sweep again."
        ) from error


def _write_jobs(folder: Path, jobs: Sequence[Submitted]) -> None:
    content = json.dumps([asdict(job) for job in jobs], indent=1)
    write_atomic(folder / "slurm" / "jobs.json", content)
