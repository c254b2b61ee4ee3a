"""Clips that come as pictures: a folder of numbered frames, or several pictures in one file."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from datamodules.ingest.readers.clip import ClipSource
from datamodules.ingest.readers.pictures import (
    MediaError,
    Picture,
    as_rgb,
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
        MediaError: If there are no pictures, or their numbers are not of one unbroken series.
    """

    _codec = "pictures"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._files = numbered_pictures(path) if path.is_dir() else ()
        if not self._files:
            with opened_picture(path):
                pass

    @property
    def promised(self) -> int:
        """Number of pictures in a folder, 0 for a file."""
        return len(self._files)

    def frames(self, *, step: int = 1) -> Iterator[Picture]:
        """See the base class."""
        pictures = map(read_picture, self._files[::step]) if self._files else self._pages(step)
        for picture in pictures:
            self._times.append(None)
            yield self._of_one_size(picture)

    def _timing(self, fps: float | None) -> Timing:
        if not fps:
            raise MediaError(
                "frames must have times, got pictures; give the rate in a column fps of the "
                "cohort table"
            )
        return Timing(np.arange(self._count), fps, False, ())

    def _pages(self, step: int) -> Iterator[Picture]:
        with opened_picture(self._path) as image:
            for page in islice(ImageSequence.Iterator(image), 0, None, step):
                yield as_rgb(page.copy())


def numbered_pictures(folder: Path) -> tuple[Path, ...]:
    """The pictures of a folder in the order of the last number in their names.

    Raises:
        MediaError: If there is none, or they are not one unbroken series.
    """
    path_of: dict[int, Path] = {}
    for path in folder.iterdir():
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith("."):
            continue
        numbers = re.findall(r"\d+", path.stem)
        if not numbers or int(numbers[-1]) in path_of:
            raise MediaError("frames in a folder must have different numbers, got one without")
        path_of[int(numbers[-1])] = path
    if not path_of:
        raise MediaError("folder must hold numbered pictures, got none")
    first, last = min(path_of), max(path_of)
    if last - first + 1 != len(path_of):
        missing = next(number for number in range(first, last) if number not in path_of)
        raise MediaError(f"frames in a folder must be numbered without gaps, got no {missing}")
    return tuple(path_of[number] for number in sorted(path_of))


def is_series(path: Path) -> bool:
    """Whether a path is a folder, or a file of Pillow's that FFmpeg does not read as a video."""
    if path.is_dir():
        return True
    try:
        with Image.open(path) as image:
            return image.format in {"TIFF", "WEBP"}
    except Exception:  # noqa: BLE001  not a picture, in whatever way
        return False
