"""Frames chosen by what the contrast does: by its phases, or by how bright it is."""

from dataclasses import dataclass

import numpy as np

from datamodules.batches.sampling import ClipTimes, FrameSampling, Window, require_seconds
from datamodules.errors import DataError


@dataclass(frozen=True, kw_only=True)
class PhaseFrames(FrameSampling):
    """One window with as many frames of each phase in every clip: frame i shows the same phase.

    The phases are those of contrast ultrasound: before arrival, wash-in (arrival to the peak),
    around the peak, and wash-out. In each, frames lie evenly; a phase that a clip lacks (it begins
    at arrival, or ends before the peak) has its nearest frame repeated, so that the others stay in
    their places. Where the arrival is not known, frames lie evenly over the whole clip; the store's
    `warnings` name these clips.

    Attributes:
        shares: Of the frames, before arrival, in wash-in, around the peak and in wash-out, each 0
            or more. They need not sum to anything: 32 frames by (1, 3, 1, 3) are 4, 12, 4 and 12,
            and so are those by (4, 12, 4, 12).
        before_seconds: Longest time before arrival, 0 or more.
        peak_seconds: Time around the peak, half of it on either side, 0 or more.
        after_seconds: Longest time of wash-out, 0 or more.
    """

    shares: tuple[float, float, float, float] = (1.0, 3.0, 1.0, 3.0)
    before_seconds: float = 5.0
    peak_seconds: float = 4.0
    after_seconds: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.shares) < 0 or not 0 < sum(self.shares) < np.inf:
            raise DataError(
                f"shares must be four numbers of 0 or more, not all 0, got {self.shares!r}. "
                "Give frames before arrival, in wash-in, around the peak and in wash-out."
            )
        for name in ("before_seconds", "peak_seconds", "after_seconds"):
            require_seconds(name, getattr(self, name), zero=True)

    def windows(self, clip: ClipTimes, *, rng: np.random.Generator) -> list[Window]:
        """See the base class; `rng` is not used."""
        del rng
        if clip.arrival_s is None:
            return [self.spread(0, clip.frames)]
        last = float(clip.frames)
        arrival = clip.arrival_s * clip.fps
        peak = last if clip.peak_s is None else clip.peak_s * clip.fps
        # Half of the way at most: a fast wash-in keeps a phase of its own.
        before_peak = min(self.peak_seconds / 2 * clip.fps, (peak - arrival) / 2)
        after_peak = min(peak + self.peak_seconds / 2 * clip.fps, last)
        edges = [
            max(arrival - self.before_seconds * clip.fps, 0.0),
            arrival,
            peak - before_peak,
            after_peak,
            min(after_peak + self.after_seconds * clip.fps, last),
        ]
        parts = [
            self.spread(start, end - start, num_frames=count)
            for start, end, count in zip(edges, edges[1:], self.counts, strict=False)
        ]
        return [np.minimum(np.concatenate(parts), clip.frames - 1)]

    @property
    def counts(self) -> tuple[int, ...]:
        """Frames of each phase: shares of `num_frames` by the largest remainder."""
        exact = np.array(self.shares) * self.num_frames / sum(self.shares)
        counts = np.floor(exact).astype(int)
        remaining = self.num_frames - int(counts.sum())
        counts[np.argsort(counts - exact, kind="stable")[:remaining]] += 1
        return tuple(counts.tolist())


@dataclass(frozen=True, kw_only=True)
class KeyFrames(FrameSampling):
    """One window of frames at even steps of brightness, in the order of time.

    Frames are ranked by their mean grey level and taken at evenly spaced ranks, so a short wash-in
    gets as many frames as a long wash-out that passes the same levels. Needs no arrival.

    Attributes:
        quantiles: Darkest and brightest share of the frames to take from, 0 to 1: (0.5, 1) is the
            brighter half.
    """

    quantiles: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.quantiles
        if not 0 <= low < high <= 1:
            raise DataError(
                f"quantiles must be two numbers of 0 to 1, the lower first, got "
                f"{self.quantiles!r}. (0, 1) takes from all frames."
            )

    def windows(self, clip: ClipTimes, *, rng: np.random.Generator) -> list[Window]:
        """See the base class; `rng` is not used."""
        del rng
        low, high = (quantile * clip.frames for quantile in self.quantiles)
        ranks = np.minimum(self.spread(low, high - low), clip.frames - 1)
        return [np.sort(np.argsort(clip.curve, kind="stable")[ranks])]
