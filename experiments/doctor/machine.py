"""What does without a device: packages, limits, disks, cores, W&B, SLURM. No torch here."""

import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from datamodules.cores import cores
from experiments.doctor.finding import Finding, State
from experiments.errors import ConfigError
from experiments.launchers.slurm import partitions
from experiments.processes import require_address_space
from experiments.sweeps.file import LauncherSettings
from experiments.tracking.wandb_run import check_environment, first_line, quiet_wandb

_SHOWN = ("torch", "torchvision", "lightning", "timm", "decord", "torchcodec", "wandb")
_EXTRAS = ("", "gpu")
_LEAST_FILES = 1024
_LEAST_BYTES = 1e9  # of a disk or of /dev/shm
_TRIED = 64 << 20  # bytes that a disk is tried with
_SLOW = 20e6  # bytes/s: a checkpoint of 400 MB takes 20 s
_CORES_PER_GPU = 4
_WANDB_SECONDS = 15


def python() -> list[Finding]:
    """Version and platform."""
    system = f"{platform.system()} {platform.machine()}"
    found = f"{platform.python_version()} on {system}"
    if system != "Linux x86_64":
        advice = "Here decord2 takes the place of decord, which was not tried: watch the first run."
        return [Finding("Python", "warn", found, advice)]
    return [Finding("Python", "pass", found)]


def packages() -> list[Finding]:
    """Whether what is installed is what ceus, and what it needs in turn, asks for."""
    try:
        unmet = sorted(set(_unmet("ceus")))
    except PackageNotFoundError:
        advice = "Call `make setup`, or `pip install -e .` in the checkout."
        return [Finding("packages", "warn", "ceus itself is not installed", advice)]
    if unmet:
        advice = "Install the versions that were tested together: pip install -c constraints.txt."
        return [Finding("packages", "fail", "; ".join(unmet), advice)]
    shown = [f"{name} {found}" for name in _SHOWN if (found := _version(name))]
    return [Finding("packages", "pass", ", ".join(shown))]


def _unmet(root: str) -> Iterator[str]:
    """Requirements of a package, and of what it needs, that are not met."""
    left: list[tuple[str, tuple[str, ...]]] = [(root, _EXTRAS)]
    seen = set(left)
    while left:
        name, extras = left.pop()
        for requirement in map(Requirement, requires(name) or ()):
            marker = requirement.marker
            wanted_by = [e for e in extras if marker is None or marker.evaluate({"extra": e})]
            if not wanted_by:
                continue
            has = _version(requirement.name)
            needs = f"{name} {version(name)} needs {requirement.name}{requirement.specifier}"
            if has is None:
                if "" in wanted_by:
                    yield f"{needs}, none is installed"
                continue
            if not requirement.specifier.contains(has, prereleases=True):
                yield f"{needs}, {has} is installed"
            further = (canonicalize_name(requirement.name), ("", *sorted(requirement.extras)))
            if further not in seen:
                seen.add(further)
                left.append(further)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def limits() -> list[Finding]:
    """What the shell, the job or the container allows a process."""
    findings = []
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < _LEAST_FILES
    found = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft} at once"
    advice = "Call `ulimit -n 4096` before, or have the limit of the job or container raised."
    findings.append(Finding("open files", "warn", found, advice) if few else
                    Finding("open files", "pass", found))  # fmt: skip
    try:
        require_address_space(4.0)
    except ConfigError as error:
        rule, _, advice = str(error).partition(". ")
        findings.append(Finding("memory limit", "fail", rule, advice))
    return findings


def shared_memory() -> list[Finding]:
    """Where `cache: ram` lies, and what processes of one run talk through."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        return [Finding("/dev/shm", "warn", "there is none", "Set cache=disk or cache=off.")]
    free = shutil.disk_usage(memory).free
    found = f"{gigabytes(free)} free"
    if free < _LEAST_BYTES:
        advice = "Give the container more (docker --shm-size=8g), or set cache=disk."
        return [Finding("/dev/shm", "warn", found, advice)]
    return [Finding("/dev/shm", "pass", found)]


def processors(gpus: int) -> list[Finding]:
    """The cores of this process, by which readers and slots are counted.

    Args:
        gpus: How many runs will train on.
    """
    total = os.cpu_count() or 1
    found = f"{cores()} of the machine's {total}"
    if gpus and cores() / gpus < _CORES_PER_GPU:
        advice = (
            f"A GPU wants {_CORES_PER_GPU} or more for its readers: give the job or container "
            "more (cpus_per_task, taskset), or keep decoded frames (cache=disk, cache=ram)."
        )
        return [Finding("cores", "warn", f"{found}, for {gpus} GPUs", advice)]
    return [Finding("cores", "pass", found)]


def disk(name: str, folder: Path, needed: float, must_write: bool) -> list[Finding]:
    """Room and speed of the disk of a folder, tried by a file without a name.

    Args:
        name: What the folder is for.
        folder: It need not be there yet.
        needed: Bytes that will be written; 0 if nobody knows.
        must_write: Whether nothing goes without writing there; else the ledger and the cache lack.
    """
    where = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(where).free
    found = f"{gigabytes(free)} free"
    wants = f", {gigabytes(needed)} needed" if needed else ""
    try:
        speed = _speeds(where, min(_TRIED, max(free // 2, 1 << 16)))
    except OSError as error:
        advice = "Make room, or get the right to write there."
        state: State = "fail" if must_write else "warn"
        return [Finding(f"disk: {name}", state, f"{error.strerror}{wants}", advice)]
    found += f"{wants}; written at {speed[0] / 1e6:.0f} MB/s, read at {speed[1] / 1e6:.0f} MB/s"
    if free < needed:
        advice = f"Make room, or choose another disk ({name}=…)."
        return [Finding(f"disk: {name}", "fail", found, advice)]
    if free < _LEAST_BYTES:
        return [Finding(f"disk: {name}", "warn", found, "Make room.")]
    if min(speed) < _SLOW:
        advice = f"Choose a disk of this machine ({name}=…): checkpoints and clips wait for it."
        return [Finding(f"disk: {name}", "warn", found, advice)]
    return [Finding(f"disk: {name}", "pass", found)]


def _speeds(folder: Path, size: int) -> tuple[float, float]:
    """Bytes/s written, until they are on the disk, and read again."""
    block = os.urandom(1 << 20)[:size]
    with tempfile.TemporaryFile(dir=folder) as file:
        begun = time.perf_counter()
        for _ in range(max(1, size // len(block))):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter()
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        total = 0
        started = time.perf_counter()
        while part := os.read(file.fileno(), 1 << 20):
            total += len(part)
        ended = time.perf_counter()
    return total / (written - begun), total / (ended - started)


def tracking() -> list[Finding]:
    """W&B: the mode and, online, whether the server takes the key. Offline nothing is asked."""
    try:
        check_environment()
    except ConfigError as error:
        rule, _, advice = str(error).partition(". ")
        return [Finding("W&B", "fail", rule, advice)]
    mode = os.environ.get("WANDB_MODE", "offline")
    if mode in ("offline", "dryrun"):
        found = "offline: kept in the runs' folders, until ceus wandb-sync sends it"
        return [Finding("W&B", "pass", found)]
    if mode == "disabled":
        return [Finding("W&B", "pass", "disabled")]
    try:
        quiet_wandb().Api(timeout=_WANDB_SECONDS).viewer  # noqa: B018  asks the server
    except Exception as error:  # noqa: BLE001  whatever W&B raises
        advice = "Call `wandb login`, look at WANDB_BASE_URL and proxy, or set WANDB_MODE=offline."
        found = f"online, but the server does not take us: {first_line(error)[:160]}"
        return [Finding("W&B", "warn", found, advice)]
    return [Finding("W&B", "pass", "online: the server answers and takes the key")]


def slurm(launcher: LauncherSettings) -> list[Finding]:
    """Whether the cluster answers, and has the partitions that a sweep names."""
    wanted = launcher.kind == "slurm"
    if shutil.which("sbatch") is None:
        if wanted:
            advice = "Call from a login node of the cluster, or set launcher.kind=local."
            return [Finding("SLURM", "fail", "no sbatch on PATH", advice)]
        return [Finding("SLURM", "pass", "none; runs start on this machine")]
    try:
        known = partitions()
    except ConfigError as error:
        if wanted:
            rule, _, advice = str(error).partition("). ")
            return [Finding("SLURM", "fail", rule, advice)]
        return [Finding("SLURM", "pass", "no cluster answers; runs start on this machine")]
    found = f"partitions {', '.join(known)}"
    if job := os.environ.get("SLURM_JOB_ID"):
        found += f"; this is inside of job {job}"
    unknown = set((launcher.slurm.partition or "").split(",")) - {"", *known}
    if wanted and unknown:
        advice = "Correct launcher.slurm.partition."
        missing = ", ".join(sorted(unknown))
        return [Finding("SLURM", "fail", f"{found}; none is called {missing}", advice)]
    return [Finding("SLURM", "pass", found)]


def gigabytes(count: float) -> str:
    """A number of bytes in words."""
    value, unit = (count / 1e9, "GB") if count >= 1e9 else (count / 1e6, "MB")
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"
