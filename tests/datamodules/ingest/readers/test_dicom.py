"""DICOM: real files of scanners by what is known of them, and made ones for every kind of times."""

import io
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate_extended
from pydicom.pixels import convert_color_space
from pydicom.uid import (
    MPEG2MPML,
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from datamodules.errors import StorageError
from datamodules.ingest.prepare import prepare
from datamodules.ingest.readers import dicom_file
from datamodules.ingest.readers.clip import Box, VideoFacts
from datamodules.ingest.readers.dicom import DicomVideo
from datamodules.ingest.readers.dicom_file import is_dicom
from datamodules.ingest.readers.open import open_clip, read_still
from datamodules.ingest.readers.pictures import REFUSED, MediaError
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
    """Writes a DICOM cine of 4 frames of 16×12 pixels, with whatever elements are given.

    An element that is None is left out; `fragments` take the place of the pixels.
    """

    def make(
        *,
        pixels: np.ndarray = PIXELS,
        syntax: Any = ExplicitVRLittleEndian,
        fragments: list[bytes] | None = None,
        **elements: Any,
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
        ds.SOPClassUID = UltrasoundMultiFrameImageStorage
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
        if fragments:
            ds.PixelData = encapsulate_extended(fragments)[0]
            ds["PixelData"].VR = "OB"
        for name, value in elements.items():
            if value is None:
                delattr(ds, name)
            else:
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
    path = write(CineRate=10)
    assert is_dicom(path)
    data = path.read_bytes()
    for name, content, is_one in (
        ("none", bytes(200), False),
        ("bare", data[132:], True),
        ("bare-data-set", data[data.index(b"\x08\0\x16\0") :], True),
        ("another", b"\x08\0" + bytes(400), False),
        ("short", b"\x08\0\x05\0", False),
    ):
        (tmp_path / name).write_bytes(content)
        assert is_dicom(tmp_path / name) is is_one, name
        if is_one:
            np.testing.assert_array_equal(frames_of(tmp_path / name), PIXELS)


def test_a_dicom_that_is_a_tiff_as_well_keeps_its_times(write: Callable[..., Path]) -> None:
    path = write(FrameTime="40")
    Image.fromarray(PIXELS[0]).save(path.with_name("page.tif"))
    page = path.with_name("page.tif").read_bytes()
    path.write_bytes(page[:8].ljust(128, b"\0") + path.read_bytes()[128:])
    with open_clip(path) as clip:
        assert isinstance(clip, DicomVideo)


# Tags that lie about the pixels.

GREY = PIXELS[..., 0]


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"NumberOfFrames": n}, rf"NumberOfFrames \(0028,0008\) .* got {n} where that holds 4")
        for n in (0, 1, 3, 5)
    ]
    + [
        ({"Rows": 24}, r"NumberOfFrames \(0028,0008\) .* got 4 where that holds 2"),
        ({"Rows": 13}, r"PixelData \(7FE0,0010\) must be whole frames of 624 bytes .* got 2304"),
        ({"PixelData": bytes(2306)}, r"PixelData .* whole frames of 576 bytes .* got 2306 bytes"),
        ({"PixelData": bytes(400)}, r"PixelData .* whole frames of 576 bytes .* got 400 bytes"),
        ({"Rows": 1, "Columns": 1}, r"8 to 8192 pixels a side, got Columns \(0028,0011\) 1 and"),
        ({"Rows": None}, r"must be a DICOM image, got one without Rows \(0028,0010\)"),
        ({"BitsStored": 7}, r"BitsStored \(0028,0101\) must hold .* 7 bits .* they are 0 to 255"),
        ({"BitsStored": 1, "HighBit": 0}, r"BitsStored .* got 1 bits \(0 to 1\) where they are 0"),
        ({"BitsStored": 12}, r"BitsAllocated \(0028,0100\) must be 8 or 16 .* got 8 and 12"),
        ({"BitsAllocated": 32, "BitsStored": 32}, r"BitsAllocated .* got 32 and 32"),
        ({"HighBit": 3}, r"HighBit \(0028,0102\) must be BitsStored .* got 3 of 8"),
        ({"SamplesPerPixel": 1}, r"SamplesPerPixel \(0028,0002\) must be 3 of RGB, got 1"),
        ({"PhotometricInterpretation": "YBR_RCT"}, r"PhotometricInterpretation .* got YBR_RCT"),
        ({"PhotometricInterpretation": "CMYK"}, r"PhotometricInterpretation .* got another"),
        ({"PixelData": None}, r"must hold pictures, got a DICOM without PixelData"),
        ({"Columns": 9000}, r"got Columns \(0028,0011\) 9000"),
    ],
)
def test_tags_that_lie_are_named_with_what_the_pixels_say(
    write: Callable[..., Path], elements: dict[str, Any], message: str
) -> None:
    with pytest.raises(MediaError, match=message):
        frames_of(write(CineRate=10, **elements))


def test_a_byte_of_padding_is_no_lie(write: Callable[..., Path]) -> None:
    odd = PIXELS[:3, :9, :9]
    path = write(pixels=odd, Rows=9, Columns=9, PixelData=odd.tobytes() + b"\0")
    np.testing.assert_array_equal(frames_of(path), odd)


def test_without_number_of_frames_all_are_taken_and_it_is_said(write: Callable[..., Path]) -> None:
    path = write(NumberOfFrames=None, CineRate=10)
    assert len(frames_of(path)) == 4
    assert any("all 4 frames" in text for text in facts_of(path).timing.warnings)
    with pytest.raises(MediaError, match="must be a single picture, got 4 frames"):
        read_still(path)


def jpegs(*sizes: tuple[int, int]) -> list[bytes]:
    """Grey JPEGs of these widths and heights."""
    files = []
    for width, height in sizes:
        file = io.BytesIO()
        Image.fromarray(np.full((height, width), 90, np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())
    return files


@pytest.mark.parametrize(
    ("frames", "elements", "message"),
    [
        ([(16, 12)] * 3, {}, r"NumberOfFrames .* got 4 where that holds 3"),
        ([(16, 12)] * 5, {}, r"NumberOfFrames .* got 4 where that holds 5"),
        ([(12, 16)] * 4, {}, r"Rows \(0028,0010\) must be as in the compressed .* 12 where .* 16"),
        ([(16, 12)] * 3 + [(8, 12)], {}, r"Columns \(0028,0011\) .* got 16 where that has 8"),
        ([(16, 12)] * 4, {"BitsStored": 7, "HighBit": 6}, "BitsStored .* got 7 where"),
        ([(16, 12)] * 4, {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}, "got 12 where"),
        (
            [(16, 12)] * 4,
            {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0},
            r"SamplesPerPixel .* got 3 where that has 1",
        ),
    ],
)
def test_compressed_frames_are_held_against_the_tags(
    write: Callable[..., Path],
    frames: list[tuple[int, int]],
    elements: dict[str, Any],
    message: str,
) -> None:
    path = write(pixels=GREY, syntax=JPEGBaseline8Bit, fragments=jpegs(*frames), **elements)
    with pytest.raises(MediaError, match=message):
        frames_of(path)


def test_frames_in_several_fragments_and_wrong_offsets(write: Callable[..., Path]) -> None:
    whole = jpegs(*[(16, 12)] * 4)
    halves = [part for frame in whole for part in (frame[:200], frame[200:])]
    path = write(pixels=GREY, syntax=JPEGBaseline8Bit, fragments=halves)
    assert len(frames_of(path)) == 4
    with pytest.raises(MediaError, match="frames must begin as their transfer syntax says"):
        frames_of(write(pixels=GREY, syntax=JPEGBaseline8Bit, fragments=halves[1:]))
    path = write(pixels=GREY)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))
    with pytest.raises(MediaError, match="got bare bytes under RLE Lossless"):
        frames_of(path)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.99", "1.2.840.10008.1.2.4.94"])
def test_a_transfer_syntax_without_a_decoder_is_named(
    write: Callable[..., Path], syntax: str
) -> None:
    path = write(pixels=GREY, syntax=JPEGBaseline8Bit, fragments=jpegs((16, 12)))
    path.write_bytes(path.read_bytes().replace(JPEGBaseline8Bit.encode(), syntax.encode()))
    with pytest.raises(MediaError, match=rf"can be decoded here, got .* \({syntax}\); save the"):
        frames_of(path)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_damaged_jpegs_are_counted(write: Callable[..., Path], count: int) -> None:
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (48, 64), np.uint8)).save(file, "JPEG")
    good = file.getvalue()
    half = len(good) // 2
    bad = good[:half] + bytes(200) + good[half + 200 :]
    size = {"Rows": 48, "Columns": 64, "NumberOfFrames": count, "CineRate": 10}
    path = write(
        pixels=GREY, syntax=JPEGBaseline8Bit, fragments=[bad] + [good] * (count - 1), **size
    )
    if count == 1:  # it may be the way of its encoder
        assert read_still(path).warnings == (REFUSED,)
    elif count == 2:
        with pytest.raises(MediaError, match="decode without errors, got 1 damaged of 2"):
            facts_of(path)
    else:
        facts = facts_of(path)
        assert facts.concealed == 1
        assert "1 damaged frames, concealed" in facts.timing.warnings
    still = path.with_name("still.jpg")
    for data, said in ((good, ()), (bad, (REFUSED,))):
        still.write_bytes(data)
        assert read_still(still).warnings == said


# One mapping for the whole clip.


def ramp(dtype: Any, *, low: int, high: int) -> np.ndarray:
    """4 frames of 16×12 pixels that brighten from frame to frame, over all of a range."""
    return np.linspace(low, high, 4 * 12 * 16).reshape(4, 12, 16).astype(dtype)


@pytest.mark.parametrize(
    ("bits", "signed", "elements", "formula"),
    [
        (8, False, {"WindowCenter": 128, "WindowWidth": 256}, lambda v: v),
        (8, False, {"WindowCenter": [128, 9], "WindowWidth": [256, 9]}, lambda v: v),
        (8, False, {"WindowCenter": 64, "WindowWidth": 65}, lambda v: (v - 31.5) / 64 * 255),
        (
            8,
            False,
            {"WindowCenter": 64, "WindowWidth": 64, "VOILUTFunction": "LINEAR_EXACT"},
            lambda v: (v - 32) / 64 * 255,
        ),
        (
            8,
            False,
            {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "SIGMOID"},
            lambda v: 255 / (1 + np.exp(-4 * (v - 100) / 50)),
        ),
        (8, False, {"RescaleSlope": 2, "RescaleIntercept": -100}, lambda v: v),
        (8, False, {"RescaleSlope": -1, "RescaleIntercept": 255}, lambda v: 255 - v),
        (
            12,
            False,
            {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 0, "WindowWidth": 1001},
            lambda v: (2 * v - 1000 + 0.5) / 1000 * 255 + 127.5,
        ),
        (12, False, {}, lambda v: v * 255 / 4095),
        (16, False, {}, lambda v: v * 255 / 65535),
        (16, True, {}, lambda v: (v + 32768) * 255 / 65535),
        (12, True, {}, lambda v: (v + 2048) * 255 / 4095),
    ],
)
def test_grey_goes_through_one_mapping(
    write: Callable[..., Path],
    bits: int,
    signed: bool,
    elements: dict[str, Any],
    formula: Callable[[np.ndarray], np.ndarray],
) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    dtype = np.uint8 if bits == 8 else np.int16 if signed else np.uint16
    stored = ramp(dtype, low=low, high=low + 2**bits - 1)
    path = write(
        pixels=stored,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=int(signed),
        CineRate=10,
        **elements,
    )
    expected = np.clip(formula(stored.astype(float)), 0, 255)
    frames = np.stack(frames_of(path))[..., 0]
    assert np.abs(frames - expected).max() <= 0.51
    said = facts_of(path).timing.warnings
    assert ("first of several windows taken" in said) == isinstance(
        elements.get("WindowCenter"), list
    )


def test_a_sign_that_was_not_carried_on(write: Callable[..., Path]) -> None:
    stored = ramp(np.int16, low=-2048, high=2047)
    bare = (stored & 0x0FFF).astype(np.int16)
    bits = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}
    np.testing.assert_array_equal(
        frames_of(write(pixels=stored, **bits)), frames_of(write(pixels=bare, **bits))
    )


def lut(values: list[int], *, bits: int) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values), 0, bits])
    item.add_new("LUTData", "US", values)
    return [item]


def test_tables_map_to_their_own_range(write: Callable[..., Path]) -> None:
    dark = (np.arange(256) // 4 * 4).tolist()
    for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
        frames = frames_of(write(pixels=GREY, **{keyword: lut(dark, bits=8)}))
        np.testing.assert_array_equal(np.stack(frames)[..., 0], GREY // 4 * 4)
    table = lut([4 * value for value in range(256)], bits=10)
    frames = frames_of(write(pixels=GREY, VOILUTSequence=table))
    assert np.abs(np.stack(frames)[..., 0].astype(int) - GREY).max() <= 1


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"WindowCenter": 9, "WindowWidth": 0}, r"WindowWidth \(0028,1051\) must be 1 or more"),
        ({"RescaleSlope": 0}, None),
        ({"WindowCenter": 9, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "must be LINEAR"),
    ],
)
def test_windows_that_cannot_be(
    write: Callable[..., Path], elements: dict[str, Any], message: str | None
) -> None:
    path = write(pixels=GREY, RescaleIntercept=0, **elements)
    if message is None:
        message = r"RescaleSlope \(0028,1053\) must be a number other than 0"
    with pytest.raises(MediaError, match=message):
        DicomVideo(path)


def test_few_bits_in_many_are_said_once_for_the_clip(write: Callable[..., Path]) -> None:
    path = write(pixels=ramp(np.uint16, low=0, high=4095), CineRate=10)
    said = "BitsStored (0028,0101) 16: only 1/16 of their range is used"
    assert facts_of(path).timing.warnings == (said,)
    path = write(pixels=ramp(np.uint16, low=0, high=60000), CineRate=10)
    assert facts_of(path).timing.warnings == ()


@pytest.mark.parametrize("said_bits", [8, 16])
def test_a_palette_of_8_bits_padded_to_16(write: Callable[..., Path], said_bits: int) -> None:
    colours = [np.arange(256), np.arange(256)[::-1], np.full(256, 7)]
    frames = []
    for factor, bits in ((1, said_bits), (257, 16)):
        elements: dict[str, Any] = {}
        for name, values in zip(("Red", "Green", "Blue"), colours, strict=True):
            keyword = f"{name}PaletteColorLookupTable"
            elements[f"{keyword}Descriptor"] = [256, 0, bits]
            elements[f"{keyword}Data"] = (values * factor).astype("<u2").tobytes()
        path = write(pixels=GREY, PhotometricInterpretation="PALETTE COLOR", **elements)
        frames.append(np.stack(frames_of(path)))
    np.testing.assert_array_equal(frames[0], np.stack([table[GREY] for table in colours], -1))
    np.testing.assert_array_equal(frames[0], frames[1])


# Times that cannot be, and which of them count.

VECTOR = [0, *[50] * 3]


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (
            {"FrameTime": "0.04"},
            r"FrameTime \(0018,1063\) must be 1 to 10000 ms, got 0.04, as if in",
        ),
        ({"FrameTime": "1e-300"}, r"must be 1 to 10000 ms, got 1e-300; give the rate"),
        ({"FrameTime": "1e300"}, r"must be 1 to 10000 ms, got 1e\+300; give the rate"),
        ({"FrameTime": "-40"}, r"must be 1 to 10000 ms, got -40; give the rate"),
        ({"FrameTime": "40000"}, r"must be 1 to 10000 ms, got 40000; give the rate"),
        ({"FrameTime": "0"}, r"frames must have times"),
        ({"FrameTimeVector": [0, 0.05, 0.05, 0.05]}, r"FrameTimeVector .* got 0.05, as if in sec"),
        ({"FrameTimeVector": [0, 50, -50, 50]}, r"FrameTimeVector \(0018,1065\) .* got -50"),
        ({"CineRate": 25000}, r"CineRate \(0018,0040\) must be 0.1 to 1000.0 frames/s, got 25000"),
    ],
)
def test_times_that_cannot_be_are_named_and_the_table_may_help(
    write: Callable[..., Path], elements: dict[str, Any], message: str
) -> None:
    path = write(**elements)
    with pytest.raises(MediaError, match=message):
        facts_of(path)
    timing = facts_of(path, 12.5).timing
    assert timing.fps == 12.5
    assert any("not used" in text or "must be" in text for text in timing.warnings)


@pytest.mark.parametrize(
    ("elements", "fps"),
    [
        ({"FrameTime": "40", "FrameTimeVector": VECTOR}, 25.0),
        ({"FrameTime": "40", "FrameTimeVector": VECTOR, "FrameIncrementPointer": 0x181065}, 20.0),
        ({"FrameTime": "40", "FrameTimeVector": VECTOR, "FrameIncrementPointer": 0x181063}, 25.0),
        ({"FrameTime": "40", "FrameIncrementPointer": 0x181065}, 25.0),
    ],
)
def test_the_pointer_says_which_times_count(
    write: Callable[..., Path], elements: dict[str, Any], fps: float
) -> None:
    timing = facts_of(write(**elements)).timing
    assert timing.fps == pytest.approx(fps)
    missing = "FrameIncrementPointer" in elements and "FrameTimeVector" not in elements
    assert any("pointed at, but not there" in text for text in timing.warnings) == missing


def test_regions_out_of_the_frame_are_said_of_every_clip(write: Callable[..., Path]) -> None:
    region = Dataset()
    region.RegionSpatialFormat = 1
    for name, value in (("MinX0", 2), ("MinY0", 2), ("MaxX1", 99), ("MaxY1", 9)):
        setattr(region, f"RegionLocation{name}", value)
    path = write(CineRate=10, SequenceOfUltrasoundRegions=[region])
    assert "ultrasound regions do not fit the frame, not used" in facts_of(path).timing.warnings
    assert read_still(write(pixels=PIXELS[:1], SequenceOfUltrasoundRegions=[region])).warnings


# Ways to write pixels that are rare.


def test_a_deflated_cine(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(syntax=DeflatedExplicitVRLittleEndian, CineRate=10)
    np.testing.assert_array_equal(frames_of(path), PIXELS)
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    with pytest.raises(MediaError, match="got one cut off: its deflated data has no end"):
        frames_of(path)
    path.write_bytes(data)
    monkeypatch.setattr(dicom_file, "_MAX_INFLATED", 2**20)  # half a gigabyte is slow to make
    assert len(frames_of(path)) == 4
    pixels = np.zeros((8000, 12, 16), np.uint8)
    with pytest.raises(MediaError, match="must unfold to at most 1 MiB, got more"):
        frames_of(write(pixels=pixels, syntax=DeflatedExplicitVRLittleEndian))


def test_colour_of_two_pixels_shared(write: Callable[..., Path]) -> None:
    pixels = np.repeat(PIXELS[:, :, ::2], 2, axis=2)
    ybr = convert_color_space(pixels, "RGB", "YBR_FULL")
    packed = np.stack([ybr[:, :, ::2, 0], ybr[:, :, 1::2, 0], ybr[:, :, ::2, 1], ybr[:, :, ::2, 2]])
    data = np.moveaxis(packed, 0, -1).tobytes()
    path = write(pixels=pixels, PhotometricInterpretation="YBR_FULL_422", PixelData=data)
    assert np.abs(np.stack(frames_of(path)).astype(int) - pixels).max() <= 3
    with pytest.raises(MediaError, match=r"NumberOfFrames .* got 4 where that holds 6"):
        frames_of(write(pixels=pixels, PhotometricInterpretation="YBR_FULL_422"))


def test_bytes_in_big_endian_words(write: Callable[..., Path]) -> None:
    odd = np.ascontiguousarray(PIXELS[:, :9, :9])
    words = np.frombuffer(odd.tobytes(), "<u2").byteswap().tobytes()
    path = write(pixels=odd, syntax=ExplicitVRBigEndian, Rows=9, Columns=9, PixelData=words)
    with dcmread(path) as ds:
        ds["PixelData"].VR = "OW"
        ds.save_as(path)
    np.testing.assert_array_equal(frames_of(path), odd)


@pytest.mark.parametrize(
    ("codec", "syntax", "container"),
    [
        ("libx264", MPEG4HP41, "h264"),
        ("libx264", MPEG4HP41, "mp4"),
        ("mpeg2video", MPEG2MPML, "mpeg2video"),
    ],
)
def test_a_video_inside(
    write: Callable[..., Path], codec: str, syntax: Any, container: str
) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in range(20, 220, 20):
            picture = np.full((48, 64, 3), level, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        output.mux(stream.encode())
    data = file.getvalue() + b"\0" * (container == "mpeg2video")  # padding
    elements = {
        "Rows": 48, "Columns": 64, "NumberOfFrames": 10, "FrameTime": "40",
        "PhotometricInterpretation": "YBR_PARTIAL_420",
    }  # fmt: skip
    path = write(syntax=syntax, fragments=[data[:200], data[200:]], **elements)
    levels = [frame.mean() for frame in frames_of(path)]
    np.testing.assert_allclose(levels, range(20, 220, 20), atol=4)
    facts = facts_of(path)
    assert (facts.timing.fps, facts.width, facts.height) == (25.0, 64, 48)
    with pytest.raises(MediaError, match="got 10 frames where its header promises 12"):
        facts_of(write(syntax=syntax, fragments=[data], **{**elements, "NumberOfFrames": 12}))
    with pytest.raises(MediaError, match=r"Rows .* as in the video inside, got \(64, 48\)"):
        facts_of(write(syntax=syntax, fragments=[data], **{**elements, "Rows": 64, "Columns": 48}))
    with pytest.raises(MediaError, match=r"video inside \(.*\): file must be a whole video"):
        frames_of(write(syntax=syntax, fragments=[b"no video" * 99], **elements))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(StorageError, match="folder must be writable, got 'File too large'"):
            frames_of(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
