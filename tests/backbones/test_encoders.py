"""The contract of every encoder, over light members of the five families."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import video as tv

from backbones import EncoderError, InflatedVideoEncoder, TimmImageEncoder, TorchvisionVideoEncoder

LIGHT_MVIT = {"embed_dim": 32, "depths": [1, 1, 2, 1]}
LIGHT_SWIN = {**LIGHT_MVIT, "num_heads": [1, 2, 4, 8], "window_size": 4}
LIGHT_SWIN3D = {"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}
LIGHT_DENSENET = {"growth_rate": 12, "block_config": [2, 2, 2, 2]}


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], Any]
    shape: tuple[int, ...]
    says: str  # the shape that a refusal names


def image(name: str, size: int, **model_args: Any) -> Case:
    return Case(
        name,
        lambda: TimmImageEncoder(name, image_size=size, model_args=model_args),
        (3, size, size),
        f"(B, 3, {size}, {size})",
    )


def video(name: str, frames: int, size: int, **model_args: Any) -> Case:
    return Case(
        name,
        lambda: TorchvisionVideoEncoder(
            name, video_size=size, num_frames=frames, model_args=model_args
        ),
        (3, frames, size, size),
        f"(B, 3, {frames}, {size}, {size})",
    )


CASES = [
    image("resnet18", 32, channels=[24, 48, 96, 192]),
    image("densenet121", 32, **LIGHT_DENSENET),
    image("inception_v3", 75, blocks=3),
    image("mvitv2_tiny", 64, **LIGHT_MVIT),
    image("swin_tiny_patch4_window7_224", 64, **LIGHT_SWIN),
    video("r3d_18", 4, 32, width=16, layers=[1, 1, 1, 1]),
    video("mc3_18", 4, 32, width=16, layers=[1, 1, 1, 1]),
    video("r2plus1d_18", 4, 32, width=16, layers=[1, 1, 1, 1]),
    video("s3d", 8, 32, blocks=2),
    video("mvit_v1_b", 4, 32, **LIGHT_MVIT),
    video("mvit_v2_s", 4, 32, **LIGHT_MVIT),
    video("swin3d_t", 4, 32, **LIGHT_SWIN3D),
    Case(
        "densenet121 inflated",
        lambda: InflatedVideoEncoder("densenet121", model_args=LIGHT_DENSENET),
        (3, 4, 32, 32),
        "(B, 3, T, H, W)",
    ),
    Case(
        "resnet18 inflated, at its size",
        lambda: InflatedVideoEncoder(
            "resnet18", video_size=32, num_frames=3, model_args={"channels": [8, 16, 32, 64]}
        ),
        (3, 3, 32, 32),
        "(B, 3, 3, 32, 32)",
    ),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def encoder(case: Case) -> Any:
    torch.manual_seed(1)
    return case.build().eval()


def test_features_have_the_width_promised_and_do_not_depend_on_the_batch(
    case: Case, encoder: Any
) -> None:
    x = torch.randn(2, *case.shape)
    with torch.no_grad():
        features = encoder(x)
        again = encoder(x)
        alone = encoder(x[:1])
    assert features.shape == (2, encoder.num_features)
    assert features.isfinite().all()
    assert not torch.allclose(features[0], features[1])
    assert torch.equal(features, again)
    largest = features.abs().max()  # 1e7 for inception_v3 with random weights
    torch.testing.assert_close(alone / largest, features[:1] / largest, rtol=0, atol=1e-5)


def test_gradient_reaches_every_parameter(case: Case, encoder: Any) -> None:
    encoder.zero_grad()
    features = encoder(torch.randn(2, *case.shape))
    (features * torch.randn_like(features)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_step_of_training_changes_the_features(case: Case) -> None:
    encoder = case.build().train()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1e-3)
    x = torch.randn(2, *case.shape)
    encoder(x).square().mean().backward()
    before = encoder.eval()(x)
    optimizer.step()
    assert not torch.equal(encoder(x), before)


def test_wrong_shape_is_refused_naming_the_right_one(case: Case, encoder: Any) -> None:
    for shape in (case.shape, (2, 1, *case.shape[1:]), (2, *case.shape, 1)):
        expected = f"{re.escape(case.says)}, got {re.escape(str(shape))}"
        with pytest.raises(EncoderError, match=f"input of .* must be of shape {expected}"):
            encoder(torch.zeros(shape))


def test_another_size_is_refused_where_one_was_asked_for(case: Case, encoder: Any) -> None:
    larger = torch.zeros(1, *case.shape[:-1], case.shape[-1] + 4)
    if case.says.endswith("H, W)"):
        assert encoder(larger).shape == (1, encoder.num_features)
        return
    with pytest.raises(EncoderError, match=re.escape(case.says)):
        encoder(larger)


def test_weights_survive_a_file(case: Case, encoder: Any, tmp_path: Path) -> None:
    torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
    other = case.build().eval()
    other.load_state_dict(torch.load(tmp_path / "encoder.pt", weights_only=True))
    x = torch.randn(1, *case.shape)
    with torch.no_grad():
        assert torch.equal(encoder(x), other(x))


def test_timm_net_without_a_fixed_size_takes_any() -> None:
    encoder = TimmImageEncoder("resnet18", model_args={"channels": [8, 16, 32, 64]}).eval()
    assert encoder.image_size is None
    assert encoder(torch.zeros(1, 3, 40, 56)).shape == (1, 64)


def test_timm_net_with_a_fixed_size_falls_back_on_its_own() -> None:
    assert TimmImageEncoder("mvitv2_tiny", model_args=LIGHT_MVIT).image_size == 224


@pytest.mark.parametrize(
    "name", ["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t"]
)
def test_full_size_nets_have_the_weights_of_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours = TorchvisionVideoEncoder(name, video_size=224, num_frames=16).net
        theirs = torchvision.models.get_model(name)
    for head in ("fc", "classifier", "head"):
        if hasattr(theirs, head):
            setattr(theirs, head, nn.Identity())
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_features_are_torchvisions(tmp_path: Path) -> None:
    theirs = tv.r3d_18().eval()
    torch.save(theirs.state_dict(), tmp_path / "r3d_18.pth")
    ours = TorchvisionVideoEncoder(
        "r3d_18", pretrained=tmp_path / "r3d_18.pth", video_size=32, num_frames=4
    ).eval()
    theirs.fc = nn.Identity()
    x = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


# What is refused.


@pytest.mark.parametrize(
    ("name", "size", "model_args", "says"),
    [
        ("inception_v3", 74, {}, r"image_size must be large enough for inception_v3, got 74 .*"
         "Kernel size can't be greater.* Use 75 px or more"),
        ("densenet121", 28, LIGHT_DENSENET, "got 28 .*Use 29 px or more"),
        ("swin_tiny_patch4_window7_224", 3, LIGHT_SWIN, "got 3 .*Raise it, or change model_args"),
        ("mvitv2_tiny", 12, LIGHT_MVIT, "got image_size 12 .*Raise image_size"),
        ("resnet18", 0, {}, r"image_size must be at least 1, got 0 \(resnet18\)"),
    ],
)  # fmt: skip
def test_too_small_image_is_refused(
    name: str, size: int, model_args: dict[str, Any], says: str
) -> None:
    with pytest.raises(EncoderError, match=says):
        TimmImageEncoder(name, image_size=size, model_args=model_args)


@pytest.mark.parametrize(
    ("name", "frames", "size", "model_args", "says"),
    [
        ("s3d", 8, 16, {}, "video_size must be large enough for s3d, got 16 .*Use 17 px or more"),
        ("s3d", 4, 48, {}, "got 48 .*Raise it or num_frames, or change model_args"),
        ("mvit_v2_s", 4, 12, LIGHT_MVIT, "video_size must be a multiple of 4, at least 32, for "
         "mvit_v2_s, got 12. Use 32"),
        ("mvit_v2_s", 4, 30, LIGHT_MVIT, "multiple of 4, .* got 30. Use 32"),
        ("mvit_v2_s", 3, 32, LIGHT_MVIT, "num_frames must be a multiple of 2, .*got 3. Use 4"),
        ("s3d", 8, 48, {"blocks": 10}, "blocks must be 1 to 9, got 10"),
        ("swin3d_t", 4, 32, {**LIGHT_SWIN3D, "num_heads": [5, 5, 5, 5]}, "change model_args"),
        ("r3d_18", 0, 32, {}, r"num_frames must be at least 1, got 0 \(r3d_18\)"),
        ("r3d_18", 4, 0, {}, r"video_size must be at least 1, got 0 \(r3d_18\)"),
    ],
)  # fmt: skip
def test_too_small_clip_is_refused(
    name: str, frames: int, size: int, model_args: dict[str, Any], says: str
) -> None:
    with pytest.raises(EncoderError, match=says):
        TorchvisionVideoEncoder(name, num_frames=frames, video_size=size, model_args=model_args)


def test_too_small_inflated_clip_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"video_size must be large enough .*Use 29 px or more"):
        InflatedVideoEncoder("densenet121", video_size=28, model_args=LIGHT_DENSENET)
    with pytest.raises(EncoderError, match=r"num_frames must be at least 1, got 0"):
        InflatedVideoEncoder("densenet121", num_frames=0, model_args=LIGHT_DENSENET)


@pytest.mark.parametrize("encoder_class", [TimmImageEncoder, InflatedVideoEncoder])
def test_unknown_timm_name_is_refused_with_suggestions(encoder_class: Any) -> None:
    with pytest.raises(EncoderError, match=r"got 'resnet5o'. Did you mean .*resnet50"):
        encoder_class("resnet5o")
    with pytest.raises(
        EncoderError, match=r"got 'resnet50.a9_in1k'. Did you mean .*resnet50.a3_in1k"
    ):
        encoder_class("resnet50.a9_in1k")
    with pytest.raises(EncoderError, match=r"got 'ünknöwn'. See timm.list_models\(\)"):
        encoder_class("ünknöwn")


def test_unknown_torchvision_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(EncoderError, match=r"got 'r3d_19'. Choose one of .*r3d_18, s3d"):
        TorchvisionVideoEncoder("r3d_19", video_size=32, num_frames=4)


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(EncoderError, match=r"model_args must be ones that resnet18 takes.*depht"):
        TimmImageEncoder("resnet18", model_args={"depht": 3})
    for name in ("r3d_18", "s3d", "mvit_v2_s", "swin3d_t"):
        with pytest.raises(EncoderError, match=f"model_args must be ones that {name} takes.*depht"):
            TorchvisionVideoEncoder(name, video_size=32, num_frames=8, model_args={"depht": 3})


def test_net_without_its_pooling_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"one feature vector per input, got .*\(1, 512, 7, 7\)"):
        TimmImageEncoder("resnet18", model_args={"global_pool": ""})
