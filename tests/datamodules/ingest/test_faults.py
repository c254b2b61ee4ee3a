"""100 malformed files: each ends in a named reason or a recovery, never in wrong frames."""

import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

from datamodules.errors import DataError
from datamodules.ingest.cohort_file import read_cohort
from datamodules.ingest.prepare import prepare
from datamodules.store.clips import ClipReader
from datamodules.store.folder import Store

FRAMES = 24
CANVAS = 128


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, media: ModuleType) -> dict[str, Path]:
    """Good files by suffix, their frames numbered."""
    folder = tmp_path_factory.mktemp("whole")
    for kind in ("mjpeg-avi", "mpeg4-b-avi", "h264-mp4", "h264-ts", "open-gop-mkv", "wmv", "gif"):
        media.write_video(folder / kind, media.KINDS[kind], numbers=range(FRAMES))
    frames = [media.numbered_frame(number) for number in range(FRAMES)]
    Image.fromarray(frames[7]).save(folder / "still.png")
    Image.fromarray(frames[7]).save(folder / "still.jpg", quality=95)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["faults"])
    ds = FileDataset("cine", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.Rows, ds.Columns = frames[0].shape[:2]
    ds.NumberOfFrames, ds.SamplesPerPixel, ds.PlanarConfiguration = FRAMES, 3, 0
    ds.PhotometricInterpretation, ds.CineRate = "RGB", 25
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = b"".join(frame.tobytes() for frame in frames)
    ds["PixelData"].VR = "OB"
    ds.save_as(folder / "cine.dcm", enforce_file_format=True)
    return {path.name: path for path in sorted(folder.iterdir())}


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(1, len(data) - 1)]


def flip(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 40, 3000))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def blank(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    length = rng.randrange(1, len(data) // 2)
    return data[:start] + b"\0" * min(length, len(data) - start) + data[start + length :]


def without_index(data: bytes, rng: random.Random) -> bytes:
    place = data.rfind(b"idx1")
    return data[:place] if place > 0 else cut(data, rng)


def absurd(data: bytes, rng: random.Random) -> bytes:
    """A header that promises what is not there: dimensions, frames."""
    huge = rng.choice((60_000, 2**31 - 1))
    if data[:4] == b"RIFF":
        place = data.find(b"avih") + 8 + rng.choice((16, 32))  # dwTotalFrames or dwWidth
        return data[:place] + struct.pack("<I", huge) + data[place + 4 :]
    if data[:8] == b"\x89PNG\r\n\x1a\n":  # a bomb: all the pixels are zeros
        head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
        chunk = b"IHDR" + head
        return data[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    return cut(data, rng)


def other_name(data: bytes, rng: random.Random) -> bytes:
    del rng
    return data  # the suffix changes, the content does not: it must be read for what it is


FAULTS = (cut, cut, flip, flip, blank, without_index, absurd, other_name)
RECOVERED = {"other_name", "without_index", "cut", "absurd"}  # if taken, every frame must be right


def test_100_malformed_files(
    whole: dict[str, Path], media: ModuleType, write_cohort: Callable[..., Path], tmp_path: Path
) -> None:
    rng = random.Random(4)
    rows, made = [], []
    folder = write_cohort([{"path": ""}]).parent
    for number in range(100):
        name = rng.choice(sorted(whole))
        fault = rng.choice(FAULTS)
        source = whole[name]
        data = fault(source.read_bytes(), rng)
        # No two rows may bring the same content; what follows the end of a file is ignored.
        suffix = ".bin" if fault is other_name else source.suffix
        target = folder / f"{number}{suffix}"
        target.write_bytes(data + (struct.pack("<I", number) if fault is other_name else b""))
        modality = "image" if name.startswith("still") else "ceus"
        rows.append(row := {"patient_id": f"p{number}", "label": 0, "modality": modality})
        row["path"] = target.name
        made.append((number, fault.__name__, name))
    shutil.copy(whole["mjpeg-avi.avi"], folder / "good.avi")
    rows.append({"patient_id": "good", "label": 1, "modality": "ceus", "path": "good.avi"})
    table = write_cohort(rows)
    store = prepare(table, tmp_path / "store", canvas=CANVAS, as_is=True, skip_bad=True,
                    progress=False, workers=2)  # fmt: skip
    assert not (tmp_path / ".store.preparing").exists()
    opened = Store(store)
    items = opened.items.set_index("patient_id")
    skipped = pd.read_csv(store / "skipped.csv").set_index("line")["reason"]
    assert items.loc["good", "frames"] == FRAMES
    reader = ClipReader(opened)
    refused = 0
    for number, fault, name in made:
        line, patient = number + 2, f"p{number}"
        assert (line in skipped.index) != (patient in items.index), (number, fault, name)
        if line in skipped.index:
            refused += 1
            assert " must " in skipped[line], (number, fault, name, skipped[line])
            continue
        item = items.loc[patient]
        if item["modality"] == "image" or fault not in RECOVERED:
            continue
        frames = reader.read(item["item_id"], range(int(item["frames"])))
        seen = [media.read_number(frame.permute(1, 2, 0).numpy()) for frame in frames]
        # A recovery gives the frames from the first on, in order; some may be missing at the end.
        assert seen == sorted(seen), (number, fault, name, seen)
        assert set(seen) <= set(range(FRAMES)), (number, fault, name, seen)
    assert 50 < refused < 100


@pytest.mark.parametrize("tag", ["Rows", "PixelData", "PhotometricInterpretation", "BitsStored"])
def test_dicom_without_what_decoding_needs(
    whole: dict[str, Path], write_cohort: Callable[..., Path], tmp_path: Path, tag: str
) -> None:
    row = {"patient_id": "p", "label": 0, "modality": "ceus", "path": "c.dcm"}
    table = write_cohort([row])
    ds = dcmread(whole["cine.dcm"])
    del ds[tag]
    ds.save_as(table.parent / "c.dcm")
    with pytest.raises(DataError, match=r"line 2: c.dcm: .* must "):
        prepare(table, tmp_path / "store", canvas=64, progress=False, workers=1)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "must be a CSV in UTF-8"),
        ("latin-1", "must be a CSV in UTF-8"),
        ("utf-8-sig", ""),
    ],
)
def test_tables_in_other_encodings(tmp_path: Path, encoding: str, message: str) -> None:
    path = tmp_path / "cohort.csv"
    path.write_text("patient_id,label,modality,path\nmüller,0,ceus,x.avi\n", encoding=encoding)
    if message:
        with pytest.raises(DataError, match=message):
            read_cohort(path)
    else:
        (problem,) = read_cohort(path).problems
        assert problem.reason == "file must exist, got none"
