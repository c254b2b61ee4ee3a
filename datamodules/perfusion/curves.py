"""The time-intensity curves of a clip: one for each region, along the moving tissue.

Frames are read from the store's packets, as `datamodules.store.clips` reads them, without torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datamodules.perfusion.motion import Grey, Tracker
from datamodules.store.clip_file import Index, read_index, read_packets
from datamodules.store.codec import decode_packets
from datamodules.store.folder import Store

Mask = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the stored frames."""

LESION, PARENCHYMA = "lesion", "parenchyma"

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as the clip is stored
_AT_ONCE = 64  # frames in memory
_BLACK = 16  # grey levels that a codec may make of black
_LEAST_IN_VIEW = 0.5  # of a region's pixels, or the frame tells nothing of it
_WHITE = 250  # a pixel from here on may have been brighter; a codec makes less of 255
_PEAK_SECONDS = 1.0


@dataclass(frozen=True)
class Curves:
    """What a clip shows.

    Attributes:
        seconds: (T,) from the first frame.
        intensity: Region -> (T,) mean over its pixels, NaN where most of it is out of view.
        saturated: Region -> largest share of its pixels in a frame that are white.
        regions: Region -> (canvas, canvas) bool, where it lies in the reference frame.
        moved: (T, 2) how far the tissue lies from its place there, y and x in stored pixels.
        lost: Frames in which that was not found, and taken from the neighbour.
        reference: The frame that everything is aligned to: the brightest, seconds smoothed.
        grey: Its grey values.
    """

    seconds: npt.NDArray[np.float64]
    intensity: Mapping[str, npt.NDArray[np.float64]]
    saturated: Mapping[str, float]
    regions: Mapping[str, Mask]
    moved: npt.NDArray[np.float64]
    lost: int
    reference: int
    grey: Grey


def read_curves(store: Store, item_id: str, *, box: Box | None, range_db: float | None) -> Curves:
    """The curves of one clip.

    Args:
        store: The store.
        item_id: A clip of it.
        box: The region, inside the frames; by default lesion and parenchyma of the clip's mask,
            else the whole field.
        range_db: Dynamic range of the display in dB, by which grey values are made linear; None
            leaves them as they are.

    Raises:
        DataError: If the clip or its mask is damaged.
    """
    index = read_index(store.item_path(item_id, ".idx"))
    seconds = np.array(index["pts"], np.float64)
    fps = 1 / float(np.diff(seconds).mean()) if len(seconds) > 1 else 1.0
    field = _field(store, item_id, index)
    regions = _regions(store, item_id, box, field)
    # Skin lies still under the probe while the gland moves: followed is what is near the regions.
    near = _box_around(sum(regions.values(), start=np.zeros_like(field)), margin=store.canvas // 8)
    width = min(max(1, round(_PEAK_SECONDS * fps)), len(index))
    steady = np.convolve(index["level"], np.ones(width), "same")
    reference = int(steady.argmax())
    (grey,) = _greys(store, item_id, index, [reference])
    moved = np.zeros((len(index), 2))
    intensity = {name: np.full(len(index), np.nan) for name in regions}
    saturated = dict.fromkeys(regions, 0.0)
    places = {name: np.argwhere(mask) for name, mask in regions.items()}
    lost = 0
    # Away from the reference to either side: each frame is next to one that is aligned.
    for way in (range(reference, len(index)), range(reference - 1, -1, -1)):
        tracker = Tracker(grey, fps=fps, field=field & near)
        for number, frame in zip(way, _greys(store, item_id, index, way), strict=True):
            moved[number] = tracker(frame)
            for name, pixels in places.items():
                at = pixels + np.rint(moved[number]).astype(int)
                at = at[((at >= 0) & (at < store.canvas)).all(axis=1)]
                y, x = at[field[at[:, 0], at[:, 1]]].T
                if y.size >= _LEAST_IN_VIEW * len(pixels):
                    values = frame[y, x]
                    intensity[name][number] = _intensity(values, range_db).mean()
                    white = float((values >= _WHITE).mean())
                    saturated[name] = max(saturated[name], white)
        lost += tracker.lost
    return Curves(seconds, intensity, saturated, regions, moved, lost, reference, grey)


def _greys(store: Store, item_id: str, index: Index, numbers: Sequence[int]) -> Iterator[Grey]:
    """Grey values (canvas, canvas), 0 to 255, of some frames, in the order asked for."""
    path = store.item_path(item_id, ".h264")
    for first in range(0, len(numbers), _AT_ONCE):
        some = list(numbers[first : first + _AT_ONCE])
        packets = read_packets(path, index[some], frames=some)
        yield from decode_packets(packets, canvas=store.canvas).asnumpy() @ _LUMA


def _field(store: Store, item_id: str, index: Index) -> Mask:
    """Where the picture is: the box around what is not black in frames spread over the clip."""
    numbers = np.unique(np.linspace(0, len(index) - 1, 16).round().astype(int)).tolist()
    brightest = np.max(list(_greys(store, item_id, index, numbers)), axis=0)
    return _box_around(brightest > _BLACK, margin=0)


def _box_around(mask: Mask, *, margin: int) -> Mask:
    """The smallest box with the mask in it, so many pixels wider on every side."""
    around = np.zeros_like(mask)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if rows.size:
        top, left = (max(0, edge[0] - margin) for edge in (rows, columns))
        around[top : rows[-1] + margin + 1, left : columns[-1] + margin + 1] = True
    return around


def _regions(store: Store, item_id: str, box: Box | None, field: Mask) -> dict[str, Mask]:
    if box:
        x, y, width, height = box
        region = np.zeros_like(field)
        region[y : y + height, x : x + width] = True
        return {"box": region}
    masks = store.mask(item_id)
    if masks is None:
        return {"field": field}
    named = zip((LESION, PARENCHYMA), masks, strict=True)
    return {name: mask for name, mask in named if mask.any()}


def _intensity(grey: Grey, range_db: float | None) -> Grey:
    """Echo power, 1 at white; or the grey values as they are."""
    if range_db is None:
        return grey
    return np.asarray(10 ** ((grey / 255 - 1) * (range_db / 10)), np.float32)
