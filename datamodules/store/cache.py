"""Decoded frames at the training size, kept so that no frame is decoded twice on a machine.

    CACHE/SIZE-KEY/frames     uint8 frames (SIZE, SIZE, 3) in the order of the store's clips; sparse
    CACHE/SIZE-KEY/digests    8 bytes a frame, written after it; 0 where there is none
    CACHE/SIZE-KEY/lock       held, shared, by every process that uses the folder

All processes of a machine share one copy and fill it as they read. They need not wait for each
other: two that lack a frame write the same bytes, and a frame torn by a crash does not fit its
digest and is decoded again. KEY stands for the clips and their bytes: a changed store is a new
folder, and the old one goes. `cache: disk` lies in the store, `cache: ram` in memory (/dev/shm),
until the last process that uses it ends; `cache: auto` takes the first of them with room for all.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from datamodules.errors import DataError
from datamodules.store.clip_file import digest_of
from datamodules.store.folder import Store
from datamodules.store.slots import Slots

Cache = Literal["auto", "off", "disk", "ram", False]
"""False is how YAML reads a bare `off`."""

_PLACES: tuple[Literal["disk", "ram"], ...] = ("disk", "ram")
_FORMAT = 1  # of the folder; to be raised when frames are made in another way
_log = logging.getLogger(__name__)


class FrameCache:
    """Decoded frames of a store's clips at one size.

    Args:
        store: The store.
        where: `disk`, in the store's folder, or `ram`.
        size: Side of the frames, pixels, 1 or more.
        limit_gb: Most that it may take, in 10^9 bytes, 0 or more. Whole clips are taken in, in the
            order of their ids, as long as they fit; frames of the others are decoded every time.
        pinned: Whether what it gives is uploaded to a CUDA device.

    Raises:
        DataError: If the folder cannot be written.
    """

    def __init__(
        self,
        store: Store,
        *,
        where: Literal["disk", "ram"],
        size: int,
        limit_gb: float,
        pinned: bool = False,
    ) -> None:
        self.size = size
        self._slots = Slots(pinned=pinned)
        clips = store.items[store.items["modality"] == "ceus"].sort_values("item_id")
        text = repr([_FORMAT, *clips[["item_id", "item_sha"]].itertuples(index=False)])
        root, prefix = _root(store, where)
        self.path = root / f"{prefix}{size}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self._frame_bytes = size * size * 3
        counts = clips["frames"].astype(int).to_numpy()
        self._first = dict(zip(clips["item_id"], np.cumsum(counts) - counts, strict=True))
        self._open()
        _remove_older(self.path)
        # Places from here on are not kept.
        self._admitted = self._admit(counts.cumsum(), limit_gb=limit_gb)
        # Which frames this process has checked: bytes that it once saw whole are not hashed again.
        self._checked = np.zeros(int(counts.sum()), bool)

    def holds(self, item_id: str) -> bool:
        """Whether the frames of a clip are kept, or will be once they are read."""
        return int(self._first[item_id]) < self._admitted

    def resize(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (N, H, W, 3), uint8, at the cache's size, with antialias as on the device."""
        if frames.shape[1:3] == (self.size, self.size):
            return frames
        size = (self.size, self.size)
        planes = F.interpolate(
            frames.permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True
        )
        return planes.permute(0, 2, 3, 1).contiguous()

    def get(self, frames: Sequence[tuple[str, int]]) -> tuple[torch.Tensor, list[int]]:
        """Frames that are here.

        Args:
            frames: Item id and frame number, N of them.

        Returns:
            uint8 (N, size, size, 3), and which of the N are missing: anything stands there.
        """
        read = self._slots.take(len(frames), self.size, self.size, 3)
        views = read.numpy().reshape(len(frames), -1)
        missing = [i for i, frame in enumerate(frames) if not self._get(frame, views[i])]
        return read, missing

    def put(self, frames: Sequence[tuple[str, int]], decoded: torch.Tensor) -> None:
        """Keeps frames, uint8 (N, size, size, 3), of clips that fit in."""
        for (item, number), frame in zip(frames, decoded.numpy(), strict=True):
            place = self._first[item] + number
            if place >= self._admitted:
                continue
            data = frame.tobytes()
            try:
                _write(self._frames, data, place * self._frame_bytes)
                _write(self._digests, digest_of(data).to_bytes(8, "little"), place * 8)
            except OSError as error:
                self._admitted = 0
                _log.warning(
                    "cache: %s (%s). Clips are decoded from here on; make room, or set cache=off.",
                    error.strerror, self.path,
                )  # fmt: skip
                return
            self._checked[place] = True

    def close(self) -> None:
        """Ends the use of it; what lies in memory goes with its last user."""
        self._close()

    def _get(self, frame: tuple[str, int], into: npt.NDArray[np.uint8]) -> bool:
        place = int(self._first[frame[0]]) + frame[1]
        if place >= self._admitted:
            return False
        checked = self._checked[place]
        digest = b"" if checked else os.pread(self._digests, 8, place * 8)
        if not checked and not any(digest):
            return False
        if os.preadv(self._frames, [into.data], place * self._frame_bytes) != len(into):
            return False
        if not checked and digest_of(into.data) != int.from_bytes(digest, "little"):
            return False
        self._checked[place] = True
        return True

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT
        try:
            lock = self._lock(flags)
            self._frames = os.open(self.path / "frames", flags, 0o600)
            self._digests = os.open(self.path / "digests", flags, 0o600)
        except OSError as error:
            raise DataError(
                f"cache must be writable, got {error.strerror} ({self.path}). "
                "Set cache=ram or cache=off."
            ) from error
        # Frames are read at random: reading ahead would drag in what nobody asked for.
        os.posix_fadvise(self._frames, 0, 0, os.POSIX_FADV_RANDOM)
        in_memory = self.path.parent == _shared_memory()
        files = (self._frames, self._digests, lock)
        self._close = weakref.finalize(self, _leave, self.path, files, remove=in_memory)

    def _lock(self, flags: int) -> int:
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock = os.open(self.path / "lock", flags, 0o600)
            except FileNotFoundError:  # just removed by its last user
                continue
            fcntl.flock(lock, fcntl.LOCK_SH)
            if os.fstat(lock).st_nlink:
                return lock
            os.close(lock)

    def _admit(self, ends: npt.NDArray[np.int64], *, limit_gb: float) -> int:
        """How many frames, of clips in order, fit in."""
        used = os.fstat(self._frames).st_blocks * 512
        free = used + 0.9 * shutil.disk_usage(self.path).free  # something is left to others
        room = min(limit_gb * 1e9, free)
        kept = int((ends * self._frame_bytes <= room).sum())
        if kept < len(ends):
            needed = int(ends[-1]) * self._frame_bytes / 1e9
            rule = "cache_gb" if room == limit_gb * 1e9 else "free space"
            _log.warning(
                "cache: %d of %d clips fit into %.3g GB (%s; all need %.3g GB). The others are "
                "decoded every time.",
                kept, len(ends), room / 1e9, rule, needed,
            )  # fmt: skip
        return int(ends[kept - 1]) if kept else 0


def open_cache(
    store: Store, *, cache: Cache, size: int, limit_gb: float, pinned: bool = False
) -> FrameCache | None:
    """The cache that a setting names; None for `off`.

    With `auto` it is on disk or else in memory, wherever all frames fit into `limit_gb` and into
    half of what is free, and nowhere else.
    """
    if cache == "off" or cache is False:
        return None
    if cache != "auto":
        return FrameCache(store, where=cache, size=size, limit_gb=limit_gb, pinned=pinned)
    needed, rooms = needed_and_rooms(store, size=size)
    found = []
    for where, room in rooms.items():
        if needed <= min(room, limit_gb * 1e9):
            try:
                opened = FrameCache(store, where=where, size=size, limit_gb=limit_gb, pinned=pinned)
            except DataError:  # a store on a disk that is only read
                found.append(f"{where} cannot be written")
                continue
            _log.info("cache: %.2g GB of decoded frames on %s", needed / 1e9, where)
            return opened
        found.append(f"{where} {room / 1e9:.2g} GB")
    _log.info(
        "cache: off, decoded frames need %.2g GB of at most cache_gb=%g and half of what is free: "
        "%s", needed / 1e9, limit_gb, ", ".join(found),
    )  # fmt: skip
    return None


def needed_and_rooms(store: Store, *, size: int) -> tuple[int, dict[Literal["disk", "ram"], float]]:
    """Bytes of all frames at a size, and for each place in turn half of those free there."""
    clips = store.items[store.items["modality"] == "ceus"]
    needed = int(clips["frames"].sum()) * size * size * 3
    return needed, {where: _free(store, where, size=size) / 2 for where in _PLACES}


def _free(store: Store, where: Literal["disk", "ram"], *, size: int) -> int:
    """Bytes that a cache may grow to there: those free, and those that it has."""
    root, prefix = _root(store, where)
    taken = sum(file.stat().st_blocks * 512 for file in root.glob(f"{prefix}{size}-*/frames"))
    return shutil.disk_usage(root if root.is_dir() else store.path).free + taken


def _root(store: Store, where: Literal["disk", "ram"]) -> tuple[Path, str]:
    if where == "disk":
        return store.path / "cache", ""
    name = hashlib.sha256(str(store.path.resolve()).encode()).hexdigest()[:8]
    return _shared_memory(), f"ceus-{os.getuid()}-{name}-"


def _shared_memory() -> Path:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else Path(tempfile.gettempdir())


def _remove_older(path: Path) -> None:
    """Removes caches of the same size whose store has changed, unless somebody reads them."""
    prefix = path.name.rpartition("-")[0]
    for other in path.parent.glob(f"{prefix}-*"):
        if other != path:
            _remove_unless_used(other)


def _leave(path: Path, files: Sequence[int], *, remove: bool) -> None:
    for file in files:
        os.close(file)
    if remove:
        _remove_unless_used(path)


def _remove_unless_used(path: Path) -> None:
    try:
        lock = os.open(path / "lock", os.O_RDWR)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = path.with_name(f"{path.name}-gone")  # at once: somebody may be about to open it
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    except OSError:  # in use, or another process is removing it
        pass
    finally:
        os.close(lock)


def _write(file: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
