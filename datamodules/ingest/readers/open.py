"""The reader that fits a file or folder, whatever its name ends with."""

import hashlib
from pathlib import Path

from datamodules.ingest.readers.clip import Box, ClipSource
from datamodules.ingest.readers.dicom import DicomVideo, is_dicom
from datamodules.ingest.readers.pictures import MediaError, Picture, read_picture
from datamodules.ingest.readers.series import PictureSeries, is_series, numbered_pictures
from datamodules.ingest.readers.video import Video


def open_clip(path: Path) -> ClipSource:
    """A clip, to be decoded once from start to end.

    Raises:
        MediaError: If it is no clip that can be opened.
    """
    if is_series(path):
        return PictureSeries(path)
    return DicomVideo(path) if is_dicom(path) else Video(path)


def read_still(path: Path) -> tuple[Picture, tuple[Box, ...]]:
    """A single picture, RGB uint8 (H, W, 3), and where the file says that ultrasound is.

    Raises:
        MediaError: If it is no whole picture, or several.
    """
    if not is_dicom(path):
        return read_picture(path), ()
    with DicomVideo(path) as still:
        if still.promised != 1:
            raise MediaError(
                f"file must be a single picture, got {still.promised} frames; is its modality "
                "`ceus`?"
            )
        return next(still.frames()), still.regions


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
