"""A batch made ready for the encoders, on the device: resized, augmented, normalised."""

from collections.abc import Mapping

from datamodules.batches.augment import Augment, normalise, resize
from datamodules.batches.inputs import Input
from datamodules.batches.loader import Batch


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
