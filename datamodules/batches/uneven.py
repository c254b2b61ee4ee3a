"""Brightness that differs over the picture: depth gain, shadow and speckle as one map of factors.

One map a row, the same for all frames of a clip, multiplies the displayed grey levels: what is
black stays black, a time-intensity curve of any place is scaled and not bent, and the cost is one
product, whatever is switched on.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

_SLIDERS = 6  # of the depth gain; devices have six to eight
_GRAINS = 64  # of the speckle, along each side: 3.5 pixels at 224
_DEEPEST_SHADOW = 0.6  # share of the grey levels that it takes at most: what lies in it stays seen


@dataclass(frozen=True)
class Uneven:
    """What is drawn for each row; the settings are those of `datamodules.Augment`."""

    tgc: float
    shadow: float
    speckle: float

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Parameters of one row: as many as `factors` takes; none if nothing is on."""
        parts = []
        if self.tgc:
            parts.append(rng.uniform(-self.tgc, self.tgc, size=_SLIDERS))
        if self.shadow:
            is_cast = rng.random() < self.shadow
            place, width, depth, strength = rng.uniform(
                (0.0, 0.03, 0.0, 0.0), (1.0, 0.12, 0.6, _DEEPEST_SHADOW)
            )
            parts.append(np.array([place, width, depth, strength * is_cast]))
        if self.speckle:
            parts.append(self.speckle * rng.standard_normal(_GRAINS**2))
        return np.concatenate(parts) if parts else np.zeros(0)

    def factors(self, parameters: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor | None:
        """The map of each row.

        Args:
            parameters: float32 `(B, n)` as `draw` gives them.
            size: Height and width.

        Returns:
            float32 `(B, 1, height, width)`, 0 or more; None if nothing is on.
        """
        if not parameters.shape[1]:
            return None
        height, width = size
        counts = [
            _SLIDERS if self.tgc else 0,
            4 if self.shadow else 0,
            _GRAINS**2 if self.speckle else 0,
        ]
        tgc, shadow, speckle = torch.split(parameters, counts, dim=1)
        maps = []
        if self.tgc:
            curve = F.interpolate(tgc[:, None], size=height, mode="linear", align_corners=True)
            maps.append(1 + curve[..., None])
        if self.shadow:
            x = torch.linspace(0, 1, width, device=parameters.device)
            y = torch.linspace(0, 1, height, device=parameters.device)[:, None]
            place, spread, depth, strength = (part.view(-1, 1, 1, 1) for part in shadow.unbind(1))
            beam = torch.exp(-0.5 * ((x - place) / spread) ** 2)
            maps.append(1 - strength * beam * torch.sigmoid((y - depth) / 0.02))
        if self.speckle:
            grains = speckle.view(-1, 1, _GRAINS, _GRAINS)
            # Bilinear interpolation keeps (2/3)² of the variance of independent grains.
            field = 1.5 * F.interpolate(grains, size=size, mode="bilinear", align_corners=False)
            maps.append((1 + field).clamp_(min=0))
        return math.prod(maps[1:], start=maps[0]).expand(-1, 1, height, width)
