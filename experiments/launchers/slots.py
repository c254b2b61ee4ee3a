"""What of the machine one run at a time may use."""

import os
import shutil
import subprocess
from dataclasses import dataclass

from experiments.errors import ConfigError
from experiments.sweeps.file import LauncherSettings


@dataclass(frozen=True)
class Slot:
    """What one run at a time may use.

    Attributes:
        gpus: Indices for CUDA_VISIBLE_DEVICES; None on a machine without.
        threads: CPU threads of each process of the run.
    """

    gpus: tuple[str, ...] | None
    threads: int


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
