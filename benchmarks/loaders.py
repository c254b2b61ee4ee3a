"""Batches for training: our loader, and torch's DataLoader around every reader."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.material import CLIP, FRAMES, SIZE, Indices, Material, ffmpeg, run_ffmpeg
from benchmarks.measure import PeakMemory, Section, interleave, verdict
from benchmarks.others import Read, readers, shrink
from datamodules.batches.loader import Batch, RowLoader
from datamodules.store.clips import ClipReader

_BATCH, _CLIPS = 8, 32
_SLOW = {"decord": 16, "OpenCV, whole clip": 8}
"""Clips for readers that would else take the time of all others together."""
_OURS, _LIMIT = "ceus, 2 threads", "ffmpeg -f null, 2 threads"


class _Clips(Dataset[torch.Tensor]):
    """32 frames of clips, read one by one."""

    def __init__(self, file: Path, wanted: list[Indices], read: Read) -> None:
        self._file, self._wanted, self._read = file, wanted, read

    def __len__(self) -> int:
        return len(self._wanted)

    def __getitem__(self, number: int) -> torch.Tensor:
        return self._read(self._file, self._wanted[number])


def run(folder: Path) -> Section:
    """Times them."""
    material = Material(folder)
    readers_by_name, skipped = readers()
    wanted = material.wanted(_CLIPS, seed=2)
    # One reader for all epochs of a run, as the datamodules have it.
    reader = ClipReader(material.store)
    cases: dict[str, Callable[[], object]] = {_OURS: partial(_ours, reader, material.item, wanted)}
    counts = {_OURS: _CLIPS}
    for name, read in readers_by_name.items():
        some = wanted[: _SLOW.get(name, _CLIPS)]
        for workers in (0, 1, 2) if name == "decord" else (2,):
            label = f"DataLoader, {name}, {workers} workers"
            cases[label] = partial(_theirs, _Clips(material.plain, some, read), workers)
            counts[label] = len(some)
    if ffmpeg():
        # Decoding alone, without colour conversion: nothing that uses FFmpeg can be faster.
        cases[_LIMIT] = lambda: run_ffmpeg("-threads", 2, "-i", material.plain, "-f", "null", "-")
        counts[_LIMIT] = FRAMES // CLIP
    else:
        skipped.append("ffmpeg -f null: FFmpeg's command is not installed")
    timings = interleave(cases, rounds=2)
    memory = {}
    for name, case in cases.items():
        with PeakMemory() as peak:
            case()
        memory[name] = peak.mib
    rate = {name: counts[name] / timings.wall(name) for name in cases}
    rows = [
        (
            name,
            f"{rate[name]:.1f}",
            f"{timings.cpu(name) / counts[name] * 1e3:.1f}",
            f"{memory[name]:.0f}" if name != _LIMIT else "–",
            f"{rate[_OURS] / rate[name]:.2f}",
        )
        for name in cases
    ]
    plain = "DataLoader, decord, 2 workers"
    targets = [verdict("ceus / DataLoader, 2 workers, decord", rate[_OURS] / rate[plain], least=4)]
    if ffmpeg():
        share = rate[_OURS] / rate[_LIMIT]
        targets.append(verdict("ceus / decode-only limit", share, least=0.65))
    return Section(
        title="Loading batches",
        about=f"Batches of {_BATCH} clips of {CLIP} frames, uint8 at {SIZE}×{SIZE}, from the "
        "store; memory is what the loader adds at most, of all its processes.",
        columns=("loader", "clips/s", "CPU ms a clip", "MiB", "ceus is … times as fast"),
        rows=rows,
        targets=targets,
        skipped=skipped,
    )


def _ours(reader: ClipReader, item: str, wanted: list[Indices]) -> None:
    plan = [wanted[start : start + _BATCH] for start in range(0, len(wanted), _BATCH)]

    def read(rows: list[Indices], epoch: int) -> Batch:
        del epoch
        return {"video": reader.read_many([(item, indices) for indices in rows])}

    loader = RowLoader(
        plan=lambda _: plan,
        read=read,  # type: ignore[arg-type]
        num_threads=2,
        # Resized clip by clip on the consumer's thread, as the datamodules do on a CPU.
        stage=lambda batch: {"video": [shrink(clip) for clip in torch.split(batch["video"], CLIP)]},
    )
    assert sum(len(batch["video"]) for batch in loader) == len(wanted)


def _theirs(data: _Clips, workers: int) -> None:
    loader = DataLoader(data, batch_size=_BATCH, num_workers=workers, timeout=60 if workers else 0)
    assert sum(batch.shape[0] for batch in loader) == len(data)
