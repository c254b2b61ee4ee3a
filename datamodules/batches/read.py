"""From rows to a batch of uint8 on the host: pixels, and what chance draws for each row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from datamodules.batches.augment import Augment
from datamodules.batches.device import pin
from datamodules.batches.loader import Batch, Sample, collate
from datamodules.batches.rows import Row
from datamodules.batches.sampling import ClipTimes, FrameSampling, Window
from datamodules.store.clips import ClipReader
from datamodules.store.folder import Store


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchReader:
    """Reads the rows of a batch, on any thread.

    Attributes:
        store: Where images are.
        clips: Reads the frames of clips.
        times: By clip; empty without a video input.
        labels: By patient, 0 or 1; a patient of the hold-out is not among them.
        sampling: Frames that a row shows. A row that names no window gets one of these at random.
        seed: Chance of a row is drawn from this, the epoch and the row's index.
        augment: Draws what is done to a row on the device; None if nothing is.
        training: Whether rows are for training: they have weights, and chance in their keys.
        pinned: Whether batches go to a CUDA device.
    """

    store: Store
    clips: ClipReader
    times: Mapping[str, ClipTimes]
    labels: Mapping[str, int]
    sampling: FrameSampling | None
    seed: int
    augment: Augment | None
    training: bool
    pinned: bool = False

    def read(self, rows: Sequence[Row], epoch: int) -> Batch:
        """A batch before the device: uint8 at the stored size, and what was drawn for its rows."""
        samples, windows = [], []
        for row in rows:
            sample, window = self._draw(row, epoch)
            samples.append(sample)
            windows.append(window)
        batch = collate(samples)
        if "image" in rows[0].items:
            batch["image"] = self._images([row.items["image"] for row in rows])
        if "video" in rows[0].items:
            batch["video"] = self._clips([row.items["video"] for row in rows], windows)
        return pin(batch) if self.pinned else batch

    def _draw(self, row: Row, epoch: int) -> tuple[Sample, Window | None]:
        """A row but for its pixels, and the frames to read."""
        rng = np.random.default_rng((self.seed, epoch, 1 + row.index))
        sample: Sample = {
            "label": torch.tensor(self.labels.get(row.patient_id, float("nan"))).float(),
            "patient_id": row.patient_id,
            "item_id": row.item_id,
            "row_key": f"{row.item_id}@{row.index}" if self.training else row.key,
        }
        if self.training:
            sample["loss_weight"] = torch.tensor(row.loss_weight)
        window = row.window
        for key, item in row.items.items():
            if key == "video" and item is not None and window is None and self.sampling:
                windows = self.sampling.draw(self.times[item], rng=rng)
                window = windows[int(rng.integers(len(windows)))]
            if len(row.items) > 1:
                sample[f"present_{key}"] = torch.tensor(item is not None)
            if self.augment:
                sample[f"{key}_augment"] = self.augment.draw(rng)
        return sample, window

    def _images(self, items: Sequence[str | None]) -> torch.Tensor:
        """uint8 (B, 1, 3, H, W); zero where there is none."""
        size = (len(items), 1, 3, self.store.canvas, self.store.canvas)
        images = torch.zeros(size, dtype=torch.uint8)
        for image, item in zip(images, items, strict=True):
            if item is not None:
                image[0] = torch.from_numpy(self.store.image(item))
        return images

    def _clips(self, items: Sequence[str | None], windows: Sequence[Window | None]) -> torch.Tensor:
        """uint8 (B, T, 3, H, W), in the memory order of the reader; zero where there is none."""
        assert self.sampling is not None  # a video input has one
        black = range(self.sampling.num_frames)
        frames = self.clips.read_many(
            [
                (item, black if window is None else window)
                for item, window in zip(items, windows, strict=True)
            ]
        )
        return frames.view(len(items), -1, *frames.shape[1:])
