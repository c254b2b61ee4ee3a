"""From one source file to one item, in a worker process."""

import hashlib
import json
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.errors import StorageError
from datamodules.files import storing
from datamodules.ingest.arrival import NO_ARRIVAL, find_arrival
from datamodules.ingest.crop.view import View, as_given, view_of_clip, view_of_still
from datamodules.ingest.known import source_key
from datamodules.ingest.likeness import psnr, ssim
from datamodules.ingest.masks import fit_masks, read_masks
from datamodules.ingest.readers.open import hash_source, open_clip, read_still
from datamodules.ingest.readers.pictures import (
    MAX_FRAMES,
    Letterbox,
    MediaError,
    Picture,
    Spread,
    crop_picture,
    letterbox,
)
from datamodules.ingest.task import (
    GO_ON,
    Outcome,
    Task,
    item_suffixes,
    make_item_id,
    mask_file,
    still_alive,
    watched,
)
from datamodules.store.clip_file import read_index, read_packets, write_clip
from datamodules.store.codec import ClipWriter, decode_packets, decode_with_pyav

_READ_BACK = 16  # frames of each clip compared after writing
_TOLERANCE = 2  # of 255: what two decoders' colour conversions may differ by


def inspect(task: Task) -> Outcome:
    """Hashes a file, looks at its structure and decodes its first frame: quick, for a whole cohort.

    Finds what does not open, is cut off, is no picture or video, or is smaller than its crop; not
    damage inside.
    """
    return _reasoned(_inspect, task)


def ingest(task: Task) -> Outcome:
    """Decodes, checks, crops, letterboxes, writes and reads back one file.

    Its item's files appear in the staging folder when they are whole, the facts (JSON) last: a
    later call can take them over.

    Raises:
        StorageError: If the staging folder cannot be written.
    """
    return _reasoned(_ingest, task)


def place_masks(task: Task) -> Outcome:
    """Brings the masks of a clip to where its stored frames are; `task.crop` is what is kept.

    Raises:
        StorageError: If the staging folder cannot be written.
    """
    return _reasoned(_place_masks, task)


def _reasoned(work: Callable[[Task], Outcome], task: Task) -> Outcome:
    """What comes of a row, whatever its file does to the readers."""
    with watched(task):
        try:
            return work(task)
        except StorageError:
            raise
        except MediaError as error:
            return Outcome(task.line, reason=str(error))
        except OSError as error:
            return Outcome(task.line, reason=f"file must be readable, got {error.strerror}")
        except Exception as error:  # noqa: BLE001  one odd file must not cost the others
            reason = f"file must decode, got {type(error).__name__} in its reader (see --debug)"
            return Outcome(task.line, reason=reason, trace=traceback.format_exc())


def _inspect(task: Task) -> Outcome:
    source_sha = hash_source(task.path)
    seconds = None
    if task.modality == "image":
        crop_picture(read_still(task.path)[0], task.crop)
    else:
        with open_clip(task.path) as video:
            seconds = video.header_seconds
            for picture in islice(video.frames(), 1):
                crop_picture(picture, task.crop)
                read_masks(task.masks, picture.shape)
    return Outcome(task.line, source_sha=source_sha, seconds=seconds)


def _place_masks(task: Task) -> Outcome:
    with open_clip(task.path) as video:
        (picture,) = islice(video.frames(), 1)
        mask = fit_masks(
            read_masks(task.masks, picture.shape), task.crop, task.canvas, aspect=video.aspect
        )
    name = hashlib.sha256(mask.tobytes()).hexdigest()[:16]
    with _storing(task):
        Image.fromarray(mask).save(task.staging / mask_file(name))
    return Outcome(task.line, mask=name)


def _ingest(task: Task) -> Outcome:
    before, source_sha = source_key(task.path), hash_source(task.path)
    item_id = make_item_id(task, source_sha)
    if item_id in task.known:
        return Outcome(task.line, source_sha=source_sha, item_id=item_id)
    # Two rows may bring the same content; they must not write into the same files.
    stem = task.staging / f"{task.line}-{item_id}"
    files = [stem.with_suffix(suffix) for suffix in item_suffixes(task.modality)]
    parts = (*files, stem.with_suffix(".json"))
    try:
        is_image = task.modality == "image"
        facts = _ingest_image(task, stem) if is_image else _ingest_clip(task, stem)
        if source_key(task.path) != before:
            raise MediaError("file must stay as it is while it is read, got one being written")
        with _storing(task):
            content = b"".join(path.read_bytes() for path in files)
            facts |= {
                "source_sha": source_sha,
                "item_sha": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
            }
            parts[-1].write_text(json.dumps(facts))
            for path in parts:
                path.replace(path.with_name(item_id + path.suffix))
    finally:
        for path in parts:
            path.unlink(missing_ok=True)
    return Outcome(task.line, source_sha=source_sha, item_id=item_id, facts=facts)


def _storing(task: Task) -> AbstractContextManager[None]:
    return storing(task.staging, GO_ON)


def _ingest_image(task: Task, stem: Path) -> dict[str, Any]:
    picture, regions, warnings = read_still(task.path)
    if task.as_is:
        view = View(as_given(picture, task.crop))
    else:
        view = view_of_still(picture, crop=task.crop, regions=regions, panel=task.panel)
    boxed = letterbox(view.apply(picture), canvas=task.canvas)
    with _storing(task):
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
        "ssim": None,
        "exact": True,
        "warnings": [*warnings],
        "arrival": asdict(NO_ARRIVAL),
        **view.facts(),
    }


def _ingest_clip(task: Task, stem: Path) -> dict[str, Any]:
    writer, fit = ClipWriter(canvas=task.canvas), Letterbox(canvas=task.canvas)
    sample = Spread[Picture](_READ_BACK)
    view: View | None = None
    if not task.as_is:
        view = view_of_clip(partial(open_clip, task.path), crop=task.crop, panel=task.panel)
    with open_clip(task.path) as video:
        for number, picture in enumerate(video.frames()):
            if number % 32 == 31:
                still_alive(task)
            if number == MAX_FRAMES:
                raise MediaError(f"clip must have at most {MAX_FRAMES} frames, got more")
            view = view or View(as_given(picture, task.crop))
            boxed = fit(view.apply(picture), aspect=video.aspect)
            writer.add(boxed)
            sample.offer(boxed)
        source = video.facts(task.fps)
    assert view is not None  # facts() refuses a clip without frames
    packets = writer.finish()
    timing = source.timing
    with _storing(task):
        write_clip(stem, packets, levels=writer.levels, order=timing.order, fps=timing.fps)
        curve = read_index(stem.with_suffix(".idx"))["level"]
    check_exact(stem, canvas=task.canvas)
    read_back = decode_with_pyav([packets[number] for number in sample.numbers])
    original = np.stack(sample.values)
    return {
        "frames": len(timing.order),
        "fps": timing.fps,
        "seconds": len(timing.order) / timing.fps,
        "width": source.width,
        "height": source.height,
        "codec": source.codec,
        "colours": source.colours,
        "resampled": timing.resampled,
        "concealed": source.concealed,
        "psnr": psnr(read_back, original),
        "ssim": ssim(read_back, original),
        "exact": True,
        "warnings": [*timing.warnings, *view.warnings()],
        "thumbnail": view.thumbnail,
        "arrival": asdict(find_arrival(curve, fps=timing.fps)),
        **view.facts(),
    }


def check_exact(stem: Path, *, canvas: int) -> None:
    """Reads a written clip back at random, as training will, and compares with PyAV's decode.

    Raises:
        MediaError: If a frame is not the one asked for, or is off by more than 2/255.
    """
    index = read_index(stem.with_suffix(".idx"))
    path, count = stem.with_suffix(".h264"), len(index)
    rng = np.random.default_rng(count)
    numbers = np.sort(rng.choice(count, min(count, _READ_BACK), replace=False))
    batch = decode_packets(
        read_packets(path, index[numbers], frames=numbers.tolist()), canvas=canvas
    ).asnumpy()
    nearby = np.unique(np.clip(numbers[:, None] + [-1, 0, 1], 0, count - 1))
    exact = decode_with_pyav(read_packets(path, index[nearby], frames=nearby.tolist()))
    reference = dict(zip(nearby.tolist(), exact.astype(np.int16), strict=True))
    for number, frame in zip(numbers.tolist(), batch.astype(np.int16), strict=True):
        error = np.abs(frame - reference[number])
        errors_beside = [
            np.abs(frame - reference[near]).mean()
            for near in (number - 1, number + 1)
            if near in reference
        ]
        if error.max() > _TOLERANCE or any(error.mean() > distance for distance in errors_beside):
            raise MediaError(
                f"clip must read back exactly, got frame {number} off by {error.max()}/255: "
                "decord does not decode what was written"
            )
