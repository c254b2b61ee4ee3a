"""Ultrasound in DICOM: stills and cines, to RGB frames with the times that the file gives.

Only what decoding needs is read: rows, photometric interpretation, palette, times, regions. Nothing
of the patient, study or equipment modules is looked at, and nothing but pixels is handed on.
"""

import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.encaps import encapsulate
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, MPEGTransferSyntaxes

from datamodules.files import storing
from datamodules.ingest.readers.clip import FASTEST, SLOWEST, Box, ClipSource
from datamodules.ingest.readers.dicom_colours import Colours
from datamodules.ingest.readers.dicom_file import find_frames, named, open_pixels, read_compressed
from datamodules.ingest.readers.pictures import (
    MAX_DAMAGED,
    MAX_SIDE,
    MIN_SIDE,
    REFUSED,
    MediaError,
    Picture,
    check_clip,
    is_sound_jpeg,
)
from datamodules.ingest.readers.timing import Timing, constant_rate
from datamodules.ingest.readers.video import Video

_IMAGE_2D = 1  # Region Spatial Format (0018,6012), PS3.3 C.8.5.5.1.1
_SAMPLES = {
    "MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3,
    "YBR_FULL_422": 3, "YBR_ICT": 3, "YBR_RCT": 3, "YBR_PARTIAL_420": 3,
}  # fmt: skip
_ONLY_COMPRESSED = {"YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420"}

_JPEG = {JPEGBaseline8Bit, JPEGExtended12Bit}  # FFmpeg knows these better than the others
_BLOCK = 2**24  # bytes
_BARE_STREAM = re.compile(rb"\x00{3}\x01|\x00\x00\x01[^\xba]")  # H.264, HEVC, MPEG-2
_TIMES = ("FrameTime", "FrameTimeVector", "CineRate")


class DicomVideo(ClipSource):
    """One DICOM file.

    Times come from what Frame Increment Pointer names; else from Frame Time, Frame Time Vector or
    Cine Rate, in this order. A still has none.

    Args:
        path: The file.

    Raises:
        MediaError: If the file is not a whole DICOM image that can be decoded, or its tags are not
            what its pixel data says.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        with _as_media_error("file must be a whole DICOM image, got one that does not open", []):
            self._header, self._pixels = open_pixels(path)
        self._inside: IO[bytes] | None = None
        self._stream: Video | None = None
        self._decoder: Decoder | None = None
        self._refused = 0
        try:
            with _as_media_error("tags of the pixels must be readable, got others", self._warnings):
                self._check_syntax()
                self._check_tags()
                self._promised = self._find_frames()
                is_video = self._pixels.syntax in MPEGTransferSyntaxes
                self._mapping = None if is_video else Colours(self._header)
                self._shape = self._header.Rows, self._header.Columns
                check_clip(self._promised, self._shape)
                self.aspect = self._aspect()
                self._regions = self._find_regions()
            self._stream = self._open_stream() if is_video else None
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._stream:
            self._stream.__exit__()
        if self._inside:
            with suppress(OSError):  # a full disk says so once more, for what it could not take
                self._inside.close()
        self._pixels.file.close()

    @property
    def promised(self) -> int:
        """Number of frames, 1 of a still."""
        return self._promised

    @property
    def warnings(self) -> tuple[str, ...]:
        """See the base class."""
        refused = (REFUSED,) if self._refused and self._refused == self._count else ()
        mapping = self._mapping.warnings if self._mapping else ()
        return (*super().warnings, *refused, *mapping)

    @property
    def regions(self) -> tuple[Box, ...]:
        """Boxes of 2D ultrasound (PS3.3 C.8.5.5), largest first; none if they do not fit the frame.

        A file that was scaled after the scanner wrote it still bears the regions of the original.
        """
        return self._regions

    def frames(self, *, step: int = 1) -> Iterator[Picture]:
        """See the base class."""
        if self._stream:
            yield from self._streamed(self._stream, step)
            return
        for pieces in self._frames[::step]:
            with _as_media_error(
                f"frame {self._count} must decode, got an error of the decoder "
                f"({self._pixels.syntax.name})",
                self._warnings,
            ):
                picture = self._decode(pieces)
            self._times.append(None)
            yield picture

    def _check_syntax(self) -> None:
        syntax = self._pixels.syntax
        with suppress(NotImplementedError):
            self._decoder = get_decoder(syntax)
        known = self._decoder is not None and self._decoder.is_available
        if not known and syntax not in MPEGTransferSyntaxes:
            raise MediaError(
                "transfer syntax must be one that can be decoded here, got "
                f"{syntax.name} ({syntax}); save the file uncompressed, e.g. by `gdcmconv --raw`"
            )

    def _check_tags(self) -> None:
        header = self._header
        for keyword in (
            "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored",
            "PhotometricInterpretation",
        ):  # fmt: skip
            if header.get(keyword) is None:
                raise MediaError(f"file must be a DICOM image, got one without {named(keyword)}")
        rows, columns, kind = header.Rows, header.Columns, str(header.PhotometricInterpretation)
        self._colours, self._codec = kind, f"DICOM {self._pixels.syntax.name}"
        if not (MIN_SIDE <= rows <= MAX_SIDE and MIN_SIDE <= columns <= MAX_SIDE):
            raise MediaError(
                f"frames must be of {MIN_SIDE} to {MAX_SIDE} pixels a side, got {named('Columns')} "
                f"{columns} and {named('Rows')} {rows}"
            )
        if kind not in _SAMPLES or (
            kind in _ONLY_COMPRESSED and not self._pixels.syntax.is_encapsulated
        ):
            known = ", ".join(_SAMPLES)
            raise MediaError(
                f"{named('PhotometricInterpretation')} must be one of {known} that fits its "
                f"transfer syntax, got {kind if kind in _SAMPLES else 'another'} under "
                f"{self._pixels.syntax.name}"
            )
        if header.SamplesPerPixel != _SAMPLES[kind]:
            raise MediaError(
                f"{named('SamplesPerPixel')} must be {_SAMPLES[kind]} of {kind}, got "
                f"{header.SamplesPerPixel}"
            )
        allocated, stored = header.BitsAllocated, header.BitsStored
        if allocated not in {8, 16} or not 1 <= stored <= allocated:
            raise MediaError(
                f"{named('BitsAllocated')} must be 8 or 16 and {named('BitsStored')} at most that, "
                f"got {allocated} and {stored}"
            )
        is_video = self._pixels.syntax in MPEGTransferSyntaxes  # some have 10 bits
        if kind.startswith("YBR") and stored != 8 and not is_video:
            raise MediaError(f"{named('BitsStored')} must be 8 of {kind}, got {stored}")
        if header.get("PixelRepresentation") is None:
            header.PixelRepresentation = 0
        if header.PixelRepresentation and not kind.startswith("MONOCHROME"):
            raise MediaError(
                f"{named('PixelRepresentation')} must be 0 of {kind}, got "
                f"{header.PixelRepresentation}: there are no negative colours"
            )
        planar = header.get("PlanarConfiguration")
        raw_colours = header.SamplesPerPixel > 1 and not self._pixels.syntax.is_encapsulated
        if raw_colours and planar not in {0, 1}:
            raise MediaError(
                f"{named('PlanarConfiguration')} must be 0 or 1 of {kind}, got "
                f"{'nothing' if planar is None else planar}"
            )

    def _find_frames(self) -> int:
        """Finds the frames, if they are not in a video; gives their number."""
        declared, syntax = self._header.get("NumberOfFrames"), self._pixels.syntax
        declared = None if declared == "" else declared
        if syntax in MPEGTransferSyntaxes:
            if declared is None:
                raise MediaError(f"{named('NumberOfFrames')} must be given of {syntax.name}")
            return int(declared)
        self._frames = find_frames(self._header, self._pixels)
        found = len(self._frames)
        if declared is None and found > 1:
            self._warnings.append(
                f"{named('NumberOfFrames')} not given, all {found} frames of the pixel data taken"
            )
        elif declared is not None and int(declared) != found:
            raise MediaError(
                f"{named('NumberOfFrames')} must be what {named('PixelData')} holds, got "
                f"{declared} where that holds {found}"
            )
        return found

    def _decode(self, pieces: list[tuple[int, int]]) -> Picture:
        header, pixels = self._header, self._pixels
        assert self._decoder
        assert self._mapping
        if pixels.encapsulated:
            frame = read_compressed(header, pixels, pieces)
            if pixels.syntax in _JPEG:
                self._refused += not is_sound_jpeg(frame)
            frame = encapsulate([frame], has_bot=False)
        else:
            frame = self._read_native(*pieces[0])
        values, _ = self._decoder.as_array(frame, index=0, **self._options)
        picture = self._mapping(values)
        if header.get("HighBit", header.BitsStored - 1) != header.BitsStored - 1:
            raise MediaError(
                f"{named('HighBit')} must be {named('BitsStored')} - 1, got {header.HighBit} of "
                f"{header.BitsStored}"
            )
        return picture

    @cached_property
    def _options(self) -> Any:
        """What pydicom's decoders want to know of a single frame."""
        header = self._header
        return {
            "rows": header.Rows,
            "columns": header.Columns,
            "number_of_frames": 1,
            "samples_per_pixel": header.SamplesPerPixel,
            "bits_allocated": header.BitsAllocated,
            "bits_stored": header.BitsStored,
            "photometric_interpretation": self._colours,
            "pixel_representation": header.PixelRepresentation,
            "planar_configuration": header.get("PlanarConfiguration", 0),
            "pixel_keyword": "PixelData",
            "pixel_vr": "OB" if header.BitsAllocated == 8 else "OW",
            "correct_unused_bits": False,  # they show that Bits Stored is wrong
        }

    def _read_native(self, offset: int, length: int) -> bytes:
        pixels = self._pixels
        swapped = pixels.vr == "OW" and self._header.BitsAllocated == 8
        if pixels.syntax.is_little_endian or not swapped:
            return pixels.read([(offset, length)])
        # Bytes of big-endian words: pairs that may reach over the frame's ends.
        start = offset - pixels.pieces[0][0]
        around = pixels.read([(offset - start % 2, length + start % 2 + 1)])
        words = np.frombuffer(around[: len(around) // 2 * 2], ">u2").byteswap()
        return words.tobytes()[start % 2 : start % 2 + length]

    def _open_stream(self) -> Video:
        """The video that is inside, by way of a file without a name: gone when this process is."""
        with storing(Path(tempfile.gettempdir()), "TMPDIR names another folder for it."):
            return self._copy_stream()

    def _copy_stream(self) -> Video:
        pixels = self._pixels
        self._inside = tempfile.TemporaryFile()  # noqa: SIM115  __exit__ closes it
        for offset, length in pixels.pieces:
            for start in range(offset, offset + length, _BLOCK):
                size = min(_BLOCK, offset + length - start)
                self._inside.write(pixels.read([(start, size)]))
        # Zeros that make the length even are no part of a bare stream, and damage to FFmpeg.
        size = self._inside.tell()
        self._inside.seek(0)
        if _BARE_STREAM.match(self._inside.read(4)):
            self._inside.seek(max(0, size - 64))
            tail = self._inside.read()
            self._inside.truncate(size - len(tail) + len(tail.rstrip(b"\0")))
        self._inside.flush()
        try:
            return Video(Path(f"/dev/fd/{self._inside.fileno()}"))
        except MediaError as error:
            raise MediaError(f"video inside ({pixels.syntax.name}): {error}") from error

    def _streamed(self, stream: Video, step: int) -> Iterator[Picture]:
        for picture in stream.frames(step=step):
            if picture.shape[:2] != self._shape:
                raise MediaError(
                    f"{named('Rows')} and {named('Columns')} must be as in the video inside, got "
                    f"{self._shape} where that has {picture.shape[:2]}"
                )
            self._times.append(None)
            yield picture

    def _find_regions(self) -> tuple[Box, ...]:
        height, width = self._shape
        boxes = []
        for item in self._header.get("SequenceOfUltrasoundRegions") or ():
            try:
                corners = [
                    int(item[f"RegionLocation{name}"].value)
                    for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")
                ]
                if int(item.RegionSpatialFormat) != _IMAGE_2D:
                    continue
            except (KeyError, AttributeError, TypeError, ValueError):
                self._warnings.append("ultrasound region without its corners, not used")
                continue
            x0, y0, x1, y1 = corners
            # The corners belong to the region; scanners give the width itself as the last column.
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                self._warnings.append("ultrasound regions do not fit the frame, not used")
                return ()
            x1, y1 = min(x1, width - 1), min(y1, height - 1)
            boxes.append((x0, y0, x1 - x0 + 1, y1 - y0 + 1))
        return tuple(sorted(boxes, key=lambda box: box[2] * box[3], reverse=True))

    def _aspect(self) -> float:
        """Width of a pixel over its height; Pixel Aspect Ratio is vertical over horizontal."""
        ratio = self._header.get("PixelAspectRatio")
        try:
            aspect = float(ratio[1]) / float(ratio[0]) if ratio else 1.0
        except (TypeError, ValueError, IndexError, ZeroDivisionError):
            return 1.0
        if not 0.25 <= aspect <= 4 or aspect == 1:
            return 1.0
        self._warnings.append(f"pixels are {aspect:.3f} times as wide as high, corrected")
        return aspect

    def _timing(self, fps: float | None) -> Timing:
        if self._count != self.promised:
            raise MediaError(
                f"file must be whole, got {self._count} frames where its header promises "
                f"{self.promised}"
            )
        with _as_media_error("times of the frames must be readable, got others", self._warnings):
            timing = self._stated_times(fps)
        if 0 < self._refused < self._count:  # all of them: it may be their encoder's way
            self._concealed = self._refused
            if self._concealed > MAX_DAMAGED * self._count:
                raise MediaError(
                    f"frames must decode without errors, got {self._concealed} damaged of "
                    f"{self._count}"
                )
        if self._stream:
            inside = self._stream.facts(timing.fps)
            self._concealed, self._colours = inside.concealed, inside.colours
            self._warnings += self._stream.warnings
        return timing

    def _stated_times(self, fps: float | None) -> Timing:
        """By the first tag that gives times or a rate; `fps` stands in for those that cannot be."""
        numbers = np.arange(self._count)
        pointer = self._header.get("FrameIncrementPointer") or ()
        pointed = list(pointer) if isinstance(pointer, MultiValue) else [pointer]
        for keyword in sorted(_TIMES, key=lambda name: tag_for_keyword(name) not in pointed):
            values = self._numbers(keyword)
            if not values:
                if tag_for_keyword(keyword) in pointed:
                    self._warnings.append(f"{named(keyword)} is pointed at, but not there")
                continue
            value = values[0]
            if keyword == "FrameTimeVector":
                if len(values) != self._count or self._count == 1:
                    text = f"{len(values)} frame times for {self._count} frames, not used"
                    self._warnings.append(text)
                    continue
                # The first value is the time before the first frame (PS3.3 C.7.6.5.1.2).
                steps = values[1:]
                value = sum(steps) / len(steps) if min(steps) > 0 else min(steps)
            if value == 0:
                self._warnings.append(f"{named(keyword)} is 0, not used")
                continue
            rate = value if keyword == "CineRate" else 1000 / value
            if not SLOWEST <= rate <= FASTEST:
                reason = self._implausible(keyword, value)
                if not fps:
                    raise MediaError(f"{reason}; give the rate in a column fps of the cohort table")
                self._warnings.append(reason)
                continue
            if keyword == "FrameTimeVector":
                return constant_rate((np.cumsum([0.0, *steps]) / 1000).tolist(), header_fps=0)
            return Timing(numbers, rate, False, ())
        if not fps:
            raise MediaError(
                "frames must have times, got no Frame Time, Frame Time Vector or Cine Rate; give "
                "the rate in a column fps of the cohort table"
            )
        return Timing(numbers, fps, False, ())

    def _implausible(self, keyword: str, value: float) -> str:
        if keyword == "CineRate":
            return f"{named(keyword)} must be {SLOWEST} to {FASTEST} frames/s, got {value:g}"
        in_seconds = ", as if in seconds" if 1 <= 1 / value <= 120 else ""
        return (
            f"{named(keyword)} must be {1000 / FASTEST:g} to {1000 / SLOWEST:g} ms, got "
            f"{value:g}{in_seconds}"
        )

    def _numbers(self, keyword: str) -> list[float]:
        value = self._header.get(keyword)
        if value is None or value == "":
            return []
        return [float(v) for v in (value if isinstance(value, MultiValue) else [value])]


@contextmanager
def _as_media_error(rule: str, said: list[str]) -> Iterator[None]:
    """Every error of a decoder becomes one MediaError; its text might quote the header, so no.

    Args:
        rule: What must be.
        said: Takes the warnings of pydicom and its decoders: they name tags of the pixels alone.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except MediaError:
            raise
        except Exception as error:
            raise MediaError(f"{rule} ({type(error).__name__})") from error
    said += {f"{warning.message}".partition("\n")[0] for warning in caught} - {*said}
