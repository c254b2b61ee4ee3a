"""PSNR and SSIM against torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from datamodules.ingest.likeness import psnr, ssim


@pytest.mark.parametrize("noise", [1, 20, 120])
def test_as_torchmetrics_has_them(noise: int) -> None:
    rng = np.random.default_rng(noise)
    smooth = np.cumsum(rng.integers(-2, 3, (3, 64, 80, 3)), axis=2) + 128
    source = np.clip(smooth, 0, 255).astype(np.uint8)
    frames = np.clip(source + rng.integers(-noise, noise + 1, source.shape), 0, 255)
    frames = frames.astype(np.uint8)
    pair = [torch.from_numpy(x).double() for x in (frames, source)]
    assert psnr(frames, source) == pytest.approx(
        float(peak_signal_noise_ratio(pair[0], pair[1], data_range=255.0)), abs=1e-4
    )
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    planes = [(x @ luma).unsqueeze(1) for x in pair]
    _, theirs = structural_similarity_index_measure(
        planes[0], planes[1], data_range=255.0, return_full_image=True
    )
    inside = theirs[..., 5:-5, 5:-5].mean()  # theirs counts the padded border, too
    assert ssim(frames, source) == pytest.approx(float(inside), abs=1e-5)


def test_of_the_same_frames() -> None:
    frames = np.full((2, 32, 32, 3), 7, np.uint8)
    assert psnr(frames, frames) == 99.0
    assert ssim(frames, frames) == pytest.approx(1.0)
