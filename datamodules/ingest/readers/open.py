"""The reader that fits a file or folder, whatever its name ends with."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from datamodules.ingest.readers.clip import Box, ClipSource
from datamodules.ingest.readers.dicom import DicomVideo
from datamodules.ingest.readers.dicom_file import is_dicom
from datamodules.ingest.readers.pictures import MediaError, Notes, Picture, read_picture
from datamodules.ingest.readers.series import (
    ArrayClip,
    PictureSeries,
    is_array,
    is_series,
    numbered_pictures,
)
from datamodules.ingest.readers.video import Video


def open_clip(path: Path) -> ClipSource:
    """A clip, to be decoded once from start to end.

    Raises:
        MediaError: If it is no clip that can be opened.
    """
    if path.is_dir():
        return PictureSeries(path)
    if is_dicom(path):  # first: its preamble may make it a TIFF as well, which knows no times
        return DicomVideo(path)
    if is_array(path):
        return ArrayClip(path)
    return PictureSeries(path) if is_series(path) else Video(path)


class Still(NamedTuple):
    """A single picture.

    Attributes:
        picture: RGB uint8 (H, W, 3).
        regions: Where the file says that ultrasound is.
        warnings: Oddities, in words.
    """

    picture: Picture
    regions: tuple[Box, ...]
    warnings: tuple[str, ...]


def read_still(path: Path) -> Still:
    """A single picture and what its file says of it.

    Raises:
        MediaError: If it is no whole picture, or several.
    """
    if not is_dicom(path):
        notes = Notes()
        return Still(read_picture(path, notes), (), notes.warnings())
    with DicomVideo(path) as still:
        if still.promised != 1:
            raise MediaError(
                f"file must be a single picture, got {still.promised} frames; is its modality "
                "`ceus`?"
            )
        return Still(next(still.frames()), still.regions, still.warnings)


def hash_source(path: Path) -> str:
    """SHA-256 of a file, or of the pictures of a folder one after another."""
    total = hashlib.sha256()
    for part in numbered_pictures(path) if path.is_dir() else (path,):
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        if part is path:
            return digest.hexdigest()
        total.update(digest.digest())
    return total.hexdigest()
