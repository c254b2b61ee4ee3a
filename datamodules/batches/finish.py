"""A batch made ready for the encoders, on the device: resized, augmented, normalised."""

from collections.abc import Mapping
from dataclasses import dataclass

from datamodules.batches.augment import Augment, normalise, resize
from datamodules.batches.loader import Batch
from datamodules.errors import DataError


@dataclass(frozen=True)
class Input:
    """How images, or the frames of a clip, reach the encoder.

    Attributes:
        size: Side in pixels, 1 or more.
        mean: Mean of the encoder's pretraining data per channel, 0 to 1.
        std: Its standard deviation per channel, above 0.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"image_size and video_size must be 1 or more, got {self.size!r}.")
        if not all(value > 0 for value in self.std):
            raise DataError(f"image_std and video_std must be above 0, got {self.std!r}.")


def finish(batch: Batch, inputs: Mapping[str, Input], augment: Augment | None) -> Batch:
    """Pixels from uint8 as stored to what each encoder gets.

    Args:
        batch: As `datamodules.batches.read.BatchReader` reads it, on any device. An input that is
            float already was finished before, beside the step; one that is not there is left out.
        inputs: `image` and `video`, or one of them.
        augment: Applied to rows that have parameters of it; those of evaluation have none.

    Returns:
        Another dict; `image` is float32 `(B, 3, H, W)`, `video` `(B, 3, T, H, W)`.
    """
    batch = dict(batch)
    for key, settings in inputs.items():
        if key not in batch or batch[key].is_floating_point():
            continue
        frames = resize(batch[key], settings.size)
        parameters = batch.pop(f"{key}_augment", None)
        if parameters is not None and augment:
            frames = augment(frames.flatten(1, 2), parameters).view_as(frames)
        present = batch.get(f"present_{key}")
        frames = normalise(frames, mean=settings.mean, std=settings.std, present=present)
        batch[key] = frames if key == "video" else frames.squeeze(2)
    return batch
