import math

import numpy as np
import pytest
import torch

from datamodules import Augment, DataError
from datamodules.batches.augment import normalise, resize

STILL = {"flip": 0.0, "degrees": 0.0, "scale": 0.0, "shift": 0.0, "gain": 0.0}


def parameters(**changes: float) -> torch.Tensor:
    values = {"side": 1.0, "angle": 0.0, "scale": 1.0, "x": 0.0, "y": 0.0, "gain": 1.0} | changes
    return torch.tensor([list(values.values())])


def spot(row: int, column: int, size: int = 33) -> torch.Tensor:
    """One bright pixel in a dark plane, (1, 2, size, size)."""
    frames = torch.zeros(1, 2, size, size)
    frames[..., row, column] = 100
    return frames


def where(frames: torch.Tensor) -> tuple[int, int]:
    row, column = divmod(int(frames[0, 1].argmax()), frames.shape[-1])
    return row, column


def test_draws_follow_the_generator_and_stay_in_range() -> None:
    augment = Augment(flip=0.5, degrees=10, scale=0.2, shift=0.1, gain=0.3)
    draws = torch.stack([augment.draw(np.random.default_rng(seed)) for seed in range(500)])
    assert draws.dtype == torch.float32
    assert draws.shape == (500, 6)
    assert (augment.draw(np.random.default_rng(7)) == draws[7]).all()
    assert set(draws[:, 0].tolist()) == {-1, 1}
    assert 0.4 < (draws[:, 0] < 0).float().mean() < 0.6
    reach = torch.tensor([math.radians(10), 0.2, 0.1, 0.1, 0.3])
    change = draws[:, 1:] - torch.tensor([0.0, 1, 0, 0, 1])
    assert (change.abs() <= reach + 1e-6).all()
    assert (change.abs().amax(0) > 0.95 * reach).all()
    still = Augment(**STILL).draw(np.random.default_rng(0))
    assert still.tolist() == parameters()[0].tolist()


def test_nothing_drawn_changes_nothing() -> None:
    frames = torch.rand(3, 6, 20, 20) * 255
    same = parameters().repeat(3, 1)
    for augment in (Augment(), Augment(**STILL), Augment(**STILL | {"flip": 0.5})):
        torch.testing.assert_close(augment(frames.clone(), same), frames, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("drawn", "start", "end"),
    [
        ({"side": -1.0}, (10, 4), (10, 28)),
        ({"angle": math.pi / 2}, (10, 4), (28, 10)),
        ({"scale": 2.0}, (10, 12), (4, 8)),
        ({"x": 4 / 33}, (10, 4), (10, 0)),
        ({"y": -3 / 33}, (10, 4), (13, 4)),
    ],
)
def test_affine_moves_pixels_where_the_parameters_say(
    drawn: dict[str, float], start: tuple[int, int], end: tuple[int, int]
) -> None:
    moved = Augment()(spot(*start), parameters(**drawn))
    assert where(moved) == end
    assert moved[0, 1].max() == pytest.approx(100, abs=0.1)


def test_a_flip_alone_is_exact() -> None:
    frames = torch.rand(2, 6, 9, 9)
    sides = torch.cat([parameters(side=-1.0), parameters()])
    flipped = Augment(**STILL | {"flip": 0.5})(frames.clone(), sides)
    assert (flipped[0] == frames[0].flip(-1)).all()
    assert (flipped[1] == frames[1]).all()


def test_rows_differ_and_frames_of_a_clip_do_not() -> None:
    augment = Augment(degrees=20, shift=0.2)
    drawn = torch.stack([augment.draw(np.random.default_rng(seed)) for seed in (1, 2)])
    picture = torch.rand(1, 1, 24, 24) * 255
    out = augment(picture.repeat(2, 12, 1, 1), drawn)
    assert (out == out[:, :1]).all()
    assert (out[0] - out[1]).abs().max() > 50


def test_a_time_intensity_curve_is_scaled_and_not_bent() -> None:
    curve = torch.tensor([2.0, 10, 200, 255, 120, 60])
    frames = curve.view(1, 1, 6, 1, 1).expand(1, 3, 6, 40, 40).flatten(1, 2).clone()
    augment = Augment(gain=0.5)
    out = augment(frames, parameters(side=-1.0, angle=0.1, gain=1.4)).view(3, 6, 40, 40)
    torch.testing.assert_close(out[1, :, 20, 20], 1.4 * curve)


UNEVEN = [{"tgc": 0.3}, {"shadow": 1.0}, {"speckle": 0.2}]
EVERYTHING = {"tgc": 0.3, "shadow": 1.0, "speckle": 0.2, "degrees": 20.0, "gain": 0.3}


def brightened(settings: dict[str, float], *, rows: int = 40, size: int = 112) -> torch.Tensor:
    """Planes of grey level 100 as they come out, (rows, size, size), nothing else changed."""
    augment = Augment(**STILL | settings)
    drawn = torch.stack([augment.draw(np.random.default_rng(seed)) for seed in range(rows)])
    return augment(torch.full((rows, 1, size, size), 100.0), drawn)[:, 0]


def test_depth_gain_differs_over_depth_alone() -> None:
    planes = brightened({"tgc": 0.3})
    assert (planes == planes[:, :, :1]).all()
    assert 69 < planes.min() < 75
    assert 125 < planes.max() < 131
    steps = planes[:, 1:, 0] - planes[:, :-1, 0]
    assert steps.abs().max() < 60 / (112 / 5) + 0.1, "straight lines between six depths"
    assert planes[:, :, 0].std(dim=1).min() > 1


def test_a_shadow_is_a_beam_that_begins_at_a_depth() -> None:
    planes = brightened({"shadow": 1.0})
    assert 39 < planes.min() < 50, "what lies in it is still seen"
    assert planes.max() <= 100
    deep = planes[:, -1]
    assert (planes[:, 0] >= deep - 1e-3).all()
    assert (deep.argmin(dim=1).float().std() > 20).item(), "at another place in each row"
    assert deep.amax(dim=1).min() > 99, "and not everywhere"
    half = brightened({"shadow": 0.5}, rows=200)
    assert 0.35 < (half[:, -1].amin(dim=1) > 99.9).float().mean() < 0.65


def test_speckle_is_multiplicative_and_correlated_over_some_pixels() -> None:
    planes = brightened({"speckle": 0.2}, size=224)
    assert planes.mean() == pytest.approx(100, abs=0.5)
    assert planes.std() == pytest.approx(20, rel=0.05)
    noise = planes - planes.mean()

    def alike(distance: int) -> float:
        return float((noise[..., distance:] * noise[..., :-distance]).mean() / noise.var())

    assert alike(1) > 0.8
    assert abs(alike(8)) < 0.05
    augment = Augment(**STILL | {"speckle": 0.9})
    drawn = augment.draw(np.random.default_rng(0))[None]
    out = augment(torch.tensor([0.0, 10.0]).view(1, 2, 1, 1).expand(1, 2, 50, 50).clone(), drawn)
    assert (out[0, 0] == 0).all(), "black stays black"
    assert out.min() == 0, "and nothing is darker"


@pytest.mark.parametrize("settings", [*UNEVEN, EVERYTHING])
def test_uneven_brightness_is_drawn_by_row_and_the_same_in_all_frames(
    settings: dict[str, float],
) -> None:
    augment = Augment(**STILL | settings)
    seeds = [np.random.default_rng(seed) for seed in (1, 2, 1)]
    drawn = torch.stack([augment.draw(rng) for rng in seeds])
    out = augment(torch.full((3, 6, 24, 24), 100.0), drawn)
    assert (out == out[:, :1]).all()
    assert (out[0] == out[2]).all()
    assert (out[0] - out[1]).abs().max() > 5
    alone = augment(torch.full((1, 6, 24, 24), 100.0), drawn[1:2])
    torch.testing.assert_close(out[1:2], alone)


def test_what_is_off_draws_nothing_and_leaves_the_others_as_they_were() -> None:
    plain = Augment().draw(np.random.default_rng(5))
    more = Augment(tgc=0.2, shadow=0.5, speckle=0.1).draw(np.random.default_rng(5))
    assert (more[:6] == plain).all()
    assert len(more) > len(plain) == 6


@pytest.mark.parametrize(
    "setting",
    [
        {"flip": 1.1}, {"degrees": -1.0}, {"scale": 1.0}, {"shift": 2.0}, {"gain": 1.0},
        {"tgc": 1.0}, {"shadow": 1.1}, {"speckle": -0.1},
    ],
)  # fmt: skip
def test_settings_out_of_range(setting: dict[str, float]) -> None:
    name = next(iter(setting))
    with pytest.raises(DataError, match=rf"augment\.{name} must be 0 to .*Set 0 to leave it out"):
        Augment(**setting)


@pytest.mark.parametrize("size", [16, 24, 40])
def test_resize_is_antialiased_and_keeps_rows_frames_and_channels(size: int) -> None:
    # A value of its own for each row, frame and channel, in a checkerboard of one pixel.
    level = torch.arange(2 * 4 * 3).view(2, 4, 3, 1, 1) * 8.0
    board = (torch.arange(40)[:, None] + torch.arange(40)) % 2
    pixels = (level + 40 * board).to(torch.uint8)
    reader_order = pixels.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    for given in (pixels, reader_order):
        out = resize(given, size)
        assert out.shape == (2, 3, 4, size, size)
        assert out.dtype == torch.float32
        assert out.is_contiguous()
        if size == 40:
            assert (out.transpose(1, 2) == pixels).all()
        else:  # without antialias a checkerboard aliases to its extremes
            inner = out[..., 2:-2, 2:-2] - level.transpose(1, 2)
            assert (inner - 20).abs().max() <= 8
        out.mul_(0)
        assert given.float().mean() > 0, "the result is memory of its own"


def test_normalise_and_absent_rows() -> None:
    frames = torch.full((2, 3, 4, 5, 5), 51.0)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.1)
    out = normalise(frames.clone(), mean=mean, std=std)
    assert out[1, :, 3, 4, 4].tolist() == pytest.approx([0.2, 0.0, -1.0], abs=1e-6)
    out = normalise(frames.clone(), mean=mean, std=std, present=torch.tensor([True, False]))
    assert out[0, :, 3, 4, 4].tolist() == pytest.approx([0.2, 0.0, -1.0], abs=1e-6)
    assert (out[1] == 0).all()
