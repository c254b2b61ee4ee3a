"""Every frame that ClipReader gives is the right one by the sequential decode of its source."""

import csv
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from datamodules.ingest.prepare import prepare
from datamodules.ingest.readers.pictures import letterbox
from datamodules.ingest.readers.video import Video
from datamodules.store.clips import ClipReader
from datamodules.store.folder import Store

CANVAS = 64
RNG = np.random.default_rng(0)

# Frames 10..19 follow after a pause, 20..39 after a longer one: at 25 per second.
GAPS = [*range(10), *range(13, 23), *range(30, 50)]

TURNS = {
    "rotated-90": ((0, 1, -1, 0), lambda upright: np.rot90(upright, 1)),
    "rotated-180": ((-1, 0, 0, -1), lambda upright: np.rot90(upright, 2)),
    "rotated-270": ((0, -1, 1, 0), lambda upright: np.rot90(upright, 3)),
    "mirrored": ((-1, 0, 0, 1), lambda upright: upright[:, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda upright: upright.transpose(1, 0, 2)),
}

# file -> numbers that its clip must show, frame by frame
PLAIN = {
    name: list(range(40))
    for name in (
        "mpeg4-b-avi", "mpeg4-mp4", "h264-avi", "h264-mp4", "h264-mov", "h264-ts", "open-gop-mp4",
        "open-gop-mkv", "open-gop-hevc", "mjpeg-avi", "mpeg2-ps", "mpeg2-ts", "wmv", "gif",
    )
}  # fmt: skip

EXPECTED = {
    **PLAIN,
    **{name: list(range(40)) for name in TURNS},
    "edit-list": list(range(10, 35)),
    "variable-rate": [int(np.searchsorted(GAPS, tick, "right")) - 1 for tick in range(50)],
    "variable-rate-mkv": [int(np.searchsorted(GAPS, tick, "right")) - 1 for tick in range(50)],
}


def _write(folder: Path, media: ModuleType, name: str) -> Path:
    kinds, path = media.KINDS, folder / name
    if name in kinds:
        return media.write_video(path, kinds[name])
    if name == "edit-list":
        file = media.write_video(path, kinds["h264-mp4"])
        file.write_bytes(media.trim_by_edit_list(file.read_bytes(), skip=0.4, keep=1.0))
    elif name == "variable-rate":
        file = media.write_video(path, kinds["h264-mp4"], ticks=GAPS)
    elif name == "variable-rate-mkv":
        file = media.write_video(path, kinds["open-gop-mkv"], ticks=GAPS)
    else:
        matrix, store_as = TURNS[name]
        file = media.write_video(
            path,
            kinds["h264-mp4"],
            frame=lambda number: np.ascontiguousarray(store_as(media.numbered_frame(number))),
        )
        file.write_bytes(media.set_rotation(file.read_bytes(), matrix))
    return file


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, media: ModuleType) -> dict[str, object]:
    """A store of all formats, its reader, and name -> (source, item_id)."""
    folder = tmp_path_factory.mktemp("formats")
    files = {name: _write(folder, media, name) for name in EXPECTED}
    table = folder / "cohort.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient_id", "label", "modality", "path"])
        writer.writerows([name, 0, "ceus", path.name] for name, path in files.items())
    store = Store(
        prepare(table, folder / "store", canvas=CANVAS, as_is=True, progress=False, workers=1)
    )
    items = dict(zip(store.items["patient_id"], store.items["item_id"], strict=True))
    return {"reader": ClipReader(store), "store": store, "items": items, "files": files}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_frame_is_the_right_one(prepared: dict, media: ModuleType, name: str) -> None:
    expected, item = EXPECTED[name], prepared["items"][name]
    record = prepared["store"].items.set_index("item_id").loc[item]
    assert record["frames"] == len(expected)
    assert record["fps"] == pytest.approx(25, rel=1e-3)
    wanted = [*RNG.permutation(len(expected)), *RNG.integers(0, len(expected), 9)]

    frames = prepared["reader"].read(item, wanted)

    shown = [media.read_number(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]
    assert shown == [expected[index] for index in wanted]


@pytest.mark.parametrize("name", PLAIN)
def test_frames_equal_the_sequential_decode(prepared: dict, name: str) -> None:
    with Video(prepared["files"][name]) as video:
        source = [letterbox(frame, canvas=CANVAS) for frame in video.frames()]
    read = prepared["reader"].read(prepared["items"][name], range(len(source)))
    error = np.stack(source).astype(float) - read.permute(0, 2, 3, 1).numpy()
    assert 10 * np.log10(255**2 / (error**2).mean()) > 35  # dB; a GIF is dithered in colour


def test_variable_rate_is_said(prepared: dict) -> None:
    records = prepared["store"].items.set_index("patient_id")
    warning = "variable frame rate, resampled to 25.000 fps"
    assert records.loc["variable-rate", "warnings"].split("; ")[0] == warning
    assert "variable" not in records.loc["mpeg4-b-avi", "warnings"]


def _real_files() -> list[Path]:
    here = Path(__file__).parents[3].parent / "shared" / "data"
    root = Path(os.environ.get("CEUS_REAL_DATA", here)) / "pocus" / "pocus_videos"
    files = sorted(
        (path for path in root.glob("*/*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    if os.environ.get("CEUS_REAL_ALL"):
        return files
    smallest = {path.suffix.lower(): path for path in reversed(files)}
    return sorted(smallest.values())


def test_real_files_are_exact(tmp_path: Path) -> None:
    """The smallest file of each kind; all 62 with CEUS_REAL_ALL=1 (about a minute)."""
    files = _real_files()
    if not files:
        pytest.skip("the POCUS clips are not here: name their folder by CEUS_REAL_DATA")
    for file in files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    table = tmp_path / "cohort.csv"
    lines = [f'{number},0,ceus,"{file.name}"' for number, file in enumerate(files)]
    table.write_text("\n".join(["patient_id,label,modality,path", *lines]))
    store = Store(
        prepare(table, tmp_path / "store", canvas=96, as_is=True, progress=False, workers=1)
    )
    reader = ClipReader(store)
    for row in store.items.itertuples():
        with Video(files[int(row.patient_id)]) as video:
            source = [
                letterbox(frame, canvas=96, aspect=video.aspect).astype(float)
                for frame in video.frames()
            ]
        assert row.frames == len(source)
        wanted = RNG.integers(0, len(source), 12)
        for index, frame in zip(wanted, reader.read(row.item_id, wanted), strict=True):
            near = range(max(0, index - 2), min(len(source), index + 3))
            pixels = frame.permute(1, 2, 0).numpy()
            best = min(near, key=lambda other: np.abs(source[other] - pixels).mean())
            # Some sources show a frame twice: then its double is as right.
            double = np.abs(source[best] - source[index]).mean() < 0.5
            assert best == index or double, (files[int(row.patient_id)], index)
