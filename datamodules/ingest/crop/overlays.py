"""Writing inside the ultrasound: found because it stands still and is bright, and blacked out."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from datamodules.ingest.crop.panels import brightest_channel, skin

_STILL = 4.0  # grey levels of standard deviation over time, and

# Times that of the picture around: thin letters waver with what is coded beside them.
_STILLER = 0.4

_BRIGHT = 110  # grey levels that writing has at least, nine tenths of the time
_CONTRAST = 60  # by which it stands out of the darker part of its surroundings
_CLEAR = 100  # by which a mark that is writing without doubt stands out
_LARGEST = 0.02  # share of the picture of one mark; a larger still bright thing is anatomy


@dataclass(frozen=True)
class Overlay:
    """Marks inside a picture.

    Attributes:
        mask: (H, W) bool, True where a mark is, two pixels wider than what is seen
            and over the gaps between letters.
        confidence: 0 to 1 that all of it is writing and none tissue; 1 where there is none.
        rest: The same of marks that are not in the mask; 1 where there are none.
    """

    mask: npt.NDArray[np.bool_]
    confidence: float
    rest: float = 1.0


def find_overlay(frames: npt.NDArray[np.uint8]) -> Overlay:
    """Find static high-contrast marks: names, measures, calipers, logos.

    Tissue flickers with speckle and motion, so what stays bright for a whole clip, much stiller
    than the picture and with a sharp dark surround, was drawn. A running clock is not found.

    Args:
        frames: (T, H, W, 3) RGB of the kept region, T at least 8, spread over the clip.
    """
    light = brightest_channel(frames)
    low = np.percentile(light, 10, axis=0).astype(np.float32)
    flicker = light.std(axis=0, dtype=np.float32)
    still = flicker < max(_STILL, _STILLER * float(np.median(flicker)))
    # Letters end within two pixels; a bright reflector of tissue fades over more.
    beside = np.minimum(
        ndimage.minimum_filter(low, size=(1, 7)), ndimage.minimum_filter(low, size=(7, 1))
    )
    stands_out = (
        (low > _BRIGHT) & (low - beside > _CONTRAST) & ~skin(still & (low > _BRIGHT), ~still)
    )
    labels, count = ndimage.label(still & stands_out, structure=np.ones((3, 3)))
    if not count:
        return Overlay(np.zeros(low.shape, bool), 1.0)
    index = np.arange(1, count + 1)
    area = ndimage.sum_labels(np.ones_like(labels), labels, index)
    marks = index[(area >= 4) & (area <= _LARGEST * low.size)]
    if not len(marks):
        return Overlay(np.zeros(low.shape, bool), 1.0)
    # Writing is drawn in full brightness; a still highlight of tissue just passes the rule. What
    # stands in one line with writing goes with it.
    strength = low - beside
    marked = np.isin(labels, marks)
    clear = np.isin(labels, marks[np.asarray(ndimage.median(strength, labels, marks)) >= _CLEAR])
    if not clear.any():
        clear = marked
    lines, _ = ndimage.label(_joined(marked, 25))
    written = marked & np.isin(lines, np.unique(lines[clear]))
    around = ndimage.binary_dilation(_joined(written, 9), np.ones((3, 3)), iterations=2)
    mask = np.asarray(around, bool)
    confidence = _likely(strength[clear]) * float(np.clip(1 - mask.mean() / 0.1, 0, 1))
    rest = marked & ~written
    return Overlay(mask, round(confidence, 3), _likely(strength[rest]) if rest.any() else 1.0)


def _joined(marks: npt.NDArray[np.bool_], gap: int) -> npt.NDArray[np.bool_]:
    """Marks with the gaps between them filled, so many pixels wide and 3 high."""
    joined = ndimage.binary_closing(np.pad(marks, gap), np.ones((3, gap)))
    return np.asarray(joined[gap:-gap, gap:-gap], bool)


def _likely(strength: npt.NDArray[np.float32]) -> float:
    return round(float(np.clip((np.median(strength) - _CONTRAST) / 80, 0, 1)), 3)
