"""Clips that come as pictures: numbered ones in a folder, pages of a file, or an array."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.ingest.readers.clip import ClipSource
from datamodules.ingest.readers.pictures import (
    MAX_FRAMES,
    MAX_SIDE,
    MIN_SIDE,
    MediaError,
    Notes,
    Picture,
    as_rgb,
    check_clip,
    opened_picture,
    read_picture,
)
from datamodules.ingest.readers.timing import Timing

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


class PictureSeries(ClipSource):
    """Numbered pictures of a folder, or the pages of a TIFF.

    The last number in a name counts (`frame_010.png` comes after `frame_9.png`); none may be
    missing between the first and the last. Pictures have no times: the cohort table must give fps.

    Args:
        path: Folder or file.

    Raises:
        MediaError: If there are no pictures, they are too many or too large, or their numbers are
            not of one unbroken series.
    """

    _codec = "pictures"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._notes = Notes()
        self._files = numbered_pictures(path) if path.is_dir() else ()
        with opened_picture(self._files[0] if self._files else path) as first:
            self._promised = len(self._files) or _count_pages(first)
            check_clip(self._promised, first.size[::-1])

    @property
    def promised(self) -> int:
        """Number of pictures."""
        return self._promised

    @property
    def warnings(self) -> tuple[str, ...]:
        """See the base class."""
        return (*super().warnings, *self._notes.warnings())

    def frames(self, *, step: int = 1) -> Iterator[Picture]:
        """See the base class."""
        files = (read_picture(path, self._notes) for path in self._files[::step])
        for picture in files if self._files else self._pages(step):
            self._times.append(None)
            yield self._of_one_size(picture)

    def _timing(self, fps: float | None) -> Timing:
        return _stated(self._count, fps)

    def _pages(self, step: int) -> Iterator[Picture]:
        with opened_picture(self._path) as image:
            for number in range(0, self._promised, step):
                image.seek(number)
                yield as_rgb(image, self._notes)


class ArrayClip(ClipSource):
    """Frames in a `.npy` file: uint8, frames × height × width × 3 (RGB), or without the 3 (grey).

    Raises:
        MediaError: If it is no such array, or not whole.
    """

    _codec = "npy"

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # its header is parsed as Python, with all errors of that
            raise MediaError(
                f"file must be a whole array of numbers, got one that does not open "
                f"({type(error).__name__})"
            ) from error
        shape = self._array.shape
        if self._array.dtype != np.uint8 or shape[3:] not in {(), (3,)} or len(shape) < 3:
            raise MediaError(
                "array must be uint8 of frames × height × width, or × 3, got "
                f"{self._array.dtype} of {' × '.join(map(str, shape))}"
            )
        if path.stat().st_size != self._array.offset + self._array.nbytes:
            raise MediaError("file must end with its array, got further bytes")
        if not self.promised or not all(MIN_SIDE <= side <= MAX_SIDE for side in shape[1:3]):
            raise MediaError(
                f"frames must be of {MIN_SIDE} to {MAX_SIDE} pixels a side, and at least one, got "
                f"{self.promised} of {shape[2]}×{shape[1]}"
            )
        check_clip(self.promised, shape[1:])

    @property
    def promised(self) -> int:
        """Number of frames."""
        return len(self._array)

    def frames(self, *, step: int = 1) -> Iterator[Picture]:
        """See the base class."""
        for frame in self._array[::step]:
            self._times.append(None)
            rgb = frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=-1)
            yield self._of_one_size(np.array(rgb))

    def _timing(self, fps: float | None) -> Timing:
        return _stated(self._count, fps)


def _stated(count: int, fps: float | None) -> Timing:
    """The times of pictures: by the rate that the cohort table states."""
    if not fps:
        raise MediaError(
            "frames must have times, got pictures; give the rate in a column fps of the cohort "
            "table"
        )
    return Timing(np.arange(count), fps, False, ())


def _count_pages(image: Image.Image) -> int:
    """Pages, up to one more than is allowed: Pillow takes the longer for each, the more there are.

    The picture is left at its last page.
    """
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    count = 1
    with suppress(EOFError):
        while count <= MAX_FRAMES:
            image.seek(count)
            count += 1
    return count


def numbered_pictures(folder: Path) -> tuple[Path, ...]:
    """The pictures of a folder in the order of the last number in their names.

    Raises:
        MediaError: If there is none, or they are not one unbroken series.
    """
    path_of: dict[int, Path] = {}
    for path in folder.iterdir():
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith("."):
            continue
        try:
            is_file = path.is_file()
        except OSError:
            is_file = False
        if not is_file:
            raise MediaError(
                "frames in a folder must be files, got a folder, a pipe, a device or a link that "
                "leads to no file"
            )
        numbers = re.findall(r"\d+", path.stem)
        if not numbers:
            raise MediaError("frames in a folder must have numbers, got one without")
        if int(numbers[-1]) in path_of:
            raise MediaError(
                "frames in a folder must have different last numbers in their names, got "
                f"{int(numbers[-1])} twice"
            )
        path_of[int(numbers[-1])] = path
    if not path_of:
        known = ", ".join(sorted(_SUFFIXES))
        raise MediaError(f"folder must hold numbered pictures ({known}), got none")
    first, last = min(path_of), max(path_of)
    if last - first + 1 != len(path_of):
        missing = next(number for number in range(first, last) if number not in path_of)
        raise MediaError(f"frames in a folder must be numbered without gaps, got no {missing}")
    return tuple(path_of[number] for number in sorted(path_of))


def is_series(path: Path) -> bool:
    """Whether a file is one of Pillow's that FFmpeg does not read as a video."""
    try:
        with opened_picture(path) as image:
            return image.format in {"TIFF", "WEBP"}
    except MediaError:  # not a picture, in whatever way
        return False


def is_array(path: Path) -> bool:
    """Whether a file begins as those of NumPy do."""
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"
