"""Frames of the store's clips as tensors, any of them, exactly, and without an open decoder."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from datamodules.errors import DataError
from datamodules.store.cache import FrameCache
from datamodules.store.clip_file import Index, read_index, read_packets
from datamodules.store.decode import FrameDecoder, OnCpu, PyavCpu, put_in_place
from datamodules.store.folder import Store

Indices = Sequence[int] | npt.NDArray[np.int64]
Frame = tuple[str, int]
"""Item id and frame number."""
_log = logging.getLogger(__name__)


class ClipReader:
    """Reads frames of clips at random.

    Safe to use from many threads and, on the CPU, in forked processes: a read opens, decodes and
    closes what it needs (decoders release the interpreter's lock meanwhile); only indices, 32 bytes
    a frame, are remembered.

    Args:
        store: A store, or the folder of one, made by `ceus prepare`.
        decoder: By default PyAV on the CPU.
        cache: Decoded frames; what it lacks is decoded, at its size then, and given to it.

    Attributes:
        fallbacks: How many reads a decoder on a device failed at, and the CPU did.

    Raises:
        DataError: If the folder is not a store.
    """

    def __init__(
        self,
        store: Store | Path,
        *,
        decoder: FrameDecoder | None = None,
        cache: FrameCache | None = None,
    ) -> None:
        self._store = store if isinstance(store, Store) else Store(store)
        self._decoder = decoder or PyavCpu()
        self._cache = cache
        pinned = self._decoder.device.type == "cuda"
        is_cpu = isinstance(self._decoder, OnCpu)
        self._cpu = self._decoder if is_cpu else PyavCpu(pinned=pinned)
        self._counting = threading.Lock()
        self.fallbacks = 0
        self._indices: dict[str, Index] = {}

    @property
    def size(self) -> int:
        """Side of the frames, pixels."""
        return self._cache.size if self._cache else self._store.canvas

    @property
    def max_threads(self) -> int:
        """How many threads may read at a time to any use."""
        return self._decoder.max_threads

    def index(self, item_id: str) -> Index:
        """One row a frame.

        `offset`, `size` (bytes), `digest`, `pts` (seconds from the first), `level` (mean grey
        level, 0 to 255: the clip's time-intensity curve).
        """
        if item_id not in self._indices:
            path = self._store.item_path(item_id, ".idx")
            self._indices[item_id] = read_index(path)
        return self._indices[item_id]

    def read(self, item_id: str, indices: Indices) -> torch.Tensor:
        """Frames of one clip.

        `read(item, [4, 0, 4])` gives frame 4, frame 0 and frame 4 again; each is decoded once.

        Args:
            item_id: A clip of the store.
            indices: Frame numbers from 0, in any order, repeated or not; at least one.

        Returns:
            uint8 (T, C, H, W), RGB; a view of memory in the order (T, H, W, C).

        Raises:
            DataError: If there is no such clip, a frame number is out of range, or the bytes on
                disk are not those that were written.
        """
        return self.read_many([(item_id, indices)])

    def read_many(self, requests: Sequence[tuple[str | None, Indices]]) -> torch.Tensor:
        """Frames of several clips, decoded as one: cheaper than a call a clip.

        Args:
            requests: Item id and frame numbers, at least one; as for `read`. In the place of an id
                None gives as many black frames; nothing but black ones are on the CPU.

        Returns:
            uint8 (sum of all T, C, H, W), RGB, request after request; a view of memory in the order
            (T, H, W, C).

        Raises:
            DataError: As `read`.
        """
        wanted: list[Frame | None] = []
        for item, some in requests:
            if item is None:
                wanted += [None] * len(some)
            else:
                wanted += [(item, number) for number in self._checked(item, some)]
        frames = [frame for frame in wanted if frame is not None]
        if not frames:
            return torch.zeros((len(wanted), 3, self.size, self.size), dtype=torch.uint8)
        places = None
        if len(set(frames)) < len(wanted):
            frames = sorted(set(frames))  # by place, so that the disk is read forwards
            place_of = {frame: place for place, frame in enumerate(frames)}
            places = [-1 if frame is None else place_of[frame] for frame in wanted]
        if self._cache is None:
            read = self._decode(frames, places)
        else:
            read = put_in_place(self._through(self._cache, frames), places)
        return read.permute(0, 3, 1, 2)

    def _through(self, cache: FrameCache, frames: Sequence[Frame]) -> torch.Tensor:
        """Frames at the cache's size, (N, size, size, 3)."""
        read, missing = cache.get(frames)
        if missing:
            lacking = [frames[i] for i in missing]
            decoded = cache.resize(self._decode(lacking, None))
            read[missing] = decoded
            cache.put(lacking, decoded)
        return read

    def _decode(self, frames: Sequence[Frame], places: Sequence[int] | None) -> torch.Tensor:
        packets: list[bytes] = []
        start = 0
        while start < len(frames):
            item, end = frames[start][0], start
            while end < len(frames) and frames[end][0] == item:
                end += 1
            numbers = [number for _, number in frames[start:end]]
            path = self._store.item_path(item, ".h264")
            packets += read_packets(path, self.index(item)[numbers], frames=numbers)
            start = end
        canvas, failure = self._store.canvas, None
        if self._decoder is not self._cpu:
            try:
                return self._decoder.decode(packets, canvas=canvas, places=places)
            except Exception as error:  # noqa: BLE001  the device's fault or the frame's: the CPU tells
                failure = error
        try:
            decoded = self._cpu.decode(packets, canvas=canvas, places=places)
        except Exception:
            self._name_the_bad_one(frames, packets)
            raise
        if failure is not None:
            self._count_fallback(failure)
        return decoded

    def _count_fallback(self, error: Exception) -> None:
        with self._counting:
            self.fallbacks += 1
            count = self.fallbacks
        if count in (1, 10, 100, 1000):
            _log.warning(
                "%s failed at a batch (%s), and the CPU decoded it; so far %d times. If it goes "
                "on, set decode=cpu.",
                self._decoder.name, " ".join(str(error).split())[:200], count,
            )  # fmt: skip

    def _name_the_bad_one(self, frames: Sequence[Frame], packets: Sequence[bytes]) -> None:
        """Decodes each frame by itself, to raise the error of the one that does not."""
        decoder = PyavCpu()  # of no device's memory, whose faults are no frame's
        for (item, number), packet in zip(frames, packets, strict=True):
            try:
                decoder.decode([packet], canvas=self._store.canvas)
            except Exception as error:
                path = self._store.item_path(item, ".h264")
                reason = " ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
                raise DataError(
                    f"frame must decode, got {reason} ({path}, frame {number}; "
                    f"{decoder.name}). Run `ceus prepare` into a new store."
                ) from error

    def _checked(self, item_id: str, indices: Indices) -> list[int]:
        index = self.index(item_id)
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or not wanted.size or wanted.dtype.kind not in "iu":
            raise DataError(
                f"indices must be a non-empty list of whole numbers, got {indices!r} "
                f"(item {item_id}). Give frame numbers."
            )
        if wanted.min() < 0 or wanted.max() >= len(index):
            raise DataError(
                f"indices must be in 0..{len(index) - 1}, got {wanted.min()}..{wanted.max()} "
                f"(item {item_id}). Ask for frames that the clip has."
            )
        numbers: list[int] = wanted.tolist()
        return numbers
