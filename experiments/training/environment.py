"""What a run was made with, for `environment.json`."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from experiments.training.memory import micro_batch

_PACKAGES = (
    "ceus",
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "decord",
    "decord2",
    "torchcodec",
    "av",
    "numpy",
)


def environment(trainer: Trainer, config: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, commit, device, processes, and the micro-batch that was really used."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True,
        text=True,
        check=False,
    )
    cuda = trainer.strategy.root_device.type == "cuda"
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "commit": git.stdout.strip() or None,
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "micro_batch": micro_batch(config),
    }
