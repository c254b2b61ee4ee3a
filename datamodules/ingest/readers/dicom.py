"""Ultrasound in DICOM: stills and cines, to RGB frames with the times that the file gives.

Only what decoding needs is read: rows, photometric interpretation, palette, times, regions. Nothing
of the patient, study or equipment modules is looked at, and nothing but pixels is handed on.
"""

import math
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import iter_pixels

from datamodules.ingest.readers.clip import Box, ClipSource
from datamodules.ingest.readers.pictures import MAX_SIDE, MediaError, Picture
from datamodules.ingest.readers.timing import Timing, constant_rate

_IMAGE_2D = 1  # Region Spatial Format (0018,6012), PS3.3 C.8.5.5.1.1
_PREFIX = 132  # bytes up to and with "DICM"


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do (PS3.10, 7.1)."""
    with path.open("rb") as file:
        return file.read(_PREFIX)[-4:] == b"DICM"


class DicomVideo(ClipSource):
    """One DICOM file.

    Times come from Frame Time, Frame Time Vector or Cine Rate, in this order. A still has none.

    Args:
        path: The file.

    Raises:
        MediaError: If the file is not a whole DICOM image that can be decoded.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        with _as_media_error("file must be a whole DICOM image, got one that does not open"):
            self._header: Dataset = dcmread(path, stop_before_pixels=True)
            rows, columns = int(self._header.Rows), int(self._header.Columns)
            self._promised = int(self._header.get("NumberOfFrames") or 1)
            self._colours = str(self._header.PhotometricInterpretation)
            self._codec = f"DICOM {self._header.file_meta.TransferSyntaxUID.name}"
            _order_palette(self._header)
        if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE and self.promised > 0):
            raise MediaError(
                f"frames must be of 1 to {MAX_SIDE} pixels a side, and at least one, got "
                f"{self.promised} of {columns}×{rows}"
            )
        self._shape = rows, columns
        self.aspect = self._aspect()

    @property
    def promised(self) -> int:
        """Number of frames by the header, 1 of a still."""
        return self._promised

    def frames(self, *, step: int = 1) -> Iterator[Picture]:
        """See the base class."""
        pixels = iter_pixels(self._path, indices=range(0, self.promised, step))
        while True:
            with _as_media_error(f"frame {self._count} must decode, got an error of the decoder"):
                frame = next(pixels, None)
                picture = None if frame is None else self._to_rgb(frame)
            if picture is None:
                return
            self._times.append(None)
            yield picture

    @cached_property
    def regions(self) -> tuple[Box, ...]:
        """Boxes of 2D ultrasound (PS3.3 C.8.5.5), largest first; none if they do not fit the frame.

        A file that was scaled after the scanner wrote it still bears the regions of the original.
        """
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
                continue
            x0, y0, x1, y1 = corners
            # The corners belong to the region; scanners give the width itself as the last column.
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                self._warnings.append("ultrasound regions do not fit the frame, not used")
                return ()
            x1, y1 = min(x1, width - 1), min(y1, height - 1)
            boxes.append((x0, y0, x1 - x0 + 1, y1 - y0 + 1))
        return tuple(sorted(boxes, key=lambda box: box[2] * box[3], reverse=True))

    def _to_rgb(self, frame: npt.NDArray[Any]) -> Picture:
        """RGB of what pydicom decodes; it has undone YBR already."""
        if self._colours == "PALETTE COLOR":
            frame = apply_color_lut(frame, self._header)
            return _to_8_bits(frame, 16 if frame.dtype.itemsize > 1 else 8)
        if frame.ndim == 3:
            return _to_8_bits(frame, int(self._header.BitsStored))
        values = apply_voi_lut(apply_modality_lut(frame, self._header), self._header)
        if values is frame:
            grey = _to_8_bits(frame, int(self._header.BitsStored))
        else:  # through a window or a table: its own full range is what is shown
            low, high = float(values.min()), float(values.max())
            grey = np.round((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
        if self._colours == "MONOCHROME1":
            grey = 255 - grey
        return np.repeat(grey[..., None], 3, axis=-1)

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
        count = self._count
        if count != self.promised:
            raise MediaError(
                f"file must be whole, got {count} frames where its header promises {self.promised}"
            )
        step = _positive(self._header.get("FrameTime"))
        if step:
            return Timing(np.arange(count), 1000 / step, False, ())
        vector = self._header.get("FrameTimeVector")
        if vector is not None and count > 1:
            steps = [float(vector)] if isinstance(vector, float) else [float(v) for v in vector]
            if len(steps) == count:
                # The first value is the time before the first frame (PS3.3 C.7.6.5.1.2).
                return constant_rate((np.cumsum([0.0, *steps[1:]]) / 1000).tolist(), header_fps=0)
            self._warnings.append(f"{len(steps)} frame times for {count} frames, not used")
        rate = _positive(self._header.get("CineRate")) or fps
        if not rate:
            raise MediaError(
                "frames must have times, got no Frame Time, Frame Time Vector or Cine Rate; give "
                "the rate in a column fps of the cohort table"
            )
        return Timing(np.arange(count), rate, False, ())


class _as_media_error:  # noqa: N801  used as a statement
    """Every error of a decoder becomes one MediaError; its text might quote the header, so no."""

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        self._warnings.__enter__()
        warnings.simplefilter("ignore")  # pydicom's remarks on the values of other elements

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._warnings.__exit__(kind, error, trace)
        if isinstance(error, Exception):
            raise MediaError(f"{self._rule} ({type(error).__name__})") from error


def _order_palette(header: Dataset) -> None:
    """Bring a big-endian palette into the order in which pydicom (3.0) takes every one."""
    if header.file_meta.TransferSyntaxUID.is_little_endian:
        return
    for colour in ("Red", "Green", "Blue"):
        keyword = f"{colour}PaletteColorLookupTableData"
        if keyword in header:
            words = np.frombuffer(header[keyword].value, ">u2")
            header[keyword].value = words.astype("<u2").tobytes()


def _to_8_bits(values: npt.NDArray[Any], bits: int) -> Picture:
    if bits == 8:
        return np.ascontiguousarray(values, dtype=np.uint8)
    scaled: Picture = np.round(values.astype(np.float32) * (255 / (2**bits - 1))).astype(np.uint8)
    return scaled


def _positive(value: Any) -> float:
    """A number above 0, else 0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0
