"""DICOM: real files of scanners by what is known of them, and made ones for every kind of times."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import convert_color_space
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from datamodules.ingest.prepare import prepare
from datamodules.ingest.readers.clip import Box, VideoFacts
from datamodules.ingest.readers.dicom import DicomVideo
from datamodules.ingest.readers.dicom_file import is_dicom
from datamodules.ingest.readers.pictures import MediaError
from datamodules.store.folder import Store

REAL = Path(__file__).parents[5] / "shared" / "data" / "dicom"
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the DICOM test files are not at {REAL}")


def frames_of(path: Path) -> list[np.ndarray]:
    with DicomVideo(path) as video:
        return list(video.frames())


def facts_of(path: Path, fps: float | None = None) -> VideoFacts:
    with DicomVideo(path) as video:
        for _ in video.frames():
            pass
        return video.facts(fps)


@real
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("OBXXXX1A.dcm", "OBXXXX1A_expb.dcm"),  # palette: little and big endian
        ("OBXXXX1A.dcm", "OBXXXX1A_rle.dcm"),  # and RLE
        ("OBXXXX1A_2frame.dcm", "OBXXXX1A_expb_2frame.dcm"),
        ("OBXXXX1A_2frame.dcm", "OBXXXX1A_rle_2frame.dcm"),
        ("gdcm-US-ALOKA-16.dcm", "gdcm-US-ALOKA-16_big.dcm"),  # 16-bit segmented palette
        ("color-pl.dcm", "color-px.dcm"),  # by plane and by pixel
        ("US1_UNCR.dcm", "US1_J2KR.dcm"),  # JPEG 2000 without loss
        ("US1_UNCI.dcm", "US1_J2KI.dcm"),
    ],
)
def test_the_same_picture_in_two_encodings_is_the_same(one: str, other: str) -> None:
    for a, b in zip(frames_of(REAL / one), frames_of(REAL / other), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.uint8
        assert a.max() > 150  # not black, as a palette in the wrong byte order is


@real
def test_a_cine_and_its_smaller_copy_have_the_same_colours() -> None:
    small = frames_of(REAL / "examples_ybr_color.dcm")
    large = frames_of(REAL / "color3d_jpeg_baseline.dcm")
    assert (len(small), len(large)) == (30, 120)
    for a, b in zip(small[::10], large[::10], strict=False):
        half = np.asarray(Image.fromarray(b).resize((320, 240), Image.Resampling.BOX))
        assert np.abs(half.mean((0, 1)) - a.mean((0, 1))).max() < 0.5
        assert np.abs(half.astype(int) - a).mean() < 1.5


@real
def test_every_real_file_decodes() -> None:
    paths = sorted(REAL.glob("*.dcm"))
    assert len(paths) == 21
    for path in paths:
        frames = frames_of(path)
        assert all(frame.ndim == 3 and frame.shape[2] == 3 for frame in frames), path.name
        assert frames[0].std() > 5, path.name


@real
@pytest.mark.parametrize(
    ("name", "regions"),
    [
        ("color3d_jpeg_baseline.dcm", ((84, 31, 512, 384),)),
        ("OBXXXX1A.dcm", ((120, 60, 680, 459),)),  # its last column is given as the width
        ("gdcm-US-ALOKA-16.dcm", ((32, 24, 304, 392), (336, 24, 304, 392))),
        ("examples_ybr_color.dcm", ()),  # halved after the regions were written
        ("US1_UNCR.dcm", ()),
    ],
)
def test_regions_are_those_of_2d_ultrasound_inside_the_frame(
    name: str, regions: tuple[Box, ...]
) -> None:
    with DicomVideo(REAL / name) as video:
        assert video.regions == regions


PIXELS = np.random.default_rng(0).integers(0, 256, (4, 12, 16, 3)).astype(np.uint8)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a DICOM cine of 4 frames of 16×12 pixels, with whatever elements are given."""

    def make(
        *, pixels: np.ndarray = PIXELS, syntax: Any = ExplicitVRLittleEndian, **elements: Any
    ) -> Path:
        meta = FileMetaDataset()
        compressed = syntax == RLELossless
        meta.TransferSyntaxUID = ExplicitVRLittleEndian if compressed else syntax
        meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["test"])
        path = tmp_path / "cine.dcm"
        ds = FileDataset(
            str(path),
            Dataset(),
            file_meta=meta,
            preamble=b"\0" * 128,
            is_implicit_VR=False,
            is_little_endian=syntax.is_little_endian,
        )
        grey = pixels.ndim == 3
        ds.PatientName, ds.PatientID = "Canary^Jane", "CANARY-4711"
        ds.Rows, ds.Columns, ds.NumberOfFrames = 12, 16, len(pixels)
        ds.SamplesPerPixel = 1 if grey else 3
        ds.PhotometricInterpretation = "MONOCHROME2" if grey else "RGB"
        bits = pixels.dtype.itemsize * 8
        ds.BitsAllocated = ds.BitsStored = bits
        ds.HighBit, ds.PixelRepresentation = bits - 1, 0
        if not grey:
            ds.PlanarConfiguration = 0
        ds.PixelData = (pixels.byteswap() if not syntax.is_little_endian else pixels).tobytes()
        ds["PixelData"].VR = "OB" if bits == 8 else "OW"
        for name, value in elements.items():
            setattr(ds, name, value)
        if compressed:
            ds.compress(RLELossless, encoding_plugin="pydicom")
        ds.save_as(path, enforce_file_format=True)
        return path

    return make


@pytest.mark.parametrize(
    ("elements", "fps"),
    [
        ({"FrameTime": "40", "CineRate": 99}, 25.0),
        ({"FrameTimeVector": [0, 50, 50, 50], "CineRate": 99}, 20.0),
        ({"CineRate": 12}, 12.0),
        ({"FrameTime": "0", "CineRate": 12}, 12.0),
        ({"FrameTimeVector": [0, 50], "CineRate": 12}, 12.0),
    ],
)
def test_times_are_taken_in_the_order_of_their_trust(
    write: Callable[..., Path], elements: dict[str, Any], fps: float
) -> None:
    path = write(**elements)
    np.testing.assert_array_equal(frames_of(path), PIXELS)
    timing = facts_of(path).timing
    assert timing.fps == pytest.approx(fps)
    assert timing.order.tolist() == [0, 1, 2, 3]


def test_a_variable_rate_is_resampled_and_said(write: Callable[..., Path]) -> None:
    timing = facts_of(write(FrameTimeVector=[0, 50, 50, 200])).timing
    assert timing.resampled
    assert timing.order.tolist() == [0, 1, 2, 2, 2, 2, 3]
    assert "variable frame rate, resampled to 20.000 fps" in timing.warnings


def test_without_times_the_table_must_give_them(write: Callable[..., Path]) -> None:
    path = write()
    with pytest.raises(MediaError, match="Frame Time Vector or Cine Rate; give the rate in a col"):
        facts_of(path)
    assert facts_of(path, 8.0).timing.fps == 8.0


def test_the_rate_of_the_table_wins_and_is_said(write: Callable[..., Path]) -> None:
    timing = facts_of(write(CineRate=30), 10.0).timing
    assert timing.fps == 10.0
    assert timing.warnings == ("10.000 fps of the cohort table taken, the file has 30.000",)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize("inverted", [False, True])
def test_grey_of_8_and_16_bits(write: Callable[..., Path], syntax: Any, inverted: bool) -> None:
    grey = PIXELS[..., 0]
    deep = grey.astype(np.uint16) * 257
    kind = "MONOCHROME1" if inverted else "MONOCHROME2"
    expected = 255 - grey if inverted else grey
    for pixels in (grey, deep):
        path = write(pixels=pixels, syntax=syntax, PhotometricInterpretation=kind)
        for frame, known in zip(frames_of(path), expected, strict=True):
            np.testing.assert_array_equal(frame, known[..., None].repeat(3, 2))


def test_ybr_full_is_turned_into_rgb(write: Callable[..., Path]) -> None:
    ybr = convert_color_space(PIXELS, "RGB", "YBR_FULL")
    frames = frames_of(write(pixels=ybr, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(np.stack(frames).astype(int) - PIXELS).max() <= 3  # its rounding


def test_pixels_that_are_not_square(write: Callable[..., Path]) -> None:
    for ratio, aspect in (([4, 3], 0.75), ([0, 3], 1.0)):
        with DicomVideo(write(PixelAspectRatio=ratio)) as video:
            assert video.aspect == aspect


def test_a_file_cut_off_or_of_other_content_is_refused(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(CineRate=10)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(MediaError, match=r"whole, got one cut off: its PixelData \(7FE0,0010\) go"):
        DicomVideo(path)
    path.write_bytes(data[:140])
    with pytest.raises(MediaError, match=r"DICOM without PixelData \(7FE0,0010\)"):
        DicomVideo(path)
    with pytest.raises(MediaError, match=r"8 to 8192 pixels a side, got Columns \(0028,0011\) 16"):
        DicomVideo(write(Rows=60000))


def test_nothing_of_the_patient_reaches_the_store(
    write: Callable[..., Path], write_cohort: Callable[..., Path], tmp_path: Path
) -> None:
    cine = write(CineRate=10, PatientBirthDate="19400101", InstitutionName="CANARY HOSPITAL")
    still = cine.with_name("still.dcm")
    cine.rename(cine.with_name("canary-jane.dcm"))
    write(pixels=PIXELS[:1]).rename(still)
    rows = [
        {"patient_id": "p1", "label": 1, "modality": "ceus", "path": "canary-jane.dcm"},
        {"patient_id": "p1", "label": 1, "modality": "image", "path": "still.dcm"},
    ]
    table = write_cohort(rows)
    for name in ("canary-jane.dcm", "still.dcm"):
        (tmp_path / name).rename(table.parent / name)
    store = prepare(table, tmp_path / "store", canvas=32, progress=False, workers=1)
    items = Store(store).items.set_index("modality")
    assert items.loc["ceus", ["frames", "fps"]].tolist() == [4, 10.0]
    assert items.loc["image", "frames"] == 1
    content = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    names = "".join(str(path.relative_to(store)) for path in store.rglob("*")).encode()
    for canary in (b"canary", b"jane", b"4711", b"19400101"):
        assert canary not in (content + names).lower()
    many = [row | {"modality": "image"} for row in rows[:1]]
    with pytest.raises(Exception, match="single picture, got 4 frames; is its modality `ceus`"):
        prepare(write_cohort(many), tmp_path / "other", canvas=32, progress=False, workers=1)


def test_what_is_dicom_is_told_by_its_first_bytes(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    assert is_dicom(write())
    (tmp_path / "no.dcm").write_bytes(bytes(itertools.repeat(0, 200)))
    assert not is_dicom(tmp_path / "no.dcm")
