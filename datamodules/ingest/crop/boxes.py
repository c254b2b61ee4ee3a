"""Boxes of flicker in a frame: found, divided where two panels touch, their sides made exact."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from datamodules.ingest.readers.clip import Box

FLICKER = 2.0  # grey levels of standard deviation over time; compressed still picture has under 1
BLACK = 40  # grey levels, up to which a margin counts as black
_SMALLEST = 0.04  # share of the frame that a panel has at least
# Grey levels, sum of three channels, by which panels that touch differ along their line.
_EDGE = 8.0

_REACH = 24  # pixels that a side is moved at most
_SHARP = 0.2  # of the flicker inside, from which a side is taken for a straight border
_PLAIN = 12.0  # flicker above this is as good as any
_ALIKE = 0.2  # panels of one display differ in size by less than this


def find_blobs(active: npt.NDArray[np.bool_]) -> list[Box]:
    """Boxes of the large connected parts; letters, ticks and clocks are opened away."""
    height, width = active.shape
    grain = max(3, round(0.006 * max(height, width)))
    square = np.ones((grain, grain), bool)
    closed = ndimage.binary_closing(np.pad(active, grain), square)[grain:-grain, grain:-grain]
    opened = ndimage.binary_opening(closed, np.ones((3 * grain, 3 * grain), bool))
    labels, _ = ndimage.label(opened)
    boxes = []
    for part in ndimage.find_objects(labels):
        rows, columns = part
        box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        if box[2] * box[3] >= _SMALLEST * height * width:
            boxes.append(box)
    return sorted(boxes)


def split_blob(
    box: Box, mean: npt.NDArray[np.float32], flicker: npt.NDArray[np.float32]
) -> list[Box]:
    """Two panels in one blob: cut along a straight line across its middle, or a still gap.

    Tissue has edges everywhere but none that runs straight from side to side.
    """
    x, y, w, h = box
    inside = mean[y : y + h, x : x + w]
    active = flicker[y : y + h, x : x + w] > FLICKER
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
class Panel:
    """Ends (left, right, top, bottom) and how sharply flicker sets in at each, 0 to about 1."""

    ends: tuple[int, int, int, int]
    sharp: tuple[float, float, float, float]

    @property
    def box(self) -> Box:
        """The panel as x, y, width, height."""
        left, right, top, bottom = self.ends
        return left, top, right - left, bottom - top


def sharpen(box: Box, flicker: npt.NDArray[np.float32]) -> Panel:
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
    return Panel((ends[0], ends[1], ends[2], ends[3]), (sharp[0], sharp[1], sharp[2], sharp[3]))


def even_out(panels: list[Panel]) -> list[Panel]:
    """Panels of one display show the same depth and width: the sharper side serves both."""
    if len(panels) != 2 or not are_alike(panels[0].box, panels[1].box):
        return panels
    first, second = panels
    beside = abs(first.ends[0] - second.ends[0]) > abs(first.ends[2] - second.ends[2])
    shared, outer = ((2, 3), (0, 1)) if beside else ((0, 1), (2, 3))
    ends = [list(first.ends), list(second.ends)]
    for side in shared:
        ends[0][side] = ends[1][side] = max(panels, key=lambda p: p.sharp[side]).ends[side]
    surest = max(panels, key=lambda p: min(p.sharp[side] for side in outer))
    size = surest.ends[outer[1]] - surest.ends[outer[0]]
    for panel, panel_ends in zip(panels, ends, strict=True):
        if panel.sharp[outer[0]] >= panel.sharp[outer[1]]:
            panel_ends[outer[1]] = panel_ends[outer[0]] + size
        else:
            panel_ends[outer[0]] = max(0, panel_ends[outer[1]] - size)
    return [
        Panel((left, right, top, bottom), panel.sharp)
        for (left, right, top, bottom), panel in zip(ends, panels, strict=True)
    ]


def to_the_edge(panel: Panel, brightest: npt.NDArray[np.uint8]) -> Box:
    """Take in a black margin beside a side that is not sharp: tissue may be dark, text is not."""
    height, width = brightest.shape
    left, right, top, bottom = panel.ends
    for side, margin in enumerate(
        (brightest[:, :left], brightest[:, right:], brightest[:top], brightest[bottom:])
    ):
        narrow = min(margin.shape) <= 0.15 * (width if side < 2 else height)
        if panel.sharp[side] < _SHARP and narrow and (margin < BLACK).all():
            left, right, top, bottom = (
                (0, right, top, bottom), (left, width, top, bottom),
                (left, right, 0, bottom), (left, right, top, height),
            )[side]  # fmt: skip
    return left, top, right - left, bottom - top


def keep_inside(box: Box, width: int, height: int) -> Box:
    """The box without what lies beyond the right and lower edge of the frame."""
    x, y, w, h = box
    return x, y, min(w, width - x), min(h, height - y)


def are_alike(one: Box, other: Box) -> bool:
    """Whether two boxes are of one size, as panels of one display are."""
    return all(abs(a - b) <= _ALIKE * max(a, b) for a, b in zip(one[2:], other[2:], strict=True))
