"""Packets wrapped in memory into an AVI, the simplest container that decoders open.

Fields and their order are those of the AVI RIFF File Reference (Microsoft): little-endian, I is
32 bits, H is 16.
"""

import struct
from collections.abc import Sequence

NOMINAL_FPS = 25  # the times of the frames are in the clip's index
_KEY_FRAME = 0x10  # AVIIF_KEYFRAME, and AVIF_HASINDEX in the main header


def splice(packets: Sequence[bytes], canvas: int) -> bytes:
    """An AVI of these packets, H.264 with start codes, frame i at i / 25 s.

    Args:
        packets: One a frame.
        canvas: Side of the frames, pixels.
    """
    count, largest = len(packets), max(map(len, packets))
    main = struct.pack(
        "<14I",
        1_000_000 // NOMINAL_FPS,  # microseconds a frame
        0, 0,  # bytes a second, granularity of padding: not stated
        _KEY_FRAME,
        count, 0, 1,  # frames, initial frames, streams
        largest, canvas, canvas,
        0, 0, 0, 0,  # reserved
    )  # fmt: skip
    stream = b"vidsH264" + struct.pack(
        "<I2H8I4H",
        0, 0, 0, 0,  # flags, priority, language, initial frames
        1, NOMINAL_FPS,  # scale and rate: rate / scale frames a second
        0, count, largest,  # start, length, suggested buffer
        2**32 - 1, 0,  # quality: the default; no fixed sample size
        0, 0, canvas, canvas,  # rectangle of the picture
    )  # fmt: skip
    # BITMAPINFOHEADER: its own size, width, height, planes, bits a pixel, codec, bytes a picture;
    # then resolution and palette, not used.
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


def _chunk(name: bytes, data: bytes) -> bytes:
    """Name, length, data; padded to an even length that the length does not count."""
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
