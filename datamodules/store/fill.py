"""Every clip of a store decoded once, before the first run asks for it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import track

from datamodules.cores import cores
from datamodules.errors import DataError, StorageError
from datamodules.store.cache import FrameCache
from datamodules.store.clips import ClipReader
from datamodules.store.folder import Store


def fill_cache(
    store: Path,
    *,
    size: int,
    limit_gb: float = 50.0,
    threads: int | None = None,
    progress: bool = True,
) -> Path:
    """Decodes every clip of a store into its cache on disk.

    Args:
        store: A store.
        size: Side of the frames, pixels, 1 or more: `video_size` of the runs that will read it.
        limit_gb: Most that it may take, 10^9 bytes.
        threads: By default one a core.
        progress: Show a bar on stderr.

    Returns:
        The cache's folder.

    Raises:
        DataError: If there is no store, or its folder cannot be written.
        StorageError: If the disk failed amid the work.
    """
    if size < 1:
        raise DataError(f"size of the cache must be 1 or more, got {size} (ceus prepare --cache).")
    opened = Store(store)
    cache = FrameCache(opened, where="disk", size=size, limit_gb=limit_gb)
    reader = ClipReader(opened, cache=cache)
    clips = opened.items[opened.items["modality"] == "ceus"]
    parts = [
        (item, range(start, min(start + 64, frames)))
        for item, frames in zip(clips["item_id"], clips["frames"].astype(int), strict=True)
        for start in range(0, frames, 64)
        if cache.holds(item)
    ]
    with ThreadPoolExecutor(threads or cores()) as pool:
        done = pool.map(lambda part: reader.read(*part) is None, parts)
        console = Console(stderr=True)
        for _ in track(done, "cache", len(parts), console=console, disable=not progress):
            pass
    whole = all(cache.holds(item) for item, _ in parts)
    cache.close()
    if not whole:
        raise StorageError(
            f"cache must be written whole, got a fault of the disk ({cache.path}). Make room and "
            "call again; the store itself is whole, and runs decode what the cache lacks."
        )
    return cache.path
