"""Whether a video file is whole, by its container's own lengths."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from datamodules.ingest.readers.pictures import MediaError


def check_whole(path: Path, container: str) -> None:
    """Refuses a file whose own structure says that bytes are missing at its end.

    A transport or program stream cut exactly between two of its packets cannot be told from a
    shorter recording.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if container == "avi":
            cut = _end_of_riff(file, size) > size + 1  # some writers forget the last padding byte
        elif container == "mov":
            cut = _end_of_boxes(file, size) > size
        elif container == "asf":
            cut = _size_by_asf(file.read(2**16)) > size
        elif container == "dv":
            cut = all(size % frame for frame in (120_000, 144_000))
        elif container == "apng":
            cut = not _is_whole_apng(path.read_bytes())
        elif container == "matroska":
            cut = _end_of_segment(file.read(2**16)) > size
        else:
            file.seek(max(0, size - 2**17))  # twice the longest packet of a program stream
            tail = file.read()
            cut = (
                (container == "gif" and not _reaches_trailer(path.read_bytes()))
                or (container == "mpegts" and all(size % packet for packet in (188, 192, 204)))
                or (container == "mpeg" and _cut_in_packet(tail))
            )
    if cut:
        raise MediaError(
            f"file must be whole, got one cut off or torn: its {container} structure does not end "
            f"with its {size} bytes"
        )


def _reaches_trailer(data: bytes) -> bool:
    """Whether the blocks of a GIF follow one another up to the last (GIF89a, appendix B)."""

    def after_table(at: int, flags: int) -> int:
        return at + (3 << (flags & 7) + 1 if flags & 0x80 else 0)

    try:
        at = after_table(13, data[10])
        while data[at] != ord(";"):
            if data[at] == ord(","):  # a picture: descriptor, table of colours, size of a code
                at = after_table(at + 10, data[at + 9]) + 1
            elif data[at] == ord("!"):
                at += 2
            else:
                return False
            while data[at]:
                at += data[at] + 1
            at += 1
    except IndexError:
        return False
    return True


def _end_of_riff(file: BinaryIO, size: int) -> int:
    """Where the RIFF chunks of an AVI end (there are several in files over 1 GB)."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        name, length = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF" or not length:  # length 0: the writer was stopped, frames may be fine
            break
        end += 8 + length
    return end


def walk_avi(path: Path) -> tuple[int, int | None]:
    """What an AVI's chunks tell that FFmpeg, which finds its way through anything, does not.

    Returns:
        Chunks of pictures that hold none (the one before is shown again), and the byte at which no
        chunk begins where one should; None if the chain holds.
    """
    size, empty, at = path.stat().st_size, 0, 0
    end = size  # of the list that the chunks are in
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            name, length = struct.unpack("<4sI", file.read(8))
            if not any(name):  # padding
                break
            if not name.isascii() or not name.decode("latin-1").isprintable():
                return empty, at
            after = at + 8 + length + length % 2
            if name in {b"RIFF", b"LIST"}:  # "RIFF....AVI ", "LIST....movi", "LIST....rec "
                kind = file.read(4)
                if kind == b"movi" and length:
                    end = min(size, after)
                at = at + 12 if name == b"RIFF" or kind in {b"movi", b"rec "} else after
                continue
            if at < end < after - 1:  # some writers forget the last padding byte
                return empty, at
            empty += not length and name[2:] in {b"dc", b"db"}
            at = after
    return empty, None


def _end_of_segment(head: bytes) -> int:
    """Where the segment of a Matroska file ends (RFC 8794); 0 where its size is left open."""
    at = head.find(b"\x18\x53\x80\x67") + 4
    if at < 4 or at == len(head) or not head[at]:
        return 0
    length = 9 - head[at].bit_length()
    size = int.from_bytes(head[at : at + length]) - (1 << 7 * length)
    return 0 if size == (1 << 7 * length) - 1 else at + length + size


def has_edit_list(path: Path) -> bool:
    """Whether an MP4 or MOV says which of its samples are shown."""
    with path.open("rb") as file:
        for name, start, length in _boxes(file, path.stat().st_size):
            if name == b"moov":
                file.seek(start)
                return b"elst" in file.read(length)
    return False


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length of the top-level boxes of an MP4 or MOV."""
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(16).ljust(16, b"\0")
        length, name, large = struct.unpack(">I4sQ", head)
        length = large if length == 1 else length
        if length < 8 or not name.isalnum():  # up to the end of the file, or padding
            return
        yield name, at, length
        at += length


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where they end; beyond the file, too, if the last one announces data that are not there."""
    name, end = b"", 0
    for name, start, length in _boxes(file, size):  # noqa: B007  the last one counts
        end = start + length
    return end + (name == b"moof")


def _size_by_asf(head: bytes) -> int:
    """The file's size by its File Properties (ASF specification, 3.2); 0 if it has none."""
    at = head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    return int.from_bytes(head[at + 40 : at + 48], "little") if at >= 0 else 0


def _is_whole_apng(data: bytes) -> bool:
    """Whether the chunks reach the last one and hold as many frames as announced (PNG, 11.3.6)."""
    at, announced, frames = 8, 0, 0
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        if name == b"acTL":
            announced = int.from_bytes(data[at + 8 : at + 12])
        frames += name == b"fcTL"
        at += 12 + length
        if name == b"IEND":
            return bool(frames == announced) and at <= len(data)
    return False


def _cut_in_packet(tail: bytes) -> bool:
    """Whether the last packet of an MPEG program stream is longer than what is left."""
    starts = list(re.finditer(rb"\x00\x00\x01[\xbb-\xff](..)", tail, re.DOTALL))
    return bool(starts) and starts[-1].end() + int.from_bytes(starts[-1][1]) > len(tail)
