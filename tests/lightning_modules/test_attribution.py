"""Maps of every family, image and clip, from its configuration."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from experiments.config.compose import compose
from lightning_modules import ImageClassifier, VideoClassifier
from lightning_modules.attribution import Method, attribute, importance_in_time, randomised
from lightning_modules.map_layer import as_map, find_map_layer, tapped

FAMILIES = ("resnet", "densenet", "inception", "mvit", "swin", "frames")


def classifier(family: str, key: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """A light classifier with random weights, and a row of noise for it."""
    study: Mapping[str, Any] = compose([f"architecture={family}", "size=light", f"modality={key}"])[
        "study"
    ]
    spec = study[f"{key}_encoder"]
    module, _, name = spec["class_path"].rpartition(".")
    torch.manual_seed(0)
    encoder = getattr(import_module(module), name)(**spec["init_args"])
    kind = {"image": ImageClassifier, "video": VideoClassifier}[key]
    frames = (study["num_frames"],) if key == "video" else ()
    side = study[f"{key}_size"]
    return kind(encoder).eval(), {key: torch.rand(1, 3, *frames, side, side)}


@pytest.mark.parametrize("key", ["image", "video"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_encoder_has_a_map(family: str, key: str) -> None:
    model, batch = classifier(family, key)
    pixels = batch[key].requires_grad_()
    layer = find_map_layer(lambda: model.logits({key: pixels}), model.encoder_of(key))
    assert layer is not None
    seen: list[Any] = []
    handle = layer.register_forward_hook(lambda _m, _i, output: seen.append(as_map(output)))
    before = model.logits(batch)
    handle.remove()
    assert seen[0][0].shape[-1] >= 6
    assert seen[0][0].shape[-1] == seen[0][0].shape[-2]
    with tapped(layer) as tap:
        tap.register_forward_hook(lambda _m, _i, output: output * 1)
        torch.testing.assert_close(model.logits(batch), before)
        tap.register_forward_hook(lambda _m, _i, output: output * 0)
        assert model.logits(batch) != before
    found = attribute("grad_cam", model, batch, key, rows=4)
    assert found is not None
    assert found.shape == (batch[key].shape[2] if key == "video" else 1, *batch[key].shape[-2:])
    assert found.std() > 0


class Corner(nn.Module):
    """Sees only the upper left quarter of what it is shown, and only its third frame."""

    num_features = 1

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 1, 1, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)[:, :, 2, :16, :16].flatten(1).mean(1, keepdim=True)


@pytest.mark.parametrize("method", ["grad_cam", "occlusion", "gradients"])
def test_a_map_is_where_the_network_looks(method: Method) -> None:
    model: Any = VideoClassifier(Corner()).eval()
    with torch.no_grad():
        model.head[-1].weight.fill_(1.0)
    clip = torch.rand(1, 3, 4, 32, 32) / 4
    clip[..., :16, :16] += 0.75  # brighter than a frame's mean
    clip[:, :, 0] = 0
    found = attribute(method, model, {"video": clip}, "video", rows=3)
    assert found is not None
    assert found[2, :16, :16].min() >= 0
    outside = found.clone()
    reach = 20 if method == "occlusion" else 16  # a sixth of the side overlaps
    outside[:, :reach, :reach] = 0
    if method != "grad_cam":  # whose weights are of channels, not of places
        assert outside.abs().max() < 1e-6
    if method == "gradients":  # complete: they add up to what differences in a frame changed
        plain = clip.mean((3, 4), keepdim=True).expand_as(clip)
        gained = model.logits({"video": clip}) - model.logits({"video": plain})
        torch.testing.assert_close(found.sum()[None], gained, atol=1e-4, rtol=1e-4)
    in_time = importance_in_time(model, {"video": clip}, rows=3)
    assert in_time.argmax() == 2
    assert in_time[[0, 1, 3]].abs().max() < 1e-6


class Brightness(nn.Module):
    """The mean of all that it sees."""

    num_features = 1

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize("method", ["occlusion", "gradients"])
def test_black_around_a_sector_speaks_for_nothing_but_a_dark_cyst_may(method: Method) -> None:
    model: Any = ImageClassifier(Brightness()).eval()
    image = torch.rand(1, 3, 48, 48) + 1
    image[..., :24] = image[..., 32:40, 32:40] = 0
    found = attribute(method, model, {"image": image}, "image", rows=8)
    assert found is not None
    assert found[0, :, :16].abs().max() < 1e-6
    assert found[0, 34:38, 34:38].abs().min() > 1e-4


def test_weights_are_themselves_again_after_the_check() -> None:
    model, batch = classifier("resnet", "image")
    before = model.logits(batch)
    with randomised(model):
        assert model.logits(batch) != before
    assert model.logits(batch) == before


def test_an_encoder_without_a_map_has_no_grad_cam() -> None:
    class Flat(nn.Module):
        num_features = 3

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.mean((2, 3)))

    model = ImageClassifier(Flat()).eval()
    batch = {"image": torch.rand(1, 3, 16, 16)}
    assert attribute("grad_cam", model, batch, "image", rows=2) is None
    assert attribute("occlusion", model, batch, "image", rows=2) is not None
