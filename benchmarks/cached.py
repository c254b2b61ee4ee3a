"""Reading decoded frames from the cache, against copying the same bytes in memory."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.material import CLIP, SIZE, Material
from benchmarks.measure import Section, interleave, verdict
from benchmarks.others import by_decord
from datamodules.store.cache import FrameCache
from datamodules.store.clips import ClipReader

_CLIPS = 8


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
        targets=targets,
    )
