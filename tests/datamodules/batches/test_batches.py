"""What a batch holds, of whom, and what it does not tell."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules import Augment, DataError, TimedWindow, load_split
from datamodules.store.folder import Store
from tests.datamodules.streams import (
    CANVAS,
    FRAMES,
    PATIENTS,
    counts,
    every_kind,
    expected_keys,
    frame_level,
    levels,
    make,
    rows_of,
    same,
)


@every_kind
@pytest.mark.parametrize("augment", [None, Augment()])
def test_the_batch_is_as_agreed(kind: str, stream_store: Path, augment: Augment | None) -> None:
    module = make(kind, stream_store, augment=augment)
    loaders = [module.train_dataloader(), module.val_dataloader(), *module.predict_dataloader()]
    for number, loader in enumerate(loaders):
        batches = [module.on_after_batch_transfer(batch, 0) for batch in loader]
        assert len(batches) == len(loader)
        for batch in batches:
            weight = {"loss_weight"} if number == 0 else set()  # of training rows
            assert batch.keys() == expected_keys(kind) | weight
            rows = len(batch["label"])
            assert 1 <= rows <= 4
            shapes = {
                "image": (rows, 3, 24, 24),
                "video": (rows, 3, 4, 16, 16),
                "label": (rows,),
                "loss_weight": (rows,),
            }
            for key in shapes.keys() & batch.keys():
                assert batch[key].shape == shapes[key]
                assert batch[key].dtype == torch.float32
            for key in {"present_image", "present_video"} & batch.keys():
                assert batch[key].shape == (rows,)
                assert batch[key].dtype == torch.bool
            for key in ("patient_id", "item_id", "row_key"):
                assert len(batch[key]) == rows
                assert all(isinstance(value, str) for value in batch[key])


@every_kind
def test_frames_travel_as_uint8_at_their_stored_size(kind: str, stream_store: Path) -> None:
    batch = next(iter(make(kind, stream_store).train_dataloader()))
    for key, frames in (("image", 1), ("video", 4)):
        if key in batch:
            assert batch[key].dtype == torch.uint8
            assert batch[key].shape == (4, frames, 3, CANVAS, CANVAS)


@every_kind
@pytest.mark.parametrize("fold", [0, 2, "all"])
def test_parts_cover_their_patients_and_nobody_leaks(
    kind: str, stream_store: Path, fold: Any
) -> None:
    module = make(kind, stream_store, fold=fold)
    expected = load_split(stream_store, "default").parts(fold)
    assert module.predict_parts == list(expected)
    table = Store(stream_store).items
    used = {"image": ["image"], "video": ["ceus"], "combined": ["image", "ceus"]}[kind]
    with_input = set(table[table["modality"].isin(used)]["patient_id"])
    for part, loader in zip(module.predict_parts, module.predict_dataloader(), strict=True):
        rows = rows_of(loader)
        patients = {row["patient_id"] for row in rows}
        assert patients == set(module.patients(part)) == set(expected[part]) & with_input
        assert len({row["row_key"] for row in rows}) == len(rows)
        for row in rows:
            if part == "test":
                assert math.isnan(row["label"])
            else:
                assert row["label"] == PATIENTS[row["patient_id"]]
    module = make(kind, stream_store, fold=fold, batch_size=1)  # no left-over row is dropped
    trained = {row["patient_id"] for row in rows_of(module.train_dataloader())}
    assert trained == set(module.patients("train"))
    watched = {row["patient_id"] for row in rows_of(module.val_dataloader())}
    assert watched == set(module.patients("inner_val"))


@every_kind
def test_sealed_labels_have_no_influence(kind: str, stream_store: Path, tmp_path: Path) -> None:
    shutil.copytree(stream_store, tmp_path / "store")
    table = pd.read_parquet(tmp_path / "store" / "cohort.parquet")
    sealed = table["patient_id"].isin(load_split(stream_store, "default").holdout)
    table["label"] = table["label"].where(~sealed, 1 - table["label"])
    table.to_parquet(tmp_path / "store" / "cohort.parquet")
    module, flipped = make(kind, stream_store), make(kind, tmp_path / "store")
    assert module.train_label_counts() == flipped.train_label_counts()
    for loader, other in zip(
        [module.train_dataloader(), *module.predict_dataloader()],
        [flipped.train_dataloader(), *flipped.predict_dataloader()],
        strict=True,
    ):
        assert all(map(same, rows_of(loader), rows_of(other)))


@every_kind
def test_evaluation_has_every_image_with_every_window(kind: str, stream_store: Path) -> None:
    module = make(kind, stream_store, fold="all", augment=Augment())
    windows = {patient: 2 * clips for patient, (_, clips) in counts().items()}
    images = {patient: images for patient, (images, _) in counts().items()}
    for part, loader in zip(module.predict_parts, module.predict_dataloader(), strict=True):
        rows = rows_of(loader)
        for patient in module.patients(part):
            expected = {
                "image": images[patient],
                "video": windows[patient],
                "combined": max(images[patient], 1) * max(windows[patient], 1),
            }[kind]
            assert sum(row["patient_id"] == patient for row in rows) == expected
        if kind != "image":
            seen = {tuple(levels(row["video"])) for row in rows} - {(0, 0, 0, 0)}
            expected_levels = {
                tuple(frame_level(i) for i in window) for window in ((1, 3, 5, 7), (17, 19, 21, 23))
            }
            assert seen == expected_levels


def test_a_lacking_modality_is_zero_and_flagged(stream_store: Path) -> None:
    module = make("combined", stream_store, augment=Augment(gain=0.5), image_mean=(0.5, 0.4, 0.3))
    lacking = {"image": set(), "video": set()}
    for loader in (module.train_dataloader(), *module.predict_dataloader()):
        for raw in loader:
            batch = module.on_after_batch_transfer(raw, 0)
            for i, patient in enumerate(batch["patient_id"]):
                images, clips = counts()[patient]
                assert batch["present_image"][i] == (images > 0)
                assert batch["present_video"][i] == (clips > 0)
                for key in ("image", "video"):
                    assert bool(batch[key][i].any()) == bool(batch[f"present_{key}"][i])
                    if not batch[f"present_{key}"][i]:
                        lacking[key].add(patient)
                image, clip = batch["item_id"][i].split("+")
                assert (image != "", clip != "") == (images > 0, clips > 0)
    assert lacking["image"]
    assert lacking["video"]


@pytest.mark.parametrize("kind", ["video", "combined"])
def test_strategies_are_told_arrival_peak_and_curve(
    kind: str, stream_store: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(stream_store, store)
    table = pd.read_parquet(store / "cohort.parquet")
    given = table["modality"].eq("ceus") & (np.arange(len(table)) % 2 == 0)
    table.loc[given, ["arrival_s", "peak_s"]] = (1.0, 2.0)
    table.to_parquet(store / "cohort.parquet")
    window = TimedWindow(num_frames=4, clip_seconds=0.5, start="arrival")
    module = make(kind, store, train_sampling=window, eval_sampling=window)
    seen = set()
    for loader in (module.train_dataloader(), *module.predict_dataloader()):
        for row in rows_of(loader):
            clip = row["item_id"].rpartition("+")[2]
            if clip:
                first = 8 if given[table["item_id"] == clip].item() else 0
                expected = [frame_level(number) for number in range(first, first + 4)]
                assert levels(row["video"]) == expected
                seen.add(first)
    assert seen == {0, 8}
    clip = table["item_id"][given].iloc[0]
    shown = [frame_level(number) for number in range(FRAMES)]
    assert np.abs(module._times[clip].curve - shown).max() < 2
    assert (module._times[clip].arrival_s, module._times[clip].peak_s) == (1.0, 2.0)


def test_a_damaged_item_is_named(stream_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(stream_store, store)
    module = make("video", store, num_threads=2)
    row = rows_of(module.train_dataloader())[0]
    (store / "items" / f"{row['item_id']}.h264").write_bytes(b"")
    with pytest.raises(DataError, match=row["item_id"]):
        list(module.train_dataloader())
    (store / "items" / f"{row['item_id']}.idx").unlink()
    with pytest.raises(DataError, match=row["item_id"]):
        make("video", store).setup()
