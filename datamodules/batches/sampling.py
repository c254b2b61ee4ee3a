"""Which frames of a clip a network sees: strategies named in the YAML.

A strategy turns what is known of a clip's time into windows, each an array of `num_frames` frame
indices. In training one window is used (one at random where there are several), in evaluation every
window is a row, and a patient's rows are averaged.

Frames of a window lie evenly, each at the middle of its share: 4 frames of a 16-frame clip are
`[2, 6, 10, 14]`. A clip shorter than the window is used whole; frames repeat if it has fewer
than `num_frames`.

A strategy of your own, in any package, is a frozen dataclass with one method:

    @dataclass(frozen=True)
    class FirstSeconds(FrameSampling):
        seconds: float

        def windows(self, clip, *, rng):
            return [self.spread(0, min(self.seconds * clip.fps, clip.frames))]
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError

Window = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClipTimes:
    """What a strategy knows of a clip, as `ceus prepare` stored it.

    Attributes:
        curve: Mean grey level of each frame, `(frames,)`, 0 to 255: the time-intensity curve.
        fps: Frames per second, above 0.
        arrival_s: Seconds from the first frame to the arrival of contrast; None if not known.
        peak_s: Seconds to the peak of the curve; None if not known, or after the clip's end.
    """

    curve: NDArray[np.floating]
    fps: float
    arrival_s: float | None = None
    peak_s: float | None = None

    @property
    def frames(self) -> int:
        """Frames of the clip, 1 or more."""
        return len(self.curve)


@dataclass(frozen=True, kw_only=True)
class FrameSampling(ABC):
    """How frames are chosen; subclasses may live in any package and are named in the YAML.

    Three settings vary the chosen windows in time, in training only. They keep the label: the node
    does not depend on when the recording was started, nor on how fast the heart beat. But how fast
    a nodule fills may tell of it, so `speed` has to stay within what differs between two
    injections in the same tissue: coefficients of variation of seven perfusion parameters were 2.3
    to 23.7 % in vitro (Gauthier et al., World J. Radiol. 3(3):70-81, 2011, doi
    10.4329/wjr.v3.i3.70).

    Attributes:
        num_frames: Frames per window, 1 or more.
        shift_seconds: Largest move of a window either way, 0 or more: as uncertain as its start.
        speed: Largest relative change of the time between frames either way, 0 to 0.5, counted
            from the window's first frame.
        jitter_seconds: Largest move of each frame by itself either way, 0 or more.
    """

    num_frames: int
    shift_seconds: float = 0.0
    speed: float = 0.0
    jitter_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise DataError(
                f"num_frames must be 1 or more, got {self.num_frames!r}. Set it in the sampling."
            )
        for name in ("shift_seconds", "jitter_seconds"):
            require_seconds(name, getattr(self, name), zero=True)
        if not 0 <= self.speed <= 0.5:
            raise DataError(f"speed must be 0 to 0.5, got {self.speed!r}. Set 0 to leave it out.")

    @abstractmethod
    def windows(self, clip: ClipTimes, *, rng: np.random.Generator) -> list[Window]:
        """Choose the windows of a clip.

        Args:
            clip: Its frames and times.
            rng: Source of chance; the same state gives the same windows.

        Returns:
            One or more int64 arrays `(num_frames,)`, values in `[0, clip.frames)`, increasing.
        """

    @property
    def varies(self) -> bool:
        """Whether windows are varied in time after they were chosen."""
        return self.shift_seconds > 0 or self.speed > 0 or self.jitter_seconds > 0

    def draw(self, clip: ClipTimes, *, rng: np.random.Generator) -> list[Window]:
        """The windows as varied in time: what a datamodule calls."""
        chosen = self.windows(clip, rng=rng)
        return [self._varied(window, clip, rng) for window in chosen] if self.varies else chosen

    def spread(self, start: float, length: float, *, num_frames: int | None = None) -> Window:
        """Indices spread evenly over `[start, start + length)`, in frames."""
        count = self.num_frames if num_frames is None else num_frames
        steps = (np.arange(count) + 0.5) / max(count, 1)
        return np.floor(start + steps * length).astype(np.int64)

    def _varied(self, window: Window, clip: ClipTimes, rng: np.random.Generator) -> Window:
        shift, speed = rng.uniform(-1, 1, size=2)
        jitter = rng.uniform(-1, 1, size=len(window))
        moved = window[0] + (window - window[0]) * (1 + self.speed) ** speed
        moved += (shift * self.shift_seconds + jitter * self.jitter_seconds) * clip.fps
        return np.sort(np.rint(moved)).clip(0, clip.frames - 1).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class UniformFrames(FrameSampling):
    """One window of frames spread evenly over the whole clip."""

    def windows(self, clip: ClipTimes, *, rng: np.random.Generator) -> list[Window]:
        """See the base class; `rng` is not used."""
        del rng
        return [self.spread(0, clip.frames)]


@dataclass(frozen=True, kw_only=True)
class TimedWindow(FrameSampling):
    """One window of a fixed duration, from a given moment.

    One that would pass the clip's end is moved to end with it.

    Attributes:
        clip_seconds: Duration of the window, above 0.
        start: `arrival` or `peak` of contrast, `random` for anywhere in the clip, or seconds
            from the first frame, 0 or more. Where a clip's arrival or peak is not known, its first
            frame is taken; the store's `warnings` name these clips.
        lead_seconds: How long before `start` the window begins, 0 or more, as to see the vessels
            empty; not with `random`.
    """

    clip_seconds: float
    start: Literal["arrival", "peak", "random"] | float = "arrival"
    lead_seconds: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_seconds("clip_seconds", self.clip_seconds)
        require_seconds("lead_seconds", self.lead_seconds, zero=True)
        named = self.start in ("arrival", "peak", "random")
        if not named and not (isinstance(self.start, int | float) and self.start >= 0):
            raise DataError(
                f"start must be arrival, peak, random or 0 or more seconds, got {self.start!r}. "
                "Set it in the sampling."
            )

    def windows(self, clip: ClipTimes, *, rng: np.random.Generator) -> list[Window]:
        """See the base class."""
        length = min(max(self.clip_seconds * clip.fps, 1), clip.frames)
        room = clip.frames - length
        if self.start == "random":
            return [self.spread(rng.uniform(0, room), length)]
        named = {"arrival": clip.arrival_s, "peak": clip.peak_s}
        moment = named[self.start] if isinstance(self.start, str) else self.start
        begin = ((moment or 0.0) - self.lead_seconds) * clip.fps
        return [self.spread(min(max(begin, 0), room), length)]


@dataclass(frozen=True, kw_only=True)
class WindowGrid(FrameSampling):
    """Windows of a fixed duration, spread evenly from the clip's start to its end: for evaluation.

    A clip that is no longer than a window gives one window, not the same one several times.

    Attributes:
        clip_seconds: Duration of a window, above 0.
        num_windows: Windows per clip, 1 or more; a single one lies in the middle.
    """

    clip_seconds: float
    num_windows: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_seconds("clip_seconds", self.clip_seconds)
        if self.num_windows < 1:
            raise DataError(
                f"num_windows must be 1 or more, got {self.num_windows!r}. Set it in the sampling."
            )

    def windows(self, clip: ClipTimes, *, rng: np.random.Generator) -> list[Window]:
        """See the base class; `rng` is not used."""
        del rng
        length = min(max(self.clip_seconds * clip.fps, 1), clip.frames)
        room = clip.frames - length
        if self.num_windows == 1 or room < 1:
            return [self.spread(room / 2, length)]
        return [self.spread(start, length) for start in np.linspace(0, room, self.num_windows)]


def require_seconds(name: str, value: float, *, zero: bool = False) -> None:
    """Refuse a duration that is none.

    Raises:
        DataError: If it is negative or not a number, or 0 where `zero` is not allowed.
    """
    if not (value >= 0 if zero else value > 0) or value == float("inf"):
        rule = "0 or more" if zero else "above 0"
        raise DataError(
            f"{name} must be {rule}, got {value!r}. Give seconds in the sampling's settings."
        )
