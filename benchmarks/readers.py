"""Reading 32 frames of a clip: every reader, on the source and on the store."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.material import CLIP, FRAMES, GOP, HEIGHT, SIZE, WIDTH, Indices, Material
from benchmarks.measure import Section, Timings, interleave, verdict
from benchmarks.others import Read, readers, shrink
from datamodules.store.clips import ClipReader
from datamodules.store.decode import DecordCpu

_BATCH = 8
_OURS = "ceus, a batch"


def run(folder: Path) -> Section:
    """Times them."""
    material = Material(folder)
    readers_by_name, skipped = readers()
    source = _on_file(material.source, readers_by_name, material.wanted(1, seed=1), rounds=2)
    ours = ClipReader(material.store)
    by_decord = ClipReader(material.store, decoder=DecordCpu())
    wanted = material.wanted(_BATCH, seed=1)
    requests = [(material.item, indices) for indices in wanted]
    stored = _on_file(
        material.plain,
        readers_by_name,
        wanted,
        rounds=3,
        more={
            # On a CPU the datamodules resize clip by clip, too.
            _OURS: lambda: [shrink(clip) for clip in torch.split(ours.read_many(requests), CLIP)],
            "ceus, a clip": lambda: [shrink(ours.read(*request)) for request in requests],
            "ceus, by decord": lambda: [
                shrink(clip) for clip in torch.split(by_decord.read_many(requests), CLIP)
            ],
        },
    )
    per_clip = {name: stored.cpu(name) / _BATCH for name in stored.costs}
    rows = [
        (
            name,
            f"{source.cpu(name) * 1e3:,.0f}" if name in source.costs else "–",
            f"{source.wall(name) * 1e3:,.0f}" if name in source.costs else "–",
            f"{per_clip[name] * 1e3:.1f}",
            f"{stored.wall(name) / _BATCH * 1e3:.1f}",
            f"{stored.ratio(name, 'ceus, a batch'):.2f}",
        )
        for name in stored.costs
    ]
    against_source = source.cpu("decord") / per_clip[_OURS]
    targets = [
        f"The store: {material.psnr:.1f} dB against the frames it was made from.",
        verdict("decord on the source / ceus, CPU", against_source, least=60),
        verdict("decord / ceus on the store, CPU", stored.ratio("decord", _OURS), least=3),
    ]
    fastest = "torchcodec, approximate"
    if fastest in stored.costs:
        ratio = stored.ratio(_OURS, fastest)
        targets.append(verdict("ceus / torchcodec on the store, CPU", ratio, most=0.9))
    return Section(
        title="Reading frames",
        about=f"{CLIP} frames at random of {FRAMES:,}, in order, as uint8 at {SIZE}×{SIZE}; "
        f"milliseconds a clip, CPU time over all threads. Source: {WIDTH}×{HEIGHT}, H.264, key "
        f"frame every {GOP}. Store: what `ceus prepare` made of it, wrapped into an AVI for the "
        "others.",
        columns=("reader", "source, CPU", "wall", "store, CPU", "wall", "CPU / ceus"),
        rows=rows,
        targets=targets,
        skipped=skipped,
    )


def _on_file(
    file: Path,
    readers_by_name: dict[str, Read],
    wanted: list[Indices],
    *,
    rounds: int,
    more: dict[str, Callable[[], object]] | None = None,
) -> Timings:
    """Every reader on this file, a clip at a time."""

    def read_all(read: Read) -> None:
        for indices in wanted:
            read(file, indices)

    cases = {name: partial(read_all, read) for name, read in readers_by_name.items()}
    return interleave((more or {}) | cases, rounds=rounds)
