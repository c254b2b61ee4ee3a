"""From one source file to one item, in a worker process."""

import hashlib
import math
import os
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from datamodules._clip_file import (
    ClipWriter,
    decode_packets,
    decode_with_pyav,
    read_index,
    read_packets,
    write_clip,
)
from datamodules._pictures import MediaError, Picture, crop_picture, letterbox, read_picture
from datamodules.media import Video
from datamodules.store import STORE_FORMAT

_READ_BACK = 16  # frames of each clip compared after writing
_TOLERANCE = 2  # of 255: what two decoders' colour conversions may differ by


@dataclass(frozen=True)
class Task:
    """A row to be turned into files in `staging`, unless its item is among `known`."""

    line: int
    path: Path
    patient_id: str
    modality: str
    crop: tuple[int, int, int, int] | None
    canvas: int
    staging: Path
    known: frozenset[str]


@dataclass(frozen=True)
class Outcome:
    """What became of a task: a reason if it failed, else an item; facts are None for a known one.

    Facts are plain values (they are kept as JSON): the columns of the store's tables.
    """

    line: int
    reason: str = ""
    source_sha: str = ""
    item_id: str = ""
    facts: dict[str, Any] | None = None


def item_suffixes(modality: str) -> tuple[str, ...]:
    """The files of an item."""
    return (".png",) if modality == "image" else (".h264", ".idx")


def make_item_id(task: Task, source_sha: str) -> str:
    """16 hex digits of what an item is made from, and how; they tell nobody's name."""
    parts = [task.patient_id, source_sha, task.modality, task.crop, task.canvas, STORE_FORMAT]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def start_worker() -> None:
    """Makes a worker end with the process that started it, even if that one is killed."""
    parent = parent_process()
    if parent is not None:
        Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def running_marker(staging: Path, line: int) -> Path:
    """A file that is there while a worker is at a row: it tells whose decoder crashed."""
    return staging / f"{line}.running"


def ingest(task: Task) -> Outcome:
    """Decodes, checks, crops, letterboxes, writes and reads back one file."""
    marker = running_marker(task.staging, task.line)
    marker.touch()
    try:
        with task.path.open("rb") as file:
            source_sha = hashlib.file_digest(file, "sha256").hexdigest()
        item_id = make_item_id(task, source_sha)
        if item_id in task.known:
            return Outcome(task.line, source_sha=source_sha, item_id=item_id)
        # Two rows may bring the same content; that is found later, so they must not share files.
        stem = task.staging / f"{task.line}-{item_id}"
        facts = _ingest_image(task, stem) if task.modality == "image" else _ingest_clip(task, stem)
        files = [stem.with_suffix(suffix) for suffix in item_suffixes(task.modality)]
        content = b"".join(path.read_bytes() for path in files)
        facts |= {
            "source_sha": source_sha,
            "item_sha": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
        }
        return Outcome(task.line, source_sha=source_sha, item_id=item_id, facts=facts)
    except MediaError as error:
        return Outcome(task.line, reason=str(error))
    except OSError as error:
        return Outcome(task.line, reason=f"file must be readable, got {error.strerror}")
    finally:
        marker.unlink()


def _ingest_image(task: Task, stem: Path) -> dict[str, Any]:
    picture = read_picture(task.path)
    boxed = letterbox(crop_picture(picture, task.crop), canvas=task.canvas)
    Image.fromarray(boxed).save(stem.with_suffix(".png"))
    return {
        "frames": 1,
        "fps": None,
        "seconds": 0.0,
        "width": picture.shape[1],
        "height": picture.shape[0],
        "codec": "image",
        "colours": "RGB",
        "resampled": False,
        "concealed": 0,
        "psnr": None,  # kept without loss
        "exact": True,
        "warnings": [],
    }


def _ingest_clip(task: Task, stem: Path) -> dict[str, Any]:
    writer = ClipWriter(canvas=task.canvas)
    sample: dict[int, Picture] = {}
    stride = 1
    with Video(task.path) as video:
        for number, picture in enumerate(video.frames()):
            cropped = crop_picture(picture, task.crop)
            boxed = letterbox(cropped, canvas=task.canvas, aspect=video.aspect)
            writer.add(boxed)
            if number % stride == 0:
                sample[number] = boxed
            if len(sample) == 2 * _READ_BACK:
                stride *= 2
                sample = {key: sample[key] for key in sample if key % stride == 0}
        found = video.facts()
    packets = writer.finish()
    timing = found.timing
    write_clip(stem, packets, order=timing.order, fps=timing.fps)
    check_exact(stem, canvas=task.canvas)
    return {
        "frames": len(timing.order),
        "fps": timing.fps,
        "seconds": len(timing.order) / timing.fps,
        "width": found.width,
        "height": found.height,
        "codec": found.codec,
        "colours": found.colours,
        "resampled": timing.resampled,
        "concealed": found.concealed,
        "psnr": _psnr(decode_with_pyav([packets[key] for key in sample]), [*sample.values()]),
        "exact": True,
        "warnings": list(timing.warnings),
    }


def check_exact(stem: Path, *, canvas: int) -> None:
    """Reads a written clip back at random, as training will, and compares with PyAV's decode.

    Raises:
        MediaError: if a frame is not the one asked for, or is off by more than 2/255.
    """
    index = read_index(stem.with_suffix(".idx"))
    path, count = stem.with_suffix(".h264"), len(index)
    rng = np.random.default_rng(count)
    wanted = np.sort(rng.choice(count, min(count, _READ_BACK), replace=False))
    batch = decode_packets(
        read_packets(path, index[wanted], frames=wanted.tolist()), canvas=canvas
    ).asnumpy()
    around = np.unique(np.clip(wanted[:, None] + [-1, 0, 1], 0, count - 1))
    own = decode_with_pyav(read_packets(path, index[around], frames=around.tolist()))
    reference = dict(zip(around.tolist(), own.astype(np.int16), strict=True))
    for number, frame in zip(wanted.tolist(), batch.astype(np.int16), strict=True):
        off = np.abs(frame - reference[number])
        beside = [
            np.abs(frame - reference[near]).mean()
            for near in (number - 1, number + 1)
            if near in reference
        ]
        if off.max() > _TOLERANCE or any(off.mean() > distance for distance in beside):
            raise MediaError(
                f"clip must read back exactly, got frame {number} off by {off.max()}/255: "
                "decord does not decode what was written"
            )


def _psnr(decoded: npt.NDArray[np.uint8], source: list[Picture]) -> float:
    """Peak signal-to-noise ratio, dB, over RGB; at most 99."""
    error = float(np.mean((decoded.astype(np.float32) - np.stack(source)) ** 2))
    return min(99.0, 10 * math.log10(255**2 / error)) if error else 99.0
