"""What of the machine one run at a time may use."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.cores import cores
from experiments.config.run import Run
from experiments.errors import ConfigError
from experiments.gpus import visible_gpus
from experiments.sweeps.file import LauncherSettings


@dataclass(frozen=True)
class Slot:
    """What one run at a time may use.

    Attributes:
        gpus: Names for CUDA_VISIBLE_DEVICES; None on a machine without.
        threads: CPU threads of each process of the run.
    """

    gpus: tuple[str, ...] | None
    threads: int

    def environment(self) -> dict[str, str]:
        """Variables by which a process sees these GPUs only."""
        if not self.gpus:
            return {}
        chosen = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}
        if "CUDA_VISIBLE_DEVICES" not in os.environ:  # else they are as the user counts them
            chosen["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        return chosen


def slots(settings: LauncherSettings, runs: Sequence[Run] = ()) -> list[Slot]:
    """Share out the machine: device groups on GPUs, else the cores among the runs.

    Args:
        settings: How runs are put on the machine.
        runs: Those to come. Where all train on the CPU, GPUs do not count.

    Raises:
        ConfigError: If a run asks for more GPUs than there are.
    """
    each, total = settings.devices_per_run, cores()
    if settings.kind == "command" and settings.parallel != "auto":  # what is there nobody knows
        return [Slot(None, total)] * settings.parallel
    on_cpu = bool(runs) and all(run.config["trainer"].get("accelerator") == "cpu" for run in runs)
    gpus = [] if on_cpu else visible_gpus()
    if not gpus:
        count = min(2, total) if settings.parallel == "auto" else settings.parallel
        return [Slot(None, max(1, total // (count * each)))] * count
    if each > len(gpus):
        raise ConfigError(
            f"launcher.devices_per_run must be at most the {len(gpus)} GPUs found, got {each}. "
            "Lower it, or set CUDA_VISIBLE_DEVICES."
        )
    groups = [tuple(gpus[i : i + each]) for i in range(0, len(gpus) - each + 1, each)]
    shared = len(groups) * settings.runs_per_device
    count = shared if settings.parallel == "auto" else settings.parallel
    return [Slot(groups[i % len(groups)], max(1, total // (count * each))) for i in range(count)]
