"""Files to mutate, and what is done to them."""

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from tests.datamodules import conftest as media


@dataclass(frozen=True)
class Case:
    """A mutated file; `told`: whether a decoder, checksum, count or header can tell it."""

    name: str
    modality: str
    source: Path
    path: Path
    told: bool


def make_sources(folder: Path, real: Path | None) -> dict[str, list[tuple[str, Path]]]:
    """By kind: modality and path; 80 frames that carry their number, under noise."""
    folder.mkdir(parents=True)
    frames = [media.numbered_frame(number, noise=20) for number in range(80)]
    videos = [
        media.write_video(folder / name, kind, numbers=range(80), frame=frames.__getitem__)
        for name, kind in media.KINDS.items()
    ]
    ds = _dicom(frames[:30])
    ds.save_as(folder / "raw.dcm", enforce_file_format=True)
    for syntax, name in ((RLELossless, "rle.dcm"), (JPEGBaseline8Bit, "jpeg.dcm")):
        packed = _dicom(frames[:30])
        if syntax == RLELossless:
            packed.compress(RLELossless)
        else:
            packed.PixelData = encapsulate([_jpeg(frame) for frame in frames[:30]])
            packed["PixelData"].is_undefined_length = True
            packed.file_meta.TransferSyntaxUID = syntax
            packed.PhotometricInterpretation = "YBR_FULL_422"
        packed.save_as(folder / name, enforce_file_format=True)
    stills = [folder / f"still{suffix}" for suffix in (".png", ".jpg", ".tif", ".bmp")]
    for still in stills:
        Image.fromarray(frames[7]).save(still)
    found: dict[str, list[tuple[str, Path]]] = {
        "video": [("ceus", path) for path in videos],
        "dicom": [("ceus", folder / name) for name in ("raw.dcm", "rle.dcm", "jpeg.dcm")],
        "picture": [("image", path) for path in stills],
    }
    for path in sorted(real.rglob("*")) if real else ():
        if not path.is_file() or path.stat().st_size > 2_000_000:
            continue
        if path.suffix in {".mp4", ".avi", ".gif", ".mov", ".mpeg", ".webm"}:
            found["video"].append(("ceus", path))
        elif path.suffix == ".dcm":
            several = int(dcmread(path, stop_before_pixels=True).get("NumberOfFrames") or 1) > 1
            found["dicom"].append(("ceus" if several else "image", path))
        elif path.suffix in {".png", ".jpg"}:
            found["picture"].append(("image", path))
    return found


def _jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _dicom(frames: Sequence[np.ndarray]) -> Any:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["fuzz"])
    ds = FileDataset("cine", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    ds.Rows, ds.Columns = frames[0].shape[:2]
    ds.NumberOfFrames, ds.SamplesPerPixel, ds.PlanarConfiguration = len(frames), 3, 0
    ds.PhotometricInterpretation, ds.FrameTime = "RGB", "40"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = b"".join(frame.tobytes() for frame in frames)
    ds["PixelData"].VR = "OB"
    return ds


Mutation = tuple[str, bytes, bool]


def mutate(
    kind: str, source: tuple[str, Path], folder: Path, number: int, rng: random.Random
) -> Case:
    """One of the kind's mutations, written to a file."""
    modality, path = source
    data = path.read_bytes()
    name, mutated, told = rng.choice(_MUTATIONS[kind])(data, path, rng)
    target = folder / f"{number}{path.suffix}"
    target.write_bytes(mutated)
    return Case(name, modality, path, target, told)


def _cut(data: bytes, path: Path, rng: random.Random) -> Mutation:
    del path
    return "cut", data[: rng.randrange(1, len(data))], True


def _zero(data: bytes, path: Path, rng: random.Random) -> Mutation:
    start, length = rng.randrange(len(data)), rng.choice((100, 2000, 20_000))
    end = min(len(data), start + length)
    return "zeroes", data[:start] + bytes(end - start) + data[end:], _told_in_payload(path)


def _flip(data: bytes, path: Path, rng: random.Random) -> Mutation:
    mutated, flips = bytearray(data), rng.choice((1, 3, 40, 1000))
    for _ in range(flips):
        mutated[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return f"{flips} flips", bytes(mutated), _told_in_payload(path)


def _flip_header(data: bytes, path: Path, rng: random.Random) -> Mutation:
    """Within the first and the last 4096 bytes, where headers and indexes lie."""
    mutated = bytearray(data)
    for _ in range(flips := rng.choice((1, 3, 40))):
        at = rng.randrange(min(4096, len(data)))
        mutated[at if rng.random() < 0.5 else len(data) - 1 - at] ^= 1 << rng.randrange(8)
    return f"{flips} flips of the header", bytes(mutated), _told_in_payload(path)


def _swap(data: bytes, path: Path, rng: random.Random) -> Mutation:
    size = rng.choice((188, 512, 4096))
    if len(data) < 4 * size:
        return _cut(data, path, rng)
    one, two = sorted(rng.sample(range(len(data) // size), 2))
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    blocks[one], blocks[two] = blocks[two], blocks[one]
    return "swapped blocks", b"".join(blocks), _told_in_payload(path)


def _lengths(data: bytes, path: Path, rng: random.Random) -> Mutation:
    """A length field of a chunk (AVI) or box (MP4), or a value of a table of samples."""
    names = (
        [b"00dc", b"LIST", b"idx1", b"strh", b"avih", b"JUNK"]
        if data[:4] == b"RIFF"
        else [
            b"stsz",
            b"stts",
            b"stsc",
            b"stco",
            b"ctts",
            b"mdhd",
            b"elst",
            b"mdat",
            b"trak",
            b"stss",
        ]
    )
    places = [at for name in names for at in _places(data, name)]
    if not places:
        return _flip_header(data, path, rng)
    at = rng.choice(places) + rng.choice((-4, 4, 8, 12, 16, 20))
    value = rng.choice((0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF, rng.randrange(1 << 16)))
    mutated = data[:at] + struct.pack(">I", value) + data[at + 4 :]
    return f"table {at} set to {value}", mutated, False


def _places(data: bytes, name: bytes) -> Iterator[int]:
    at = data.find(name)
    while at > 4:
        yield at
        at = data.find(name, at + 1)


def _told_in_payload(path: Path) -> bool:
    return path.suffix == ".png"


_LIES: dict[str, tuple[Any, ...]] = {
    "NumberOfFrames": (0, 1, 15, 31, 10**6), "Rows": (1, 48, 95, 97, 192, 60000),
    "Columns": (1, 64, 127, 129, 256, 60000), "BitsStored": (1, 7, 9, 12, 16, 0),
    "BitsAllocated": (1, 16, 32), "SamplesPerPixel": (1, 2, 4), "PixelRepresentation": (1,),
    "FrameTime": ("0", "-1", "1e-300", "1e300", "0.04", "nan", "abc"), "HighBit": (0, 15),
    "PhotometricInterpretation": ("MONOCHROME2", "PALETTE COLOR", "YBR_ICT", "XYZ", ""),
    "PlanarConfiguration": (2,), "FrameTimeVector": ([40.0] * 3, [0.0] * 30),
    "PixelAspectRatio": (["0", "0"], ["1000", "1"]),
}  # fmt: skip


def _lie(data: bytes, path: Path, rng: random.Random) -> Mutation:
    del data
    ds = dcmread(path)
    tag = rng.choice(sorted(_LIES))
    value = rng.choice((None, *_LIES[tag]))
    if value is None and tag in ds:
        del ds[tag]
    elif value is not None:
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            setattr(ds, tag, value)
    return f"{tag} = {value}", _saved(ds), True


def _pixels(data: bytes, path: Path, rng: random.Random) -> Mutation:
    del data
    ds = dcmread(path)
    pixels = ds.PixelData
    share = rng.choice((0.5, 0.9, 1.1, 2))
    ds.PixelData = (pixels * 2)[: int(len(pixels) * share) // 2 * 2]
    return f"pixel data × {share}", _saved(ds), True


def _saved(ds: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(buffer)
    return buffer.getvalue()


def _bomb(data: bytes, path: Path, rng: random.Random) -> Mutation:
    width, height = rng.choice(((1, 89_000_000), (89_000_000, 1), (30_000, 30_000), (0, 5)))
    if data[:4] != b"\x89PNG":
        return _flip_header(data, path, rng)
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    head = data[:12] + chunk + struct.pack(">I", zlib.crc32(chunk))
    return f"PNG of {width}×{height}", head + data[33:], True


_MUTATIONS: dict[str, Sequence[Callable[[bytes, Path, random.Random], Mutation]]] = {
    "video": (_cut, _zero, _flip, _flip_header, _swap, _lengths, _lengths),
    "dicom": (_lie, _lie, _lie, _pixels, _cut, _flip, _flip_header),
    "picture": (_cut, _zero, _flip, _flip_header, _swap, _bomb),
}
