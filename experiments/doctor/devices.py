"""What opens a device: each of these is called in a process of its own."""

import re
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from datamodules.store.decode import DecordCuda, PyavCpu, Torchcodec, first_that_decodes, probe
from experiments.doctor.finding import Finding, told
from experiments.doctor.machine import gigabytes
from experiments.gpu_check.runs import nccl
from experiments.gpu_check.step import Where
from experiments.gpus import Gpu, gpus_by_nvml, visible_gpus

_SLOW_UPLOAD = 3e9  # bytes/s; PCIe 3 gives 12
_UPLOADED = 256 << 20


def gpus() -> list[Finding]:
    """The GPUs of the driver, whether this torch can use them, and what others hold of them."""
    present, visible = gpus_by_nvml() or [], visible_gpus()
    if not visible:
        hidden = f"; the driver has {len(present)}" if present else ""
        advice = (
            "Unset CUDA_VISIBLE_DEVICES, or ask the job for one (gres)."
            if present
            else "A CPU does for the demo; profile=study wants a GPU and its driver."
        )
        return [Finding("GPUs", "warn", f"none that this process may use{hidden}", advice)]
    build = f"torch {torch.__version__}"
    if torch.version.cuda is None:
        advice = "Install the torch and torchvision that are built for CUDA (pytorch.org)."
        return [Finding("GPUs", "fail", f"{len(visible)}, but {build} is without CUDA", advice)]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        why = " ".join(str(warned[0].message).split())[:300] if warned else "it sees none"
        driver = f"driver {present[0].driver}" if present else "the driver"
        advice = f"Update {driver}, or install a torch for an older CUDA than {torch.version.cuda}."
        return [Finding("GPUs", "fail", f"{build} cannot open them: {why}", advice)]
    return [_gpu(index, present) for index in range(count)]


def _gpu(index: int, present: Sequence[Gpu]) -> Finding:
    name = "GPU" if index == 0 else f"GPU {index}"
    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    free, total = torch.cuda.mem_get_info(index)
    driver = f", driver {present[0].driver}" if present else ""
    found = (
        f"{properties.name}, {gigabytes(free)} of {gigabytes(total)} free, compute capability "
        f"{capability[0]}.{capability[1]}{driver}, CUDA {torch.version.cuda} in torch"
    )
    if not runs_on(capability, torch.cuda.get_arch_list()):
        advice = "Install a torch that is built for this capability (pytorch.org)."
        return Finding(name, "fail", f"{found}, which is built for others", advice)
    try:
        torch.ones(8, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        advice = "Look with nvidia-smi for what holds it or ails it; restart the machine."
        return Finding(name, "fail", f"{found}: {told(error)}", advice)
    if free < total / 2:
        advice = "Others hold more than half: look with nvidia-smi, or choose another GPU."
        return Finding(name, "warn", found, advice)
    return Finding(name, "pass", found)


def runs_on(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Whether a torch has code for a GPU.

    Args:
        capability: The GPU's, as (9, 0).
        built_for: As `torch.cuda.get_arch_list` gives it: `sm_86` runs on 8.6 and later of 8,
            `compute_86` is compiled on the spot for anything later, `sm_90a` is for 9.0 alone.
    """
    for name in built_for:
        if match := re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", name):
            kind, major, minor, only = match[1], int(match[2]), int(match[3]), match[4]
            built = (major, minor)
            if built == capability:
                return True
            if not only and built < capability and (kind == "compute" or major == capability[0]):
                return True
    return False


def decoder() -> list[Finding]:
    """What decodes clips here, by the probe under load."""
    if reason := probe(PyavCpu()):
        advice = "Install av (PyAV) again, in the version of constraints.txt."
        return [Finding("decoder", "fail", f"PyAV on the CPU: {reason}", advice)]
    if not torch.cuda.is_available():
        return [Finding("decoder", "pass", "PyAV on the CPU gives the right frames")]
    device = torch.device("cuda", 0)
    chosen, reasons = first_that_decodes(Torchcodec(device), DecordCuda(device))
    if chosen is None:
        advice = "Clips go by the CPU. For NVDEC install ceus[gpu]; see docs/how-to/speed.md."
        return [Finding("decoder", "warn", f"PyAV on the CPU ({reasons})", advice)]
    others = f" ({reasons})" if reasons else ""
    return [Finding("decoder", "pass", f"NVDEC by {chosen.name}, right under load{others}")]


def pinned() -> list[Finding]:
    """Whether memory can be pinned, and how fast batches get to the device; only with CUDA."""
    if not torch.cuda.is_available():
        return []
    advice = "Raise the memory of the container or job; GPU and CPU cores may be far apart, too."
    try:
        batch = torch.empty(_UPLOADED, dtype=torch.uint8, pin_memory=True)
        batch.cuda()
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(4):
            batch.cuda(non_blocking=True)
        torch.cuda.synchronize()
    except RuntimeError as error:
        return [Finding("pinned memory", "fail", told(error), advice)]
    speed = 4 * _UPLOADED / (time.perf_counter() - begun)
    found = f"uploads {speed / 1e9:.0f} GB/s"
    if speed < _SLOW_UPLOAD:
        return [Finding("pinned memory", "warn", found, advice)]
    return [Finding("pinned memory", "pass", found)]


def processes() -> list[Finding]:
    """NCCL with one process, and with two where there are two GPUs; only with CUDA."""
    if not torch.cuda.is_available():
        return []
    count = min(2, torch.cuda.device_count())
    try:
        with tempfile.TemporaryDirectory() as folder:
            nccl(Where(Path(folder), "cuda", Path(folder) / "figures.json"))
    except Exception as error:  # noqa: BLE001  those of its processes are of any kind
        advice = "Look with NCCL_DEBUG=INFO; try NCCL_P2P_DISABLE=1, or launcher.devices_per_run=1."
        return [Finding("NCCL", "fail" if count > 1 else "warn", told(error), advice)]
    return [Finding("NCCL", "pass", f"{count} process{'es' if count > 1 else ''} summed alike")]


def tflops() -> float:
    """10^12 operations a second of a product of matrices: bfloat16 on CUDA, else float32."""
    on_cuda = torch.cuda.is_available()
    size, dtype = (8192, torch.bfloat16) if on_cuda else (1024, torch.float32)
    matrix = torch.randn(size, size, device="cuda" if on_cuda else "cpu", dtype=dtype)
    done, begun = -1, time.perf_counter()
    while done < 1 or time.perf_counter() - begun < 0.5:
        if done == 0:  # the first chose its kernel
            begun = time.perf_counter()
        torch.mm(matrix, matrix)
        if on_cuda:
            torch.cuda.synchronize()
        done += 1
    return done * 2 * size**3 / (time.perf_counter() - begun) / 1e12
