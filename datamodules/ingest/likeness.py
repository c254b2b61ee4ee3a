"""How like its source a stored clip is: PSNR and SSIM."""

import math
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

Frames = npt.NDArray[np.uint8]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_RADIUS = 5  # pixels
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(frames: Frames, source: Frames) -> float:
    """Peak signal-to-noise ratio.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        source: The same frames before they were stored, of the same shape.

    Returns:
        dB over all values of all frames; 99 at most, also where nothing differs.
    """
    pairs = zip(frames, source, strict=True)
    error = float(np.mean([np.mean(np.subtract(*pair, dtype=np.float32) ** 2) for pair in pairs]))
    return min(99.0, 10 * math.log10(255**2 / error)) if error else 99.0


def ssim(frames: Frames, source: Frames) -> float:
    """Structural similarity of luma, mean over frames and pixels (Wang et al. 2004, eq. 13).

    Gaussian window of 11 x 11 pixels with sigma 1.5, K1 = 0.01 and K2 = 0.03, where it lies wholly
    inside the frame, all as published.

    Args:
        frames: As for `psnr`, 11 x 11 pixels or larger.
        source: As for `psnr`.

    Returns:
        -1 to 1; 1 where nothing differs.
    """
    blur = partial(gaussian_filter, sigma=1.5, radius=_RADIUS)
    means = []
    for pair in zip(frames, source, strict=True):
        a, b = (frame @ _LUMA for frame in pair)
        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
        covariance = blur(a * b) - mean_a * mean_b
        similar = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
        similar *= (2 * covariance + _C2) / (var_a + var_b + _C2)
        means.append(similar[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS].mean())
    return float(np.mean(means))
