"""2D networks inflated to 3D, keeping their pretrained weights (Carreira & Zisserman 2017).

Two rules say what becomes of time:

- a convolution with a spatial kernel larger than 1 sees three frames: its weights are repeated over
  time and divided by three. Time is padded by repeating the first and the last frame;
- where the 2D net strides space, time is strided too, once the map is at a quarter of the image's
  side or coarser (in five halvings of space, time is halved by the last three, as in torchvision's
  r3d_18). Strided pooling pools two frames.

So a clip of one frame repeated gives exactly the 2D net's features of that frame, at the clip's
ends too. Every inflated net is checked for this when it is built.
"""

import math
from pathlib import Path
from typing import Any

import torch
from timm.layers import activations, adaptive_avgmax_pool
from timm.layers import squeeze_excite as se
from timm.layers.drop import DropPath
from timm.layers.norm_act import BatchNormAct2d
from timm.models import _efficientnet_blocks as efficientnet
from torch import Tensor, nn
from torch.nn.modules import activation

from backbones._probe import check_input, check_length, feature_width
from backbones.errors import EncoderError
from backbones.image import create_timm, published_timm
from backbones.weights import load_strictly, read_state_dict

_TIME_KERNEL = 3
_PROBE_SIZE = 128  # pixels of the check; inception_v4 needs 107
_TOLERANCE = 1e-4  # of the check, relative to the largest feature

# Modules whose arithmetic over (B, C, T·H, W) is their arithmetic over a clip.
_OVER_CLIP = (
    nn.BatchNorm2d,
    BatchNormAct2d,
    se.SEModule,
    se.EffectiveSEModule,
    efficientnet.SqueezeExcite,
)
_FAST_POOLS = (
    adaptive_avgmax_pool.FastAdaptiveAvgPool,
    adaptive_avgmax_pool.FastAdaptiveMaxPool,
    adaptive_avgmax_pool.FastAdaptiveAvgMaxPool,
)
_DROPOUTS_AND_SHAPES = (nn.Identity, nn.Flatten, nn.Dropout, DropPath)


class InflatedVideoEncoder(nn.Module):
    """A timm CNN inflated to 3D: `(B, 3, T, H, W)` float to `(B, num_features)`.

    Works for networks made of plain convolutions, batch norm (with activation), pooling,
    squeeze-and-excite, activations and dropout: densenet, resnet, resnext, efficientnet, mobilenet,
    regnet and others. Any other module is refused by name.

    Args:
        name: any such name of `timm.list_models()`.
        pretrained: true to download timm's 2D weights, a file with 2D weights, one with weights
            of the inflated network itself, or false.
        video_size: side of the square frames, pixels; None for any that the net can take.
        num_frames: frames of a clip; None for any.
        model_args: further arguments of the network's constructor.

    Attributes:
        num_features: width of the features.

    Raises:
        EncoderError: unknown name or argument, unusable weights, a module that cannot be inflated,
            or frames too small.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | Path = False,
        video_size: int | None = None,
        num_frames: int | None = None,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.video_size = video_size
        self.num_frames = num_frames
        if num_frames is not None:
            check_length("num_frames", num_frames, name=name)
        inflated = _inflated_weights(pretrained)
        net_2d = create_timm(
            name,
            pretrained=False if inflated else pretrained,
            image_size=None,
            model_args=model_args,
        )
        size = net_2d.pretrained_cfg["input_size"][-1] if video_size is None else video_size
        self.num_features = feature_width(
            net_2d, lambda side: (1, 3, side, side), size=size, name=name, setting="video_size"
        )
        self.net = inflate(net_2d, name=name)
        if inflated:
            load_strictly(self.net, inflated, heads=(), name=name)

    published = staticmethod(published_timm)
    """Of a name, the weights that `pretrained: true` downloads."""

    def forward(self, video: Tensor) -> Tensor:
        """Features `(B, num_features)` of `video (B, 3, T, H, W)`, normalised float.

        Raises:
            EncoderError: the video is of another shape.
        """
        shape = (None, 3, self.num_frames, self.video_size, self.video_size)
        check_input(video, shape, layout="B, 3, T, H, W", who=self.name)
        features: Tensor = self.net(video)
        return features


def _inflated_weights(pretrained: bool | Path) -> dict[str, Tensor] | None:
    """The file's weights if they are of convolutions in time and space."""
    if isinstance(pretrained, bool):
        return None
    state = read_state_dict(pretrained)
    return state if any(value.ndim == 5 for value in state.values()) else None


def inflate(net: nn.Module, *, name: str) -> nn.Module:
    """Turn a 2D network into a 3D one, in place, and check it on a constant clip.

    Args:
        net: a 2D network without its classifier, `(B, 3, H, W)` to `(B, F)`; used up.
        name: of the network, for messages.

    Returns:
        The same module, now `(B, 3, T, H, W)` to `(B, F)`.

    Raises:
        EncoderError: a module that cannot be inflated, named; or features on a constant clip that
            are not the 2D net's.
    """
    was_training = net.training
    net.eval()
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, _PROBE_SIZE, _PROBE_SIZE, generator=generator)
    _refuse_unknown(net, name=name)
    levels, expected = _levels(net, image)
    _replace_children(net, levels)
    _check_constant_clip(net, image, expected, name=name)
    return net.train(was_training)


def _levels(net: nn.Module, image: Tensor) -> tuple[dict[nn.Module, int], Tensor]:
    """How often space was halved before each module that strides, and the features of `image`."""
    levels: dict[nn.Module, int] = {}

    def record(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        levels[module] = round(math.log2(image.shape[-1] / inputs[0].shape[-1]))

    hooks = [
        module.register_forward_pre_hook(record)
        for module in net.modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
    ]
    with torch.no_grad():
        features = net(image)
    for hook in hooks:
        hook.remove()
    return levels, features


def _refuse_unknown(module: nn.Module, *, name: str) -> None:
    """Refuse the first part under `module` that has no 3D equivalent here.

    Raises:
        EncoderError: names its class.
    """
    for child in module.children():
        kind = type(child)
        if kind in _OVER_CLIP or _is_known(child):
            continue
        if isinstance(child, nn.Sequential) or list(child.children()):
            _refuse_unknown(child, name=name)
        else:
            raise EncoderError(
                "name must be a CNN of plain convolutions, batch norm, pooling and activations to "
                f"be inflated, got {name!r}, which has a {kind.__name__}. Choose a variant without "
                "it (resnet, densenet, efficientnet, mobilenet), or a torchvision video network."
            )


def _is_known(leaf: Any) -> bool:
    kind = type(leaf)
    if kind is nn.Conv2d:
        return leaf.padding_mode == "zeros" and not isinstance(leaf.padding, str)
    if kind in (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d):
        return leaf.output_size in (1, (1, 1))
    if kind.__module__ in (activation.__name__, activations.__name__):
        return not list(leaf.children())  # attention lives there too
    return kind in (nn.MaxPool2d, nn.AvgPool2d, *_FAST_POOLS, *_DROPOUTS_AND_SHAPES)


def _replace_children(module: nn.Module, levels: dict[nn.Module, int]) -> None:
    """Replace every 2D part under `module` by its 3D equivalent."""
    for name, child in list(module.named_children()):
        kind = type(child)
        if kind in _OVER_CLIP:
            setattr(module, name, _OverClip(child))
        elif isinstance(child, nn.Conv2d):
            setattr(module, name, _InflatedConv(child, _time_stride(child.stride, levels[child])))
        elif isinstance(child, nn.MaxPool2d | nn.AvgPool2d):
            setattr(module, name, _InflatedPool(child, _time_stride(child.stride, levels[child])))
        elif kind is nn.AdaptiveAvgPool2d:
            setattr(module, name, nn.AdaptiveAvgPool3d(1))
        elif kind is nn.AdaptiveMaxPool2d:
            setattr(module, name, nn.AdaptiveMaxPool3d(1))
        elif isinstance(child, _FAST_POOLS):
            child.dim = (2, 3, 4)
        else:
            _replace_children(child, levels)


def _time_stride(stride: int | tuple[int, ...], level: int) -> int:
    """Stride over time of a module that has `stride` over space and stands at `level`."""
    return 2 if level >= 2 and max(_pair(stride)) > 1 else 1


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _repeat_ends(x: Tensor, before: int, after: int) -> Tensor:
    """Pad time by repeating the first and last frame.

    By concatenation: the gradient of torch's replicate padding is not deterministic on CUDA.
    """
    parts = [x[:, :, :1]] * before + [x] + [x[:, :, -1:]] * after
    return torch.cat(parts, dim=2) if len(parts) > 1 else x


class _InflatedConv(nn.Conv3d):
    """A Conv2d over three frames (1×1: over one), its weights spread evenly over time."""

    def __init__(self, conv: Any, time_stride: int) -> None:
        time = _TIME_KERNEL if max(conv.kernel_size) > 1 else 1
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            (time, *conv.kernel_size),
            stride=(time_stride, *conv.stride),
            padding=(0, *conv.padding),  # a string would have been refused
            dilation=(1, *conv.dilation),
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",  # the weights follow
        )
        spread = conv.weight.detach()[:, :, None] / time
        self.weight = nn.Parameter(spread.repeat(1, 1, time, 1, 1))
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, T, H, W)` to `(B, C', ceil(T / stride), H', W')`."""
        beside = self.kernel_size[0] // 2
        return super().forward(_repeat_ends(x, beside, beside))


class _InflatedPool(nn.Module):
    """A MaxPool2d or AvgPool2d that pools as many frames as it strides over."""

    def __init__(self, pool: nn.Module, time_stride: int) -> None:
        super().__init__()
        time = time_stride

        def with_time(name: str, first: int) -> tuple[int, ...]:
            return (first, *_pair(getattr(pool, name)))

        common: dict[str, Any] = {
            "kernel_size": with_time("kernel_size", time),
            "stride": with_time("stride", time),
            "padding": with_time("padding", 0),
            "ceil_mode": pool.ceil_mode,
        }
        self.pool: nn.Module
        if isinstance(pool, nn.MaxPool2d):
            self.pool = nn.MaxPool3d(**common, dilation=with_time("dilation", 1))
        else:
            self.pool = nn.AvgPool3d(**common, count_include_pad=bool(pool.count_include_pad))
        self.time = time

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, T, H, W)` to `(B, C, ceil(T / stride), H', W')`."""
        pooled: Tensor = self.pool(_repeat_ends(x, 0, -x.shape[2] % self.time))
        return pooled


class _OverClip(nn.Module):
    """A 2D module whose statistics are taken over space, here taken over space and time."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, T, H, W)` to the same shape."""
        out: Tensor = self.inner(x.flatten(2, 3))
        return out.view(x.shape)


def _check_constant_clip(net: nn.Module, image: Tensor, expected: Tensor, *, name: str) -> None:
    """Hold the inflated `net` to the 2D features of `image` on a clip of that image.

    Raises:
        EncoderError: it fails, naming the module that did, or gives other features.
    """
    running: list[nn.Module] = []  # innermost last

    def enter(module: nn.Module, _inputs: Any) -> None:
        running.append(module)

    def leave(*_: Any) -> None:
        running.pop()

    hooks = [module.register_forward_pre_hook(enter) for module in net.modules()]
    hooks += [module.register_forward_hook(leave) for module in net.modules()]
    try:
        with torch.no_grad():
            features = net(image[:, :, None].expand(-1, -1, 2, -1, -1))
    except (RuntimeError, ValueError, IndexError, AssertionError, TypeError) as error:
        raise EncoderError(
            f"name must be a CNN that works on clips once inflated, got {name!r}, whose "
            f"{type(running[-1]).__name__} does arithmetic for images only. Choose another network."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    close = _TOLERANCE * float(expected.abs().max())
    same_shape = features.shape == expected.shape
    if not same_shape or not torch.allclose(features, expected, atol=close, rtol=0):
        raise EncoderError(
            "name must be a CNN whose inflation keeps its features on a constant clip, "
            f"got {name!r}. Choose another network."
        )
