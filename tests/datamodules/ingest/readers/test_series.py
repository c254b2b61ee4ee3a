"""Clips that come as pictures: order, gaps, times."""

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import DataError
from datamodules.ingest.cohort_file import read_cohort
from datamodules.ingest.prepare import prepare
from datamodules.ingest.readers.open import open_clip, read_still
from datamodules.ingest.readers.pictures import MediaError
from datamodules.ingest.readers.series import ArrayClip, PictureSeries
from datamodules.ingest.readers.video import Video
from datamodules.store.clips import ClipReader
from datamodules.store.folder import Store

NAMES = [f"IM_2024_{number}.png" for number in range(8, 12)]  # 8, 9, 10, 11: not as text sorts


@pytest.fixture
def folder(tmp_path: Path, media: ModuleType) -> Path:
    path = tmp_path / "frames"
    path.mkdir()
    for number, name in enumerate(NAMES):
        Image.fromarray(media.numbered_frame(number)).save(path / name)
    (path / "Thumbs.db").write_bytes(b"not a picture")
    return path


@pytest.fixture
def tiff(tmp_path: Path, media: ModuleType) -> Path:
    pages = [Image.fromarray(media.numbered_frame(number)) for number in range(4)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    return tmp_path / "pages.tif"


@pytest.mark.parametrize("source", ["folder", "tiff"])
def test_frames_come_in_the_order_of_their_numbers(
    request: pytest.FixtureRequest, media: ModuleType, source: str
) -> None:
    with open_clip(request.getfixturevalue(source)) as series:
        assert isinstance(series, PictureSeries)
        for number, frame in enumerate(series.frames()):
            np.testing.assert_array_equal(frame, media.numbered_frame(number))
        with pytest.raises(MediaError, match="got pictures; give the rate in a column fps"):
            series.facts()
        timing = series.facts(12.5).timing
    assert (timing.fps, timing.order.tolist()) == (12.5, [0, 1, 2, 3])


def test_a_folder_becomes_an_item(
    folder: Path, media: ModuleType, write_cohort: Callable[..., Path], tmp_path: Path
) -> None:
    row = {"patient_id": "p", "label": 0, "modality": "ceus", "path": "frames", "fps": 10}
    table = write_cohort([row])
    shutil.move(folder, table.parent)
    store = Store(prepare(table, tmp_path / "store", canvas=128, progress=False, workers=1))
    (item,) = store.items.to_dict("records")
    assert (item["frames"], item["fps"], item["seconds"]) == (4, 10.0, 0.4)
    frames = ClipReader(store).read(item["item_id"], [3, 0])
    numbers = [media.read_number(frame.permute(1, 2, 0).numpy()) for frame in frames]
    assert numbers == [3, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / NAMES[1]).unlink(), "must be numbered without gaps, got no 9"),
        (lambda f: (f / NAMES[1]).rename(f / "cover.png"), "must have numbers, got one"),
        (lambda f: shutil.copy(f / NAMES[1], f / "x9.png"), "different last numbers in .* got 9"),
        (lambda f: [(f / name).unlink() for name in NAMES], r"must hold numbered pictures \("),
        (
            lambda f: Image.new("RGB", (9, 9)).save(f / NAMES[2]),
            r"must be of one size, got \(96, 128\) and \(9, 9\) \(height, width; frame 2\)",
        ),
    ],
)
def test_a_folder_that_is_no_clip_is_refused(
    folder: Path, change: Callable[[Path], object], message: str
) -> None:
    change(folder)
    with pytest.raises(MediaError, match=message):
        list(PictureSeries(folder).frames())


def test_the_rate_of_the_table_takes_the_place_of_a_videos(
    tmp_path: Path, media: ModuleType
) -> None:
    media.write_video(tmp_path / "v", media.KINDS["mjpeg-avi"], numbers=range(6))
    for fps, warnings in ((25.0, ()), (8.0, ("8.000 fps of the cohort table taken, the file",))):
        with Video(tmp_path / "v.avi") as video:
            list(video.frames())
            timing = video.facts(fps).timing
        assert timing.fps == pytest.approx(fps)
        assert tuple(text[:43] for text in timing.warnings) == tuple(t[:43] for t in warnings)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(target: str) -> Callable[[Path], None]:
    """Puts a link in the place of a file."""

    def replace(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return replace


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (pipe, "folder must hold files, got a pipe, a device or a link that leads nowhere"),
        (link("nowhere.png"), "folder must hold files, got a pipe, a device or a link"),
        (link("/dev/zero"), "links in a folder of frames must lead to files in the cohort's"),
        (link("../../outside.png"), "links in a folder of frames must lead to files in the coh"),
        (link(NAMES[1]), "path must lead to a file, got a loop of links"),
        (lambda path: (path.unlink(), path.mkdir()), "frames in a folder must be files, got a f"),
    ],
)
def test_what_is_no_file_in_a_folder_costs_its_row_and_no_wait(
    folder: Path,
    change: Callable[[Path], object],
    reason: str,
    write_cohort: Callable[..., Path],
    tmp_path: Path,
) -> None:
    row = {"patient_id": "p", "label": 0, "modality": "ceus", "path": "frames", "fps": 10}
    table = write_cohort([row])
    shutil.move(folder, table.parent)
    (tmp_path / "outside.png").write_bytes(b"x")
    change(table.parent / "frames" / NAMES[1])
    with pytest.raises(DataError, match=reason):
        prepare(table, tmp_path / "store", canvas=32, progress=False, workers=1)


def test_a_link_inside_the_cohort_is_a_frame_like_others(
    folder: Path, write_cohort: Callable[..., Path]
) -> None:
    row = {"patient_id": "p", "label": 0, "modality": "ceus", "path": "frames", "fps": 10}
    table = write_cohort([row])
    shutil.move(folder, table.parent)
    (table.parent / "frames" / NAMES[1]).rename(table.parent / "elsewhere.png")
    (table.parent / "frames" / NAMES[1]).symlink_to("../elsewhere.png")
    (checked,) = read_cohort(table).rows
    with PictureSeries(checked.path) as series:
        assert len(list(series.frames())) == 4


def test_oddities_of_a_series_are_said_once_and_change_no_frame(tmp_path: Path) -> None:
    pages = [np.full((16, 16), 500 * number, np.uint16) for number in range(1, 9)]
    clear = np.zeros((16, 16, 4), np.uint8)
    for number, page in enumerate(pages):
        Image.fromarray(page).save(tmp_path / f"{number}.png")
    with PictureSeries(tmp_path) as series:
        levels = [int(frame[0, 0, 0]) for frame in series.frames()]
        said = series.facts(5.0).timing.warnings
    assert levels == [round(500 * number * 255 / 65535) for number in range(1, 9)]
    assert said == ("16 bits a pixel: only 1/16 of their range is used",)
    for number in range(8):
        clear[..., :3] = 20 * number
        Image.fromarray(clear).save(tmp_path / f"{number}.png")
    with PictureSeries(tmp_path) as series:
        assert [int(frame[0, 0, 0]) for frame in series.frames()] == list(range(0, 160, 20))
        assert series.facts(5.0).timing.warnings == ("alpha 0 everywhere, taken as unused",)


def test_pages_without_end_are_not_read(tmp_path: Path) -> None:
    entries = [
        (256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 16),
        (279, 256),
    ]  # fmt: skip
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    page = struct.pack("<H", len(entries)) + body
    count, first, size = 30_000, 8 + 256, len(page) + 4
    ends = [first + size * (number + 1) for number in range(count - 1)] + [0]
    with (tmp_path / "pages.tif").open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, first) + bytes(256))
        file.writelines(page + struct.pack("<I", end) for end in ends)
    with pytest.raises(MediaError, match="must unfold to at most 20000 frames and 64 GiB, got 20"):
        open_clip(tmp_path / "pages.tif")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("grey", [False, True])
def test_an_array_is_a_clip(tmp_path: Path, media: ModuleType, grey: bool, order: Any) -> None:
    frames = np.stack([media.numbered_frame(number) for number in range(4)])
    np.save(tmp_path / "a.npy", np.asarray(frames[..., 0] if grey else frames, order=order))
    with open_clip(tmp_path / "a.npy") as clip:
        assert isinstance(clip, ArrayClip)
        np.testing.assert_array_equal(np.stack(list(clip.frames())), frames)
        with pytest.raises(MediaError, match="got pictures; give the rate in a column fps"):
            clip.facts()
        assert clip.facts(12.5).timing.fps == 12.5
    with open_clip(tmp_path / "a.npy") as clip:
        np.testing.assert_array_equal(np.stack(list(clip.frames(step=3))), frames[::3])
    with pytest.raises(MediaError, match="file must be a whole picture"):
        read_still(tmp_path / "a.npy")


CLIP = np.zeros((3, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (CLIP.astype(float), "array must be uint8 .* got float64 of 3 × 16 × 16 × 3"),
        (CLIP[..., :2], "got uint8 of 3 × 16 × 16 × 2"),
        (CLIP[0, ..., 0], "got uint8 of 16 × 16"),
        (CLIP[:0], "and at least one, got 0 of 16×16"),
        (CLIP[:, :1], "of 8 to 8192 pixels a side, and at least one, got 3 of 16×1"),
        (np.zeros((2, 4000, 4000), np.uint8), "at most 8.4 million pixels, got 4000×4000"),
        (np.array([{}], object), "must be a whole array of numbers, got one that does not open"),
    ],
)
def test_an_array_of_another_kind_is_refused(
    tmp_path: Path, array: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(MediaError, match=message):
        open_clip(tmp_path / "a.npy")


def test_an_array_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, CLIP)
    data = path.read_bytes()
    for content, message in ((data[:-9], "must be a whole array"), (data + b"x", "further bytes")):
        path.write_bytes(content)
        with pytest.raises(MediaError, match=message):
            open_clip(path)
