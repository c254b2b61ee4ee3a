"""Positions learned at one size, carried to another: torchvision's MViT and Video Swin."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import video as tv

from backbones import TorchvisionVideoEncoder

mvit = partial(TorchvisionVideoEncoder, model_args={"embed_dim": 16, "depths": [1, 1, 2, 1]})
LIGHT_SWIN = {"embed_dim": 16, "depths": [2, 1, 1, 1], "num_heads": [1, 2, 4, 8]}
swin = partial(TorchvisionVideoEncoder, "swin3d_t", model_args=LIGHT_SWIN)


def features(encoder: Any) -> torch.Tensor:
    """Of the same clip for encoders of the same size."""
    size = encoder.video_size
    clip = torch.randn(
        1, 3, encoder.num_frames, size, size, generator=torch.Generator().manual_seed(2)
    )
    with torch.no_grad():
        return encoder.eval()(clip)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["mvit_v1_b", "mvit_v2_s"])
def test_mvit_loads_its_own_size_exactly(name: str, tmp_path: Path) -> None:
    trained = mvit(name, video_size=32, num_frames=4)
    torch.save(trained.net.state_dict(), tmp_path / "net.pth")
    loaded = mvit(name, video_size=32, num_frames=4, pretrained=tmp_path / "net.pth")
    assert torch.equal(features(loaded), features(trained))


@pytest.mark.parametrize("name", ["mvit_v1_b", "mvit_v2_s"])
@pytest.mark.parametrize(("size", "frames"), [(96, 8), (32, 2)])
def test_mvit_positions_are_interpolated(name: str, size: int, frames: int, tmp_path: Path) -> None:
    trained = mvit(name, video_size=64, num_frames=4)
    state = trained.net.state_dict()
    tables = [key for key in state if "rel_pos" in key or key.endswith("l_pos")]
    assert tables
    for key in tables:  # tables that are the same at any length: one value for each channel
        state[key] = torch.arange(state[key].shape[1]).float().expand_as(state[key])
    torch.save(state, tmp_path / "net.pth")
    loaded = mvit(name, video_size=size, num_frames=frames, pretrained=tmp_path / "net.pth")
    changed = 0
    for key, value in loaded.net.state_dict().items():
        if key in tables:
            changed += value.shape != state[key].shape
            torch.testing.assert_close(value, state[key][:1].expand_as(value))
        else:
            assert torch.equal(value, state[key]), key
    assert changed
    assert features(loaded).isfinite().all()


def test_mvit_relative_positions_keep_their_order(tmp_path: Path) -> None:
    state = mvit("mvit_v2_s", video_size=32, num_frames=4).net.state_dict()
    key = "blocks.0.attn.rel_pos_h"
    ramp = torch.linspace(-1, 1, len(state[key]))
    state[key] = ramp[:, None].expand_as(state[key]).clone()
    torch.save(state, tmp_path / "net.pth")
    larger = mvit("mvit_v2_s", video_size=64, num_frames=4, pretrained=tmp_path / "net.pth")
    row = larger.net.state_dict()[key][:, 0]
    assert len(row) > len(ramp)
    assert (row.diff() >= 0).all()
    torch.testing.assert_close(row, -row.flip(0))


def test_mvit_at_another_patch_size_runs(tmp_path: Path) -> None:
    args = {"patch_embed_kernel": [3, 11, 11], "patch_embed_stride": [2, 8, 8]}
    encoder = TorchvisionVideoEncoder(
        "mvit_v2_s",
        video_size=48,
        num_frames=4,
        model_args={"embed_dim": 16, "depths": [1, 1, 1], **args, "patch_embed_padding": [1, 5, 5]},
    )
    assert features(encoder).shape == (1, 64)


@pytest.mark.parametrize(("size", "frames"), [(32, 4), (28, 16)])
def test_swin_loads_its_own_size_exactly(size: int, frames: int, tmp_path: Path) -> None:
    trained = swin(video_size=size, num_frames=frames)
    torch.save(trained.net.state_dict(), tmp_path / "net.pth")
    loaded = swin(video_size=size, num_frames=frames, pretrained=tmp_path / "net.pth")
    assert torch.equal(features(loaded), features(trained))


def full_swin() -> Any:
    """Torchvision's own Video Swin, its windows as large as they come, biases far from zero."""
    net = tv.SwinTransformer3d(patch_size=[2, 4, 4], window_size=[8, 7, 7], **LIGHT_SWIN)
    for name, parameter in net.named_parameters():
        if "bias_table" in name:
            torch.nn.init.normal_(parameter)
    return net


def test_swin_with_full_windows_gives_torchvisions_features(tmp_path: Path) -> None:
    args = {**LIGHT_SWIN, "depths": [2], "num_heads": [1]}
    theirs = tv.SwinTransformer3d(patch_size=[2, 4, 4], window_size=[8, 7, 7], **args)
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    ours = TorchvisionVideoEncoder(
        "swin3d_t", video_size=32, num_frames=16, model_args=args, pretrained=tmp_path / "net.pth"
    )
    theirs.head = torch.nn.Identity()
    with torch.no_grad():
        clip = torch.randn(1, 3, 16, 32, 32)
        torch.testing.assert_close(ours.eval()(clip), theirs.eval()(clip))


def test_swin_keeps_the_biases_of_the_distances_that_are_left(tmp_path: Path) -> None:
    theirs = full_swin()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    ours = swin(video_size=16, num_frames=4, pretrained=tmp_path / "net.pth")
    full, small = theirs.features[0][0].attn, ours.net.features[0][0].attn
    assert small.window_size == [2, 4, 4]
    biases = [a.get_relative_position_bias(a.window_size)[0, 0] for a in (full, small)]

    def bias(which: int, a: tuple[int, int, int], b: tuple[int, int, int]) -> torch.Tensor:
        _, height, width = (full, small)[which].window_size
        i, j = ((t * height + y) * width + x for t, y, x in (a, b))
        return biases[which][i, j]

    for a, b in [((0, 0, 0), (1, 3, 2)), ((1, 3, 3), (0, 0, 0)), ((1, 0, 3), (1, 2, 0))]:
        assert bias(0, a, b) == bias(1, a, b)
    assert features(ours).isfinite().all()
