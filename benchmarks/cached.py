"""Reading decoded frames from the cache, against copying the same bytes in memory."""

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from benchmarks.material import CLIP, SIZE, Material
from benchmarks.measure import Section, interleave, verdict
from benchmarks.others import by_decord, shrink
from datamodules.store.cache import FrameCache
from datamodules.store.clips import ClipReader

_CLIPS, _EPOCHS, _RUNS = 8, 10, 6


def run(folder: Path) -> Section:
    """Times them."""
    material = Material(folder)
    wanted = material.wanted(_CLIPS, seed=3)
    requests = [(material.item, indices) for indices in wanted]
    cases: dict[str, Callable[[], object]] = {}
    caches = {}
    for where in ("disk", "ram"):
        caches[where] = FrameCache(material.store, where=where, size=SIZE, limit_gb=10)
        reader = ClipReader(material.store, cache=caches[where])
        frames = reader.read_many(requests)  # fills it
        cases[f"cache: {where}"] = partial(reader.read_many, requests)
    source = frames.permute(0, 2, 3, 1).flatten()
    copy = torch.empty_like(source)
    cases["memcpy"] = lambda: copy.copy_(source)
    cases["decord"] = lambda: [by_decord(material.plain, indices) for indices in wanted]
    timings = interleave(cases, rounds=9)
    for cache in caches.values():
        cache.close()
    per_clip = 1e3 / _CLIPS
    targets = [
        verdict("decord / cache: disk, CPU", timings.ratio("decord", "cache: disk"), least=40),
        verdict("memcpy / cache: disk, wall", timings.wall_ratio("memcpy", "cache: disk"),
                least=0.4),
    ]  # fmt: skip
    return Section(
        title="The cache",
        about=f"{CLIP} frames at random as uint8 at {SIZE}×{SIZE} (4.8 MB a clip), {_CLIPS} clips "
        "a call, in the page cache; milliseconds a clip.",
        columns=("from", "CPU", "wall"),
        rows=[
            (name, f"{timings.cpu(name) * per_clip:.2f}", f"{timings.wall(name) * per_clip:.2f}")
            for name in cases
        ],
        targets=[*targets, _study(material)],
    )


def _study(material: Material) -> str:
    """What the runs of a sweep read, each frame they draw decoded once or every time."""
    epochs = [material.wanted(_CLIPS, seed=100 + epoch) for epoch in range(_EPOCHS)]

    def by_store(where: Literal["disk"] | None) -> float:
        shutil.rmtree(material.store.path / "cache", ignore_errors=True)
        start = time.process_time()
        for _ in range(_RUNS):
            cache = where and FrameCache(material.store, where=where, size=SIZE, limit_gb=10)
            reader = ClipReader(material.store, cache=cache or None)
            for wanted in epochs:
                frames = reader.read_many([(material.item, indices) for indices in wanted])
                if cache:
                    continue
                for clip in torch.split(frames, CLIP):  # the cache holds frames of this size
                    shrink(clip)
            if cache:
                cache.close()
        return time.process_time() - start

    start = time.process_time()
    for indices in epochs[0]:
        by_decord(material.source, indices)
    source = (time.process_time() - start) * _EPOCHS * _RUNS
    kept, off = by_store("disk"), by_store(None)
    return (
        f"A sweep of {_RUNS} runs, {_EPOCHS} epochs each, {_CLIPS} clips an epoch, every frame "
        f"drawn anew; CPU seconds of reading: cache filled on the way {kept:.1f}, cache off "
        f"{off:.1f}, decord on the source {source:,.0f} (one epoch, times {_EPOCHS * _RUNS})."
    )
