"""From the values that a DICOM file stores to RGB: one mapping for the whole clip, always.

A mapping that each frame chose for itself would take the time-intensity curve out of a clip.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut

from datamodules.ingest.readers.dicom_file import named
from datamodules.ingest.readers.pictures import MediaError, Picture, Use


class Colours:
    """The mapping of one file.

    Args:
        header: Its tags.

    Raises:
        MediaError: If bits, window or palette contradict themselves.
    """

    def __init__(self, header: Dataset) -> None:
        self._warnings: list[str] = []
        self._use = Use()
        self._header = header
        self._bits = int(header.BitsStored)
        self._signed = int(header.PixelRepresentation) == 1
        self._low = -(2 ** (self._bits - 1)) if self._signed else 0
        self._high = self._low + 2**self._bits - 1
        self._is_scaled_only = False
        stored = np.arange(self._low, self._high + 1)
        kind = str(header.PhotometricInterpretation)
        if kind == "PALETTE COLOR":
            self._table = self._palette(stored)
        elif kind.startswith("MONOCHROME"):
            grey = self._grey(stored)
            grey = 255 - grey if kind == "MONOCHROME1" else grey
            self._table = np.repeat(grey[:, None], 3, axis=1)
        else:
            self._table = self._scaled(stored)

    def __call__(self, values: npt.NDArray[Any]) -> Picture:
        """RGB uint8 (H, W, 3) of stored values, (H, W) or (H, W, 3).

        Raises:
            MediaError: If they do not fit into the bits stored.
        """
        if values.dtype == np.uint8 and (self._bits, self._signed) == (8, False):
            picture: Picture = np.array(values) if self._table.ndim == 1 else self._table[values]
            return picture
        values = values.astype(np.int32, copy=False)
        low, high = int(values.min()), int(values.max())
        if self._signed and low >= 0 and self._high < high < 2**self._bits:
            # The sign was not carried on into the bits that are allocated, but not stored.
            values = np.where(values > self._high, values - 2**self._bits, values)
            low, high = int(values.min()), int(values.max())
        if low < self._low or high > self._high:
            raise MediaError(
                f"{named('BitsStored')} must hold the pixels, got {self._bits} bits ({self._low} "
                f"to {self._high}) where they are {low} to {high}"
            )
        if self._is_scaled_only and self._bits > 8:
            self._use.add(high - low if self._signed else high, bits=self._bits)
        mapped: Picture = self._table[values - self._low]
        return mapped

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd about the mapping, and about the pixels so far."""
        return (*self._warnings, *self._use.warnings(f"{named('BitsStored')} {self._bits}"))

    def _scaled(self, stored: npt.NDArray[Any]) -> Picture:
        self._is_scaled_only = True
        scaled: Picture = np.round((stored - self._low) * (255 / (2**self._bits - 1))).astype("u1")
        return scaled

    def _grey(self, stored: npt.NDArray[Any]) -> Picture:
        """By rescale and window, or their tables (PS3.3, C.11.1 and C.11.2)."""
        header = self._header
        values = stored.astype(np.float64)
        said = (header.get("RescaleSlope"), header.get("RescaleIntercept"))
        slope, intercept = (
            float(value) if value not in (None, "") else default
            for value, default in zip(said, (1.0, 0.0), strict=True)
        )
        if not (np.isfinite(slope) and np.isfinite(intercept) and slope):
            raise MediaError(
                f"{named('RescaleSlope')} must be a number other than 0, got {slope:g} (intercept "
                f"{intercept:g})"
            )
        modality, voi = header.get("ModalityLUTSequence"), header.get("VOILUTSequence")
        values, full = (
            _look_up(modality[0], values) if modality else (values * slope + intercept, 0)
        )
        if voi:
            values, full = _look_up(voi[0], values)
        centre, width = header.get("WindowCenter"), header.get("WindowWidth")
        if not voi and centre is not None and width is not None:
            return self._windowed(values, centre, width)
        if full:
            return _to_bytes(values * (255 / full))
        grey = self._scaled(stored)
        return 255 - grey if slope < 0 else grey

    def _windowed(self, values: npt.NDArray[np.float64], centres: Any, widths: Any) -> Picture:
        several = isinstance(centres, MultiValue)
        centre, width = (
            float(value[0] if isinstance(value, MultiValue) else value)
            for value in (centres, widths)
        )
        function = str(self._header.get("VOILUTFunction") or "LINEAR")
        if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
            raise MediaError(
                f"{named('VOILUTFunction')} must be LINEAR, LINEAR_EXACT or SIGMOID, got another"
            )
        if not (np.isfinite(centre) and np.isfinite(width)) or width < (function == "LINEAR"):
            raise MediaError(
                f"{named('WindowWidth')} must be 1 or more, got {width:g} (at {centre:g})"
            )
        if several:
            self._warnings.append("first of several windows taken")
        if function == "SIGMOID":
            power = np.clip(-4 * (values - centre) / max(width, 1e-9), -700, 700)
            return _to_bytes(255 / (1 + np.exp(power)))
        if function == "LINEAR":  # its step lies half a value lower, and is one value narrower
            centre, width = centre - 0.5, width - 1
        return _to_bytes(((values - centre) / max(width, 1e-9) + 0.5) * 255)

    def _palette(self, stored: npt.NDArray[Any]) -> Picture:
        count, first, _ = self._header.RedPaletteColorLookupTableDescriptor
        stored = np.clip(stored, first, first + (count or 2**16) - 1)
        _order_palette(self._header)
        table = apply_color_lut(stored, self._header)[..., :3]
        # PS3.3, C.7.6.3.1.5: entries of 8 bits may be padded to 16, whatever is said of them.
        if table.max() > 255:
            table = np.round(table * (255 / 65535))
        return table.astype(np.uint8)


def _order_palette(header: Dataset) -> None:
    """Bring a big-endian palette into the order in which pydicom (3.0) takes every one."""
    if header.file_meta.TransferSyntaxUID.is_little_endian:
        return
    for colour in ("Red", "Green", "Blue"):
        keyword = f"{colour}PaletteColorLookupTableData"
        if keyword in header:
            words = np.frombuffer(header[keyword].value, ">u2")
            header[keyword].value = words.astype("<u2").tobytes()


def _look_up(item: Dataset, values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], int]:
    """Values through a table of a sequence, and the highest value that it may give."""
    count, first, bits = item.LUTDescriptor
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) == count else "<u2")
    entries = np.asarray(data, np.float64)[: count or 2**16]
    # The bits that are said are wrong in some files; entries of 8 bits may be padded to 16.
    bits = next(b for b in (8, bits, 16) if entries.max() < 2**b)
    return entries[np.clip(values - first, 0, len(entries) - 1).astype(int)], 2**bits - 1


def _to_bytes(shown: npt.NDArray[Any]) -> Picture:
    clipped: Picture = np.round(np.clip(shown, 0, 255)).astype(np.uint8)
    return clipped
