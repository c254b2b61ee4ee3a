"""What happens to pixels on the device: resize, augmentation, normalisation, a whole batch at once.

Augmentation parameters are drawn per row on the CPU, from the row's own generator, so they depend
neither on the number of threads nor of processes; they are applied to the batch on the device and
are the same over the frames of a clip, so that a time-intensity curve keeps its shape.
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from datamodules.batches.uneven import Uneven
from datamodules.errors import DataError

_EVEN = 6  # parameters that hold for the whole picture


class Augment:
    """Changes that a label of the node survives; each is off at 0.

    Motion: left and right are alike in the neck; up and down are not (depth), so there is no
    vertical flip. Rotation, scale and shift are those of a hand moving the probe.

    Brightness: what the operator sets, or the way to the node does, not the node. It multiplies
    displayed grey levels by factors that are constant over a clip's frames, so a time-intensity
    curve is scaled and not bent. `gain` is the overall knob. `tgc` is the column of sliders of
    the depth gain. `shadow` is a dark beam below a reflector (strap muscle's edge, poor contact),
    a Gaussian across, of at most 0.6 of the grey levels, lest the node vanish. `speckle` is the
    multiplicative, spatially correlated noise of coherent imaging (Michailovich and Tannenbaum,
    IEEE Trans. UFFC 53(1):64-78, 2006): another pattern than the one the network could learn by
    heart. Depth gain and shadows as augmentation of ultrasound: Singla et al., "Speckle and
    Shadows", MIDL 2022; Smistad et al., J. Med. Imaging 5(4):044004, 2018. Coarse calcifications
    cast shadows, too, and tell of a nodule: keep `shadow` rare.

    Changes in time are of the frame indices: see `datamodules.FrameSampling`.

    Args:
        flip: Probability of a left-right flip, 0 to 1.
        degrees: Largest rotation either way, 0 to 180.
        scale: Largest relative change of size either way, 0 to below 1.
        shift: Largest shift either way and axis, as a share of the side, 0 to 1.
        gain: Largest relative change of brightness either way, 0 to below 1.
        tgc: The same at each of six depths, straight lines between them.
        shadow: Probability of a shadow, 0 to 1.
        speckle: Standard deviation of the noise relative to the grey level, 0 to 1.

    Raises:
        DataError: If a setting is out of its range.
    """

    # Own code, since torchvision's v2 transforms draw once for a whole batch, and kornia's draw
    # from torch's generator, not a row's own, and pick rows by a mask, for which the host waits.

    def __init__(
        self,
        *,
        flip: float = 0.5,
        degrees: float = 5.0,
        scale: float = 0.05,
        shift: float = 0.05,
        gain: float = 0.1,
        tgc: float = 0.0,
        shadow: float = 0.0,
        speckle: float = 0.0,
    ) -> None:
        for name, value, top in (
            ("flip", flip, 1.0),
            ("degrees", degrees, 180.0),
            ("scale", scale, 0.99),
            ("shift", shift, 1.0),
            ("gain", gain, 0.99),
            ("tgc", tgc, 0.99),
            ("shadow", shadow, 1.0),
            ("speckle", speckle, 1.0),
        ):
            if not 0 <= value <= top:
                raise DataError(
                    f"augment.{name} must be 0 to {top:g}, got {value!r}. Set 0 to leave it out."
                )
        self._flip = flip
        self._reach = np.array([math.radians(degrees), scale, shift, shift, gain])
        self._uneven = Uneven(tgc=tgc, shadow=shadow, speckle=speckle)

    def draw(self, rng: np.random.Generator) -> torch.Tensor:
        """Parameters of one row.

        Returns:
            float32 `(n,)`: side (-1 flipped, 1 not), angle in radians, scale factor, shift in x
            and in y as a share of the side, gain factor; then those of the uneven brightness.
        """
        side = -1.0 if rng.random() < self._flip else 1.0
        angle, scale, shift_x, shift_y, gain = rng.uniform(-1, 1, size=5) * self._reach
        even = [side, angle, 1 + scale, shift_x, shift_y, 1 + gain]
        return torch.from_numpy(np.concatenate([even, self._uneven.draw(rng)])).float()

    def __call__(self, frames: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Apply to a batch.

        Args:
            frames: float32 `(B, N, H, W)`: the N planes of a row (channels × frames) change
                alike. May be overwritten.
            parameters: float32 `(B, n)` as `draw` gives them.

        Returns:
            float32 `(B, N, H, W)`; what moves in from outside the image is 0.
        """
        side, angle, scale, shift_x, shift_y, gain = parameters[:, :_EVEN].unbind(1)
        if self._reach[:4].any():
            # affine_grid maps output to input positions, in [-1, 1]: hence / scale and 2 × shift.
            cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
            rows = (side * cos, -side * sin, 2 * shift_x, sin, cos, 2 * shift_y)
            theta = torch.stack(rows, dim=1).view(-1, 2, 3)
            grid = F.affine_grid(theta, [len(frames), 1, *frames.shape[2:]], align_corners=False)
            frames = F.grid_sample(frames, grid, align_corners=False)
        elif self._flip:
            frames = torch.where(side.view(-1, 1, 1, 1) < 0, frames.flip(-1), frames)
        size = (frames.shape[2], frames.shape[3])
        uneven = self._uneven.factors(parameters[:, _EVEN:], size=size)
        brightness = gain.view(-1, 1, 1, 1)
        return frames.mul_(brightness if uneven is None else brightness * uneven)


def resize(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Resize all frames of a batch with antialias.

    Args:
        pixels: uint8 `(B, T, 3, H, W)`.
        size: Side in pixels.

    Returns:
        float32 `(B, 3, T, size, size)`, 0 to 255, memory of its own. On a CPU, where torch has a
        fast uint8 path, rounded to whole grey levels.
    """
    batch, frames, channels = pixels.shape[:3]
    shape = (batch, channels, frames, size, size)
    resized = torch.empty(shape, dtype=torch.float32, device=pixels.device)
    if pixels.shape[-2:] == (size, size):
        return resized.copy_(pixels.transpose(1, 2))
    # On a CPU clip by clip, which stays in its cache; on a device all at once.
    cpu = pixels.device.type == "cpu"
    parts = zip(pixels, resized, strict=True) if cpu else [(pixels.flatten(0, 1).float(), resized)]
    for part, into in parts:
        planes = F.interpolate(
            part, size=(size, size), mode="bilinear", align_corners=False, antialias=True
        )
        into.copy_(planes.view(*into.transpose(-4, -3).shape).transpose(-4, -3))
    return resized


def normalise(
    frames: torch.Tensor,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    present: torch.Tensor | None = None,
) -> torch.Tensor:
    """Grey levels to the range an encoder was pretrained on; absent rows to exactly zero.

    Args:
        frames: float32 `(B, 3, ...)`, 0 to 255. Overwritten.
        mean: Mean of the pretraining data per channel, 0 to 1.
        std: Its standard deviation per channel, 0 to 1.
        present: Bool `(B,)`; rows that are not present become 0. None: all are.

    Returns:
        The same tensor: `(frames / 255 - mean) / std`.
    """
    shape = (-1, 3, *[1] * (frames.ndim - 2))
    scale, offset = _scale_and_offset(mean, std, frames.device)
    if present is not None:
        scale = present[:, None] * scale
        offset = present[:, None] * offset
    return frames.mul_(scale.view(shape)).sub_(offset.view(shape))


@lru_cache
def _scale_and_offset(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 `(3,)` each, uploaded once: an upload makes the host wait for all that is queued.

    Because it waits, any stream may use them from then on.
    """
    deviation = torch.tensor(std)
    scale, offset = 1 / (255 * deviation), torch.tensor(mean) / deviation
    return scale.to(device), offset.to(device)
