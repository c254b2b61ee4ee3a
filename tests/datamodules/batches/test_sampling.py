import math
from dataclasses import dataclass

import numpy as np
import pytest

import datamodules
from datamodules import (
    ClipTimes,
    DataError,
    FrameSampling,
    KeyFrames,
    PhaseFrames,
    TimedWindow,
    UniformFrames,
    WindowGrid,
)


@dataclass(frozen=True)
class FirstSeconds(FrameSampling):
    """A strategy as a user would write it."""

    seconds: float

    def windows(self, clip: ClipTimes, *, rng: np.random.Generator) -> list[np.ndarray]:
        return [self.spread(0, min(self.seconds * clip.fps, clip.frames))]


SAMPLINGS = [
    UniformFrames(num_frames=8),
    *(
        TimedWindow(num_frames=8, clip_seconds=2.5, start=start)
        for start in ("arrival", "peak", "random", 0, 3.5)
    ),
    TimedWindow(num_frames=8, clip_seconds=2.5, lead_seconds=9.0),
    WindowGrid(num_frames=8, clip_seconds=2.5, num_windows=3),
    WindowGrid(num_frames=1, clip_seconds=1e-9, num_windows=5),
    PhaseFrames(num_frames=8),
    PhaseFrames(num_frames=5, shares=(0, 0, 0, 1), after_seconds=0),
    PhaseFrames(num_frames=6, before_seconds=0, peak_seconds=0),
    KeyFrames(num_frames=8),
    KeyFrames(num_frames=3, quantiles=(0.9, 1)),
    FirstSeconds(num_frames=8, seconds=2.0),
    UniformFrames(num_frames=8, shift_seconds=9.0, speed=0.5, jitter_seconds=3.0),
    FirstSeconds(num_frames=8, seconds=2.0, speed=0.3),
]


def clip_of(
    frames: int, *, fps: float = 10.0, arrival: float | None = None, peak: float | None = None
) -> ClipTimes:
    """A clip as long as asked; arrival and peak are shares of its length."""
    curve = np.random.default_rng(0).uniform(0, 255, frames).astype(np.float32)
    seconds = [None if share is None else share * frames / fps for share in (arrival, peak)]
    return ClipTimes(curve=curve, fps=fps, arrival_s=seconds[0], peak_s=seconds[1])


def draw(sampling: FrameSampling, clip: ClipTimes, *, seed: int = 0) -> list[np.ndarray]:
    return sampling.draw(clip, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("frames", [1, 2, 7, 8, 25, 26, 400])
@pytest.mark.parametrize("fps", [0.5, 8.0, 29.97])
def test_indices_are_of_the_clip_and_in_order(
    sampling: FrameSampling, frames: int, fps: float
) -> None:
    for seed, (arrival, peak) in enumerate([(None, None), (0, 0.5), (0.3, None), (0.9, 0.99)]):
        clip = clip_of(frames, fps=fps, arrival=arrival, peak=peak)
        chosen = draw(sampling, clip, seed=seed)
        assert len(chosen) >= 1
        for window in chosen:
            assert window.dtype == np.int64
            assert window.shape == (sampling.num_frames,)
            assert window.min() >= 0
            assert window.max() < frames
            assert (np.diff(window) >= 0).all()


def test_uniform_frames_lie_in_the_middle_of_their_shares() -> None:
    assert draw(UniformFrames(num_frames=4), clip_of(16))[0].tolist() == [2, 6, 10, 14]
    assert draw(UniformFrames(num_frames=4), clip_of(4))[0].tolist() == [0, 1, 2, 3]
    assert draw(UniformFrames(num_frames=4), clip_of(2))[0].tolist() == [0, 0, 1, 1]


def test_random_windows_last_their_time_and_reach_both_ends() -> None:
    sampling = TimedWindow(num_frames=5, clip_seconds=1.0, start="random")
    chosen = np.array([draw(sampling, clip_of(40), seed=seed)[0] for seed in range(400)])
    assert set(np.diff(chosen).ravel()) <= {1, 2, 3}  # 2 frames apart, each rounded down
    assert (chosen.max(axis=1) - chosen.min(axis=1) <= 9).all()
    assert chosen.min() <= 1
    assert chosen.max() >= 38
    assert len(np.unique(chosen[:, 0])) > 25
    assert (draw(sampling, clip_of(40), seed=3)[0] == chosen[3]).all()


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"start": "arrival"}, 30),
        ({"start": "arrival", "lead_seconds": 1.0}, 20),
        ({"start": "arrival", "lead_seconds": 99.0}, 0),
        ({"start": "peak"}, 60),
        ({"start": 4.0}, 40),
        ({"start": 0}, 0),
        ({"start": 9.5}, 80),  # moved to end with the clip
    ],
)
def test_a_window_begins_where_it_is_told(settings: dict, first: int) -> None:
    clip = clip_of(100, arrival=0.3, peak=0.6)
    sampling = TimedWindow(num_frames=20, clip_seconds=2.0, **settings)
    assert draw(sampling, clip)[0].tolist() == [*range(first, first + 20)]
    unknown = clip_of(100)
    if isinstance(settings["start"], str):
        assert draw(sampling, unknown)[0][0] == 0, "the first frame where nothing is known"


def test_a_window_keeps_its_seconds_whatever_the_frame_rate() -> None:
    sampling = TimedWindow(num_frames=8, clip_seconds=4.0)
    seconds = []
    for fps in (5.0, 12.5, 60.0):
        clip = ClipTimes(curve=np.zeros(int(30 * fps)), fps=fps, arrival_s=7.0)
        seconds.append(draw(sampling, clip)[0] / fps)
    assert np.ptp(seconds, axis=0).max() <= 1 / 5.0
    assert np.abs(seconds[2] - (7 + 4 * (np.arange(8) + 0.5) / 8)).max() < 1 / 60


def test_a_grid_goes_from_start_to_end() -> None:
    grid = WindowGrid(num_frames=2, clip_seconds=1.0, num_windows=3)
    assert [w.tolist() for w in draw(grid, clip_of(30))] == [[2, 7], [12, 17], [22, 27]]
    assert [w.tolist() for w in draw(grid, clip_of(10))] == [[2, 7]]
    single = WindowGrid(num_frames=2, clip_seconds=1.0, num_windows=1)
    assert [w.tolist() for w in draw(single, clip_of(30))] == [[12, 17]]


def test_each_place_of_a_phase_window_shows_the_same_phase_in_every_clip() -> None:
    sampling = PhaseFrames(num_frames=16, peak_seconds=2.0, after_seconds=10.0)
    assert sampling.counts == (2, 6, 2, 6)
    for arrival, peak, fps in ((3.0, 9.0, 10.0), (10.0, 12.0, 25.0), (6.0, 30.0, 8.0)):
        clip = ClipTimes(curve=np.zeros(int(60 * fps)), fps=fps, arrival_s=arrival, peak_s=peak)
        seconds = (draw(sampling, clip)[0] + 0.5) / fps
        around = min(1.0, (peak - arrival) / 2)
        assert (seconds[:2] < arrival).all()
        assert (seconds[:2] > arrival - 5.1).all()
        assert ((seconds[2:8] >= arrival) & (seconds[2:8] <= peak - around)).all()
        assert (np.abs(seconds[8:10] - peak) <= 1 + 1 / fps).all()
        assert ((seconds[10:] > peak) & (seconds[10:] < peak + 11.1)).all()


def test_a_phase_that_a_clip_lacks_leaves_the_others_in_their_places() -> None:
    sampling = PhaseFrames(num_frames=8, shares=(2, 2, 2, 2), peak_seconds=2.0)
    at_once = ClipTimes(curve=np.zeros(200), fps=10.0, arrival_s=0.0, peak_s=8.0)
    assert draw(sampling, at_once)[0].tolist() == [0, 0, 17, 52, 75, 85, 117, 172]
    no_peak = ClipTimes(curve=np.zeros(200), fps=10.0, arrival_s=10.0)
    window = draw(sampling, no_peak)[0]
    assert window[:2].tolist() == [62, 87]
    assert window[4:].tolist() == [192, 197, 199, 199]
    unknown = draw(sampling, ClipTimes(curve=np.zeros(200), fps=10.0))[0]
    assert unknown.tolist() == draw(UniformFrames(num_frames=8), at_once)[0].tolist()


@pytest.mark.parametrize("num_frames", [1, 2, 7, 8, 32])
def test_phase_counts_are_shares_that_sum(num_frames: int) -> None:
    counts = PhaseFrames(num_frames=num_frames).counts
    assert sum(counts) == num_frames
    exact = np.array([1, 3, 1, 3]) * num_frames / 8
    assert (np.abs(counts - exact) < 1).all()


def test_key_frames_step_evenly_through_brightness() -> None:
    rise, fall = np.linspace(0, 100, 10), np.linspace(100, 0, 190)
    curve = np.concatenate([rise, fall])
    clip = ClipTimes(curve=curve, fps=10.0)
    window = draw(KeyFrames(num_frames=20), clip)[0]
    assert np.abs(np.sort(curve[window]) - np.linspace(2.5, 97.5, 20)).max() < 1
    bright = draw(KeyFrames(num_frames=20, quantiles=(0.8, 1.0)), clip)[0]
    assert curve[bright].min() >= np.quantile(curve, 0.79)


def test_variation_in_time_stays_within_its_settings() -> None:
    clip, plain = clip_of(1000), UniformFrames(num_frames=10)
    window = draw(plain, clip)[0]
    still = UniformFrames(num_frames=10, shift_seconds=0, speed=0, jitter_seconds=0)
    assert (draw(still, clip)[0] == window).all()

    def moved(**settings: float) -> np.ndarray:
        sampling = UniformFrames(num_frames=10, **settings)
        return np.array([draw(sampling, clip, seed=seed)[0] for seed in range(200)])

    shifted = moved(shift_seconds=2.0) - window
    assert np.ptp(shifted, axis=1).max() <= 1, "all frames move together"
    assert (shifted.min(), shifted.max()) == (pytest.approx(-20, abs=1), pytest.approx(20, abs=1))

    faster = np.diff(moved(speed=0.1)[:, [0, 5]]).ravel() / (window[5] - window[0])
    assert 1 / 1.1 - 0.01 < faster.min() < 0.93
    assert 1.08 < faster.max() < 1.11

    jittered = moved(jitter_seconds=1.0) - window
    assert np.abs(jittered).max() <= 11
    assert np.abs(jittered).max() >= 9
    assert np.ptp(jittered, axis=1).min() > 2, "each frame moves by itself"


@pytest.mark.parametrize(
    ("sampling", "settings", "match"),
    [
        (UniformFrames, {"num_frames": 0}, "num_frames must be 1 or more, got 0"),
        (UniformFrames, {"shift_seconds": -1.0}, "shift_seconds must be 0 or more, got -1"),
        (UniformFrames, {"jitter_seconds": math.inf}, "jitter_seconds must be 0 or more, got inf"),
        (UniformFrames, {"speed": 0.6}, "speed must be 0 to 0.5, got 0.6"),
        (TimedWindow, {"clip_seconds": 0.0}, "clip_seconds must be above 0"),
        (TimedWindow, {"clip_seconds": 1.0, "start": -1}, "start must be arrival, peak, .*got -1"),
        (TimedWindow, {"clip_seconds": 1.0, "start": "end"}, "start must be .*got 'end'"),
        (TimedWindow, {"clip_seconds": 1.0, "lead_seconds": -1}, "lead_seconds must be 0 or more"),
        (
            WindowGrid,
            {"clip_seconds": float("nan"), "num_windows": 1},
            "clip_seconds must be above 0, got nan",
        ),
        (WindowGrid, {"clip_seconds": 1.0, "num_windows": 0}, "num_windows must be 1 or more"),
        (PhaseFrames, {"shares": (0, 0, 0, 0)}, "shares must be four numbers of 0 or more"),
        (PhaseFrames, {"shares": (1, -1, 1, 1)}, "shares must be four numbers of 0 or more"),
        (PhaseFrames, {"after_seconds": -1.0}, "after_seconds must be 0 or more"),
        (KeyFrames, {"quantiles": (0.5, 0.5)}, "quantiles must be two numbers of 0 to 1"),
    ],
)
def test_settings_out_of_range(
    sampling: type[FrameSampling], settings: dict[str, float], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        sampling(**{"num_frames": 2} | settings)  # type: ignore[arg-type]


def test_every_public_name_can_be_imported_and_no_other() -> None:
    for name in datamodules.__all__:
        assert getattr(datamodules, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = datamodules.Nothing
