import gc
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image

from datamodules import (
    Augment,
    CeusVideoDataModule,
    CombinedDataModule,
    DataError,
    ImageDataModule,
    TimedWindow,
    UniformFrames,
    WindowGrid,
    load_split,
    make_split,
)
from datamodules.base import PatientDataModule
from datamodules.prepare import prepare
from datamodules.rows import training_rows
from datamodules.store import STORE_FORMAT, Store

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


@pytest.fixture(scope="session")
def stream_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared store of 24 patients, split in 3 folds."""
    folder = tmp_path_factory.mktemp("stream")
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


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


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


def test_frames_travel_as_uint8_at_their_stored_size(kind: str, stream_store: Path) -> None:
    batch = next(iter(make(kind, stream_store).train_dataloader()))
    for key, frames in (("image", 1), ("video", 4)):
        if key in batch:
            assert batch[key].dtype == torch.uint8
            assert batch[key].shape == (4, frames, 3, CANVAS, CANVAS)


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


def counts() -> dict[str, tuple[int, int]]:
    return {patient: HAVE[i % len(HAVE)] for i, patient in enumerate(PATIENTS)}


def levels(video: torch.Tensor) -> list[int]:
    """Grey levels of a clip's frames (T, 3, H, W), as they were drawn."""
    known = torch.tensor([0, *map(frame_level, range(FRAMES))]).float()
    found = video.float().mean(dim=(1, 2, 3))
    nearest = known[(found[:, None] - known).abs().argmin(dim=1)]
    assert (found - nearest).abs().max() <= 4  # of 9: there is no mistaking one frame for the next
    return [int(level) for level in nearest]


def test_training_rows_of_an_epoch(kind: str, stream_store: Path) -> None:
    module = make(kind, stream_store, fold="all")
    expected = {
        patient: {"image": images, "video": clips, "combined": max(images, clips)}[kind]
        for patient, (images, clips) in counts().items()
        if patient in module.patients("train")
    }
    negatives = sum(n for p, n in expected.items() if PATIENTS[p] == 0)
    assert module.train_label_counts() == (negatives, sum(expected.values()) - negatives)
    everything = make(kind, stream_store, fold="all", batch_size=1).train_dataloader()
    patients = [row["patient_id"] for row in rows_of(everything)]
    assert Counter(patients) == Counter(expected)


def test_balanced_sampling_shows_the_rarer_class_again_and_anew(
    kind: str, stream_store: Path
) -> None:
    module = make(kind, stream_store, augment=Augment(), class_sampling="balanced", batch_size=2)
    negatives, positives = module.train_label_counts()
    assert negatives > positives
    assert module.positive_oversampling == negatives / positives
    rows = rows_of(module.train_dataloader())
    assert [row["label"] for row in rows].count(1) == negatives == len(rows) - negatives
    again = [row for row in rows if row["label"] == 1]
    key = "image" if kind == "image" else "video"
    assert len({tuple(row[f"{key}_augment"].tolist()) for row in again}) == len(again)
    assert {row["patient_id"] for row in again} == {
        p for p in module.patients("train") if PATIENTS[p]
    }
    assert make(kind, stream_store).positive_oversampling == 1


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


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_change_nothing(kind: str, stream_store: Path, num_threads: int) -> None:
    alone = make(kind, stream_store, augment=Augment())
    threaded = make(kind, stream_store, augment=Augment(), num_threads=num_threads)
    for epoch in (0, 1):
        loaders = [alone.train_dataloader(), threaded.train_dataloader()]
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        one, other = map(rows_of, loaders)
        assert len(one) == len(other)
        assert all(map(same, one, other))


def test_nothing_is_parsed_in_threads(stream_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = make("combined", stream_store, num_threads=2)
    loaders = [module.train_dataloader(), *module.predict_dataloader()]

    def refuse(*_: object) -> None:
        raise AssertionError("ast.parse fails at random in threads on Python 3.11")

    monkeypatch.setattr("ast.parse", refuse)
    assert all(len(list(loader)) == len(loader) for loader in loaders)


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


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_every_part(kind: str, stream_store: Path, world: int) -> None:
    whole = make(kind, stream_store)
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


class Recorder(L.LightningModule):
    """A network of one weight that keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[Any]] = {"fit": [], "validate": [], "predict": []}

    def _logits(self, batch: dict[str, Any], stage: str) -> torch.Tensor:
        self.seen[stage].append((self.current_epoch, batch["row_key"], batch.keys()))
        inputs = [batch[key].flatten(1).mean(1) for key in ("image", "video") if key in batch]
        return self.weight * sum(inputs)

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        logits = self._logits(batch, "fit")
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["label"])

    def validation_step(self, batch: dict[str, Any]) -> None:
        self._logits(batch, "validate")

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int) -> Any:
        del batch_idx, dataloader_idx
        self._logits(batch, "predict")
        return batch["patient_id"], batch["label"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_fits_and_predicts(kind: str, stream_store: Path, tmp_path: Path) -> None:
    module, network = make(kind, stream_store, num_threads=2, augment=Augment()), Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=1,
        default_root_dir=tmp_path,
    )
    trainer.fit(network, datamodule=module)
    predictions = trainer.predict(network, datamodule=module)
    for stage, seen in network.seen.items():
        weight = {"loss_weight"} if stage == "fit" else set()
        assert all(keys == expected_keys(kind) | weight for *_, keys in seen)
    assert [len(part) for part in predictions] == [len(x) for x in module.predict_dataloader()]
    for part, batches in zip(module.predict_parts, predictions, strict=True):
        assert {p for patients, _ in batches for p in patients} == set(module.patients(part))
    orders = [[keys for e, keys, _ in network.seen["fit"] if e == epoch] for epoch in (0, 1)]
    assert len(orders[0]) == len(orders[1]) == len(module.train_dataloader())
    assert orders[0] != orders[1], "Lightning called set_epoch"
    assert network.weight != 0


def test_the_settings_are_the_schema_of_the_yaml(kind: str, stream_store: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PatientDataModule, "data")
    needed = {key: value for key, value in KINDS[kind][1].items() if "sampling" not in key}
    if kind != "image":
        needed["train_sampling"] = {
            "class_path": "datamodules.TimedWindow",
            "init_args": {"num_frames": 4, "clip_seconds": 1.0, "start": "random"},
        }
        needed["eval_sampling"] = {
            "class_path": "datamodules.UniformFrames",
            "init_args": {"num_frames": 4},
        }
    needed |= {"store": str(stream_store), "split": "default", "fold": 1}
    needed["augment"] = {"class_path": "datamodules.Augment", "init_args": {"flip": 0.0}}
    name = f"datamodules.{KINDS[kind][0].__name__}"

    def parse(**changes: Any) -> Any:
        data = {"class_path": name, "init_args": needed | changes}
        return parser.instantiate(parser.parse_object({"data": data})).data

    module = parse()
    assert type(module) is KINDS[kind][0]
    assert next(iter(module.train_dataloader()))["label"].shape == (8,)
    if kind != "image":
        assert module.eval_sampling == UniformFrames(num_frames=4)
    for changes, match in (({"batchsize": 4}, "batchsize"), ({"batch_size": "x"}, "batch_size")):
        with pytest.raises(Exception, match=match):
            parse(**changes)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"eval_batch_size": 0}, "eval_batch_size must be 1 or more, got 0"),
        ({"num_threads": -1}, "num_threads must be 0 or more, got -1"),
        ({"image_size": 0}, "image_size and video_size must be 1 or more, got 0"),
        ({"image_std": (1.0, 0.0, 1.0)}, "image_std and video_std must be above 0"),
        ({"fold": 3}, "fold must be 0 to 2 or 'all', got 3"),
        ({"split": "study"}, r"splits \(default\), got 'study'"),
        ({"store": Path("nowhere")}, "store must be a folder, got none"),
    ],
)
def test_settings_are_refused_before_training(
    stream_store: Path, settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        make("image", settings.pop("store", stream_store), **settings).setup("fit")


@pytest.fixture
def table_store(tmp_path: Path) -> Callable[[dict[str, bool]], Path]:
    """A store's table alone: all have an image, these patients have a clip too."""

    def write(clips: dict[str, bool]) -> Path:
        (tmp_path / "store.json").write_text(json.dumps({"format": STORE_FORMAT, "canvas": CANVAS}))
        rows = [
            (f"{patient}-{modality}", patient, label, modality, 10, 8.0, math.nan, math.nan)
            for patient, label in PATIENTS.items()
            for modality in ("image", "ceus")
            if modality == "image" or clips.get(patient)
        ]
        columns = ["item_id", "patient_id", "label", "modality", "frames", "fps", "arrival_s"]
        columns.append("peak_s")
        pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / "cohort.parquet")
        make_split(tmp_path, num_folds=3)
        return tmp_path

    return write


def test_decoding_on_the_device_and_a_cache_exclude_each_other(stream_store: Path) -> None:
    with pytest.raises(DataError, match=r"decode must be auto or cpu with a cache, got 'cuda'"):
        make("video", stream_store, decode="cuda", cache="ram")
    with pytest.raises(DataError, match=r"decode must be auto or cpu where there is no CUDA"):
        make("video", stream_store, decode="cuda").setup()
    with pytest.raises(DataError, match=r"cache_gb must be 0 or more, got -1"):
        make("video", stream_store, cache="ram", cache_gb=-1)


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


def test_evaluation_does_not_vary_in_time(stream_store: Path) -> None:
    varied = UniformFrames(num_frames=4, speed=0.1)
    make("video", stream_store, train_sampling=varied).setup()
    with pytest.raises(DataError, match=r"eval_sampling must not vary in time, got Uniform"):
        make("video", stream_store, eval_sampling=varied).setup()


@pytest.mark.parametrize("cache", ["disk", "ram", False])
@pytest.mark.parametrize("kind", ["video", "combined"])
def test_a_cache_changes_nothing(kind: str, stream_store: Path, cache: Any) -> None:
    plain = make(kind, stream_store, augment=Augment())
    cached = make(kind, stream_store, augment=Augment(), cache=cache, num_threads=2)
    for epoch in (0, 1):
        for module in (plain, cached):
            module.finished = []
            for loader in (module.train_dataloader(), *module.predict_dataloader()):
                loader.sampler.set_epoch(epoch)
                module.finished += [module.on_after_batch_transfer(raw, 0) for raw in loader]
        assert all(map(same, rows_of(plain.finished), rows_of(cached.finished)))
    folder = cached._cache.path if cached._cache else None
    cached.teardown("fit")
    assert folder is None or folder.exists()  # scoring comes after it
    cached.teardown("predict")
    assert folder is None or folder.exists() == (cache == "disk")
    assert next(iter(cached.train_dataloader()))["label"].shape == (4,)  # and it can start anew
    cached.teardown("predict")


def test_memory_stays_flat_over_epochs(stream_store: Path) -> None:
    module = make("video", stream_store, num_threads=2, augment=Augment())
    loader = module.train_dataloader()

    def epochs(count: int) -> int:
        for epoch in range(count):
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                module.on_after_batch_transfer(batch, 0)
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = epochs(10)
    assert epochs(50) - before < 20e6  # a leak of its frames alone would be 60 MB


def test_a_part_without_rows_is_refused(table_store: Any) -> None:
    store = table_store({})
    make("image", store).setup()
    make("combined", store).setup()
    with pytest.raises(DataError, match="part 'train' must have patients with ceus, got none"):
        make("video", store).setup()


def test_training_without_a_class_is_refused(table_store: Any) -> None:
    store = table_store({patient: label == 0 for patient, label in PATIENTS.items()})
    with pytest.raises(DataError, match=r"both labels, got none of label 1 among .* with ceus"):
        make("video", store).setup()


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
