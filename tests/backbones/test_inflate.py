"""Inflation keeps what a 2D network has learned, or is refused by the name of the module."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import EncoderError, InflatedVideoEncoder
from backbones.image import create_timm
from backbones.inflate import inflate


def net_2d(name: str, **model_args: Any) -> Any:
    """A timm net whose batch norms hold other statistics and weights than 0 and 1."""
    net = create_timm(name, pretrained=False, image_size=None, model_args=model_args).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
    return net


@pytest.mark.parametrize(
    ("name", "size", "model_args"),
    [
        ("densenet121", 48, {}),
        ("resnet18", 48, {}),
        ("resnet50", 40, {}),
        ("resnext50_32x4d", 32, {}),
        ("efficientnet_b0", 48, {}),
        ("mobilenetv2_100", 48, {}),
        ("mobilenetv3_small_100", 48, {}),
        ("regnety_002", 48, {}),
    ],
)
def test_constant_clip_gives_the_features_of_its_frame(
    name: str, size: int, model_args: dict[str, Any]
) -> None:
    net = net_2d(name, **model_args)
    image = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = net(image)
        inflated = inflate(net, name=name)
        for frames in (1, 4, 5):
            clip = image[:, :, None].expand(-1, -1, frames, -1, -1)
            features = inflated(clip) / expected.abs().max()
            torch.testing.assert_close(features, expected / expected.abs().max(), rtol=0, atol=1e-4)
    assert not expected.allclose(expected[:1])


def test_every_convolution_and_pooling_became_3d() -> None:
    net = inflate(net_2d("densenet121"), name="densenet121")
    flat = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
    assert not [type(module) for module in net.modules() if isinstance(module, flat)]


def test_inflated_weights_are_the_2d_ones_spread_over_time() -> None:
    net = net_2d("resnet18")
    before = copy.deepcopy(net.state_dict())
    after = inflate(net, name="resnet18").state_dict()
    torch.testing.assert_close(after["conv1.weight"].sum(dim=2), before["conv1.weight"])
    assert after["conv1.weight"].shape == (64, 3, 3, 7, 7)
    assert after["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1, 1)


def test_motion_changes_the_features() -> None:
    encoder = InflatedVideoEncoder("resnet18", model_args={"channels": [8, 16, 32, 64]}).eval()
    frames = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        moving = encoder(frames)
        still = encoder(frames[:, :, :1].expand(-1, -1, 4, -1, -1))
    assert not torch.allclose(moving, still)


def test_time_is_halved_three_times() -> None:
    encoder = InflatedVideoEncoder("resnet18").eval()
    lengths: list[int] = []
    encoder.net.layer4.register_forward_hook(lambda _module, _in, out: lengths.append(out.shape[2]))
    with torch.no_grad():
        for frames in (1, 8, 9, 32):
            encoder(torch.zeros(1, 3, frames, 32, 32))
    assert lengths == [1, 1, 2, 4]


def test_training_mode_is_kept() -> None:
    net = create_timm("resnet18", pretrained=False, image_size=None, model_args=None)
    assert inflate(net.train(), name="resnet18").training
    net = create_timm("resnet18", pretrained=False, image_size=None, model_args=None)
    assert not inflate(net.eval(), name="resnet18").training


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("convnext_atto", "LayerNorm"),
        ("vit_tiny_patch16_224", "PatchEmbed|LayerNorm"),
        ("resnetblur18", "BlurPool2d"),
        ("resnetv2_50x1_bit", "StdConv2d"),
    ],
)
def test_module_without_an_equivalent_is_refused_by_name(name: str, module: str) -> None:
    with pytest.raises(EncoderError, match=f"got '{name}', which has a ({module})"):
        InflatedVideoEncoder(name)


def test_convolution_that_pads_otherwise_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(EncoderError, match=r"which has a Conv2d"):
        inflate(net, name="own")


def test_arithmetic_for_images_only_is_refused_by_name() -> None:
    with pytest.raises(EncoderError, match=r"whose InceptionA does arithmetic for images only"):
        InflatedVideoEncoder("inception_v3")  # pools by a function, not by a module


def test_other_features_on_a_constant_clip_are_refused() -> None:
    class Scaled(nn.Module):
        """Divides by the number of rows, which the third dimension of a clip is not."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).flatten(2).mean(dim=2) / x.shape[2]

    with pytest.raises(EncoderError, match=r"keeps its features on a constant clip, got 'scaled'"):
        inflate(Scaled(), name="scaled")
