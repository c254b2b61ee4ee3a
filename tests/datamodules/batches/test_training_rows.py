"""Which rows an epoch trains on, in which order, on how many processes."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import Augment, DataError
from datamodules.batches.rows import training_rows
from tests.datamodules.streams import (
    PATIENTS,
    counts,
    every_kind,
    levels,
    make,
    of_rank,
    rows_of,
    same,
)


@every_kind
def test_training_rows_of_an_epoch(kind: str, stream_store: Path) -> None:
    module = make(kind, stream_store, fold="all")
    expected = {
        patient: {"image": images, "video": clips, "combined": max(images, clips)}[kind]
        for patient, (images, clips) in counts().items()
        if patient in module.patients("train")
    }
    negatives = sum(PATIENTS[p] == 0 for p in module.training_patients)
    assert module.train_label_counts() == (negatives, len(module.training_patients) - negatives)
    everything = make(kind, stream_store, fold="all", batch_size=1).train_dataloader()
    patients = [row["patient_id"] for row in rows_of(everything)]
    assert Counter(patients) == Counter(expected)
    # Patients count alike in the loss, however many rows they have.
    weights: Counter[str] = Counter()
    for row in rows_of(everything):
        weights[row["patient_id"]] += row["loss_weight"].item()
    assert len(set(expected.values())) > 1
    alike = len(patients) / len(expected)
    assert weights == {patient: pytest.approx(alike) for patient in expected}


def test_a_learning_curve_trains_on_so_many_of_both_labels(stream_store: Path) -> None:
    everyone = make("image", stream_store, fold="all").training_patients
    drawn = [
        make("image", stream_store, fold="all", train_patients=4, seed=seed).training_patients
        for seed in range(4)
    ]
    assert all(len(patients) == 4 and set(patients) < set(everyone) for patients in drawn)
    assert all({PATIENTS[p] for p in patients} == {0, 1} for patients in drawn)
    assert len(set(drawn)) > 1
    with pytest.raises(DataError, match=f"train_patients must be 2 to {len(everyone)}, .*got 99"):
        _ = make("image", stream_store, fold="all", train_patients=99).training_patients


@pytest.mark.parametrize("kind", ["image", "video"])
def test_twins_are_two_views_of_one_item_without_labels(kind: str, stream_store: Path) -> None:
    module = make(
        kind, stream_store, fold="all", twins=True, augment=Augment(degrees=30), batch_size=4
    )
    assert module.predict_parts == ["train"]
    for batch in module.train_dataloader():
        items = batch["item_id"]
        assert len(items) % 2 == 0
        assert items[0::2] == items[1::2]
        assert batch["label"].isnan().all()
        views = batch[f"{kind}_augment"]
        assert not (views[0::2] == views[1::2]).all(dim=1).any()


@every_kind
def test_balanced_sampling_shows_the_rarer_class_again_and_anew(
    kind: str, stream_store: Path
) -> None:
    module = make(kind, stream_store, augment=Augment(), class_sampling="balanced", batch_size=2)
    negatives, positives = module.train_label_counts()
    assert negatives > positives
    assert module.positive_oversampling == negatives / positives
    rows = rows_of(module.train_dataloader())
    assert [row["label"] for row in rows].count(1) == len(rows) / 2
    weights: Counter[float] = Counter()
    for row in rows:
        weights[row["label"].item()] += row["loss_weight"].item()
    assert weights[1] == pytest.approx(weights[0])
    again = [row for row in rows if row["label"] == 1]
    key = "image" if kind == "image" else "video"
    assert len({tuple(row[f"{key}_augment"].tolist()) for row in again}) == len(again)
    assert {row["patient_id"] for row in again} == {
        p for p in module.patients("train") if PATIENTS[p]
    }
    assert make(kind, stream_store).positive_oversampling == 1


@every_kind
@pytest.mark.parametrize("class_sampling", ["stratified", "balanced", "plain"])
def test_two_processes_of_four_train_on_what_one_of_eight_does(
    kind: str, stream_store: Path, class_sampling: str
) -> None:
    settings: dict[str, Any] = {"class_sampling": class_sampling, "augment": Augment()}
    loaders = [
        of_rank(
            make(kind, stream_store, batch_size=8 // world, **settings), rank, world
        ).train_dataloader()
        for world in (1, 2)
        for rank in range(world)
    ]
    for alone, *both in zip(*loaders, strict=True):
        if class_sampling != "plain" and len(alone["label"]) == 8:  # a last step may have few rows
            assert all(set(batch["label"].tolist()) == {0.0, 1.0} for batch in (alone, *both))
        one, two = (
            sorted(
                (row for row in rows_of(b) if row.pop("loss_weight")), key=lambda r: r["row_key"]
            )
            for b in ([alone], both)
        )
        assert len(one) == len(two)
        assert all(map(same, one, two))


def test_images_and_clips_are_paired_anew_and_all_seen() -> None:
    items = {"image": {"p": ["a", "b", "c"]}, "video": {"p": ["x", "y"], "q": ["z"]}}
    epochs = [training_rows(["p", "q"], items, np.random.default_rng(i)) for i in range(20)]
    for rows in epochs:
        assert [row.index for row in rows] == [0, 1, 2, 3]
        assert [row.patient_id for row in rows] == ["p", "p", "p", "q"]
        assert {row.items["image"] for row in rows} == {"a", "b", "c", None}
        assert {row.items["video"] for row in rows} == {"x", "y", "z"}
        assert rows[3].item_id == "+z"
    assert len({row.item_id for rows in epochs for row in rows[:3]}) == 6


@every_kind
def test_epochs_and_seeds_change_order_windows_and_augmentation(
    kind: str, stream_store: Path
) -> None:
    module = make(kind, stream_store, augment=Augment())
    loader = module.train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        epochs.append(rows_of(loader))
    first, second, again = epochs
    assert all(map(same, first, again))
    assert [row["item_id"] for row in first] != [row["item_id"] for row in second]
    other_seed = rows_of(make(kind, stream_store, augment=Augment(), seed=1).train_dataloader())
    assert [row["item_id"] for row in first] != [row["item_id"] for row in other_seed]
    key = "image" if kind == "image" else "video"
    drawn = {tuple(row[f"{key}_augment"].tolist()) for row in first + second}
    assert len(drawn) == len({row["row_key"] for row in first}) + len(
        {row["row_key"] for row in second}
    )
    if kind != "image":
        starts = {levels(row["video"])[0] for row in first + second} - {0}
        assert len(starts) > 4
    validation = module.val_dataloader()
    before = rows_of(validation)
    validation.sampler.set_epoch(3)
    assert all(map(same, before, rows_of(validation)))


@every_kind
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_every_part(kind: str, stream_store: Path, world: int) -> None:
    whole = of_rank(make(kind, stream_store), 0, 1)
    shares = [of_rank(make(kind, stream_store), rank, world) for rank in range(world)]
    for i, loader in enumerate(whole.predict_dataloader()):
        expected = rows_of(loader)
        gathered: dict[str, Any] = {}
        for share in shares:
            rows = rows_of(share.predict_dataloader()[i])
            gathered |= {row["row_key"]: row for row in rows}
        assert len(gathered) == len(expected)
        assert all(same(row, gathered[row["row_key"]]) for row in expected)
    lengths = {len(share.train_dataloader()) for share in shares}
    assert len(lengths) == 1
    trained = {row["row_key"] for share in shares for row in rows_of(share.train_dataloader())}
    everything = make(kind, stream_store, batch_size=1).train_dataloader()
    assert len({row["row_key"] for row in rows_of(everything)} - trained) <= 1
