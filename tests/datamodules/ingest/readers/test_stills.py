"""Still pictures: what odd files of them become, and what is said of it."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.ingest.prepare import prepare
from datamodules.ingest.readers.open import Still, read_still
from datamodules.ingest.readers.pictures import MediaError, check_clip
from datamodules.store.folder import Store

GREY = np.linspace(0, 255, 48 * 64).reshape(48, 64).astype(np.uint8)
RGB = np.repeat(GREY[..., None], 3, axis=-1)
CLEAR = np.dstack([RGB, np.zeros_like(GREY)])
UNUSED = ("alpha 0 everywhere, taken as unused",)


def write_tiff(
    path: Path, pixels: np.ndarray, *, kind: int, deflated: bool = False, alpha: int | None = None
) -> None:
    """A TIFF of one strip.

    Args:
        path: The file.
        pixels: (H, W) or (H, W, samples), in the order of this machine.
        kind: Photometric Interpretation: 0 white is zero, 1 black is zero, 2 RGB.
        deflated: Whether it is compressed.
        alpha: Kind of the last sample: 1 multiplied into the colours, 2 not.
    """
    height, width, *rest = pixels.shape
    samples, bits = (rest or [1])[0], pixels.dtype.itemsize * 8
    data = zlib.compress(pixels.tobytes()) if deflated else pixels.tobytes()
    tags = [
        (256, width), (257, height), (258, bits), (259, 8 if deflated else 1), (262, kind),
        (273, 0), (277, samples), (278, height), (279, len(data)),
    ]  # fmt: skip
    tags += [(338, alpha)] if alpha else []
    end = 8 + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, value in tags:
        if tag == 258 and samples > 1:
            entries += struct.pack("<HHII", tag, 3, samples, end)
        else:
            entries += struct.pack("<HHII", tag, 4, 1, end + 8 if tag == 273 else value)
    several = struct.pack("<4H", *[bits] * 4)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    path.write_bytes(head + entries + bytes(4) + several + data)


def written(tmp_path: Path, picture: Image.Image, name: str, **options: object) -> Still:
    picture.save(tmp_path / name, **options)
    return read_still(tmp_path / name)


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", [0, 1])
def test_white_is_zero_in_some_tiffs(
    tmp_path: Path, deflated: bool, dtype: type, kind: int
) -> None:
    factor = 257 if dtype is np.uint16 else 1
    write_tiff(tmp_path / "a.tif", GREY.astype(dtype) * factor, kind=kind, deflated=deflated)
    expected = RGB if kind else 255 - RGB
    np.testing.assert_array_equal(read_still(tmp_path / "a.tif").picture, expected)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_alpha_that_is_0_everywhere_is_unused(tmp_path: Path, name: str) -> None:
    exact = {"lossless": True, "exact": True} if name == "a.webp" else {}
    still = written(tmp_path, Image.fromarray(CLEAR), name, **exact)
    np.testing.assert_array_equal(still.picture, RGB)
    assert still.warnings == UNUSED
    partly = CLEAR.copy()
    partly[:9, :, 3] = 255
    still = written(tmp_path, Image.fromarray(partly), name, **exact)
    np.testing.assert_array_equal(still.picture, np.where(partly[..., 3:], RGB, 0))
    assert still.warnings == ()


def test_unused_alpha_of_other_kinds(tmp_path: Path) -> None:
    grey, none = Image.fromarray(GREY), Image.fromarray(np.zeros_like(GREY))
    for picture, options in (
        (Image.merge("LA", [grey, none]), {}),
        (grey.convert("P"), {"transparency": bytes(256)}),
    ):
        still = written(tmp_path, picture, "a.png", **options)
        np.testing.assert_array_equal(still.picture, RGB)
        assert still.warnings == UNUSED
    rows = np.dstack([RGB[..., ::-1], np.zeros_like(GREY)])[::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", 40, 64, 48, 1, 32, 0, len(rows), 0, 0, 0, 0)
    size = struct.pack("<2sIHHI", b"BM", 54 + len(rows), 0, 0, 54)
    (tmp_path / "a.bmp").write_bytes(size + head + rows)
    np.testing.assert_array_equal(read_still(tmp_path / "a.bmp").picture, RGB)
    write_tiff(tmp_path / "a.tif", CLEAR, kind=2, alpha=1)
    with pytest.raises(MediaError, match="alpha must not be 0 everywhere, got colours multiplied"):
        read_still(tmp_path / "a.tif")


def test_few_bits_in_16_are_said(tmp_path: Path) -> None:
    said = ("16 bits a pixel: only 1/16 of their range is used",)
    still = written(tmp_path, Image.fromarray(GREY.astype(np.uint16) << 4), "a.png")
    assert still.warnings == said
    write_tiff(tmp_path / "a.tif", RGB.astype(np.uint16) << 4, kind=2)
    assert read_still(tmp_path / "a.tif").warnings == said
    still = written(tmp_path, Image.fromarray(GREY.astype(np.uint16) * 200), "a.png")
    assert still.warnings == ()


def test_a_cameras_second_picture_is_its_preview(tmp_path: Path) -> None:
    small = Image.fromarray(RGB[::2, ::2])
    still = written(
        tmp_path, Image.fromarray(RGB), "a.jpg", format="MPO", save_all=True, append_images=[small]
    )
    assert np.abs(still.picture.astype(int) - RGB).mean() < 2
    assert still.warnings == ("first of the pictures in a camera's MPO taken",)


def png(width: int, height: int) -> bytes:
    """A PNG that says it is so large, of a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (1, 89_000_000, "8 to 8192 pixels a side, got 1×89000000"),
        (89_000_000, 1, "8 to 8192 pixels a side, got 89000000×1"),
        (8193, 100, "8 to 8192 pixels a side, got 8193×100"),
        (60_000, 60_000, "at most 8192 pixels a side, got more"),
        (1, 1, "8 to 8192 pixels a side, got 1×1"),
    ],
)
def test_a_size_is_judged_before_it_is_decoded(
    tmp_path: Path, width: int, height: int, message: str
) -> None:
    (tmp_path / "a.png").write_bytes(png(width, height))
    with pytest.raises(MediaError, match=message):
        read_still(tmp_path / "a.png")


def test_no_other_program_is_started_for_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "EPS")
    (tmp_path / "eps.png").write_bytes(file.getvalue())
    with pytest.raises(MediaError, match=r"a whole picture, one of BMP, .*, got another"):
        read_still(tmp_path / "eps.png")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("count", "shape", "message"),
    [
        (20_001, (8, 8), "at most 20000 frames and 64 GiB, got 20001 of 8×8"),
        (20_000, (1080, 1920), r"at most 20000 frames and 64 GiB, got 20000 of 1920×1080 \(115.9"),
        (2, (8000, 8000), "at most 8.4 million pixels, got 8000×8000"),
    ],
)
def test_what_a_clip_may_unfold_to(count: int, shape: tuple[int, int], message: str) -> None:
    with pytest.raises(MediaError, match=message):
        check_clip(count, shape)


def test_warnings_of_a_still_reach_the_store(
    write_cohort: Callable[..., Path], tmp_path: Path
) -> None:
    table = write_cohort([{"patient_id": "p", "label": 0, "modality": "image", "path": "a.png"}])
    Image.fromarray(CLEAR).save(table.parent / "a.png")
    store = Store(prepare(table, tmp_path / "store", canvas=64, progress=False, workers=1))
    assert store.items["warnings"].tolist() == [*UNUSED]
