"""2D encoders: any timm network, from an image to one feature vector."""

import difflib
import inspect
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import timm
from timm.models import load_pretrained, mvitv2
from torch import Tensor, nn

from backbones._probe import check_input, feature_width
from backbones.errors import EncoderError, first_line
from backbones.weights import download, init_linear_layers, load_strictly, read_state_dict

# timm's converters from older key names and other input sizes; it gives no other way to reach them.
_FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")


class TimmImageEncoder(nn.Module):
    """A timm network without its classifier: `(B, 3, H, W)` float to `(B, num_features)`.

    Args:
        name: any name of `timm.list_models()`, with or without a tag (`resnet50.a1_in1k`). The
            mvitv2 family also takes the fields of timm's `MultiScaleVitCfg` in `model_args`,
            inception_v3 `blocks`: the first so many of its 11 inception blocks.
        pretrained: true to download timm's weights, a file with weights for this network, or
            false for random ones.
        image_size: side of the square input, pixels. Nets with position tables are built for it
            (pretrained tables are interpolated). None: the net's own size where that is fixed,
            otherwise any size.
        model_args: further arguments of the network's constructor.

    Attributes:
        num_features: width of the features.
        image_size: side that `forward` insists on, pixels, or None for any.

    Raises:
        EncoderError: unknown name or argument, unusable weights, or an input too small.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | Path = False,
        image_size: int | None = None,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net = create_timm(
            name, pretrained=pretrained, image_size=image_size, model_args=model_args
        )
        cfg = self.net.pretrained_cfg
        default_size = cfg["input_size"][-1]
        if image_size is None and cfg.get("fixed_input_size"):
            image_size = default_size
        self.name = name
        self.image_size = image_size
        self.num_features = feature_width(
            self.net,
            lambda size: (1, 3, size, size),
            size=default_size if image_size is None else image_size,
            name=name,
            setting="image_size",
        )

    @staticmethod
    def published(name: str) -> dict[str, Tensor]:
        """The weights that `pretrained: true` downloads; see `published_timm`."""
        return published_timm(name)

    def forward(self, image: Tensor) -> Tensor:
        """Features `(B, num_features)` of `image (B, 3, H, W)`, normalised float.

        Raises:
            EncoderError: the image is of another shape.
        """
        size = self.image_size
        check_input(image, (None, 3, size, size), layout="B, 3, H, W", who=self.name)
        features: Tensor = self.net(image)
        return features


def create_timm(
    name: str, *, pretrained: bool | Path, image_size: int | None, model_args: dict[str, Any] | None
) -> Any:
    """A timm network without its classifier, weights loaded strictly. See `TimmImageEncoder`.

    Raises:
        EncoderError: unknown name or argument, or unusable weights.
    """
    cfg = _config(name)
    args = dict(model_args or {})
    if image_size is not None and getattr(cfg, "fixed_input_size", False):
        args["img_size"] = image_size
    try:
        net = _construct(name, cfg, args)
    except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise EncoderError(
            f"image_size and model_args must be ones that {name} takes, got image_size "
            f"{image_size} and model_args {model_args or {}} ({first_line(error)}). "
            "Raise image_size, or see its constructor in timm."
        ) from error
    if pretrained is False:  # None is a setting left empty, which must not be random weights
        init_linear_layers(net)
        return net
    state = published_timm(name, net) if pretrained is True else read_state_dict(pretrained)
    load_strictly(net, _converted(state, net), heads=_heads(net), name=name)
    return net


def published_timm(name: str, net: Any = None) -> dict[str, Tensor]:
    """The weights that timm offers for a network, as they are in its file.

    Args:
        name: any name of `timm.list_models()`.
        net: the network, if there is one already.

    Raises:
        EncoderError: unknown name, or the download failed.
    """
    net = net or _construct(name, _config(name), {})
    return download(lambda: _downloaded(net), name=name)


def _config(name: str) -> Any:
    """What timm knows of a network's weights (a `PretrainedCfg`); None if nothing.

    Raises:
        EncoderError: unknown name or tag, with the names closest to it.
    """
    try:
        if timm.is_model(name):
            return timm.get_pretrained_cfg(name)
    except RuntimeError:
        pass  # a tag that the network does not have
    near = difflib.get_close_matches(name, [*timm.list_models(), *timm.list_pretrained()])
    raise EncoderError(
        f"name must be a timm model, got {name!r}. "
        f"{'Did you mean ' + ', '.join(near) + '?' if near else 'See timm.list_models().'}"
    )


def _construct(name: str, cfg: Any, args: dict[str, Any]) -> Any:
    """The network with random weights and no classifier."""
    base = name.partition(".")[0]
    blocks = args.pop("blocks", None) if base == "inception_v3" else None
    own = {field.name for field in fields(mvitv2.MultiScaleVitCfg)} & args.keys()
    if base not in mvitv2.model_cfgs or not own:
        net = timm.create_model(name, pretrained=False, num_classes=0, **args)
        return net if blocks is None else _without_later_blocks(net, blocks)
    # timm keeps the sizes of this family in a table by name, out of create_model's reach.
    changes = {key: args.pop(key) for key in own}
    net = mvitv2.MultiScaleVit(replace(mvitv2.model_cfgs[base], **changes), num_classes=0, **args)
    net.pretrained_cfg = cfg.to_dict()
    return net


def _without_later_blocks(net: Any, blocks: int) -> Any:
    """Inception-v3 up to one of its 11 inception blocks."""
    mixed = [name for name, _ in net.named_children() if name.startswith("Mixed")]
    if not 1 <= blocks <= len(mixed):
        raise ValueError(f"blocks must be 1 to {len(mixed)}, got {blocks}")
    for name in mixed[blocks:]:
        setattr(net, name, nn.Identity())
    return net


def _downloaded(net: Any) -> dict[str, Tensor]:
    """The weights that timm has for `net`, as they are in the file."""
    state: dict[str, Tensor] = {}

    def keep(checkpoint: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
        state.update(checkpoint)
        return net.state_dict()

    cfg = {**net.pretrained_cfg, "classifier": None}
    load_pretrained(net, cfg, num_classes=cfg["num_classes"], filter_fn=keep)
    return state


def _converted(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """`state` under timm's present key names and at this net's sizes; as it is where that fails.

    A converter fails on the weights of another network; loading then says which keys do not fit.
    """
    convert = _filter(net)
    if convert is None:
        return state
    takes_net = len(inspect.signature(convert).parameters) > 1
    try:
        return dict(convert(dict(state), net) if takes_net else convert(dict(state)))
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError):
        return state


def _filter(net: nn.Module) -> Any:
    """The converter of old checkpoints that timm has for this network, or None."""
    module = sys.modules[type(net).__module__]
    return next((getattr(module, name) for name in _FILTERS if hasattr(module, name)), None)


def _heads(net: Any) -> tuple[str, ...]:
    """Prefixes of the classifier's keys; AuxLogits is inception_v3's second, training-only one."""
    head = net.pretrained_cfg.get("classifier") or ()
    return (*((head,) if isinstance(head, str) else head), "AuxLogits")
