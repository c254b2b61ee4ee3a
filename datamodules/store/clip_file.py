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
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError

INDEX_FORMAT = 2

INDEX_DTYPE = np.dtype(
    [("offset", "<u8"), ("size", "<u4"), ("digest", "<u8"), ("pts", "<f8"), ("level", "<f4")]
)

_HEADER = struct.Struct("<8sIIQ")  # magic, format version, number of frames, hash of the rows
_MAGIC = b"ceus.idx"
Index = npt.NDArray[np.void]


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
        stem: Path without suffix.
        packets: From `datamodules.store.codec.ClipWriter`.
        levels: Mean grey level of each packet's frame.
        order: (T,) which packet is shown at frame 0, 1, ...; never decreasing. A packet shown
            twice is stored once, one never shown is not stored.
        fps: Frames per second of the written clip.
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
        DataError: If the file is not there or not an index.
    """
    advice = "Run `ceus prepare` into a new store."
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"index of a clip must be readable, got {error.strerror} ({path}). {advice}"
        ) from error
    # Not np.load: on Python 3.11 its ast.parse fails at random in threads (gh-106905).
    magic, version, count, digest = _HEADER.unpack_from(data.ljust(_HEADER.size, b"\0"))
    if magic != _MAGIC or version != INDEX_FORMAT:
        raise DataError(
            f"index of a clip must be of format {INDEX_FORMAT}, got "
            f"{version if magic == _MAGIC else 'another kind of file'} ({path}). {advice}"
        )
    rows = data[_HEADER.size :]
    if not count or len(rows) != count * INDEX_DTYPE.itemsize or digest_of(rows) != digest:
        raise DataError(
            f"index of a clip must hold the {count} rows that were written, got others ({path}). "
            f"The disk or the copy is damaged. {advice}"
        )
    return np.frombuffer(rows, INDEX_DTYPE)


def read_packets(path: Path, rows: Index, *, frames: Sequence[int]) -> list[bytes]:
    """The bytes of some frames, checked against their hash.

    Args:
        path: The .h264 file.
        rows: Index rows of the frames.
        frames: Their numbers, for the message.

    Raises:
        DataError: If the file is not there, or its bytes are not those that were written.
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


def digest_of(data: bytes | memoryview) -> int:
    """A number that other bytes do not give (BLAKE2b, 8 bytes); never 0."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1
