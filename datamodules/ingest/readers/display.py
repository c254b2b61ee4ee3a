"""From a decoded frame to what a viewer would see: colours by their tags, turned upright."""

import struct

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from datamodules.ingest.readers.pictures import MediaError, Picture

_COLOUR_NAMES = {
    Colorspace.ITU709: "BT.709",
    Colorspace.FCC: "FCC",
    Colorspace.ITU624: "BT.601",
    Colorspace.SMPTE170M: "BT.601",
    Colorspace.SMPTE240M: "SMPTE 240M",
    Colorspace.BT2020: "BT.2020",
}


def apply_display_matrix(picture: Picture, matrix: bytes) -> tuple[Picture, bool]:
    """Turns and mirrors a picture as its display matrix says.

    Args:
        picture: (H, W, 3).
        matrix: Nine native 32-bit integers; (a b / c d) in 16.16 are words 0, 1, 3, 4; the point
            (x, y) is shown at (a x + c y, b x + d y) (ISO/IEC 14496-12, 8.3.2).

    Returns:
        The picture, and whether rows became columns.

    Raises:
        MediaError: If the turn is not by a right angle.
    """
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if (a and b) or (c and d) or not (a or b) or not (c or d):
        raise MediaError("rotation must be by 0, 90, 180 or 270 degrees, got another matrix")
    turned = not a
    across, down = (c, b) if turned else (a, d)
    if turned:
        picture = picture.transpose(1, 0, 2)
    picture = picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
    return np.ascontiguousarray(picture), turned


class Colours:
    """Frames of one clip to RGB by their own colour tags.

    Untagged matrices are BT.601, and BT.709 from 720 lines or 1280 columns on, as players do.
    Transparency is over black; but many a writer of 32 bits a pixel leaves the fourth byte at 0:
    then it says nothing, for the whole clip.

    Args:
        transparent: Whether the format means what its alpha says, even if that is 0 everywhere.
    """

    def __init__(self, *, transparent: bool) -> None:
        self._reformatter = VideoReformatter()  # a frame's own would be set up anew every time
        self._has_alpha = True if transparent else None  # None: no frame told it yet

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of alpha that is not used."""
        return ("alpha is 0 everywhere, ignored",) if self._has_alpha is False else ()

    def to_rgb(self, frame: av.VideoFrame) -> tuple[Picture, str]:
        """RGB uint8 (H, W, 3), and its colour tags in words."""
        name = frame.format.name
        if frame.format.is_rgb or name.startswith("pal"):
            alpha = any(component.is_alpha for component in frame.format.components)
            if alpha or name == "pal8":
                return self._over_black(frame), "RGB"
            return _pixels(self._reformatter.reformat(frame, format="rgb24")), "RGB"
        matrix = frame.colorspace
        tagged = matrix in _COLOUR_NAMES
        if not tagged:
            large = frame.height >= 720 or frame.width >= 1280
            matrix = Colorspace.ITU709 if large else Colorspace.SMPTE170M
        full = frame.color_range == ColorRange.JPEG or name.startswith("yuvj")
        full |= name.startswith("gray") and frame.color_range == ColorRange.UNSPECIFIED
        rgb = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=matrix,
            src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        words = f"{_COLOUR_NAMES[Colorspace(matrix)]} {'full' if full else 'limited'}"
        return _pixels(rgb), words if tagged else f"{words} (untagged)"

    def _over_black(self, frame: av.VideoFrame) -> Picture:
        pixels = self._reformatter.reformat(frame, format="rgba").to_ndarray().astype(np.uint16)
        if self._has_alpha is None and pixels.any():
            self._has_alpha = bool(pixels[..., 3].any())
        if self._has_alpha is False:
            return np.ascontiguousarray(pixels[..., :3], dtype=np.uint8)
        return (pixels[..., :3] * pixels[..., 3:] // 255).astype(np.uint8)


def _pixels(frame: av.VideoFrame) -> Picture:
    return frame.to_ndarray().astype(np.uint8, copy=False)
