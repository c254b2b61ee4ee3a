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

from datamodules.ingest.readers.clip import Box

_FLICKER = 2.0  # grey levels of standard deviation over time; compressed still picture has under 1
_SMALLEST = 0.04  # share of the frame that a panel has at least
_WHOLE = 0.85  # share of both sides from which a panel is the frame itself, if no text is beside it
_TWO = 0.8  # confidence from which panels of different kinds are told apart
_ALIKE = 0.2  # panels of one display differ in size by less than this

_EDGE = (
    8.0  # grey levels, sum of three channels, by which panels that touch differ along their line
)

_REACH = 24  # pixels that a side is moved at most
_SHARP = 0.2  # of the flicker inside, from which a side is taken for a straight border
_BLACK = 40  # grey levels
_PLAIN = 12.0  # flicker above this is as good as any
_TINT, _RISE = 12.0, 0.5  # between panels: levels of saturation; log ratio of late to early light


@dataclass(frozen=True)
class Layout:
    """What was found in a frame.

    Attributes:
        panels: boxes of ultrasound, from left to right and top to bottom.
        chosen: the box to keep: of the contrast panel, or of the only one.
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
        the whole frame with confidence 0 where nothing flickers.
    """
    light = brightest_channel(frames).astype(np.float32)
    height, width = light.shape[1:]
    whole = (0, 0, width, height)
    flicker = light.std(axis=0)
    boxes = _blobs(flicker > _FLICKER)
    if not boxes:
        return Layout((whole,), whole, 0.0, "whole frame")
    tint, rise = _tint(frames), _rise(light)
    mean = frames.astype(np.float32).mean(axis=0)
    panels = _even_out(
        [_sharpen(part, flicker) for box in boxes for part in _split(box, mean, flicker)]
    )
    brightest = light.max(axis=0).astype(np.uint8)
    boxes = (
        [_to_the_edge(panels[0], brightest)]
        if len(panels) == 1
        else [_inside(panel.box, width, height) for panel in panels]
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
    filled = float((flicker[y : y + h, x : x + w] > _FLICKER).mean())
    # A sector fills about half of its box; much less is scattered motion, not a panel.
    return Layout(tuple(boxes), chosen, round(confidence * min(1.0, filled / 0.45), 3), "pixels")


def choose_region(
    regions: Sequence[Box], frames: npt.NDArray[np.uint8], *, panel: str = ""
) -> Layout:
    """The region of a DICOM file to keep: the largest, of two of a size the one with contrast.

    Args:
        regions: boxes, one or more.
        frames: (T, H, W, 3) RGB, as for `find_layout`; a single one tells by tint alone.
        panel: as for `find_layout`.
    """
    ordered = sorted(regions)
    largest = max(ordered, key=lambda box: box[2] * box[3])
    alike = [box for box in ordered if _alike(box, largest)]
    tint, rise = _tint(frames), _rise(brightest_channel(frames).astype(np.float32))
    chosen, confidence = _choose(alike, tint, rise, panel)
    return Layout(tuple(ordered), chosen, round(confidence, 3), "DICOM region")


def brightest_channel(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Maximum over the last axis, of 3: many times as fast as `frames.max(axis=-1)`."""
    return np.maximum(np.maximum(frames[..., 0], frames[..., 1]), frames[..., 2])


def _blobs(active: npt.NDArray[np.bool_]) -> list[Box]:
    """Boxes of the large connected parts; letters, ticks and clocks are opened away."""
    height, width = active.shape
    grain = max(3, round(0.006 * max(height, width)))
    square = np.ones((grain, grain), bool)
    closed = ndimage.binary_closing(np.pad(active, grain), square)[grain:-grain, grain:-grain]
    opened = ndimage.binary_opening(closed, np.ones((3 * grain, 3 * grain), bool))
    labels, _ = ndimage.label(opened)
    found = []
    for part in ndimage.find_objects(labels):
        rows, columns = part
        box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        if box[2] * box[3] >= _SMALLEST * height * width:
            found.append(box)
    return sorted(found)


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


def _split(box: Box, mean: npt.NDArray[np.float32], flicker: npt.NDArray[np.float32]) -> list[Box]:
    """Two panels in one blob: cut along a straight line across its middle, or a still gap.

    Tissue has edges everywhere but none that runs straight from side to side.
    """
    x, y, w, h = box
    inside = mean[y : y + h, x : x + w]
    active = flicker[y : y + h, x : x + w] > _FLICKER
    best: tuple[float, int, list[Box]] = (1.0, 0, [])
    for across in (False, True):  # a cut between columns, then one between rows
        picture, moving = (inside.swapaxes(0, 1), active.T) if across else (inside, active)
        length = picture.shape[1]
        step = np.abs(picture[:, 4:] - picture[:, :-4]).sum(axis=2)
        edge = np.pad(np.percentile(step, 30, axis=0), 2)  # seven tenths of its length, at least
        still = moving.mean(axis=0) < 0.3
        score = np.maximum(edge / max(_EDGE, 3 * float(np.median(edge))), 1.5 * still)
        score[: round(0.4 * length)] = score[round(0.6 * length) :] = 0
        cut = int(score.argmax())
        if score[cut] > best[0]:
            near = np.flatnonzero((score > 0.5 * score[cut]) | (still & (score > 0)))
            first, second = int(near.min()) + 1, int(near.max())
            parts = (
                [(x, y, w, first), (x, y + second, w, h - second)]
                if across
                else [(x, y, first, h), (x + second, y, w - second, h)]
            )
            best = (float(score[cut]), cut, parts)
    return best[2] or [box]


@dataclass(frozen=True)
class _Panel:
    """Ends (left, right, top, bottom) and how sharply flicker sets in at each, 0 to about 1."""

    ends: tuple[int, int, int, int]
    sharp: tuple[float, float, float, float]

    @property
    def box(self) -> Box:
        left, right, top, bottom = self.ends
        return left, top, right - left, bottom - top


def _sharpen(box: Box, flicker: npt.NDArray[np.float32]) -> _Panel:
    """Move each side to where flicker sets in: compression lets it leak by a block of pixels."""
    x, y, w, h = box
    ends, sharp = [], []
    for start, length, first, count, values in ((x, w, y, h, flicker.T), (y, h, x, w, flicker)):
        band = values[:, first + count // 8 : first + count - count // 8]
        profile = np.minimum(band, _PLAIN).mean(axis=1)
        sums = np.pad(np.cumsum(profile), (1, 0))
        inside = max(1e-6, float(profile[start + length // 4 : start + 3 * length // 4].mean()))
        for end, sign in ((start, 1), (start + length, -1)):
            low = max(3, end - _REACH)
            places = np.arange(low, max(low + 1, min(len(profile) - 3, end + _REACH) + 1))
            step = sign * (sums[places + 3] - 2 * sums[places] + sums[places - 3]) / (3 * inside)
            best = int(step.argmax())
            ends.append(int(places[best]) if step[best] > _SHARP else end)
            sharp.append(float(step[best]))
    return _Panel((ends[0], ends[1], ends[2], ends[3]), (sharp[0], sharp[1], sharp[2], sharp[3]))


def _even_out(panels: list[_Panel]) -> list[_Panel]:
    """Panels of one display show the same depth and width: the sharper side serves both."""
    if len(panels) != 2 or not _alike(panels[0].box, panels[1].box):
        return panels
    one, two = panels
    beside = abs(one.ends[0] - two.ends[0]) > abs(one.ends[2] - two.ends[2])
    shared, own = ((2, 3), (0, 1)) if beside else ((0, 1), (2, 3))
    ends = [list(one.ends), list(two.ends)]
    for side in shared:
        ends[0][side] = ends[1][side] = max(panels, key=lambda p: p.sharp[side]).ends[side]
    surest = max(panels, key=lambda p: min(p.sharp[side] for side in own))
    size = surest.ends[own[1]] - surest.ends[own[0]]
    for panel, its in zip(panels, ends, strict=True):
        if panel.sharp[own[0]] >= panel.sharp[own[1]]:
            its[own[1]] = its[own[0]] + size
        else:
            its[own[0]] = max(0, its[own[1]] - size)
    return [
        _Panel((its[0], its[1], its[2], its[3]), panel.sharp)
        for its, panel in zip(ends, panels, strict=True)
    ]


def _to_the_edge(panel: _Panel, brightest: npt.NDArray[np.uint8]) -> Box:
    """Take in a black margin beside a side that is not sharp: tissue may be dark, text is not."""
    height, width = brightest.shape
    left, right, top, bottom = panel.ends
    for side, margin in enumerate(
        (brightest[:, :left], brightest[:, right:], brightest[:top], brightest[bottom:])
    ):
        narrow = min(margin.shape) <= 0.15 * (width if side < 2 else height)
        if panel.sharp[side] < _SHARP and narrow and (margin < _BLACK).all():
            left, right, top, bottom = (
                (0, right, top, bottom), (left, width, top, bottom),
                (left, right, 0, bottom), (left, right, top, height),
            )[side]  # fmt: skip
    return left, top, right - left, bottom - top


def _choose(
    boxes: list[Box],
    tint: npt.NDArray[np.float32],
    rise: npt.NDArray[np.float32],
    panel: str,
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
    return bool((outside & (brightest > 2 * _BLACK) & (flicker < _FLICKER)).any())


def _around(boxes: Sequence[Box]) -> Box:
    x, y = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return x, y, right - x, bottom - y


def _inside(box: Box, width: int, height: int) -> Box:
    x, y, w, h = box
    return x, y, min(w, width - x), min(h, height - y)


def _alike(one: Box, other: Box) -> bool:
    return all(abs(a - b) <= _ALIKE * max(a, b) for a, b in zip(one[2:], other[2:], strict=True))
