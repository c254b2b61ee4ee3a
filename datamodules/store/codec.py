"""Frames to packets and back: H.264, every frame a picture of its own.

No torch here: `ceus prepare` must start quickly.
"""

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import decord
import numpy as np
import numpy.typing as npt
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
    Interpolation,
    VideoReformatter,
)

from datamodules.store.avi import NOMINAL_FPS, splice

# crf 14 without adaptive quantisation: 38.5 to 45.7 dB on five lung ultrasound clips. The adaptive
# kind takes bits from speckle, for the eye; without it they gained 0.4 to 0.9 dB for at most 7 %
# more bytes. `fastdecode` leaves out CABAC and deblocking. `veryfast` gave the smallest files of
# all presets on such clips at half the time of `medium`.
_X264 = {
    "preset": "veryfast",
    "tune": "fastdecode",
    "crf": "14",
    "x264-params": "keyint=1:bframes=0:aq-mode=0:rc-lookahead=0:repeat-headers=1:annexb=1"
    ":threads=1",
}

Frames = npt.NDArray[np.uint8]


class ClipWriter:
    """Encodes frames, in order, into the packets of one clip.

    Colours are written as BT.601 limited range, each value rounded to the nearest, and tagged so:
    it is what every decoder takes an H.264 stream for, decord on CUDA included. A decoder that
    rounds gives flat colours back without bias. decord on the CPU cuts fractions off instead: its
    greys are 0.5 of 255 dark on average and never more than 1, colours 0.9 to 1.5 and at most 3
    (held by a test). All frames share it, so the shape of a time-intensity curve does not bend.

    Args:
        canvas: Height and width of the frames, pixels.

    Attributes:
        packets: One a frame added, after `finish`.
        levels: Mean grey level of each frame added, all channels and black bars included, 0 to 255.
    """

    def __init__(self, *, canvas: int) -> None:
        self.packets: list[bytes] = []
        self.levels: list[float] = []
        self._frames = 0
        encoder = av.CodecContext.create("libx264", "w")
        assert isinstance(encoder, VideoCodecContext)
        encoder.width = encoder.height = canvas
        encoder.pix_fmt = "yuv420p"
        encoder.time_base = Fraction(1, NOMINAL_FPS)
        encoder.framerate = Fraction(NOMINAL_FPS)
        encoder.thread_count = 1
        encoder.colorspace = Colorspace.SMPTE170M
        encoder.color_range = ColorRange.MPEG
        encoder.color_primaries = ColorPrimaries.SMPTE170M
        encoder.color_trc = ColorTrc.SMPTE170M
        encoder.options = dict(_X264)
        self._encoder = encoder
        self._reformatter = VideoReformatter()  # a frame's own would be set up anew every time

    def add(self, frame: Frames) -> None:
        """Encodes one frame, RGB uint8 (canvas, canvas, 3)."""
        # In whole numbers: exact, and ten times faster than `mean`.
        self.levels.append(int(frame.sum(dtype=np.uint32)) / frame.size)
        picture = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(frame, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            # Without it swscale cuts fractions off; AREA is the mean of the 2x2 pixels of a chroma.
            interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND,
            threads=1,
        )
        picture.pts = self._frames
        self._frames += 1
        self.packets += [bytes(packet) for packet in self._encoder.encode(picture)]

    def finish(self) -> list[bytes]:
        """The packets, one a frame added."""
        self.packets += [bytes(packet) for packet in self._encoder.encode(None)]
        assert len(self.packets) == self._frames
        return self.packets


def open_packets(packets: Sequence[bytes], *, canvas: int, context: Any = None) -> Any:
    """A decord reader of packets, to be read from start to end and then dropped.

    Not to be kept: idle readers read ahead, and open ones do not survive a fork.

    Args:
        packets: Packets of one clip or several.
        canvas: Side of the frames, pixels.
        context: decord's device; the CPU by default.
    """
    file = io.BytesIO(splice(packets, canvas))
    return decord.VideoReader(file, ctx=context or decord.cpu(), num_threads=1)


def decode_packets(packets: Sequence[bytes], *, canvas: int) -> Any:
    """Decodes packets in order by decord.

    Returns:
        decord NDArray, uint8 (T, canvas, canvas, 3), RGB.
    """
    return open_packets(packets, canvas=canvas).get_batch(range(len(packets)))


def pictures(packets: Sequence[bytes]) -> Iterator[Frames]:
    """Decodes packets in order by FFmpeg's decoder through PyAV, on one core.

    Yields:
        uint8 (canvas, canvas, 3), RGB; to be copied before the next is asked for.
    """
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.thread_count = 1
    convert = VideoReformatter()  # a frame's own would be set up anew every time
    for packet in (*map(av.Packet, packets), None):
        for picture in decoder.decode(packet):
            plane = convert.reformat(picture, format="rgb24", threads=1).planes[0]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            yield rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)


def decode_with_pyav(packets: Sequence[bytes]) -> Frames:
    """Decodes packets in order by PyAV: the reference for `decode_packets`.

    Returns:
        uint8 (T, canvas, canvas, 3), RGB.
    """
    return np.stack([picture.copy() for picture in pictures(packets)])
