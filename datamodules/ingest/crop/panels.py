"""Where in a frame the ultrasound is: the panels of an export, and which of them shows contrast.

Scanners show CEUS beside B-mode, among logos, scales, colour bars, names and a running clock. A
crop in the cohort table always wins; then the regions that a DICOM file gives; else the panels are
found here from how pixels behave over the clip: ultrasound flickers everywhere, overlays stand
still or are small, the contrast map is tinted and lights up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from datamodules.ingest.crop.boxes import (
    BLACK,
    FLICKER,
    are_alike,
    even_out,
    find_blobs,
    keep_inside,
    sharpen,
    split_blob,
    to_the_edge,
)
from datamodules.ingest.readers.clip import Box

_LINE = 0.6  # of a row, from which it is a line
_THIN, _TISSUE = 0.015, 0.3  # of the height, a line's; of the rows below it, what flickers
_WHOLE = 0.85  # share of both sides from which a panel is the frame itself, if no text is beside it
_TWO = 0.8  # confidence from which panels of different kinds are told apart
_TINT, _RISE = 12.0, 0.5  # between panels: levels of saturation; log ratio of late to early light


@dataclass(frozen=True)
class Layout:
    """What was found in a frame.

    Attributes:
        panels: Boxes of ultrasound, from left to right and top to bottom.
        chosen: The box to keep: of the contrast panel, or of the only one.
        confidence: 0 to 1; a doubt, not a probability. Below 0.5 a person should look.
        method: `crop`, `DICOM region`, `pixels` or `whole frame`.
    """

    panels: tuple[Box, ...]
    chosen: Box
    confidence: float
    method: str


def find_layout(frames: npt.NDArray[np.uint8], *, panel: str = "") -> Layout:
    """Find the panels of a clip from frames spread over it.

    Args:
        frames: (T, H, W, 3) RGB, T at least 8 and better 16, in order of time.
        panel: `left`, `right`, `top` or `bottom` to choose by place; by default the panel that is
            tinted and lights up.

    Returns:
        The whole frame with confidence 0 where nothing flickers.
    """
    light = brightest_channel(frames).astype(np.float32)
    height, width = light.shape[1:]
    whole = (0, 0, width, height)
    flicker = light.std(axis=0)
    boxes = find_blobs(flicker > FLICKER)
    if not boxes:
        return Layout((whole,), whole, 0.0, "whole frame")
    tint, rise = _tint(frames), _rise(light)
    mean = frames.mean(axis=0, dtype=np.float32)
    panels = even_out(
        [sharpen(part, flicker) for box in boxes for part in split_blob(box, mean, flicker)]
    )
    brightest = light.max(axis=0).astype(np.uint8)
    boxes = (
        [to_the_edge(panels[0], brightest)]
        if len(panels) == 1
        else [keep_inside(panel.box, width, height) for panel in panels]
    )
    chosen, confidence = _choose(boxes, tint, rise, panel)
    if confidence < _TWO and not panel:  # two halves of one picture, or motion in several places
        boxes, confidence = [_around(boxes)], 0.6
        chosen = boxes[0]
    x, y, w, h = chosen
    if (
        len(boxes) == 1
        and min(w / width, h / height) > _WHOLE
        and not _written_beside(chosen, brightest, flicker)
    ):
        return Layout((whole,), whole, confidence, "whole frame")
    filled = float((flicker[y : y + h, x : x + w] > FLICKER).mean())
    # A sector fills about half of its box; much less is scattered motion, not a panel.
    return Layout(tuple(boxes), chosen, round(confidence * min(1.0, filled / 0.45), 3), "pixels")


def choose_region(
    regions: Sequence[Box], frames: npt.NDArray[np.uint8], *, panel: str = ""
) -> Layout:
    """The region of a DICOM file to keep: the largest, of two of a size the one with contrast.

    Args:
        regions: Boxes, one or more.
        frames: (T, H, W, 3) RGB, as for `find_layout`; a single one tells by tint alone.
        panel: As for `find_layout`.
    """
    ordered = sorted(regions)
    largest = max(ordered, key=lambda box: box[2] * box[3])
    alike = [box for box in ordered if are_alike(box, largest)]
    tint, rise = _tint(frames), _rise(brightest_channel(frames).astype(np.float32))
    chosen, confidence = _choose(alike, tint, rise, panel)
    return Layout(tuple(ordered), chosen, round(confidence, 3), "DICOM region")


def brightest_channel(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Maximum over the last axis, of 3: many times as fast as `frames.max(axis=-1)`."""
    return np.maximum(np.maximum(frames[..., 0], frames[..., 1]), frames[..., 2])


def _tint(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Mean distance of the channels: grey has none."""
    darkest = np.minimum(np.minimum(frames[..., 0], frames[..., 1]), frames[..., 2])
    distance = brightest_channel(frames) - darkest
    mean: npt.NDArray[np.float32] = distance.mean(axis=0, dtype=np.float32)
    return mean


def _rise(light: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Log ratio of the brightest third of the clip to its first eighth, pixel by pixel smoothed."""
    early = light[: max(1, len(light) // 8)].mean(axis=0)
    by_frame = light.mean(axis=(1, 2))
    late = light[np.argsort(by_frame)[-max(1, len(light) // 3) :]].mean(axis=0)
    size = max(3, light.shape[1] // 40)
    early, late = ndimage.uniform_filter(early, size), ndimage.uniform_filter(late, size)
    ratio: npt.NDArray[np.float32] = np.log((late + 4) / (early + 4))
    return ratio


def _choose(
    boxes: list[Box], tint: npt.NDArray[np.float32], rise: npt.NDArray[np.float32], panel: str
) -> tuple[Box, float]:
    if panel:
        return _by_place(boxes, panel), 0.95
    scores = [
        float(tint[y : y + h, x : x + w].mean() / _TINT + rise[y : y + h, x : x + w].mean() / _RISE)
        for x, y, w, h in boxes
    ]
    order = np.argsort(scores)[::-1]
    if len(boxes) == 1:
        return boxes[0], 0.9
    margin = scores[order[0]] - scores[order[1]]
    return boxes[order[0]], float(0.95 * (1 - np.exp(-max(0.0, margin))))


def _by_place(boxes: Sequence[Box], panel: str) -> Box:
    key = {"left": 0, "right": 0, "top": 1, "bottom": 1}[panel]
    pick = min if panel in {"left", "top"} else max
    return pick(boxes, key=lambda box: box[key])


def _written_beside(
    box: Box, brightest: npt.NDArray[np.uint8], flicker: npt.NDArray[np.float32]
) -> bool:
    """Whether anything bright stands still outside of a box."""
    outside = np.ones(brightest.shape, bool)
    x, y, w, h = box
    outside[y : y + h, x : x + w] = False
    still = (brightest > 2 * BLACK) & (flicker < FLICKER)
    return bool((outside & still & ~skin(still, flicker >= FLICKER)).any())


def skin(still: npt.NDArray[np.bool_], moving: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Rows (H, 1) of the skin under the probe: a thin line right across, and tissue below it.

    Nothing that is bright and still is above it: it may be a name, and the line its rule.

    Args:
        still: (H, W), what is bright and still.
        moving: (H, W), what flickers as tissue does.
    """
    height = len(still)
    found = np.zeros((height, 1), bool)
    rows = np.flatnonzero(still.mean(axis=1) > _LINE)
    if rows.size:
        first = int(rows[0])
        last = first + int(np.argmin(np.append(np.diff(rows) == 1, False)))
        below = moving[last + 2 : last + 2 + max(3, height // 40)]
        thin = last - first < max(3, _THIN * height)
        if thin and below.mean() > _TISSUE and not still[: max(0, first - 1)].any():
            found[max(0, first - 1) : last + 2] = True
    return found


def _around(boxes: Sequence[Box]) -> Box:
    x, y = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return x, y, right - x, bottom - y
