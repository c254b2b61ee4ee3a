"""Settings of the datamodules: the schema of the YAML, and what is refused."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from jsonargparse import ArgumentParser

from datamodules import DataError, UniformFrames, make_split
from datamodules.batches.datamodule import PatientDataModule
from datamodules.store.folder import STORE_FORMAT
from tests.datamodules.streams import CANVAS, KINDS, PATIENTS, every_kind, make, of_rank


@every_kind
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


def test_decoding_on_the_device_and_a_cache_exclude_each_other(stream_store: Path) -> None:
    with pytest.raises(DataError, match=r"decode must be auto or cpu with a cache, got 'cuda'"):
        make("video", stream_store, decode="cuda", cache="ram")
    with pytest.raises(DataError, match=r"decode must be auto or cpu where there is no CUDA"):
        make("video", stream_store, decode="cuda").setup()
    with pytest.raises(DataError, match=r"cache_gb must be 0 or more, got -1"):
        make("video", stream_store, cache="ram", cache_gb=-1)


def test_evaluation_does_not_vary_in_time(stream_store: Path) -> None:
    varied = UniformFrames(num_frames=4, speed=0.1)
    make("video", stream_store, train_sampling=varied).setup()
    with pytest.raises(DataError, match=r"eval_sampling must not vary in time, got Uniform"):
        make("video", stream_store, eval_sampling=varied).setup()


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


@pytest.mark.parametrize(
    ("device", "given", "setting", "expected"),
    [
        ("cuda", "9", "auto", 8),  # one is left to the step
        ("cuda", "1", "auto", 1),
        ("cuda", "64", "auto", 16),
        ("cpu", "9", "auto", 2),
        ("cuda", "9", 3, 3),
        ("cpu", "9", 0, 0),
    ],
)
def test_threads_follow_from_the_cores_of_the_run(
    stream_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    given: str,
    setting: Any,
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setenv("CEUS_CORES", given)
    module = of_rank(make("video", stream_store, num_threads=setting), 0, 1)
    module.trainer.strategy.root_device = torch.device(device)
    assert module._threads == expected
