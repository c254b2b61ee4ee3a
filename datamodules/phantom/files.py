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


def write_still(path: Path, frame: Frame) -> None:
    """Write a grey (H, W) uint8 frame as PNG."""
    Image.fromarray(frame).save(path)


def write_clip(
    stem: Path, frames: Iterable[Frame], *, size: tuple[int, int], kind: int, fps: int
) -> Path:
    """Write grey (H, W) uint8 frames in amber, as contrast modes show them.

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
    luma, blue, red = _amber(full_range=pixel_format == "yuvj420p")
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


def _amber(*, full_range: bool) -> tuple[Frame, Frame, Frame]:
    """Look-up tables grey -> Y, Cb, Cr of an amber colour map (ITU-R BT.601)."""
    grey = np.arange(256) / 255
    red, green, blue = grey**0.8, grey**1.05, grey**1.8
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma_blue, chroma_red = (blue - luma) / 1.772, (red - luma) / 1.402
    luma_scale, luma_zero, chroma_scale = (255, 0, 255) if full_range else (219, 16, 224)
    tables = (
        luma * luma_scale + luma_zero,
        *(128 + chroma_scale * c for c in (chroma_blue, chroma_red)),
    )
    y, cb, cr = (np.rint(np.clip(table, 0, 255)).astype(np.uint8) for table in tables)
    return y, cb, cr
