"""The GPUs of this machine, asked of the driver: this process opens none and imports no torch."""

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

Accelerator = Literal["auto", "cpu", "gpu"]
"""Where to compute; `auto` takes a GPU if there is one."""


@dataclass(frozen=True)
class Gpu:
    """What NVML says of a device.

    Attributes:
        index: Its number in the order of `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
        name: As `NVIDIA H200`.
        memory: Bytes.
        free: Bytes that no process holds now.
        capability: Compute capability, as (9, 0).
        driver: Version of the driver.
    """

    index: int
    name: str
    memory: int
    free: int
    capability: tuple[int, int]
    driver: str


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def gpus_by_nvml() -> list[Gpu] | None:
    """The GPUs of this machine, whatever CUDA_VISIBLE_DEVICES says; None where NVML is not."""
    with _nvml() as nvml:
        if nvml is None:
            return None
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        driver = ctypes.create_string_buffer(96)
        nvml.nvmlSystemGetDriverVersion(driver, ctypes.c_uint(96))
        return [_gpu(nvml, index, driver.value.decode()) for index in range(count.value)]


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES of the GPUs that this process may use, as it says or in order.

    Without it they are numbers, in the order of `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # CUDA takes those before the first that it does not know.
        names = [name.strip() for name in visible.split(",")]
        ends = [i for i, name in enumerate(names) if name in ("", "-1")]
        return names[: ends[0]] if ends else names
    found = gpus_by_nvml()
    count = _count_by_torch() if found is None else len(found)
    return [str(index) for index in range(count)]


@contextmanager
def _nvml() -> Iterator[Any]:
    nvml = None
    with contextlib.suppress(OSError):
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    if nvml is None or nvml.nvmlInit_v2():
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, index: int, driver: str) -> Gpu:
    # What a virtual GPU does not answer stays empty.
    device, memory = ctypes.c_void_p(), _Memory()
    name = ctypes.create_string_buffer(96)
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device))
    nvml.nvmlDeviceGetName(device, name, ctypes.c_uint(96))
    nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
    nvml.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor))
    return Gpu(
        index=index,
        name=name.value.decode(),
        memory=memory.total,
        free=memory.free,
        capability=(major.value, minor.value),
        driver=driver,
    )


def _count_by_torch() -> int:
    """In a child, and only where there is a driver: opening devices is for the runs."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    code = "import torch; print(torch.cuda.device_count())"
    environment = os.environ | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    return int(answer.stdout) if answer.returncode == 0 else 0
