"""What of a file's frames is kept: the crop, and the marks that are blacked out in it."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from datamodules.ingest.crop.overlays import find_overlay
from datamodules.ingest.crop.panels import Layout, choose_region, find_layout
from datamodules.ingest.readers.clip import Box, ClipSource
from datamodules.ingest.readers.pictures import MediaError, Picture, Spread, crop_picture

_SAMPLE = 16  # frames by which a clip is judged
_LARGE = 1920 * 1080  # pixels of a frame, of larger ones fewer are held
_THUMBNAIL = 360  # pixels
SURE_WRITING = 0.7  # below, it may be tissue: nothing is blacked out, the review shows the doubt

UNSURE_WRITING = "marks in doubt not blacked out"
"""What a clip's warnings say where writing may have been left."""


@dataclass(frozen=True)
class View:
    """The part of every frame that is kept.

    Attributes:
        layout: Where it is and how that was found.
        mask: (h, w) bool of the crop, True where it is blacked out; None if nowhere.
        mask_confidence: 0 to 1 that the mask holds all writing and no tissue; 0 where none was
            looked for in a clip.
        thumbnail: JPEG of a frame with the boxes, as a data URL.
    """

    layout: Layout
    mask: npt.NDArray[np.bool_] | None = None
    mask_confidence: float = 1.0
    thumbnail: str = ""

    def apply(self, picture: Picture) -> Picture:
        """Crop and black out; raises MediaError if the crop is not inside."""
        cropped = crop_picture(picture, self.layout.chosen)
        return cropped if self.mask is None else np.where(self.mask[..., None], 0, cropped)

    def warnings(self) -> list[str]:
        """What a user should know of it, in words."""
        warnings = []
        if self.layout.method == "pixels":
            warnings.append(f"panel found by its pixels (confidence {self.layout.confidence:.2f})")
        if self.mask is not None:
            warnings.append(f"{100 * self.mask.mean():.2f} % of the picture blacked out as writing")
        if not self.mask_confidence:
            warnings.append(f"{UNSURE_WRITING}: there was too little or too much to look at")
        elif self.mask_confidence < SURE_WRITING:
            warnings.append(f"{UNSURE_WRITING} (confidence {self.mask_confidence:.2f})")
        return warnings

    def facts(self) -> dict[str, Any]:
        """What the quality table and the review say of it."""
        return {
            "crop": ",".join(map(str, self.layout.chosen)),
            "crop_method": self.layout.method,
            "crop_confidence": self.layout.confidence,
            "masked": 0.0 if self.mask is None else round(float(self.mask.mean()), 5),
            "mask_confidence": self.mask_confidence,
        }


def view_of_clip(open_source: Callable[[], ClipSource], *, crop: Box | None, panel: str) -> View:
    """Decide by the table's crop, then DICOM regions, then pixels.

    Args:
        open_source: Opens the clip at its start; called twice where its key frames are too few.
        crop: The cohort table's, None where it gives none.
        panel: Which panel the cohort table names, "" where it names none.
    """
    frames, regions = _spread(open_source)
    if crop:
        layout = Layout((crop,), crop, 1.0, "crop")
    elif regions:
        layout = choose_region(regions, frames, panel=panel)
    elif len(frames) < _SAMPLE // 2:
        layout = whole_frame(frames[0])
    else:
        layout = find_layout(frames, panel=panel)
    kept = np.stack([crop_picture(frame, layout.chosen) for frame in frames])
    thumbnail = _thumbnail(frames, layout)
    if len(frames) < _SAMPLE // 2:
        return View(layout, None, 0.0, thumbnail)
    overlay = find_overlay(kept)
    sure = overlay.mask.any() and overlay.confidence >= SURE_WRITING
    confidence = min(overlay.confidence, overlay.rest)
    return View(layout, overlay.mask if sure else None, confidence, thumbnail)


def _spread(open_source: Callable[[], ClipSource]) -> tuple[npt.NDArray[np.uint8], tuple[Box, ...]]:
    """About `_SAMPLE` frames of all the clip, (T, H, W, 3), half as many large ones; its regions.

    Raises:
        MediaError: If there is no frame.
    """
    found: list[Picture] = []
    for quick in (True, False):
        if len(found) < _SAMPLE:
            with open_source() as clip:
                step, regions = max(1, clip.promised // _SAMPLE), clip.regions
                pictures = clip.glance(step=step) if quick else clip.frames(step=step)
                first = next(pictures, None)
                if first is None:
                    continue
                count = _SAMPLE // (2 if first[..., 0].size > _LARGE else 1)
                spread = Spread[Picture](count)
                for picture in chain([first], islice(pictures, 4 * _SAMPLE - 1)):
                    spread.offer(picture)
                found = spread.values
                if count < _SAMPLE and len(found) >= count:
                    break
    if not found:
        raise MediaError("file must hold frames, got none that can be decoded")
    return np.stack(found[:: max(1, len(found) // count)]), regions


def view_of_still(
    picture: Picture, *, crop: Box | None, regions: tuple[Box, ...], panel: str
) -> View:
    """The table's crop, else the DICOM region, else all of it: one frame does not flicker."""
    if crop:
        return View(Layout((crop,), crop, 1.0, "crop"))
    if regions:
        return View(choose_region(regions, picture[None], panel=panel))
    return View(whole_frame(picture))


def as_given(picture: Picture, crop: Box | None) -> Layout:
    """The table's crop or the whole frame, nothing looked for."""
    box = crop or (0, 0, picture.shape[1], picture.shape[0])
    return Layout((box,), box, 1.0, "crop" if crop else "as is")


def whole_frame(picture: Picture) -> Layout:
    """Everything, because nothing could be judged."""
    box = (0, 0, picture.shape[1], picture.shape[0])
    return Layout((box,), box, 0.5, "whole frame")


def _thumbnail(frames: npt.NDArray[np.uint8], layout: Layout) -> str:
    brightest = frames[frames.mean(axis=(1, 2, 3)).argmax()]
    image = Image.fromarray(brightest)
    draw = ImageDraw.Draw(image)
    line = max(2, image.width // 200)
    for x, y, w, h in layout.panels:
        draw.rectangle((x, y, x + w - 1, y + h - 1), outline="#56B4E9", width=line)
    x, y, w, h = layout.chosen
    draw.rectangle((x, y, x + w - 1, y + h - 1), outline="#E69F00", width=2 * line)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
