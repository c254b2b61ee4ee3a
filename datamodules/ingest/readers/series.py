"""Clips that come as pictures: a folder of numbered frames, or several pictures in one file."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from datamodules.ingest.readers.clip import Box, Timing, VideoFacts, stated_rate
from datamodules.ingest.readers.pictures import (
    MediaError,
    Picture,
    as_rgb,
    opened_picture,
    read_picture,
)

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


class PictureSeries:
    """Numbered pictures of a folder, or the pages of a TIFF; the counterpart of `media.Video`.

    The last number in a name counts (`frame_010.png` comes after `frame_9.png`); none may be
    missing between the first and the last. Pictures have no times: the cohort table must give fps.

    Args:
        path: folder or file.

    Raises:
        MediaError: if there are no pictures, or their numbers are not of one unbroken series.
    """

    aspect = 1.0

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = numbered_pictures(path) if path.is_dir() else ()
        self._shape: tuple[int, ...] = ()
        self._count = 0
        if not self._files:
            with opened_picture(path):
                pass

    regions: tuple[Box, ...] = ()
    """Where the file says that ultrasound is: only DICOM does."""

    @property
    def header_seconds(self) -> float | None:
        """Not known before decoding."""
        return None

    def __enter__(self) -> "PictureSeries":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is kept open."""

    @property
    def promised(self) -> int:
        """Number of pictures in a folder, 0 for a file."""
        return len(self._files)

    def frames(self, *, step: int = 1) -> Iterator[Picture]:
        """Every step-th picture, RGB uint8 (H, W, 3), all of one size."""
        pictures = map(read_picture, self._files[::step]) if self._files else self._pages(step)
        for picture in pictures:
            self._shape = self._shape or picture.shape
            if picture.shape != self._shape:
                raise MediaError(
                    f"frames must be of one size, got {self._shape[:2]} and {picture.shape[:2]} "
                    f"(height, width; frame {self._count})"
                )
            self._count += 1
            yield picture

    glance = frames  # every frame stands on its own

    def facts(self, fps: float | None = None) -> VideoFacts:
        """What was found; call it when `frames` is exhausted.

        Raises:
            MediaError: if no rate is given.
        """
        if not fps:
            raise MediaError(
                "frames must have times, got pictures; give the rate in a column fps of the "
                "cohort table"
            )
        timing = Timing(np.arange(self._count), fps, False, ())
        height, width = self._shape[:2]
        return VideoFacts(
            width=width,
            height=height,
            codec="pictures",
            colours="RGB",
            concealed=0,
            timing=stated_rate(timing, count=self._count, fps=fps),
        )

    def _pages(self, step: int) -> Iterator[Picture]:
        with opened_picture(self._path) as image:
            for page in islice(ImageSequence.Iterator(image), 0, None, step):
                yield as_rgb(page.copy())


def numbered_pictures(folder: Path) -> tuple[Path, ...]:
    """The pictures of a folder in the order of the last number in their names.

    Raises:
        MediaError: if there is none, or they are not one unbroken series.
    """
    found: dict[int, Path] = {}
    for path in folder.iterdir():
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith("."):
            continue
        numbers = re.findall(r"\d+", path.stem)
        if not numbers or int(numbers[-1]) in found:
            raise MediaError("frames in a folder must have different numbers, got one without")
        found[int(numbers[-1])] = path
    if not found:
        raise MediaError("folder must hold numbered pictures, got none")
    first, last = min(found), max(found)
    if last - first + 1 != len(found):
        missing = next(number for number in range(first, last) if number not in found)
        raise MediaError(f"frames in a folder must be numbered without gaps, got no {missing}")
    return tuple(found[number] for number in sorted(found))


def is_series(path: Path) -> bool:
    """Whether a path is a folder, or a file of Pillow's that FFmpeg does not read as a video."""
    if path.is_dir():
        return True
    try:
        with Image.open(path) as image:
            return image.format in {"TIFF", "WEBP"}
    except Exception:  # noqa: BLE001  not a picture, in whatever way
        return False
