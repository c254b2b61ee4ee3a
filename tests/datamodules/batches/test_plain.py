"""Pixels without torch are those with torch, to the bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.batches import augment, plain
from datamodules.batches.plain import PlainReader
from tests.datamodules.streams import every_kind, make


@pytest.mark.parametrize(
    ("given", "wanted"), [(256, 224), (64, 32), (256, 96), (96, 224), (512, 17), (48, 48), (32, 33)]
)
def test_frames_are_resized_as_torch_resizes_them(given: int, wanted: int) -> None:
    rng = np.random.default_rng(given)
    frames = rng.integers(0, 256, (2, given, given, 3), dtype=np.uint8)
    frames[0] = np.where(frames[0] > 127, 255, 0)  # sums at both ends of the scale
    # As clips lie in memory, and as images do.
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)[None]
    for laid in (clip, clip.contiguous()):
        expected = augment.resize(laid, wanted)[0].permute(1, 2, 3, 0).numpy()
        for frame, own in zip(frames, expected, strict=True):
            np.testing.assert_array_equal(plain.resize(frame, wanted), own)


@every_kind
def test_rows_are_those_of_the_datamodule(kind: str, stream_store: Path) -> None:
    module = make(kind, stream_store)
    module.take_new(stream_store)
    rows = module.evaluation_rows(module.patients("new"))
    expected = module.read_finished(rows)
    sampling = module.eval_sampling if "video" in module.inputs else None
    given = PlainReader(module.store, module.inputs, sampling).read(rows)
    if kind == "combined":
        assert not all(given["present_image"]) or not all(given["present_video"])
    assert given.keys() == expected.keys() & {"image", "video", "present_image", "present_video"}
    for key, values in given.items():
        assert values.dtype == expected[key].numpy().dtype
        np.testing.assert_array_equal(values, expected[key].numpy())
