"""3D encoders of torchvision, at any size: from a clip to one feature vector."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torchvision
from torch import Tensor, nn
from torchvision.models import video as tv
from torchvision.models.video import resnet as tv_resnet

from backbones._mvit import build_mvit, interpolate_positions
from backbones._probe import check_input, check_length, feature_width
from backbones._swin3d import build_swin3d, crop_positions
from backbones.errors import EncoderError, first_line
from backbones.weights import download, init_linear_layers, load_strictly, read_state_dict

_HEADS = ("fc", "classifier", "head")


class TorchvisionVideoEncoder(nn.Module):
    """A torchvision video network without its classifier: `(B, 3, T, H, W)` to `(B, num_features)`.

    Args:
        name: any name of `torchvision.models.list_models(module=torchvision.models.video)`.
        pretrained: true to download the Kinetics-400 weights, a file with weights for this network,
            or false for random ones. Positions learned at 16 × 224² (mvit) or 7×7 windows (swin)
            are carried over to the size asked for.
        video_size: side of the square frames, pixels.
        num_frames: frames of a clip.
        model_args: changes to the network. r3d_18, mc3_18, r2plus1d_18: `width` (channels of the
            first stage, 64) and `layers` (blocks of each stage, [2, 2, 2, 2]). mvit: `embed_dim`,
            `depths` and the arguments of torchvision's `MViT`. swin3d: the arguments of
            `SwinTransformer3d`. s3d: `bn_momentum` (0.1), `blocks` (the first so many of its 9
            inception blocks).

    Attributes:
        num_features: width of the features.

    Raises:
        EncoderError: unknown name or argument, unusable weights, or a clip too small.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | Path = False,
        video_size: int,
        num_frames: int,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.video_size = video_size
        self.num_frames = num_frames
        check_length("num_frames", num_frames, name=name)
        clip = (num_frames, video_size, video_size)
        self.net = _build(name, clip, dict(model_args or {}))
        if pretrained is not False:
            load_strictly(self.net, self._weights(pretrained), heads=_HEADS, name=name)
        else:
            init_linear_layers(self.net)
        self.num_features = feature_width(
            self.net,
            lambda size: (1, 3, num_frames, size, size),
            size=video_size,
            name=name,
            setting="video_size",
        )

    @staticmethod
    def published(name: str) -> dict[str, Tensor]:
        """The Kinetics-400 weights that torchvision offers for a network.

        Raises:
            EncoderError: unknown name, or the download failed.
        """
        _check_known(name)
        weights = torchvision.models.get_model_weights(name).DEFAULT
        fetch = partial(weights.get_state_dict, progress=False, check_hash=True)
        return download(fetch, name=name)

    def _weights(self, pretrained: Literal[True] | Path) -> dict[str, Tensor]:
        state = self.published(self.name) if pretrained is True else read_state_dict(pretrained)
        if isinstance(self.net, tv.MViT):
            return interpolate_positions(state, self.net)
        return crop_positions(state, self.net)

    def forward(self, video: Tensor) -> Tensor:
        """Features `(B, num_features)` of `video (B, 3, T, H, W)`, normalised float.

        Raises:
            EncoderError: the video is of another shape.
        """
        shape = (None, 3, self.num_frames, self.video_size, self.video_size)
        check_input(video, shape, layout="B, 3, T, H, W", who=self.name)
        features: Tensor = self.net(video)
        return features


def _check_known(name: str) -> None:
    known = torchvision.models.list_models(module=tv)
    if name not in known:
        raise EncoderError(
            f"name must be a torchvision video network, got {name!r}. Choose one of "
            f"{', '.join(sorted(known))}."
        )


def _build(name: str, clip: tuple[int, int, int], args: dict[str, Any]) -> nn.Module:
    """The network with random weights and no classifier.

    Raises:
        EncoderError: unknown name, or arguments or a size that it does not take.
    """
    _check_known(name)
    try:
        if name in _RESNETS:
            return _VideoResNet(name, **args)
        if name.startswith("mvit"):
            return build_mvit(name, clip, **args)
        if name.startswith("swin3d"):
            return build_swin3d(name, clip, **args)
        if name == "s3d":
            return _build_s3d(**args)
        net: nn.Module = torchvision.models.get_model(name, weights=None, **args)
    except EncoderError:
        raise
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError, IndexError) as error:
        raise EncoderError(
            f"model_args must be ones that {name} takes, got {args} "
            f"({first_line(error)}). See TorchvisionVideoEncoder."
        ) from error
    for head in _HEADS:
        if hasattr(net, head):
            setattr(net, head, nn.Identity())
    return net


_S3D_BLOCKS = 9


def _build_s3d(*, bn_momentum: float = 0.1, blocks: int = _S3D_BLOCKS) -> nn.Module:
    """S3D that averages over whatever map is left, instead of 2×7×7 windows of it.

    Its own batch-norm momentum of 0.001 needs thousands of steps to follow a new kind of image;
    hence torch's usual 0.1.
    """
    net: Any = tv.S3D(norm_layer=partial(nn.BatchNorm3d, eps=0.001, momentum=bn_momentum))
    if not 1 <= blocks <= _S3D_BLOCKS:
        raise ValueError(f"blocks must be 1 to {_S3D_BLOCKS}, got {blocks}")
    mixed = [i for i, part in enumerate(net.features) if type(part).__name__.startswith("SepInc")]
    net.features = net.features[: mixed[blocks - 1] + 1]
    net.avgpool = nn.AdaptiveAvgPool3d(1)
    net.classifier = nn.Identity()
    built: nn.Module = net
    return built


_RESNETS: dict[str, tuple[list[type[nn.Module]], bool]] = {  # convolutions, factored stem
    "r3d_18": ([tv_resnet.Conv3DSimple] * 4, False),
    "mc3_18": ([tv_resnet.Conv3DSimple] + [tv_resnet.Conv3DNoTemporal] * 3, False),
    "r2plus1d_18": ([tv_resnet.Conv2Plus1D] * 4, True),
}


class _VideoResNet(tv.VideoResNet):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's video ResNet-18 with a width and depths of choice, without its classifier."""

    def __init__(
        self, name: str, *, width: int = 64, layers: tuple[int, ...] | list[int] = (2, 2, 2, 2)
    ) -> None:
        convolutions, factored = _RESNETS[name]
        self._width = width
        stem = partial(_stem, width=width, factored=factored)
        super().__init__(tv_resnet.BasicBlock, convolutions, list(layers), stem)
        self.fc = nn.Identity()

    def _make_layer(
        self, block: Any, conv_builder: Any, planes: int, blocks: int, stride: int = 1
    ) -> nn.Sequential:
        if stride == 1:  # the first stage: torchvision takes the stem to be 64 wide
            self.inplanes = self._width
        planes = planes * self._width // 64
        stage: nn.Sequential = super()._make_layer(block, conv_builder, planes, blocks, stride)
        return stage


def _stem(*, width: int, factored: bool) -> nn.Sequential:
    """`BasicStem` or `R2Plus1dStem` of torchvision at another width, under the same keys."""

    def conv(
        inputs: int, outputs: int, kernel: tuple[int, int, int], stride: int
    ) -> list[nn.Module]:
        time, height, width = (k // 2 for k in kernel)
        padding = (time, height, width)
        step = (1, stride, stride)
        return [
            nn.Conv3d(inputs, outputs, kernel, stride=step, padding=padding, bias=False),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
        ]

    if not factored:
        return nn.Sequential(*conv(3, width, (3, 7, 7), 2))
    middle = 45 * width // 64
    return nn.Sequential(*conv(3, middle, (1, 7, 7), 2), *conv(middle, width, (3, 1, 1), 1))
