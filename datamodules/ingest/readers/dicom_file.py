"""Where a DICOM file keeps its frames, by what its pixel data holds: its tags may say otherwise."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from datamodules.ingest.readers.pictures import MediaError

_PREFIX = 132  # bytes up to and with "DICM"
_PIXEL_DATA = 0x7FE00010
_UNDEFINED = 0xFFFFFFFF
_MAX_INFLATED = 2**29  # bytes: a deflated data set is unfolded in memory
_JPEG_2000 = b"\xff\x4f\xff\x51"  # start of codestream, and of its sizes
_OPEN_BITS = {*JPEG2000TransferSyntaxes, *JPEGLSTransferSyntaxes}
_STARTS = (b"\xff\xd8\xff", _JPEG_2000, b"\0\0\0\x0cjP  ")  # JPEG and JPEG-LS, JPEG 2000, JP2

# Nothing of the patient, study or equipment modules is read.
_KEYWORDS = [
    "SOPClassUID", "FrameTime", "FrameTimeVector", "CineRate", "FrameIncrementPointer",
    "SequenceOfUltrasoundRegions", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "PixelAspectRatio",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "VOILUTSequence", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence",
    *(
        f"{kind}{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for kind, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
    ),
]  # fmt: skip
_TAGS = [tag for keyword in _KEYWORDS if (tag := tag_for_keyword(keyword))]


@dataclass(frozen=True)
class Pixels:
    """The value of Pixel Data: its bytes in the file, in pieces.

    Attributes:
        syntax: How it is encoded.
        vr: Its value representation.
        pieces: Offset and length of each: its fragments if it is encapsulated, else all of it.
        encapsulated: Whether it comes in fragments.
    """

    file: BinaryIO
    syntax: UID
    vr: str
    pieces: list[tuple[int, int]]
    encapsulated: bool

    def read(self, pieces: list[tuple[int, int]]) -> bytes:
        """The bytes of some pieces, one after another."""
        parts = []
        for offset, length in pieces:
            self.file.seek(offset)
            parts.append(self.file.read(length))
        return b"".join(parts)


def named(keyword: str) -> str:
    """A keyword with its tag, as `Rows (0028,0010)`."""
    tag = tag_for_keyword(keyword) or 0
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do (PS3.10, 7.1), or as those without a preamble do."""
    with path.open("rb") as file:
        head = file.read(_PREFIX)
    if head[-4:] == b"DICM":
        return True
    # The first element of a bare data set is of group 2 or 8, in either byte order.
    if len(head) < _PREFIX or head[:2] not in {b"\2\0", b"\x08\0", b"\0\x08"}:
        return False
    try:
        bare = dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        return bool(str(bare.SOPClassUID).startswith("1.2.840.10008.5.1.4.1.1."))
    except Exception:  # noqa: BLE001  no DICOM, in whatever way
        return False


def open_pixels(path: Path) -> tuple[Dataset, Pixels]:
    """The tags that decoding needs, and the pixel data; the file stays open.

    Raises:
        MediaError: If it unfolds to too much, has no pixel data, or is cut off in them.
        Exception: Whatever pydicom finds in a file that is no DICOM.
    """
    file = path.open("rb")
    try:
        return _open_pixels(file, path.stat().st_size)
    except BaseException:
        file.close()
        raise


def _open_pixels(file: BinaryIO, size: int) -> tuple[Dataset, Pixels]:
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: bool(tag.group != 2))
    syntax = meta.get("TransferSyntaxUID")
    implicit: bool | None
    little: bool | None
    if syntax == DeflatedExplicitVRLittleEndian:
        with file:
            file = _inflate(file)
        size = file.getbuffer().nbytes
        stop = [_PIXEL_DATA, _PIXEL_DATA - 1, _PIXEL_DATA - 2]
        header = read_dataset(
            file, False, True, stop_when=lambda tag, *_: tag in stop, specific_tags=_TAGS
        )
        header.file_meta = FileMetaDataset(meta)
        implicit, little = False, True
    else:
        file.seek(0)
        header = dcmread(file, force=True, stop_before_pixels=True, specific_tags=_TAGS)
        implicit, little = header.original_encoding
    if not syntax:
        little_syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        syntax = little_syntax if little else ExplicitVRBigEndian
        header.file_meta.TransferSyntaxUID = syntax
    order = "<" if little else ">"
    start = file.read(8)
    tag = struct.unpack(f"{order}HH", start[:4]) if len(start) == 8 else (0, 0)
    if tag != (_PIXEL_DATA >> 16, _PIXEL_DATA & 0xFFFF):
        raise MediaError(f"file must hold pictures, got a DICOM without {named('PixelData')}")
    implicit = implicit or not start[4:6].isalpha()  # some say explicit, and are not
    vr = "OW" if implicit else start[4:6].decode("ascii", "replace")
    (length,) = struct.unpack(f"{order}I", start[4:] if implicit else file.read(4))
    pieces = list(_fragments(file, size)) if length == _UNDEFINED else [(file.tell(), length)]
    if not pieces or sum(pieces[-1]) > size:
        raise _cut_off(size)
    return header, Pixels(file, UID(syntax), vr, pieces, length == _UNDEFINED)


def _cut_off(size: int) -> MediaError:
    return MediaError(
        f"file must be whole, got one cut off: its {named('PixelData')} goes on after its {size} "
        "bytes"
    )


def _inflate(file: BinaryIO) -> BytesIO:
    """What follows in a deflated file, unfolded in memory (PS3.5, A.5)."""
    unfolder, unfolded = zlib.decompressobj(-zlib.MAX_WBITS), BytesIO()
    while not unfolder.eof:
        # The rest of a block that unfolds to more than its share comes before the next block.
        block = unfolder.unconsumed_tail or file.read(2**16)
        part = unfolder.decompress(block, 2**22)
        unfolded.write(part)
        if unfolded.tell() > _MAX_INFLATED:
            raise MediaError(
                f"deflated DICOM must unfold to at most {_MAX_INFLATED >> 20} MiB, got more; "
                "save it with another transfer syntax"
            )
        if not block and not part:
            raise MediaError("file must be whole, got one cut off: its deflated data has no end")
    unfolded.seek(0)
    return unfolded


def _fragments(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of the fragments from here on, without the offset table (PS3.5, A.4)."""
    is_table = True
    while head := file.read(8):
        if len(head) < 8:
            raise _cut_off(size)
        group, element, length = struct.unpack("<HHI", head)
        if (group, element) == (0xFFFE, 0xE0DD):
            return
        if (group, element) != (0xFFFE, 0xE000) or length == _UNDEFINED:
            raise MediaError(
                f"{named('PixelData')} must be a sequence of items, got element "
                f"({group:04X},{element:04X}) at byte {file.tell() - 8}"
            )
        if not is_table:
            yield file.tell(), length
        is_table = False
        file.seek(length, 1)


def find_frames(header: Dataset, pixels: Pixels) -> list[list[tuple[int, int]]]:
    """The pieces of each frame: as many as the pixel data holds, whatever Number of Frames says.

    Raises:
        MediaError: If pixel data and tags do not fit each other.
    """
    if pixels.encapsulated != pixels.syntax.is_encapsulated:
        raise MediaError(
            f"{named('PixelData')} must be as its transfer syntax says, got "
            f"{'fragments' if pixels.encapsulated else 'bare bytes'} under {pixels.syntax.name}"
        )
    if not pixels.encapsulated:
        return _native_frames(header, pixels)
    if pixels.syntax == RLELossless:  # one fragment a frame (PS3.5, A.4.2)
        return [[piece] for piece in pixels.pieces]
    frames: list[list[tuple[int, int]]] = []
    for offset, length in pixels.pieces:
        if pixels.read([(offset, min(length, 8))]).startswith(_STARTS):
            frames.append([])
        elif not frames:
            raise MediaError(
                f"frames must begin as their transfer syntax says ({pixels.syntax.name}), got "
                "another beginning in the first"
            )
        frames[-1].append((offset, length))
    return frames


def _native_frames(header: Dataset, pixels: Pixels) -> list[list[tuple[int, int]]]:
    ((start, length),) = pixels.pieces
    samples = header.Rows * header.Columns * header.SamplesPerPixel
    size = samples * header.BitsAllocated // 8
    if header.PhotometricInterpretation == "YBR_FULL_422":
        size = size * 2 // 3  # two pixels share their colour
    count, rest = divmod(length, size)
    if not count or rest > count * size % 2:  # one byte may make an even number
        raise MediaError(
            f"{named('PixelData')} must be whole frames of {size} bytes (Rows {header.Rows} × "
            f"Columns {header.Columns} × SamplesPerPixel {header.SamplesPerPixel} × BitsAllocated "
            f"{header.BitsAllocated} / 8, {header.PhotometricInterpretation}), got {length} bytes"
        )
    return [[(start + number * size, size)] for number in range(count)]


def read_compressed(header: Dataset, pixels: Pixels, pieces: list[tuple[int, int]]) -> bytes:
    """A compressed frame, once what it says of itself is held against the tags: not decoded yet.

    Raises:
        MediaError: If its size, samples or bits are others, or it is longer than its pixels.
    """
    raw = header.Rows * header.Columns * header.SamplesPerPixel * header.BitsAllocated // 8
    length = sum(length for _, length in pieces)
    if length > 2 * raw + 2**16:
        raise MediaError(
            f"frames must be compressed, got one of {length} bytes for {raw} bytes of pixels"
        )
    frame = pixels.read(pieces)
    inside = _inside(frame)
    if inside is None:  # RLE has no header of its own, and fails if it gives other than Rows says
        return frame
    tags = {
        "Rows": header.Rows,
        "Columns": header.Columns,
        "SamplesPerPixel": header.SamplesPerPixel,
        "BitsStored": header.BitsStored,
    }
    for (keyword, said), found in zip(tags.items(), inside, strict=True):
        # JPEG 2000 and JPEG-LS may code all bits allocated: their values are checked later.
        is_open = (
            keyword == "BitsStored"
            and found == header.BitsAllocated
            and pixels.syntax in _OPEN_BITS
        )
        if said != found and not is_open:
            raise MediaError(
                f"{named(keyword)} must be as in the compressed frame, got {said} where that has "
                f"{found}"
            )
    return frame


def _inside(frame: bytes) -> tuple[int, int, int, int] | None:
    """Rows, columns, samples and bits by a frame's own header: JPEG, JPEG-LS or JPEG 2000."""
    start = frame.find(_JPEG_2000, 0, 2**10)
    if start >= 0 and len(frame) >= start + 43:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        samples, depth = struct.unpack_from(">HB", frame, start + 40)
        return bottom - top, right - left, samples, (depth & 0x7F) + 1
    place = 2
    while frame[:2] == b"\xff\xd8" and place + 10 <= len(frame) and frame[place] == 0xFF:
        marker, length = struct.unpack_from(">BH", frame, place + 1)
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}):
            bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, place + 4)
            return rows, columns, samples, bits
        else:
            place += 2 + length
    return None
