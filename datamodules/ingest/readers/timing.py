"""From the times of frames, as files give them, to a clip of constant rate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datamodules.ingest.readers.pictures import MediaError

_MAX_STRETCH = 10  # frames of the constant rate per decoded frame
_MAX_SHARED = 0.05  # share of frames with the time of the one before


@dataclass(frozen=True)
class Timing:
    """How decoded frames make a clip of constant rate.

    Attributes:
        order: (T,) which decoded frame is shown at time 0, 1/fps, 2/fps, ...
        fps: Frames per second.
        resampled: Whether any frame is left out or repeated.
        warnings: Oddities, in words.
        guessed: Whether the rate is the header's, because the times tell none.
    """

    order: npt.NDArray[np.int64]
    fps: float
    resampled: bool
    warnings: tuple[str, ...]
    guessed: bool = False


def constant_rate(times: Sequence[float | None], *, header_fps: float) -> Timing:
    """Puts frames on a constant rate; times are the truth, frame numbers are not.

    Frames within half an interval of an even spacing, none missing, keep their numbers. Otherwise
    the rate is one over the median interval, and each tick shows the latest frame that began
    before it (or less than half an interval after it: jitter must not drop frames).

    Args:
        times: Seconds, of each frame in order of presentation; None where the file has none.
        header_fps: Rate the file's header claims, 0 if none: for files without usable times.

    Raises:
        MediaError: If there is no rate at all, or the times leap.
    """
    count = len(times)
    order = np.arange(count)
    seconds = np.array([np.nan if time is None else time for time in times])
    seconds, shared = _apart(seconds)
    said = (f"{shared} frames bear the time of the one before, put between",) if shared else ()
    steps = np.diff(seconds)
    if count == 1 or not (steps > 0).all():
        if not header_fps > 0:
            raise MediaError("frames must have times or a rate, got neither")
        warning = "a single frame" if count == 1 else "times missing or not rising, header's rate"
        return Timing(order, header_fps, False, (f"{warning} ({header_fps:.3f} fps) taken",), True)
    seconds = seconds - seconds[0]
    mean = seconds[-1] / (count - 1)
    median = float(np.median(steps))
    if np.abs(seconds - mean * order).max() < mean / 2 and steps.max() < 1.75 * median:
        return Timing(order, float(1 / mean), False, said)
    # Times are often rounded to milliseconds: the median alone would drift.
    step = float(steps[np.abs(steps - median) <= median / 10].mean())
    ticks = int(seconds[-1] / step + 0.5) + 1
    if ticks > _MAX_STRETCH * count:
        raise MediaError(
            f"times of the frames must be continuous, got a leap of {steps.max():.1f} s in a clip "
            f"of one frame every {step:.3f} s"
        )
    order = np.searchsorted(seconds, (np.arange(ticks) + 0.5) * step) - 1
    warning = f"variable frame rate, resampled to {1 / step:.3f} fps"
    return Timing(order, 1 / step, True, (*said, warning))


def _apart(seconds: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], int]:
    """Puts a frame with the time of the one before halfway to the next, if such are few."""
    same = np.flatnonzero(np.diff(seconds) == 0) + 1
    if not 0 < len(same) <= max(1, _MAX_SHARED * len(seconds)):
        return seconds, 0
    apart = seconds.copy()
    for at in same.tolist():
        after = seconds[at + 1] if at + 1 < len(seconds) else 2 * seconds[at] - seconds[at - 2]
        apart[at] = (seconds[at] + after) / 2
    return apart, len(same)


def stated_rate(timing: Timing, *, count: int, fps: float | None) -> Timing:
    """The rate that the user states in place of the file's own.

    Args:
        timing: What the file's own times give.
        count: Decoded frames.
        fps: Frames per second, None to leave the timing as it is.
    """
    if fps is not None and (timing.resampled or abs(timing.fps - fps) >= 0.005 * fps):
        warning = f"{fps:.3f} fps of the cohort table taken, the file has {timing.fps:.3f}"
        timing = Timing(np.arange(count), fps, False, (warning,))
    return timing
