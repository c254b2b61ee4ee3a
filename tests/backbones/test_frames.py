"""Frames as images: the features are those of the frames, pooled."""

import pytest
import timm
import torch

from backbones import EncoderError, FrameVideoEncoder

ARGS = {"channels": [8, 8, 8, 16], "layers": [1, 1, 1, 1]}


def encoder(**settings: object) -> FrameVideoEncoder:
    torch.manual_seed(0)
    settings = {"video_size": 32, "num_frames": 4, "model_args": ARGS} | settings
    return FrameVideoEncoder("resnet18", **settings).eval()  # type: ignore[arg-type]


def test_features_are_mean_and_spread_of_the_frames() -> None:
    net = encoder()
    clip = torch.randn(2, 3, 4, 32, 32)
    plain = timm.create_model("resnet18", num_classes=0, **ARGS).eval()
    plain.load_state_dict(net.net.state_dict())
    with torch.no_grad():
        frames = torch.stack([plain(clip[:, :, t]) for t in range(4)], dim=1)
        expected = torch.cat([frames.mean(1), frames.std(1, correction=0)], dim=1)
        torch.testing.assert_close(net(clip), expected, atol=1e-3, rtol=1e-3)
        mean = encoder(pooling="mean")
        torch.testing.assert_close(
            mean(clip), expected[:, : mean.num_features], atol=1e-4, rtol=1e-4
        )
    assert net.num_features == 2 * mean.num_features == 32


def test_attention_is_a_weighted_mean_that_learns() -> None:
    net = encoder(pooling="attention")
    still = torch.randn(1, 3, 1, 32, 32).expand(1, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(still), net.net(still[:, :, 0]), atol=1e-4, rtol=1e-4)
    net(torch.randn(2, 3, 4, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in net.attention.parameters())


def test_a_clip_that_stands_still_has_finite_gradients() -> None:
    net = encoder()
    clip = torch.randn(1, 3, 1, 32, 32).expand(1, 3, 4, 32, 32).clone().requires_grad_()
    net(clip).sum().backward()
    assert clip.grad is not None
    assert clip.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "median"}, "pooling must be one of mean, mean_sd, attention, got 'median'"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"video_size": 0}, "video_size must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        encoder(**settings)


def test_another_shape_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"must be of shape \(B, 3, 4, 32, 32\)"):
        encoder()(torch.randn(1, 3, 5, 32, 32))
