"""Pretrained weights: from real files and failing downloads, all or nothing."""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from backbones import EncoderError, InflatedVideoEncoder, TimmImageEncoder, TorchvisionVideoEncoder

LIGHT_RESNET = {"channels": [8, 16, 32, 64]}
light_resnet = partial(TimmImageEncoder, "resnet18", model_args=LIGHT_RESNET)
light_video = partial(
    TorchvisionVideoEncoder,
    "r3d_18",
    video_size=16,
    num_frames=2,
    model_args={"width": 8, "layers": [1, 1, 1, 1]},
)


@pytest.fixture(scope="module")
def imagenet(shared_weights: Path) -> Path:
    """The ImageNet weights of timm's mobilenetv2_100."""
    path = shared_weights / "mobilenetv2_100.imagenet.safetensors"
    if not path.is_file():
        pytest.skip(f"the real weights are not here: {path}")
    return path


def test_real_weights_give_timms_features(imagenet: Path) -> None:
    encoder = TimmImageEncoder("mobilenetv2_100", pretrained=imagenet).eval()
    reference = timm.create_model("mobilenetv2_100").eval()
    reference.load_state_dict(load_file(imagenet))
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = reference.forward_head(reference.forward_features(image), pre_logits=True)
        assert torch.equal(encoder(image), expected)


def test_real_weights_survive_inflation(imagenet: Path) -> None:
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = TimmImageEncoder("mobilenetv2_100", pretrained=imagenet).eval()(image)
        encoder = InflatedVideoEncoder("mobilenetv2_100", pretrained=imagenet).eval()
        features = encoder(image[:, :, None].expand(-1, -1, 4, -1, -1))
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-4)


def test_a_setting_left_empty_is_no_random_network() -> None:
    for encoder in (light_resnet, light_video):
        with pytest.raises(EncoderError, match="existing file, got nothing"):
            encoder(pretrained=None)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    state = {key: value.to(torch.int32) for key, value in light_resnet().net.state_dict().items()}
    torch.save(state, path := tmp_path / "whole.pth")
    with pytest.raises(EncoderError, match="is of int32, not of floating point"):
        light_resnet(pretrained=path)


def test_real_weights_of_another_net_are_refused(imagenet: Path) -> None:
    says = r"must fit mobilenetv3_small_100: .*conv_stem.weight is \(32, 3, 3, 3\) in the file"
    with pytest.raises(EncoderError, match=says):
        TimmImageEncoder("mobilenetv3_small_100", pretrained=imagenet)


def state_of(encoder: Any) -> dict[str, torch.Tensor]:
    return dict(encoder.net.state_dict())


@pytest.mark.parametrize(
    ("build", "head"), [(light_resnet, "fc"), (light_video, "fc")], ids=["timm", "torchvision"]
)
class TestFile:
    """What both kinds of encoder make of a file."""

    @pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state"])
    def test_loads_and_leaves_the_classifier_out(
        self, build: Callable[..., Any], head: str, wrapper: str | None, tmp_path: Path
    ) -> None:
        other = build()
        weights: dict[str, Any] = {**state_of(other), f"{head}.weight": torch.ones(9, 64)}
        torch.save({wrapper: weights} if wrapper else weights, tmp_path / "net.pth")
        loaded = state_of(build(pretrained=tmp_path / "net.pth"))
        assert all(torch.equal(loaded[key], value) for key, value in state_of(other).items())

    def test_keys_that_do_not_fit_are_listed(
        self, build: Callable[..., Any], head: str, tmp_path: Path
    ) -> None:
        weights = state_of(build())
        first, *_, last = [key for key, value in weights.items() if value.ndim > 1]
        short = {key: value for key, value in weights.items() if key not in (first, last)}
        torch.save({**short, "strange.weight": torch.ones(1)}, tmp_path / "net.pth")
        says = f"{first} is missing; {last} is missing; strange.weight is unexpected.*model_args"
        with pytest.raises(EncoderError, match=says):
            build(pretrained=tmp_path / "net.pth")
        torch.save({**weights, first: torch.ones(2, 2)}, tmp_path / "net.pth")
        with pytest.raises(EncoderError, match=rf"{first} is \(2, 2\) in the file and \(\d"):
            build(pretrained=tmp_path / "net.pth")

    def test_values_that_are_not_finite_are_refused(
        self, build: Callable[..., Any], head: str, tmp_path: Path
    ) -> None:
        weights = state_of(build())
        name = [key for key, value in weights.items() if value.ndim > 1][1]
        weights[name].view(-1)[5] = torch.nan
        torch.save(weights, tmp_path / "net.pth")
        with pytest.raises(EncoderError, match=f"{name} holds values that are not finite"):
            build(pretrained=tmp_path / "net.pth")

    def test_many_wrong_keys_are_counted(
        self, build: Callable[..., Any], head: str, tmp_path: Path
    ) -> None:
        torch.save({"strange.weight": torch.ones(1)}, tmp_path / "net.pth")
        with pytest.raises(EncoderError, match=r"is missing and \d+ more"):
            build(pretrained=tmp_path / "net.pth")

    def test_missing_file_is_refused(
        self, build: Callable[..., Any], head: str, tmp_path: Path
    ) -> None:
        with pytest.raises(
            EncoderError, match=r"must be true, false or an existing file.*none.pth"
        ):
            build(pretrained=tmp_path / "none.pth")

    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    def test_file_of_another_kind_is_refused(
        self, build: Callable[..., Any], head: str, suffix: str, tmp_path: Path
    ) -> None:
        path = tmp_path / f"notes.{suffix}"
        path.write_text("no weights at all")
        with pytest.raises(EncoderError, match=r"must be a .safetensors or .pth file .*notes"):
            build(pretrained=path)

    @pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}])
    def test_file_without_weights_is_refused(
        self, build: Callable[..., Any], head: str, content: Any, tmp_path: Path
    ) -> None:
        torch.save(content, tmp_path / "net.pth")
        with pytest.raises(EncoderError, match=r"must hold tensors by name, got (list|dict)"):
            build(pretrained=tmp_path / "net.pth")

    def test_pickle_with_code_is_refused_and_not_run(
        self, build: Callable[..., Any], head: str, tmp_path: Path
    ) -> None:
        target = tmp_path / "ran"
        torch.save({"fc.weight": _Touches(target)}, tmp_path / "net.pth")
        (tmp_path / "plain.bin").write_bytes(pickle.dumps(_Touches(target), protocol=2))
        for name in ("net.pth", "plain.bin"):
            with pytest.raises(
                EncoderError, match=r"must be a .* file of weights.*holds objects beside tensors"
            ):
                build(pretrained=tmp_path / name)
        assert not target.exists()


class _Touches:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("name", "model_args"),
    [
        ("mvitv2_tiny", {"embed_dim": 32, "depths": [1, 1, 1, 1]}),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 32, "depths": [1, 1, 1, 1]}),
        ("densenet121", {"growth_rate": 12, "block_config": [1, 1, 1, 1]}),
    ],
)
def test_deeper_net_of_the_family_is_refused_by_its_keys(
    name: str, model_args: dict[str, Any], tmp_path: Path
) -> None:
    depths = "block_config" if "block_config" in model_args else "depths"
    deeper = TimmImageEncoder(name, model_args={**model_args, depths: [1, 1, 3, 1]})
    torch.save(state_of(deeper), tmp_path / "net.pth")
    with pytest.raises(EncoderError, match=f"must fit {name}: .*in the file and|is unexpected"):
        TimmImageEncoder(name, pretrained=tmp_path / "net.pth", model_args=model_args)


@pytest.mark.parametrize(
    ("name", "head", "prefix"),
    [
        ("mvit_v2_s", "head.1", ""),  # EchoPrime: the encoder's own head is 512 wide
        ("r2plus1d_18", "fc", "module."),  # EchoNet-Dynamic: one output, trained in parallel
        ("r3d_18", "fc", ""),  # Kinetics, as torchvision publishes them
        ("s3d", "classifier.1", ""),
        ("swin3d_t", "head", ""),
    ],
)
def test_published_video_weights_fit(name: str, head: str, prefix: str, tmp_path: Path) -> None:
    published = torchvision.models.get_model(name, weights=None).eval()
    outputs = {"mvit_v2_s": 512, "r2plus1d_18": 1}.get(name, 400)
    parent, _, last = head.rpartition(".")
    old = published.get_submodule(head)
    new = (
        nn.Conv3d(old.in_channels, outputs, 1)
        if isinstance(old, nn.Conv3d)
        else nn.Linear(old.in_features, outputs)
    )
    setattr(published.get_submodule(parent), last, new)
    state = {f"{prefix}{key}": value for key, value in published.state_dict().items()}
    torch.save({"state_dict": state} if prefix else state, tmp_path / "net.pt")
    size, frames = (112, 16) if name == "mvit_v2_s" else (64, 16)
    encoder = TorchvisionVideoEncoder(
        name, pretrained=tmp_path / "net.pt", video_size=size, num_frames=frames
    )
    block = next(key for key, value in published.named_parameters() if value.ndim > 2)
    assert torch.equal(encoder.net.get_parameter(block), published.get_parameter(block))


# Torch's remarks on the way timm's resampling is written; its result is right.
@pytest.mark.filterwarnings("ignore:torch.searchsorted.*non-contiguous:UserWarning")
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence.*:UserWarning")
@pytest.mark.parametrize("name", ["mvitv2_tiny", "swin_tiny_patch4_window7_224"])
def test_timm_positions_are_carried_to_another_size(name: str, tmp_path: Path) -> None:
    swin = {"num_heads": [1, 2, 4, 8]} if name.startswith("swin") else {}
    build = partial(
        TimmImageEncoder, name, model_args={"embed_dim": 32, "depths": [1, 1, 1, 1], **swin}
    )
    trained = build(image_size=64).eval()
    for key, parameter in trained.net.named_parameters():
        if "rel_pos" in key or "bias_table" in key:  # the same at any length
            nn.init.constant_(parameter, 0.5)
    torch.save(state_of(trained), tmp_path / "net.pth")
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        same = build(image_size=64, pretrained=tmp_path / "net.pth").eval()
        assert torch.equal(same(image), trained(image))
        larger = build(image_size=96, pretrained=tmp_path / "net.pth").eval()
        assert larger(torch.randn(1, 3, 96, 96)).isfinite().all()
    resized = 0
    for key, value in trained.net.named_parameters():
        carried = larger.net.get_parameter(key)
        resized += carried.shape != value.shape
        torch.testing.assert_close(
            carried, value.new_full(carried.shape, 0.5) if carried.shape != value.shape else value
        )
    assert resized


@pytest.mark.parametrize(
    "build",
    [
        partial(TimmImageEncoder, "resnet18"),
        partial(InflatedVideoEncoder, "resnet18"),
        partial(TorchvisionVideoEncoder, "r3d_18", video_size=32, num_frames=2),
    ],
    ids=["timm", "inflated", "torchvision"],
)
def test_failed_download_says_how_to_go_on(
    build: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = "http://127.0.0.1:9"  # the discard port: refuses at once
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, nobody)
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    says = "weights of r.*18 could not be downloaded.*ceus weights SWEEP --to.*pass `pretrained"
    with pytest.raises(EncoderError, match=says):
        build(pretrained=True)
