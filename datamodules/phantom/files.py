"""Writing phantom frames as the files that hospital systems export, the same bytes every time."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream
from PIL import Image

Frame = npt.NDArray[np.uint8]

# (suffix, codec, pixel format, encoder options); clips of a cohort go round these.
CLIP_FORMATS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    (
        ".mp4",
        "libx264",
        "yuv420p",
        {
            "preset": "superfast",
            "crf": "20",
            "g": "25",
            "bf": "2",
            "sc_threshold": "0",
            "threads": "1",
        },
    ),
    (".avi", "mpeg4", "yuv420p", {"qmin": "3", "qmax": "3", "g": "25", "threads": "1"}),
    (".avi", "mjpeg", "yuvj420p", {"qmin": "3", "qmax": "3", "threads": "1"}),
)


# Median Cb and Cr, less 128, of the pixels of each luma in real thyroid frames (public
# repository wanpeng16/DpRAN, Apache-2.0); the last by extrapolation.
_LUMA = (0, 30, 66, 102, 125, 149, 173, 196, 220, 255)
_BLUE = (0, -6, -15, -25, -34, -42, -47, -49, -48, -24)
_RED = (0, 8, 20, 30, 33, 33, 28, 21, 11, 0)


def write_still(path: Path, frame: Frame) -> None:
    """Write a grey (H, W) uint8 frame as PNG."""
    Image.fromarray(frame).save(path)


def write_clip(
    stem: Path, frames: Iterable[Frame], *, size: tuple[int, int], kind: int, fps: int
) -> Path:
    """Write grey (H, W) uint8 frames in copper, as contrast modes show them.

    Args:
        stem: Path without suffix.
        frames: The frames in order.
        size: (width, height), both even.
        kind: Which of CLIP_FORMATS (taken modulo their number).
        fps: Frames per second.

    Returns:
        The path written.
    """
    suffix, codec, pixel_format, options = CLIP_FORMATS[kind % len(CLIP_FORMATS)]
    path = stem.with_name(stem.name + suffix)
    luma, blue, red = _copper(full_range=pixel_format == "yuvj420p")
    # bitexact: no time of writing and no library versions in the file.
    with av.open(str(path), "w", options={"fflags": "bitexact"}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        for grey in frames:
            small = grey[::2, ::2]
            planes = np.concatenate([luma[grey].ravel(), blue[small].ravel(), red[small].ravel()])
            picture = av.VideoFrame.from_ndarray(planes.reshape(-1, size[0]), format=pixel_format)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def _copper(*, full_range: bool) -> tuple[Frame, Frame, Frame]:
    """Look-up tables grey -> Y, Cb, Cr (ITU-R BT.601) of a copper colour map; luma is the grey."""
    grey = np.arange(256)
    luma_scale, luma_zero, chroma_scale = (1, 0, 1) if full_range else (219 / 255, 16, 224 / 255)
    tables = (
        grey * luma_scale + luma_zero,
        *(128 + chroma_scale * np.interp(grey, _LUMA, chroma) for chroma in (_BLUE, _RED)),
    )
    y, cb, cr = (np.rint(table).astype(np.uint8) for table in tables)
    return y, cb, cr
