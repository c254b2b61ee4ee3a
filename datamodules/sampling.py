"""Which frames of a clip a network sees: strategies named in the YAML.

A strategy turns a clip's length into windows, each an array of ``num_frames`` frame indices. In
training one window is used (one at random where there are several), in evaluation every window is
a row, and a patient's rows are averaged.

Frames of a window lie evenly, each at the middle of its share: 4 frames of a 16-frame clip are
``[2, 6, 10, 14]``. A clip shorter than the window is used whole; frames repeat if it has fewer
than ``num_frames``.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError

Window = NDArray[np.int64]


@dataclass(frozen=True)
class FrameSampling(ABC):
    """How frames are chosen; subclasses may live in any package and are named in the YAML.

    Attributes:
        num_frames: Frames per window, 1 or more.
    """

    num_frames: int

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise DataError(
                f"num_frames must be 1 or more, got {self.num_frames!r}. Set it in the sampling."
            )

    @abstractmethod
    def windows(self, *, frames: int, fps: float, rng: np.random.Generator) -> list[Window]:
        """Choose the windows of a clip.

        Args:
            frames: Frames of the clip, 1 or more.
            fps: Frames per second of the clip, above 0.
            rng: Source of chance; the same state gives the same windows.

        Returns:
            One or more int64 arrays ``(num_frames,)``, values in ``[0, frames)``, increasing.
        """

    def _spread(self, start: float, length: float) -> Window:
        """Indices spread evenly over ``[start, start + length)``, in frames."""
        steps = (np.arange(self.num_frames) + 0.5) / self.num_frames
        return np.floor(start + steps * length).astype(np.int64)


@dataclass(frozen=True)
class UniformFrames(FrameSampling):
    """One window of frames spread evenly over the whole clip.

    Attributes:
        num_frames: Frames per window, 1 or more.
    """

    def windows(self, *, frames: int, fps: float, rng: np.random.Generator) -> list[Window]:
        """See the base class; ``fps`` and ``rng`` are not used."""
        del fps, rng
        return [self._spread(0, frames)]


@dataclass(frozen=True)
class RandomWindow(FrameSampling):
    """One window of a fixed duration at a random time: for training.

    Attributes:
        num_frames: Frames per window, 1 or more.
        clip_seconds: Duration of the window, above 0.
    """

    clip_seconds: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_seconds(self.clip_seconds)

    def windows(self, *, frames: int, fps: float, rng: np.random.Generator) -> list[Window]:
        """See the base class."""
        length = min(max(self.clip_seconds * fps, 1), frames)
        return [self._spread(rng.uniform(0, frames - length), length)]


@dataclass(frozen=True)
class WindowGrid(FrameSampling):
    """Windows of a fixed duration, spread evenly from the clip's start to its end: for evaluation.

    A clip that is no longer than a window gives one window, not the same one several times.

    Attributes:
        num_frames: Frames per window, 1 or more.
        clip_seconds: Duration of a window, above 0.
        num_windows: Windows per clip, 1 or more; a single one lies in the middle.
    """

    clip_seconds: float
    num_windows: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_seconds(self.clip_seconds)
        if self.num_windows < 1:
            raise DataError(
                f"num_windows must be 1 or more, got {self.num_windows!r}. Set it in the sampling."
            )

    def windows(self, *, frames: int, fps: float, rng: np.random.Generator) -> list[Window]:
        """See the base class; ``rng`` is not used."""
        del rng
        length = min(max(self.clip_seconds * fps, 1), frames)
        room = frames - length
        if self.num_windows == 1 or room < 1:
            return [self._spread(room / 2, length)]
        return [self._spread(start, length) for start in np.linspace(0, room, self.num_windows)]


def _require_seconds(clip_seconds: float) -> None:
    if not clip_seconds > 0:
        raise DataError(
            f"clip_seconds must be above 0, got {clip_seconds!r}. Give the window's duration."
        )
