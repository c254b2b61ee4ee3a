import numpy as np
import pytest

import datamodules
from datamodules import DataError, FrameSampling, RandomWindow, UniformFrames, WindowGrid

SAMPLINGS = [
    UniformFrames(num_frames=8),
    RandomWindow(num_frames=8, clip_seconds=2.5),
    WindowGrid(num_frames=8, clip_seconds=2.5, num_windows=3),
    WindowGrid(num_frames=1, clip_seconds=1e-9, num_windows=5),
]


def windows(sampling: FrameSampling, *, frames: int, fps: float = 10.0, seed: int = 0) -> list:
    return sampling.windows(frames=frames, fps=fps, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("frames", [1, 2, 7, 8, 25, 26, 400])
@pytest.mark.parametrize("fps", [0.5, 8.0, 29.97])
def test_indices_are_of_the_clip_and_in_order(
    sampling: FrameSampling, frames: int, fps: float
) -> None:
    for seed in range(5):
        chosen = windows(sampling, frames=frames, fps=fps, seed=seed)
        assert len(chosen) >= 1
        for window in chosen:
            assert window.dtype == np.int64
            assert window.shape == (sampling.num_frames,)
            assert window.min() >= 0
            assert window.max() < frames
            assert (np.diff(window) >= 0).all()


def test_uniform_frames_lie_in_the_middle_of_their_shares() -> None:
    assert windows(UniformFrames(num_frames=4), frames=16)[0].tolist() == [2, 6, 10, 14]
    assert windows(UniformFrames(num_frames=4), frames=4)[0].tolist() == [0, 1, 2, 3]
    assert windows(UniformFrames(num_frames=4), frames=2)[0].tolist() == [0, 0, 1, 1]


def test_random_windows_last_their_time_and_reach_both_ends() -> None:
    sampling = RandomWindow(num_frames=5, clip_seconds=1.0)
    chosen = np.array([windows(sampling, frames=40, seed=seed)[0] for seed in range(400)])
    assert set(np.diff(chosen).ravel()) <= {1, 2, 3}  # 2 frames apart, each rounded down
    assert (chosen.max(axis=1) - chosen.min(axis=1) <= 9).all()
    assert chosen.min() <= 1
    assert chosen.max() >= 38
    assert len(np.unique(chosen[:, 0])) > 25
    assert (windows(sampling, frames=40, seed=3)[0] == chosen[3]).all()


def test_a_grid_goes_from_start_to_end() -> None:
    grid = WindowGrid(num_frames=2, clip_seconds=1.0, num_windows=3)
    assert [w.tolist() for w in windows(grid, frames=30)] == [[2, 7], [12, 17], [22, 27]]
    assert [w.tolist() for w in windows(grid, frames=10)] == [[2, 7]]
    single = WindowGrid(num_frames=2, clip_seconds=1.0, num_windows=1)
    assert [w.tolist() for w in windows(single, frames=30)] == [[12, 17]]


@pytest.mark.parametrize(
    ("sampling", "settings", "match"),
    [
        (UniformFrames, {"num_frames": 0}, "num_frames must be 1 or more, got 0"),
        (RandomWindow, {"num_frames": 2, "clip_seconds": 0.0}, "clip_seconds must be above 0"),
        (
            WindowGrid,
            {"num_frames": 2, "clip_seconds": float("nan"), "num_windows": 1},
            "clip_seconds must be above 0, got nan",
        ),
        (
            WindowGrid,
            {"num_frames": 2, "clip_seconds": 1.0, "num_windows": 0},
            "num_windows must be 1 or more, got 0",
        ),
    ],
)
def test_settings_out_of_range(
    sampling: type[FrameSampling], settings: dict[str, float], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        sampling(**settings)  # type: ignore[arg-type]


def test_every_public_name_can_be_imported_and_no_other() -> None:
    for name in datamodules.__all__:
        assert getattr(datamodules, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = datamodules.Nothing
