"""Frames of the store's clips as tensors, any of them, exactly, and without an open decoder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from datamodules._clip_file import Index, decode_packets, read_index, read_packets
from datamodules.errors import DataError
from datamodules.store import Store


class ClipReader:
    """Reads frames of clips at random.

    Safe to use from many threads and in forked processes: a read opens, decodes and closes what it
    needs (decord releases the interpreter's lock meanwhile); only indices, 28 bytes a frame, are
    remembered.

    Args:
        store: a store, or the folder of one, made by `ceus prepare`.

    Raises:
        DataError: if the folder is not a store.
    """

    def __init__(self, store: Store | Path) -> None:
        self._store = store if isinstance(store, Store) else Store(store)
        self._indices: dict[str, Index] = {}

    def index(self, item_id: str) -> Index:
        """One row a frame: `offset`, `size` (bytes), `digest`, `pts` (seconds from the first)."""
        if item_id not in self._indices:
            path = self._store.item_path(item_id, ".idx")
            self._indices[item_id] = read_index(path)
        return self._indices[item_id]

    def read(self, item_id: str, indices: Sequence[int] | npt.NDArray[np.int64]) -> torch.Tensor:
        """Frames of one clip.

        `read(item, [4, 0, 4])` gives frame 4, frame 0 and frame 4 again; each is decoded once.

        Args:
            item_id: a clip of the store.
            indices: frame numbers from 0, in any order, repeated or not; at least one.

        Returns:
            uint8 (T, C, H, W), RGB; a view of memory in the order (T, H, W, C).

        Raises:
            DataError: if there is no such clip, a frame number is out of range, or the bytes on
                disk are not those that were written.
        """
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
        frames, back = np.unique(wanted, return_inverse=True)
        path = self._store.item_path(item_id, ".h264")
        packets = read_packets(path, index[frames], frames=frames.tolist())
        batch = decode_packets(packets, canvas=self._store.canvas)
        # `to_dlpack` hands the memory over; decord's bridge would be set for one thread only.
        decoded: torch.Tensor = torch.utils.dlpack.from_dlpack(batch.to_dlpack())
        if not np.array_equal(back, np.arange(len(frames))):
            decoded = decoded[torch.from_numpy(back)]
        return decoded.permute(0, 3, 1, 2)
