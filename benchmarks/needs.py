"""What the encoders need of a GPU, counted without one, against what readers deliver."""

from math import ceil
from pathlib import Path

from benchmarks.measure import Section
from experiments.config.compose import compose
from experiments.doctor.needs import count

_ARCHITECTURES = ("resnet", "densenet", "inception", "mvit", "swin")
_TFLOPS = 300.0  # a second that training reaches: 30 % of what an H100 or H200 states for bfloat16
_READ = 20.0  # clips/s a core, of 32 frames at 224 px: "Loading batches", 51 ms of CPU a clip
_CACHED = 600.0  # the same from the cache: "The cache", 1.6 ms


def run(folder: Path) -> Section:
    """Counts on tensors without values; the folder is not used."""
    del folder
    rows = []
    for architecture in _ARCHITECTURES:
        tflop, gigabytes, shape = _count(architecture)
        clips = _TFLOPS / (3 * tflop)
        cores = [f"{ceil(gpus * clips / rate)}" for rate in (_READ, _CACHED) for gpus in (1, 8)]
        rows.append(
            [architecture, shape, f"{tflop:.2f}", f"{gigabytes:.1f}", f"{clips:.0f}", *cores]
        )
    return Section(
        title="What encoders need, counted",
        about=(
            "The study's video encoders, a clip: multiplications and additions of a forward pass "
            "(a training step takes three times as many), and what is kept for the backward pass "
            f"in bfloat16. Clips/s if training reached {_TFLOPS:.0f} TFLOP/s and nothing waited "
            "for memory, which densenet and S3D do first: an upper bound. Cores that then read "
            f"{_READ:.0f} clips/s each from the store, or {_CACHED:.0f} from the cache, for one "
            "GPU and for eight. Nothing of it was measured on a GPU; `make gpu-check` does."
        ),
        columns=(
            "encoder", "clip", "TFLOP", "GB", "clips/s", "cores, 1 GPU", "8 GPUs", "cached, 1 GPU",
            "8 GPUs, cached",
        ),
        rows=rows,
    )  # fmt: skip


def _count(architecture: str) -> tuple[float, float, str]:
    """TFLOP of a forward pass, GB kept for the backward pass, and the clip's size."""
    study = compose([f"architecture={architecture}", "modality=video", "profile=study"])["study"]
    frames, size = study["num_frames"], study["video_size"]
    need = count(study["video_encoder"], (3, frames, size, size))
    return need.tflop, need.kept / 1e9, f"{frames} × {size}²"
