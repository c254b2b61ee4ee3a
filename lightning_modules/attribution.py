"""What a classifier looked at: maps over space and time, by one way for every encoder.

A map is signed float32 `(T, H, W)` at the size of the encoder's input, T = 1 for an image: where it
is positive, what is there speaks for the positive class. What is explained is the logit of one row
of a batch (docs/design.md, Batch).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, LayerGradCam, Occlusion
from scipy import ndimage
from torch import Tensor, nn

from lightning_modules.base import PatientClassifier
from lightning_modules.map_layer import find_map_layer, tapped

Method = Literal["grad_cam", "occlusion", "gradients"]
"""Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), occlusion (Zeiler & Fergus 2014,
arXiv:1311.2901), integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365)."""

_CELLS = 6  # of occlusion, a side; they overlap by half
_MOMENTS = 8  # over time, side by side
_BLACK = 0.03  # of the range of grey levels
_STEPS = 32  # of the integral


def attribute(
    method: Method, model: PatientClassifier, batch: Mapping[str, Any], key: str, *, rows: int
) -> Tensor | None:
    """The map of one input of a row.

    Occlusion and integrated gradients ask what the logit loses where a place no longer differs from
    the rest: it shows the mean of the picture, in a clip of each frame by itself. Were it black
    instead, bright tissue would stand out with whichever weights. Black around a sector stays.

    Args:
        method: Whose map.
        model: In evaluation mode.
        batch: Of one row, on the model's device.
        key: `image` or `video`.
        rows: How many copies of the row may be computed at a time, which bounds the memory.

    Returns:
        `(T, H, W)` on the CPU; None for Grad-CAM where the encoder has no layer that is a map.
    """
    pixels: Tensor = batch[key]
    logits = _logits_by(model, batch, key)
    if method == "grad_cam":
        with model.without_mirror():  # whose map would be the one that is found
            found = _grad_cam(logits, model.encoder_of(key), pixels)
    elif method == "occlusion":
        cell = max(2, pixels.shape[-1] // _CELLS)
        window = (*pixels.shape[1:-2], cell, cell)
        step = (*pixels.shape[1:-2], cell // 2, cell // 2)
        found = _occlusion(logits, pixels, _plain(pixels), window=window, step=step, rows=rows)
    else:
        found = IntegratedGradients(logits).attribute(
            pixels,
            _plain(pixels),
            n_steps=_STEPS,
            internal_batch_size=max(1, rows // (1 + model.mirror_views)),  # each view has its graph
        )
    if found is None:
        return None
    found = found.detach().float().cpu().sum(1)[0]
    return found if found.ndim == 3 else found[None]


def importance_in_time(model: PatientClassifier, batch: Mapping[str, Any], *, rows: int) -> Tensor:
    """What the logit loses when a frame of the clip shows its darkest one instead: `(T,)`.

    Args:
        model: In evaluation mode.
        batch: Of one row with a clip, on the model's device.
        rows: How many copies of the row may be computed at a time.
    """
    clip: Tensor = batch["video"]
    frames = max(1, clip.shape[2] // _MOMENTS)
    window = (3, frames, *clip.shape[3:])
    darkest = int(clip.mean((0, 1, 3, 4)).argmin())
    dark = clip[:, :, darkest : darkest + 1].expand_as(clip).contiguous()
    logits = _logits_by(model, batch, "video")
    found = _occlusion(logits, clip, dark, window=window, step=window, rows=rows)
    return found[0, 0, :, 0, 0].detach().float().cpu()


@contextmanager
def randomised(model: nn.Module, *, seed: int = 0) -> Iterator[None]:
    """Meanwhile the values of each weight tensor stand in random order.

    A map that stays as it was shows the picture, not what was learned (Adebayo et al. 2018,
    arXiv:1810.03292).
    """
    own = [weights.detach().clone() for weights in model.parameters()]
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for weights in model.parameters():
                order = torch.randperm(weights.numel(), generator=generator)
                weights.copy_(weights.flatten()[order.to(weights.device)].view_as(weights))
        yield
    finally:
        with torch.no_grad():
            for weights, before in zip(model.parameters(), own, strict=True):
                weights.copy_(before)


def _logits_by(
    model: PatientClassifier, batch: Mapping[str, Any], key: str
) -> Callable[[Tensor], Tensor]:
    """Logits `(N,)` of a row as a function of one of its inputs `(N, 3, ...)`."""

    def logits(pixels: Tensor) -> Tensor:
        repeated = {
            name: rows.expand(len(pixels), *rows.shape[1:])
            for name, rows in batch.items()
            if isinstance(rows, Tensor)
        }
        return model.logits({**batch, **repeated, key: pixels})

    return logits


def _occlusion(
    logits: Callable[[Tensor], Tensor],
    pixels: Tensor,
    instead: Tensor,
    *,
    window: tuple[int, ...],
    step: tuple[int, ...],
    rows: int,
) -> Tensor:
    with torch.no_grad():
        found: Tensor = Occlusion(logits).attribute(
            pixels,
            sliding_window_shapes=window,
            strides=step,
            baselines=instead,
            perturbations_per_eval=rows,
        )
    return found


def _plain(pixels: Tensor) -> Tensor:
    """Each frame's mean in all of the field of view; black around it as it is."""
    field = _field(pixels)
    mean = (pixels * field).sum((-2, -1), keepdim=True) / field.sum()
    return torch.where(field, mean, pixels)


def _field(pixels: Tensor) -> Tensor:
    """Where one row's picture is, bool `(H, W)`: not what is black, always, from the edge on."""
    values = pixels[0] if pixels.ndim == 5 else pixels[0, :, None]
    brightest = (values - values.amin((1, 2, 3), keepdim=True)).amax((0, 1))
    black, _ = ndimage.label((brightest <= _BLACK * brightest.max()).cpu().numpy())
    edge = np.concatenate([black[0], black[-1], black[:, 0], black[:, -1]])
    field = torch.from_numpy(~np.isin(black, edge[edge > 0])).to(pixels.device)
    return field if field.any() else torch.ones_like(field)


def _grad_cam(
    logits: Callable[[Tensor], Tensor], encoder: nn.Module, pixels: Tensor
) -> Tensor | None:
    pixels = pixels.detach().requires_grad_()  # or a frozen encoder would have no gradient
    layer = find_map_layer(lambda: logits(pixels), encoder)
    if layer is None:
        return None
    with tapped(layer) as tap:
        found = LayerGradCam(logits, tap).attribute(pixels)
    size = pixels.shape[2:] if pixels.ndim == 5 else (1, *pixels.shape[2:])
    return F.interpolate(found, size=size, mode="trilinear", align_corners=False)
