"""A small store of clips whose grey levels tell the frame, and datamodules over it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from datamodules import (
    CeusVideoDataModule,
    CombinedDataModule,
    ImageDataModule,
    TimedWindow,
    WindowGrid,
    make_split,
)
from datamodules.batches.datamodule import PatientDataModule
from datamodules.ingest.prepare import prepare

FRAMES, FPS, CANVAS = 24, 8, 64
IMAGE = {"image_size": 24, "image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
VIDEO: dict[str, Any] = {
    "video_size": 16,
    "video_mean": (0.0, 0.0, 0.0),
    "video_std": (1.0, 1.0, 1.0),
    "train_sampling": TimedWindow(num_frames=4, clip_seconds=1.0, start="random"),
    "eval_sampling": WindowGrid(num_frames=4, clip_seconds=1.0, num_windows=2),
}
KINDS: dict[str, tuple[type[PatientDataModule], dict[str, Any]]] = {
    "image": (ImageDataModule, IMAGE),
    "video": (CeusVideoDataModule, VIDEO),
    "combined": (CombinedDataModule, IMAGE | VIDEO),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
# Images and clips of each patient, in turn: some have several, some lack one of the two.
HAVE = [(1, 1), (2, 1), (0, 2), (1, 0)]
PATIENTS = {f"p{i:02d}": int(i % 3 == 0) for i in range(24)}


def frame_level(number: int) -> int:
    """Grey level of a frame: it tells which frame was read."""
    return 20 + 9 * number


def write_clip(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = CANVAS, CANVAS, "yuvj420p"
        for number in range(FRAMES):
            pixels = np.full((CANVAS, CANVAS, 3), frame_level(number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def make_stream_store(folder: Path) -> Path:
    """A prepared store of 24 patients, split in 3 folds."""
    rows = []
    write_clip(folder / "clip.avi")
    for i, (patient, label) in enumerate(PATIENTS.items()):
        for modality, suffix, number in zip(
            ("image", "ceus"), (".png", ".avi"), HAVE[i % len(HAVE)], strict=True
        ):
            for j in range(number):
                path = folder / f"{patient}-{j}{suffix}"
                if modality == "image":
                    noise = np.random.default_rng((i, j)).integers(0, 255, (CANVAS, CANVAS, 3))
                    Image.fromarray(noise.astype(np.uint8)).save(path)
                else:  # the end of the file makes it another one: the store names items by content
                    path.write_bytes((folder / "clip.avi").read_bytes() + bytes([i, j]))
                rows.append((patient, label, modality, path.name))
    columns = ["patient_id", "label", "modality", "path"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "cohort.csv", index=False)
    store = prepare(
        folder / "cohort.csv",
        folder / "store",
        canvas=CANVAS,
        as_is=True,
        progress=False,
        workers=1,
    )
    make_split(store, num_folds=3, holdout_fraction=0.2)
    return store


def make(kind: str, store: Path, **settings: Any) -> Any:
    module, needed = KINDS[kind]
    settings = {"split": "default", "fold": 0, "batch_size": 4, "num_threads": 0} | settings
    return module(store=store, **needed | settings)


def rows_of(batches: Any) -> list[dict[str, Any]]:
    """The rows of all batches; tensors as they were read, before the device."""
    return [
        {key: value[i] for key, value in batch.items()}
        for batch in batches
        for i in range(len(batch["patient_id"]))
    ]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[key].nan_to_num(-1), other[key].nan_to_num(-1))
        if isinstance(one[key], torch.Tensor)
        else one[key] == other[key]
        for key in one
    )


def of_rank(module: Any, rank: int, world: int) -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world, strategy=strategy)
    return module


def expected_keys(kind: str) -> set[str]:
    present = {"present_image", "present_video"} if kind == "combined" else set()
    inputs = {"image", "video"} if kind == "combined" else {kind}
    return {"label", "patient_id", "item_id", "row_key"} | inputs | present


def counts() -> dict[str, tuple[int, int]]:
    return {patient: HAVE[i % len(HAVE)] for i, patient in enumerate(PATIENTS)}


def levels(video: torch.Tensor) -> list[int]:
    """Grey levels of a clip's frames (T, 3, H, W), as they were drawn."""
    known = torch.tensor([0, *map(frame_level, range(FRAMES))]).float()
    measured = video.float().mean(dim=(1, 2, 3))
    nearest = known[(measured[:, None] - known).abs().argmin(dim=1)]
    assert (
        measured - nearest
    ).abs().max() <= 4  # of 9: there is no mistaking one frame for the next
    return [int(level) for level in nearest]
