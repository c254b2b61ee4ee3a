"""A clip on disk, and how any of its frames is read back exactly.

A clip is two files. `ITEM.h264` holds one H.264 access unit a frame, each a picture of its own
(all-intra, parameter sets repeated), one after another. `ITEM.idx` is a header (`_HEADER`: magic,
format version, number of frames, hash of what follows) and rows of `INDEX_DTYPE`, one a frame:
where its bytes lie, their hash, its time, its mean grey level; all little-endian. A frame is read
by taking its bytes through the index; the wanted frames are wrapped in memory into a tiny AVI that
decord decodes from start to end. It never seeks, which is where decord is slow and, on files of
hospitals, wrong.

No torch here: `ceus prepare` must start quickly.
"""

import hashlib
import io
import os
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
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

from datamodules.errors import DataError

INDEX_FORMAT = 2

INDEX_DTYPE = np.dtype(
    [("offset", "<u8"), ("size", "<u4"), ("digest", "<u8"), ("pts", "<f8"), ("level", "<f4")]
)

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

_HEADER = struct.Struct("<8sIIQ")
_MAGIC = b"ceus.idx"
_KEY_FRAME = 0x10  # AVIIF_KEYFRAME, and AVIF_HASINDEX in the main header
_NOMINAL_FPS = 25  # of the AVI in memory; the times of the frames are in the index
Frames = npt.NDArray[np.uint8]
Index = npt.NDArray[np.void]


class ClipWriter:
    """Encodes frames, in order, into the packets of one clip.

    Colours are written as BT.601 limited range, each value rounded to the nearest, and tagged so:
    it is what every decoder takes an H.264 stream for, decord on CUDA included. A decoder that
    rounds gives flat colours back without bias. decord on the CPU cuts fractions off instead: its
    greys are 0.5 of 255 dark on average and never more than 1, colours 0.9 to 1.5 and at most 3
    (held by a test). All frames share it, so the shape of a time-intensity curve does not bend.

    Args:
        canvas: height and width of the frames, pixels.

    Attributes:
        packets: one a frame added, after `finish`.
        levels: mean grey level of each frame added, all channels and black bars included, 0 to 255.
    """

    def __init__(self, *, canvas: int) -> None:
        self.packets: list[bytes] = []
        self.levels: list[float] = []
        self._frames = 0
        encoder = av.CodecContext.create("libx264", "w")
        assert isinstance(encoder, VideoCodecContext)
        encoder.width = encoder.height = canvas
        encoder.pix_fmt = "yuv420p"
        encoder.time_base = Fraction(1, _NOMINAL_FPS)
        encoder.framerate = Fraction(_NOMINAL_FPS)
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


def write_clip(
    stem: Path,
    packets: Sequence[bytes],
    *,
    levels: Sequence[float],
    order: npt.NDArray[np.int64],
    fps: float,
) -> None:
    """Writes STEM.h264 and STEM.idx.

    Args:
        stem: path without suffix.
        packets: from `ClipWriter`.
        levels: from `ClipWriter`, one a packet.
        order: (T,) which packet is shown at frame 0, 1, ...; never decreasing. A packet shown
            twice is stored once, one never shown is not stored.
        fps: frames per second of the written clip.
    """
    index = np.zeros(len(order), INDEX_DTYPE)
    index["pts"] = np.arange(len(order)) / fps
    index["level"] = np.asarray(levels)[order]
    offset, place = 0, {}
    with stem.with_suffix(".h264").open("wb") as file:
        for which in np.unique(order).tolist():
            packet = packets[which]
            file.write(packet)
            place[which] = (offset, len(packet), digest_of(packet))
            offset += len(packet)
    for row, which in zip(index, order.tolist(), strict=True):
        row["offset"], row["size"], row["digest"] = place[which]
    rows = index.tobytes()
    header = _HEADER.pack(_MAGIC, INDEX_FORMAT, len(index), digest_of(rows))
    stem.with_suffix(".idx").write_bytes(header + rows)


def read_index(path: Path) -> Index:
    """The index of a clip, one row of `INDEX_DTYPE` a frame.

    Raises:
        DataError: if the file is not there or not an index.
    """
    again = "Run `ceus prepare` into a new store."
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"index of a clip must be readable, got {error.strerror} ({path}). {again}"
        ) from error
    # Not np.load: on Python 3.11 its ast.parse fails at random in threads (gh-106905).
    magic, version, count, digest = _HEADER.unpack_from(data.ljust(_HEADER.size, b"\0"))
    if magic != _MAGIC or version != INDEX_FORMAT:
        raise DataError(
            f"index of a clip must be of format {INDEX_FORMAT}, got "
            f"{version if magic == _MAGIC else 'another kind of file'} ({path}). {again}"
        )
    rows = data[_HEADER.size :]
    if not count or len(rows) != count * INDEX_DTYPE.itemsize or digest_of(rows) != digest:
        raise DataError(
            f"index of a clip must hold the {count} rows that were written, got others ({path}). "
            f"The disk or the copy is damaged. {again}"
        )
    return np.frombuffer(rows, INDEX_DTYPE)


def read_packets(path: Path, rows: Index, *, frames: Sequence[int]) -> list[bytes]:
    """The bytes of some frames, checked against their hash.

    Args:
        path: the .h264 file.
        rows: index rows of the frames.
        frames: their numbers, for the message.

    Raises:
        DataError: if the file is not there, or its bytes are not those that were written.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(
            f"clip must be in the store, got {error.strerror} ({path}). Run `ceus prepare` again."
        ) from error
    try:
        where = zip(rows["size"].tolist(), rows["offset"].tolist(), strict=True)
        packets = [os.pread(fd, size, offset) for size, offset in where]
    finally:
        os.close(fd)
    for packet, digest, frame in zip(packets, rows["digest"].tolist(), frames, strict=True):
        if digest_of(packet) != digest:
            raise DataError(
                f"frame must hold the bytes that were written, got others ({path}, frame {frame})."
                " The disk or the copy is damaged: delete this store and run `ceus prepare`."
            )
    return packets


def open_packets(packets: Sequence[bytes], *, canvas: int, context: Any = None) -> Any:
    """A decord reader of packets, to be read from start to end and then dropped.

    Not to be kept: idle readers read ahead, and open ones do not survive a fork.

    Args:
        packets: of one clip or several.
        canvas: side of the frames, pixels.
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


def decode_with_pyav(packets: Sequence[bytes]) -> Frames:
    """Decodes packets in order by PyAV: the reference for `decode_packets`.

    Returns:
        uint8 (T, canvas, canvas, 3), RGB.
    """
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.thread_count = 1
    frames = [frame for data in packets for frame in decoder.decode(av.Packet(data))]
    frames += decoder.decode(None)
    convert = VideoReformatter()
    pictures = [convert.reformat(frame, format="rgb24").to_ndarray() for frame in frames]
    return np.stack(pictures).astype(np.uint8, copy=False)


def splice(packets: Sequence[bytes], canvas: int) -> bytes:
    """An AVI of these packets, frame i at i / 25 s (AVI RIFF File Reference, Microsoft)."""
    count, largest = len(packets), max(map(len, packets))
    main = struct.pack(
        "<14I", 1_000_000 // _NOMINAL_FPS, 0, 0, _KEY_FRAME, count, 0, 1, largest, canvas, canvas,
        0, 0, 0, 0,
    )  # fmt: skip
    stream = b"vidsH264" + struct.pack(
        "<I2H8I4H", 0, 0, 0, 0, 1, _NOMINAL_FPS, 0, count, largest, 2**32 - 1, 0,
        0, 0, canvas, canvas,
    )  # fmt: skip
    picture = struct.pack(
        "<3I2H4s5I", 40, canvas, canvas, 1, 24, b"H264", canvas * canvas * 3, 0, 0, 0, 0
    )
    described = _chunk(b"LIST", b"strl" + _chunk(b"strh", stream) + _chunk(b"strf", picture))
    header = _chunk(b"LIST", b"hdrl" + _chunk(b"avih", main) + described)
    chunks, entries, offset = [], [], 4  # offsets in idx1 count from the word `movi`
    for packet in packets:
        chunks.append(_chunk(b"00dc", packet))
        entries.append(b"00dc" + struct.pack("<3I", _KEY_FRAME, offset, len(packet)))
        offset += len(chunks[-1])
    movie = _chunk(b"LIST", b"movi" + b"".join(chunks))
    return _chunk(b"RIFF", b"AVI " + header + movie + _chunk(b"idx1", b"".join(entries)))


def digest_of(data: bytes | memoryview) -> int:
    """A number that other bytes do not give (BLAKE2b, 8 bytes); never 0."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
