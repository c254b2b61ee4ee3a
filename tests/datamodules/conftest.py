"""Small videos whose frames carry their own number, in the formats that hospitals export."""

import csv
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest

WIDTH, HEIGHT = 128, 96
_BITS = 8  # drawn as two rows of four blocks


def numbered_frame(number: int, *, noise: int = 0) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8: `number` (0..255) in white and black blocks, the rest moving."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    frame = ((rows + columns + 5 * number) % 64 + 90).astype(np.int64)
    for bit in range(_BITS):
        top, left = HEIGHT // 2 * (bit // 4) + 8, WIDTH // 4 * (bit % 4) + 4
        frame[top : top + 32, left : left + 24] = 235 if number >> bit & 1 else 20
    if noise:
        frame = frame + np.random.default_rng(number).integers(-noise, noise + 1, frame.shape)
    return np.repeat(np.clip(frame, 0, 255)[..., None], 3, axis=2).astype(np.uint8)


def read_number(frame: np.ndarray) -> int:
    """The number in a letterboxed (canvas, canvas, 3) frame of a WIDTH×HEIGHT source."""
    canvas = frame.shape[0]
    scale, bar = canvas / WIDTH, (canvas - canvas * HEIGHT / WIDTH) / 2
    number = 0
    for bit in range(_BITS):
        row = bar + (HEIGHT // 2 * (bit // 4) + 24) * scale
        column = (WIDTH // 4 * (bit % 4) + 16) * scale
        patch = frame[round(row) - 2 : round(row) + 3, round(column) - 2 : round(column) + 3]
        number |= int(patch.mean() > 128) << bit
    return number


@dataclass(frozen=True)
class Kind:
    """How a numbered video is written."""

    suffix: str
    codec: str
    container: str | None = None
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    b_frames: int = 0
    gop: int = 12
    repack: Callable[[bytes], bytes] = lambda data: data


def write_video(
    path: Path,
    kind: Kind,
    *,
    numbers: Sequence[int] = range(40),
    fps: int = 25,
    ticks: Sequence[int] | None = None,
    frame: Callable[[int], np.ndarray] = numbered_frame,
) -> Path:
    """Writes frames `numbers`; frame i at time ticks[i] / fps (by default i / fps)."""
    path = path.with_suffix(kind.suffix)
    ticks = range(len(numbers)) if ticks is None else ticks
    with av.open(str(path), "w", format=kind.container) as container:
        stream: Any = container.add_stream(kind.codec, rate=fps, options=dict(kind.options))
        height, width = frame(0).shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, kind.pix_fmt
        context = stream.codec_context
        context.time_base = Fraction(1, fps)
        context.gop_size, context.max_b_frames = kind.gop, kind.b_frames
        context.bit_rate, context.thread_count = 2_000_000, 1
        for number, tick in zip(numbers, ticks, strict=True):
            picture = av.VideoFrame.from_ndarray(frame(number), format="rgb24")
            picture = picture.reformat(format=kind.pix_fmt)
            picture.pts, picture.time_base = tick, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    path.write_bytes(kind.repack(path.read_bytes()))
    return path


# The parts of an MP4 that FFmpeg's muxer cannot be asked for are changed in its bytes.


def _children(data: bytes, start: int, end: int) -> dict[bytes, tuple[int, int]]:
    """Boxes of an MP4 between two offsets: name -> (start, end), header included."""
    boxes = {}
    while start + 8 <= end:
        (size,) = struct.unpack(">I", data[start : start + 4])
        boxes[data[start + 4 : start + 8]] = (start, start + size)
        start += size
    return boxes


def _find(data: bytes, *names: bytes) -> tuple[int, int]:
    start, end = 0, len(data)
    for depth, name in enumerate(names):
        start, end = _children(data, start + 8 * (depth > 0), end)[name]
    return start, end


def set_rotation(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Puts the 2×2 part of the display matrix (a b / c d, in ones) into the only track."""
    start, _ = _find(data, b"moov", b"trak", b"tkhd")
    at = start + 8 + 40  # version 0: 40 bytes precede the matrix
    a, b, c, d = (value << 16 for value in matrix)
    words = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return data[:at] + words + data[at + 36 :]


def trim_by_edit_list(data: bytes, *, skip: float, keep: float) -> bytes:
    """Shows `keep` seconds from `skip` seconds on, by the edit list FFmpeg wrote (one entry)."""
    start, _ = _find(data, b"moov", b"mvhd")
    (movie_scale,) = struct.unpack(">I", data[start + 20 : start + 24])
    start, _ = _find(data, b"moov", b"trak", b"mdia", b"mdhd")
    (media_scale,) = struct.unpack(">I", data[start + 20 : start + 24])
    start, end = _find(data, b"moov", b"trak", b"edts", b"elst")
    at = start + 16
    assert end - at == 12, "one entry of version 0"
    _, media_time = struct.unpack(">Ii", data[at : at + 8])
    entry = struct.pack(">Ii", round(keep * movie_scale), media_time + round(skip * media_scale))
    return data[:at] + entry + data[at + 8 :]


_X264_B = {"x264-params": "bframes=3:b-adapt=0:scenecut=0", "crf": "12"}
_OPEN_GOP = {"x264-params": "bframes=3:b-adapt=0:open-gop=1:keyint=10:min-keyint=1", "crf": "12"}
_X265 = {"x265-params": "log-level=none:bframes=3:keyint=10:open-gop=1:pools=1:frame-threads=1"}

KINDS = {
    "mpeg4-b-avi": Kind(".avi", "mpeg4", b_frames=2),
    "mpeg4-mp4": Kind(".mp4", "mpeg4", b_frames=2),
    "h264-avi": Kind(".avi", "libx264", options=_X264_B, b_frames=3),
    "h264-mp4": Kind(".mp4", "libx264", options=_X264_B, b_frames=3),
    "h264-mov": Kind(".mov", "libx264", options=_X264_B, b_frames=3),
    "h264-ts": Kind(".ts", "libx264", options=_X264_B, b_frames=3),
    "open-gop-mp4": Kind(".mp4", "libx264", options=_OPEN_GOP, b_frames=3, gop=10),
    "open-gop-mkv": Kind(".mkv", "libx264", options=_OPEN_GOP, b_frames=3, gop=10),
    "open-gop-hevc": Kind(".mp4", "libx265", options=_X265, b_frames=3, gop=10),
    "mjpeg-avi": Kind(".avi", "mjpeg", pix_fmt="yuvj420p"),
    "mpeg2-ps": Kind(".mpg", "mpeg2video", container="vob", b_frames=2),
    "mpeg2-ts": Kind(".ts", "mpeg2video", b_frames=2),
    "wmv": Kind(".wmv", "wmv2", container="asf"),
    "gif": Kind(".gif", "gif", pix_fmt="rgb8"),
}


@pytest.fixture(scope="session")
def media() -> ModuleType:
    """This file's helpers."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def stream_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared store of 24 patients, split in 3 folds."""
    from tests.datamodules.streams import make_stream_store  # torch, which few tests here need

    return make_stream_store(tmp_path_factory.mktemp("stream"))


@pytest.fixture
def write_cohort(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows (dicts) to tmp_path/cohort/cohort.csv; the columns are those of the rows."""

    def write(rows: Sequence[dict[str, Any]]) -> Path:
        path = tmp_path / "cohort" / "cohort.csv"
        path.parent.mkdir(exist_ok=True)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write
