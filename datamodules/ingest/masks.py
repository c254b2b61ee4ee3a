"""Pictures that say where the lesion is in a clip's frames, and where its parenchyma."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.ingest.readers.clip import Box
from datamodules.ingest.readers.pictures import (
    MediaError,
    Picture,
    crop_picture,
    letterbox_mask,
    read_picture,
)

_NAMES = ("mask of the lesion", "mask of the parenchyma")
_MARKED = (0.2, 0.8)  # of the brightest: less is not marked, more is, and between is an edge
_MOST_BETWEEN = 0.1  # share of a mask's pixels that may be edge: a photograph has more


def read_masks(paths: Sequence[Path], shape: tuple[int, ...]) -> Picture:
    """Masks as one picture, (H, W, 3): red 255 where the lesion is, green where the parenchyma.

    Args:
        paths: None, one or two files.
        shape: Height and width of the clip's frames, pixels, upright and not yet cropped.

    Raises:
        MediaError: If a file is no picture of that size, not black and white, or marks nothing.
    """
    masks = np.zeros((*shape[:2], 3), np.uint8)
    for channel, (path, name) in enumerate(zip(paths, _NAMES, strict=False)):
        try:
            grey = read_picture(path).max(axis=-1)
        except MediaError as error:
            raise MediaError(f"{name}: {error}") from error
        if grey.shape != shape[:2]:
            raise MediaError(
                f"{name} must be of the size of its clip's frames, {shape[1]}×{shape[0]} pixels, "
                f"got {grey.shape[1]}×{grey.shape[0]}"
            )
        if not grey.any():
            raise MediaError(f"{name} must mark pixels, white on black, got only black")
        low, high = (share * int(grey.max()) for share in _MARKED)
        marked = grey > high
        between = int(((grey >= low) & ~marked).sum())
        if between > _MOST_BETWEEN * (between + int(marked.sum())):
            raise MediaError(f"{name} must be black and white, got a picture of many grey levels")
        masks[..., channel] = 255 * marked
    return masks


def fit_masks(masks: Picture, crop: Box | None, canvas: int, *, aspect: float) -> Picture:
    """Masks of `read_masks` taken the way of the clip's frames, (canvas, canvas, 3).

    Args:
        masks: As read, of the whole frame.
        crop: The part of the frame that is kept.
        canvas: Side of the stored frames, pixels.
        aspect: Width of a source pixel over its height.

    Raises:
        MediaError: If nothing of a mask is left in what is kept.
    """
    cropped = crop_picture(masks, crop)
    kept = letterbox_mask(cropped, canvas=canvas, aspect=aspect)
    for channel, name in enumerate(_NAMES):
        if cropped[..., channel].any() and not kept[..., channel].any():
            raise MediaError(
                f"{name} must be wider than a pixel of the stored frames, {canvas} by {canvas}, "
                f"got {np.count_nonzero(cropped[..., channel])} pixels of the source that vanish; "
                "fill an outline, or raise --canvas"
            )
        if masks[..., channel].any() and not kept[..., channel].any():
            raise MediaError(
                f"{name} must mark pixels in the part of the frame that is kept (x,y,w,h = "
                f"{','.join(map(str, crop or ()))}), got none there"
            )
    if masks[..., 1].any() and not (kept[..., 1] > kept[..., 0]).any():
        raise MediaError("mask of the parenchyma must mark pixels beside the lesion, got none")
    return kept
