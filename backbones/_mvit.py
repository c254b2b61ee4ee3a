"""torchvision's MViT at any size: its builders accept 16 × 224² only."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import video as tv
from torchvision.models.video.mvit import MSBlockConfig

from backbones.errors import EncoderError

_PATCH = (2, 4, 4)  # stride of the patch embedding over time, height and width


def build_mvit(
    name: str,
    clip: tuple[int, int, int],
    *,
    embed_dim: int = 96,
    depths: tuple[int, ...] | list[int] = (1, 2, 11, 2),
    stochastic_depth_prob: float = 0.2,
    **args: Any,
) -> nn.Module:
    """`mvit_v1_b` or `mvit_v2_s` for a clip of `(T, H, W)`, without its classifier.

    Args:
        name: `mvit_v1_b` (Fan et al. 2021, arXiv:2104.11227) or `mvit_v2_s` (Li et al. 2022,
            arXiv:2112.01526).
        clip: frames, height and width in pixels.
        embed_dim: channels of the first stage; each later one doubles them, and the heads.
        depths: blocks of each stage.
        stochastic_depth_prob: chance that the last block is skipped in training; 0 for the first.
        **args: further arguments of torchvision's `MViT`.

    Raises:
        EncoderError: the clip does not divide into patches or is too small.
    """
    patch = args.get("patch_embed_stride", _PATCH)
    _check_patches("num_frames", clip[0], patch[0], smallest=patch[0], name=name)
    smallest = patch[1] * 2 ** (len(depths) - 1)  # each later stage halves the map
    _check_patches("video_size", clip[1], patch[1], smallest=smallest, name=name)
    second = name == "mvit_v2_s"
    net = tv.MViT(
        spatial_size=clip[1:],
        temporal_size=clip[0],
        block_setting=_blocks(embed_dim, list(depths), second=second),
        residual_pool=second,
        residual_with_cls_embed=False,
        rel_pos_embed=second,
        proj_after_attn=second,
        stochastic_depth_prob=stochastic_depth_prob,
        **args,
    )
    net.head = nn.Identity()
    built: nn.Module = net
    return built


def _check_patches(setting: str, length: int, patch: int, *, smallest: int, name: str) -> None:
    if length < smallest or length % patch:
        raise EncoderError(
            f"{setting} must be a multiple of {patch}, at least {smallest}, for {name}, "
            f"got {length}. Use {max(smallest, round(length / patch) * patch)}."
        )


def _blocks(embed_dim: int, depths: list[int], *, second: bool) -> list[MSBlockConfig]:
    """The blocks of torchvision's builders, by rule.

    A stage's first block halves the map through its queries; keys and values are pooled so that
    their number is the same in every stage. Version 2 widens in a stage's first block, version 1 in
    the last block of the stage before.
    """
    stages = [stage for stage, depth in enumerate(depths) for _ in range(depth)]
    blocks = []
    for i, stage in enumerate(stages):
        halves = i > 0 and stages[i - 1] != stage
        before = stages[i - 1] if i else stage
        after = stages[i + 1] if i + 1 < len(stages) else stage
        kv = max(2 ** (len(depths) - 1) >> stage, 1)
        blocks.append(
            MSBlockConfig(
                num_heads=2**stage,
                input_channels=embed_dim * 2 ** (before if second else stage),
                output_channels=embed_dim * 2 ** (stage if second else after),
                kernel_q=[3, 3, 3] if second or halves else [],
                kernel_kv=[3, 3, 3],
                stride_q=[1, 2, 2] if halves else [1, 1, 1] if second else [],
                stride_kv=[1, kv, kv],
            )
        )
    return blocks


def interpolate_positions(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Position tables of `state`, resampled to the lengths that `net` has.

    Relative positions (one row a distance) and times are interpolated linearly; the grid of
    absolute positions bicubically, as is usual for vision transformers.
    """
    resized = dict(state)
    for key, own in net.state_dict().items():
        table = state.get(key)
        if table is None or table.ndim != 2 or own.shape[1:] != table.shape[1:]:
            continue
        if key.endswith("spatial_pos"):
            resized[key] = _resample_grid(table, len(own))
        elif key.endswith(("rel_pos_h", "rel_pos_w", "rel_pos_t", "temporal_pos")):
            rows = F.interpolate(table.T[None].float(), size=len(own), mode="linear")
            resized[key] = rows[0].T
    return resized


def _resample_grid(table: Tensor, length: int) -> Tensor:
    """A square grid of positions `(side², C)`, resampled to `(length, C)`."""
    old, new = (round(n**0.5) for n in (len(table), length))
    grid = table.reshape(1, old, old, -1).permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.flatten(grid[0], 1).T
