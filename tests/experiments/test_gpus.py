"""How GPUs are counted and shared out, on a machine whose driver says that it has two."""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import which
from types import SimpleNamespace
from typing import Any

import pytest

from datamodules.cores import cores
from experiments.gpus import visible_gpus
from experiments.launchers.slots import Slot, slots
from experiments.sweeps.file import LauncherSettings

NVML = """
#include <string.h>
int nvmlInit_v2(void) { return %(init)d; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strcpy(text, "580.1"); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device)
{ *device = (void *)(1L + i); return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned size)
{ strcpy(text, "NVIDIA X"); return 0; }
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *memory)
{ memory[0] = 80000000000ULL; memory[1] = 1000ULL * (long)device; return 0; }
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor)
{ *major = 9; *minor = 0; return 0; }
"""
ASK = """
import dataclasses, json
from experiments.gpus import gpus_by_nvml, visible_gpus
from experiments.launchers.slots import slots
from experiments.sweeps.file import LauncherSettings
found = gpus_by_nvml()
each = slots(LauncherSettings(runs_per_device=2))
print(json.dumps({
    "gpus": found and [dataclasses.asdict(gpu) for gpu in found],
    "visible": visible_gpus(),
    "environments": [slot.environment() for slot in each],
}))
"""


def answer(folder: Path, **environment: str) -> dict[str, Any]:
    """What a fresh process finds with the folder's libraries."""
    inherited = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=inherited | {"LD_LIBRARY_PATH": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def build(folder: Path, source: str, name: str) -> None:
    (folder / "source.c").write_text(source)
    command = ["cc", "-shared", "-fPIC", "-o", folder / name, folder / "source.c"]
    subprocess.run(command, check=True, capture_output=True)


needs_compiler = pytest.mark.skipif(which("cc") is None, reason="a C compiler makes the library")


@needs_compiler
def test_the_driver_is_asked_where_there_is_no_nvidia_smi(tmp_path: Path) -> None:
    build(tmp_path, NVML % {"init": 0}, "libnvidia-ml.so.1")
    found = answer(tmp_path, PATH="/usr/bin:/bin")
    assert found["gpus"] == [
        {"index": i, "name": "NVIDIA X", "memory": 80_000_000_000, "free": 1000 * (i + 1),
         "capability": [9, 0], "driver": "580.1"}
        for i in (0, 1)
    ]  # fmt: skip
    assert found["visible"] == ["0", "1"]
    first, second, *_ = found["environments"]
    assert first == {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert second["CUDA_VISIBLE_DEVICES"] == "1"
    assert len(found["environments"]) == 4
    named = answer(tmp_path, CUDA_VISIBLE_DEVICES="GPU-8f1,1")
    assert named["visible"] == ["GPU-8f1", "1"]
    assert named["environments"][0] == {"CUDA_VISIBLE_DEVICES": "GPU-8f1"}  # in the user's order


@needs_compiler
def test_without_nvml_torch_counts_in_a_child_and_only_where_there_is_a_driver(
    tmp_path: Path,
) -> None:
    build(tmp_path, NVML % {"init": 9}, "libnvidia-ml.so.1")
    (tmp_path / "torch.py").write_text(
        "import os\n"
        "assert os.environ['CUDA_DEVICE_ORDER'] == 'PCI_BUS_ID'\n"
        "class cuda:\n    device_count = lambda: 3\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    assert answer(tmp_path, PYTHONPATH=path)["visible"] == []
    build(tmp_path, "int cuInit(unsigned flags) { return 0; }", "libcuda.so.1")
    assert answer(tmp_path, PYTHONPATH=path)["visible"] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0,1", ["0", "1"]), ("0, 1", ["0", "1"]), ("", []), ("-1", []), ("2,-1,0", ["2"])],
)
def test_what_the_user_shows_is_taken_as_cuda_takes_it(
    value: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == expected


def test_runs_on_the_cpu_take_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes of DDP on the CPU need no two GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    on_cpu: Any = SimpleNamespace(config={"trainer": {"accelerator": "cpu"}})
    on_gpu: Any = SimpleNamespace(config={"trainer": {"accelerator": "auto"}})
    settings = LauncherSettings(devices_per_run=2, parallel=1)
    assert [slot.gpus for slot in slots(settings, [on_cpu, on_cpu])] == [None]
    assert Slot(None, 2).environment() == {}
    with pytest.raises(ValueError, match="at most the 1 GPUs found, got 2"):
        slots(settings, [on_cpu, on_gpu])


@pytest.mark.parametrize(
    ("environment", "most"), [({}, 64), ({"CEUS_CORES": "1"}, 1), ({"SLURM_CPUS_PER_TASK": "1"}, 1)]
)
def test_cores_are_those_that_were_given(
    environment: dict[str, str], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CEUS_CORES", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert cores() == most
    monkeypatch.setenv("CEUS_CORES", "200")  # more than there are
    assert cores() <= 64
