"""Clips that come as pictures: order, gaps, times."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from datamodules.ingest.prepare import prepare
from datamodules.ingest.readers.open import open_clip
from datamodules.ingest.readers.pictures import MediaError
from datamodules.ingest.readers.series import PictureSeries
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
        (lambda f: (f / NAMES[1]).rename(f / "cover.png"), "must have different numbers, got one"),
        (lambda f: shutil.copy(f / NAMES[1], f / "x9.png"), "must have different numbers, got"),
        (lambda f: [(f / name).unlink() for name in NAMES], "must hold numbered pictures, got n"),
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
