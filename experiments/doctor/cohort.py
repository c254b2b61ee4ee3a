"""A store: whether it is whole, and how fast it is read; each is called in a process of its own."""

import hashlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.cores import cores
from datamodules.errors import DataError
from datamodules.ingest.task import item_suffixes
from datamodules.store.cache import FrameCache, needed_and_rooms
from datamodules.store.clips import ClipReader
from datamodules.store.decode import choose_decoder
from datamodules.store.folder import Store
from experiments.doctor.finding import Finding
from experiments.doctor.study import Reading
from experiments.gpu_check.pixels import clips_per_second

_TRIED_GB = 0.25


def whole(path: Path, seconds: float) -> list[Finding]:
    """Whether the bytes of every item are those that were written.

    Args:
        path: The store.
        seconds: After which no further item is begun.
    """
    again = "Copy the store again, or run `ceus prepare` into a new folder."
    try:
        opened = Store(path, with_unlabelled=True)
        items = opened.items.sample(frac=1, random_state=0)
        rows = list(items[["item_id", "modality", "item_sha"]].itertuples(index=False, name=None))
    except (DataError, KeyError) as error:
        rule, _, advice = str(error).partition("). ")
        return [Finding("store", "fail", f"{rule})" if advice else rule, advice or again)]
    deadline = time.monotonic() + seconds
    with ThreadPoolExecutor(cores()) as pool:
        answers = list(pool.map(lambda row: _is_whole(opened.path, row, deadline), rows))
    damaged = sorted(row[0] for row, whole in zip(rows, answers, strict=True) if whole is False)
    read = sum(answer is not None for answer in answers)
    found = f"{len(rows)} items of {items['patient_id'].nunique()} patients"
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        found += f"; not as they were written: {', '.join(damaged[:3])}{more}"
        return [Finding("store", "fail", found, again)]
    if read < len(rows):
        found += f"; {read} were read in {seconds:.0f} s, all as they were written"
        advice = "Nothing to mend so far: the others are checked as runs read them."
        return [Finding("store", "warn", found, advice)]
    return [Finding("store", "pass", f"{found}, all as they were written")]


def _is_whole(folder: Path, row: tuple[str, str, str], deadline: float) -> bool | None:
    """None if time was up before."""
    if time.monotonic() > deadline:
        return None
    item_id, modality, sha = row
    digest = hashlib.sha256()
    try:
        for suffix in item_suffixes(modality):
            digest.update((folder / "items" / f"{item_id}{suffix}").read_bytes())
    except OSError:
        return False
    return digest.hexdigest() == sha


def reading(study: Mapping[str, Any]) -> Reading:
    """How fast the store's clips are read, a batch of four at a time by each core.

    Args:
        study: The keys `study:` of a resolved configuration.
    """
    store = Store(study["store"])
    size, frames = study["video_size"], study["num_frames"]
    needed, rooms = needed_and_rooms(store, size=size)
    room = {"auto": max(rooms.values()), "disk": 2 * rooms["disk"], "ram": 2 * rooms["ram"]}
    kept = needed <= min(room.get(str(study["cache"]), 0), study["cache_gb"] * 1e9)
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_cuda else torch.device("cpu")
    # With a cache the CPU decodes.
    reader = ClipReader(store, decoder=choose_decoder("cpu" if kept else study["decode"], device))
    decoded = clips_per_second(reader.read_many, _requests(store, frames), threads=cores())
    return Reading(decoded, _cached(store, frames, size), needed, kept)


def _cached(store: Store, frames: int, size: int) -> float | None:
    """Clips/s of those of the first clips that fit into a small cache."""
    try:
        cache = FrameCache(store, where="ram", size=size, limit_gb=_TRIED_GB)
    except DataError:
        return None
    try:
        requests = _requests(store, frames, cache.holds)
        reader = ClipReader(store, cache=cache)
        for request in requests:
            reader.read_many(request)
        return clips_per_second(reader.read_many, requests, threads=cores()) if requests else None
    finally:
        cache.close()


def _requests(
    store: Store, frames: int, is_wanted: Callable[[str], bool] = lambda _: True
) -> list[list[Any]]:
    """Batches of four clips, their frames evenly over the whole; at most 24 of them."""
    clips = store.items[store.items["modality"] == "ceus"]
    lengths = zip(clips["item_id"], clips["frames"].astype(int), strict=True)
    asked = [
        (item, np.linspace(0, length - 1, frames).astype(int))
        for item, length in lengths
        if is_wanted(item)
    ]
    return [asked[i : i + 4] for i in range(0, len(asked), 4)][:24]
