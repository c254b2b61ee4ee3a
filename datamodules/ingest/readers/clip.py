"""What every source of a clip gives: frames, and facts of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from datamodules.ingest.readers.pictures import MediaError, Picture
from datamodules.ingest.readers.timing import Timing, stated_rate

Box = tuple[int, int, int, int]
"""x, y, width, height in pixels."""
SLOWEST, FASTEST = 0.1, 1000.0  # frames per second: beyond, a time was taken for a rate, or alike


@dataclass(frozen=True)
class VideoFacts:
    """What sequential decoding found; sizes in pixels, after rotation."""

    width: int
    height: int
    codec: str
    colours: str
    concealed: int
    timing: Timing


class ClipSource(ABC):
    """A clip of any kind of file, decoded once from start to end; a context manager.

    A reader gives the pictures and their times. What its file alone can tell (rectangles of
    ultrasound, a length in its header) it overrides.

    Attributes:
        aspect: Width of a pixel over its height; of some files known with the first frame only.
    """

    aspect: float = 1.0
    _codec: str
    _colours: str = "RGB"
    _concealed: int = 0

    def __init__(self) -> None:
        self._warnings: list[str] = []
        self._times: list[float | None] = []  # seconds, of each picture decoded
        self._shape: tuple[int, ...] = ()  # of the first one

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027  most readers keep nothing open
        """Close the file; after it no frame is to be had."""

    @property
    @abstractmethod
    def promised(self) -> int:
        """Frames that the header promises, 0 where it does not."""

    @property
    def header_seconds(self) -> float | None:
        """Length that the header promises, None where it does not."""
        return None

    @property
    def regions(self) -> tuple[Box, ...]:
        """Boxes where the file says that ultrasound is, largest first: only DICOM does."""
        return ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Oddities found so far, in words."""
        return tuple(dict.fromkeys(self._warnings))

    @abstractmethod
    def frames(self, *, step: int = 1) -> Iterator[Picture]:
        """Every step-th frame, RGB uint8 (H, W, 3), in order of presentation.

        Raises:
            MediaError: If the file cannot be read on, or the frames are not of one size.
        """

    def glance(self, *, step: int) -> Iterator[Picture]:
        """A frame in each `step`, in order: the quickest ones, and not for `facts`."""
        return self.frames(step=step)

    def facts(self, fps: float | None = None) -> VideoFacts:
        """What was found; call it when `frames` is exhausted.

        Args:
            fps: Frames per second to take in place of the file's own times.

        Raises:
            MediaError: If frames are missing or too many are damaged, or nothing gives a rate.
        """
        timing = stated_rate(self._timing(fps), count=self._count, fps=fps)
        if not SLOWEST <= timing.fps <= FASTEST:
            raise MediaError(
                f"clip must have {SLOWEST} to {FASTEST:g} frames per second, got {timing.fps:g}; "
                "give the rate in a column fps of the cohort table"
            )
        concealed = (f"{self._concealed} damaged frames, concealed",) if self._concealed else ()
        warnings = (*self.warnings, *concealed, *timing.warnings)
        height, width = self._shape[:2]
        return VideoFacts(
            width=width,
            height=height,
            codec=self._codec,
            colours=self._colours,
            concealed=self._concealed,
            timing=replace(timing, warnings=warnings),
        )

    @property
    def _count(self) -> int:
        return len(self._times)

    @abstractmethod
    def _timing(self, fps: float | None) -> Timing:
        """The file's own times, of all frames; `fps` stands in where it has none."""

    def _of_one_size(self, picture: Picture) -> Picture:
        self._shape = self._shape or picture.shape
        if picture.shape != self._shape:
            raise MediaError(
                f"frames must be of one size, got {self._shape[:2]} and {picture.shape[:2]} "
                f"(height, width; frame {self._count - 1})"
            )
        return picture
