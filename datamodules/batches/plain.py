"""Rows of evaluation as encoders get them, in NumPy: what `read` and `finish` do, without torch.

Pixels are those of the CPU path, to the bit; held by a test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.batches.inputs import Input
from datamodules.batches.rows import Row
from datamodules.batches.sampling import FrameSampling, Window
from datamodules.store.clip_file import read_index, read_packets
from datamodules.store.codec import decode_packets
from datamodules.store.folder import Store

Frames = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PlainReader:
    """Reads and finishes rows.

    Attributes:
        store: Where images and clips are.
        inputs: `image` and `video`, in this order, or one of them.
        sampling: Of evaluation; None without a video input.
    """

    store: Store
    inputs: Mapping[str, Input]
    sampling: FrameSampling | None

    def read(self, rows: Sequence[Row]) -> dict[str, npt.NDArray[Any]]:
        """`image (B, 3, H, W)` and `video (B, 3, T, H, W)`, or one of them, float32.

        Of two also bool `present_image` and `present_video (B,)`; what a row lacks is zero.
        """
        batch: dict[str, npt.NDArray[Any]] = {}
        for key, settings in self.inputs.items():
            parts = [self._pixels(key, row.items[key], row.window) for row in rows]
            batch[key] = np.stack([self._finished(part, settings) for part in parts])
            if key == "image":
                batch[key] = batch[key][:, :, 0]
            if len(self.inputs) > 1:
                there = np.array([row.items[key] is not None for row in rows])
                batch[f"present_{key}"] = there
                batch[key][~there] = 0
        return batch

    def _pixels(self, key: str, item: str | None, window: Window | None) -> Frames:
        """(T, H, W, 3) as stored, of an image T = 1; black where there is none."""
        canvas = self.store.canvas
        if item is None:
            frames = self.sampling.num_frames if key == "video" and self.sampling else 1
            return np.zeros((frames, canvas, canvas, 3), np.uint8)
        if key == "image":
            return self.store.image(item).transpose(1, 2, 0)[None]
        assert window is not None  # each row of a clip has one at evaluation
        index = read_index(self.store.item_path(item, ".idx"))
        numbers, places = np.unique(window, return_inverse=True)
        packets = read_packets(
            self.store.item_path(item, ".h264"), index[numbers], frames=numbers.tolist()
        )
        decoded: Frames = decode_packets(packets, canvas=canvas).asnumpy()
        return decoded[places]

    @staticmethod
    def _finished(frames: Frames, settings: Input) -> Pixels:
        """(3, T, size, size), normalised as `augment.normalise` does it."""
        std, mean = (np.asarray(each, np.float32) for each in (settings.std, settings.mean))
        scale, offset = (each.reshape(3, 1, 1, 1) for each in (1 / (255 * std), mean / std))
        resized = np.stack([resize(frame, settings.size) for frame in frames], axis=1)
        return np.asarray(resized.transpose(3, 1, 0, 2) * scale - offset, np.float32)


def resize(frame: Frames, size: int) -> Frames:
    """A frame (H, W, 3) at (size, size, 3) as torch resizes uint8 on a CPU, bilinear, antialias.

    That is in whole numbers, across first and then down: weights of 16 bits, each sum rounded to a
    grey level.
    """
    across = _resized_rows(frame.swapaxes(0, 1), size).swapaxes(0, 1)
    return _resized_rows(across, size)


def _resized_rows(frame: Frames, size: int) -> Frames:
    if len(frame) == size:
        return frame
    weights, bits = _weights(len(frame), size)
    # Sums stay far below 2^53: floating point gives them exactly, and fast.
    sums = weights @ frame.reshape(len(frame), -1).astype(np.float64)
    levels = np.floor((sums + 2 ** (bits - 1)) / 2**bits).clip(0, 255)
    return np.asarray(levels.reshape(size, *frame.shape[1:]), np.uint8)


@lru_cache
def _weights(given: int, wanted: int) -> tuple[npt.NDArray[np.float64], int]:
    """Whole weights `(wanted, given)` of a triangle, as wide as a step where it shrinks; bits."""
    scale = given / wanted
    support = max(scale, 1.0)
    centres = scale * (np.arange(wanted) + 0.5)
    weights = np.zeros((wanted, given))
    for row, centre in zip(weights, centres, strict=True):
        first = max(int(centre - support + 0.5), 0)
        places = np.arange(first, min(int(centre + support + 0.5), given))
        row[places] = np.maximum(1 - np.abs(places - centre + 0.5) / support, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    # As many bits as leave the largest in 16 with its sign.
    largest = weights.max()
    bits = next(b for b in range(23) if b == 22 or int(0.5 + largest * 2 ** (b + 1)) >= 2**15)
    return np.floor(weights * 2**bits + 0.5), bits
