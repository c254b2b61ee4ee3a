"""torchvision's Video Swin at any size."""

import math
from typing import Any

from torch import Tensor, nn
from torchvision.models import video as tv
from torchvision.models.video.swin_transformer import PatchMerging, ShiftedWindowAttention3d

# Liu et al. 2022, arXiv:2106.13230, as torchvision's builders have them.
_COMMON = {"patch_size": [2, 4, 4], "window_size": [8, 7, 7], "stochastic_depth_prob": 0.1}
_VARIANTS: dict[str, dict[str, Any]] = {
    "swin3d_t": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    "swin3d_s": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]},
    "swin3d_b": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
}


def build_swin3d(name: str, clip: tuple[int, int, int], **args: Any) -> nn.Module:
    """A Video Swin for a clip of `(T, H, W)`, without its classifier.

    Windows larger than their map are shrunk to the map. torchvision does so as it runs, but then
    reads the position biases of other distances than the pairs have.

    Args:
        name: of `_VARIANTS`.
        clip: frames, height and width in pixels.
        **args: arguments of torchvision's `SwinTransformer3d`, in place of the variant's.
    """
    net = tv.SwinTransformer3d(**{**_COMMON, **_VARIANTS[name], **args})
    net.head = nn.Identity()
    size = _strided(clip, net.patch_embed.tuple_patch_size)
    for stage in net.features:
        if isinstance(stage, PatchMerging):
            size = _strided(size, (1, 2, 2))
        for attention in stage.modules():
            if isinstance(attention, ShiftedWindowAttention3d):
                attention.full_window = attention.window_size
                attention.window_size = [
                    min(pair) for pair in zip(size, attention.window_size, strict=True)
                ]
                attention.define_relative_position_bias_table()
                attention.define_relative_position_index()
    built: nn.Module = net
    return built


def crop_positions(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Position biases of `state`, learned at full windows, cropped to the windows that `net` has.

    What is left are the biases of the distances that still occur. Biases of another length are not
    touched.
    """
    cropped = dict(state)
    for name, attention in net.named_modules():
        key = f"{name}.relative_position_bias_table"
        if not isinstance(attention, ShiftedWindowAttention3d) or key not in state:
            continue
        full = [2 * side - 1 for side in attention.full_window]
        if len(state[key]) != math.prod(full):
            continue
        table = state[key].reshape(*full, -1)
        for dim, (before, after) in enumerate(
            zip(attention.full_window, attention.window_size, strict=True)
        ):
            table = table.narrow(dim, before - after, 2 * after - 1)
        cropped[key] = table.flatten(0, 2)
        cropped[f"{name}.relative_position_index"] = attention.relative_position_index
    return cropped


def _strided(size: tuple[int, ...], steps: tuple[int, ...]) -> tuple[int, ...]:
    """Lengths of a map after strides of `steps`, the last ones padded."""
    return tuple(math.ceil(length / step) for length, step in zip(size, steps, strict=True))
