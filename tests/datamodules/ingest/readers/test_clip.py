"""What all sources of a clip have in common, whatever their files are."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pydicom.data
import pytest
from PIL import Image

from datamodules.ingest.readers.clip import ClipSource
from datamodules.ingest.readers.dicom import DicomVideo
from datamodules.ingest.readers.open import open_clip
from datamodules.ingest.readers.series import PictureSeries
from datamodules.ingest.readers.video import Video

FRAMES = 5


def video(folder: Path, media: ModuleType) -> Path:
    return Path(media.write_video(folder / "v", media.KINDS["mjpeg-avi"], numbers=range(FRAMES)))


def pictures(folder: Path, media: ModuleType) -> Path:
    (folder / "frames").mkdir()
    for number in range(FRAMES):
        Image.fromarray(media.numbered_frame(number)).save(folder / "frames" / f"{number}.png")
    return folder / "frames"


def dicom(folder: Path, media: ModuleType) -> Path:
    return Path(pydicom.data.get_testdata_file("examples_ybr_color.dcm"))


@pytest.mark.parametrize(
    ("make", "reader"), [(video, Video), (pictures, PictureSeries), (dicom, DicomVideo)]
)
def test_every_source_gives_the_same_things(
    tmp_path: Path,
    media: ModuleType,
    make: Callable[[Path, ModuleType], Path],
    reader: type[ClipSource],
) -> None:
    path = make(tmp_path, media)
    with open_clip(path) as clip:
        assert type(clip) is reader
        first = next(iter(clip.glance(step=2)))
    with open_clip(path) as clip:
        frames = list(clip.frames())
        facts = clip.facts(12.0)
    assert len(frames) == clip.promised == len(facts.timing.order)
    assert {frame.shape for frame in frames} == {(facts.height, facts.width, 3)}
    np.testing.assert_array_equal(first, frames[0])
    assert facts.timing.fps == 12
    assert facts.codec
    assert facts.colours
    assert facts.concealed == 0
    assert clip.aspect == 1
    assert all(x >= 0 and y >= 0 and w > 0 and h > 0 for x, y, w, h in clip.regions)
