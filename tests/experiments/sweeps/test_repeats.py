"""Sweeps over several partitions: their runs, and real ones from split to report."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from datamodules.batches.modalities import ImageDataModule
from datamodules.errors import DataError
from datamodules.store.splits import load_split
from evaluation.records.listing import read_listing
from experiments.cli import main
from experiments.config.compose import compose
from experiments.config.pretraining import seen_record
from experiments.config.run import make_run
from experiments.errors import ConfigError
from experiments.sweeps.expand import Sweep, expand
from experiments.sweeps.file import read_sweep
from experiments.sweeps.freeze import freeze

OWN = Path(__file__).parents[1] / "own"
FILE = """
name: several
axes:
  architecture: [TINY]
  modality: [image, video]
  fold: [0, 1, all]
  repeat: [0, 1]
launcher: {parallel: 2}
analysis: {primary: {modalities: [video, image]}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "several.yaml"
    path.write_text(FILE.replace("TINY", str(OWN / "tiny.yaml")))
    return path


def made(file: Path, store: Path, *overrides: str) -> Sweep:
    common = [f"store={store}", f"runs={file.parent}", "wandb=false", "trainer.max_epochs=1"]
    return expand(read_sweep(file, [*common, *overrides]))


def test_a_partition_is_an_axis_and_of_all_patients_there_is_one(
    file: Path, repeated: Path
) -> None:
    sweep = made(file, repeated, "modality=image")
    names = [run.run_id.rpartition("-")[0] for run in sweep.runs]
    folds = ["0", "0r1", "1", "1r1", "all"]
    assert names == [f"tiny-image-fold{fold}-seed0" for fold in folds]
    (every,) = [run for run in sweep.runs if run.study.fold == "all"]
    assert every.study.repeat == 0
    freeze(sweep)
    assert [run.fold for run in read_listing(sweep.folder).runs] == folds
    freeze(sweep)  # the same again
    with pytest.raises(DataError, match="repeat must be 0 to 1, got 5"):
        made(file, repeated, "repeat=5")


def test_rows_are_those_of_the_partition(repeated: Path) -> None:
    split = load_split(repeated, "default")
    for repeat in (0, 1):
        data = ImageDataModule(
            image_size=16,
            image_mean=[0.5] * 3,
            image_std=[0.2] * 3,
            store=repeated,
            split="default",
            fold=1,
            repeat=repeat,
        )
        for part, patients in split.parts(1, repeat).items():
            assert data.patients(part) == patients
    assert split.parts(1, 0)["oof"] != split.parts(1, 1)["oof"]


def test_a_combined_run_starts_from_those_of_its_partition(file: Path, repeated: Path) -> None:
    file.write_text(file.read_text().replace("video]", "video, combined]"))
    head = "study.head.class_path=backbones.AverageLogitFusion"
    sweep = made(file, repeated, "warm_start=sweep", head)
    combined = [run for run in sweep.runs if run.study.modality == "combined"]
    assert len(combined) == 5
    for run in combined:
        assert all(f"-fold{run.study.fold_name}-" in need for need in sweep.needs[run.run_id])


def test_weights_pretrained_in_one_partition_are_refused_where_another_scores_them(
    repeated: Path, tmp_path: Path
) -> None:
    parts = load_split(repeated, "default").parts(0, 0)
    path = tmp_path / "weights.safetensors"
    seen = seen_record(repeated, {*parts["train"], *parts["inner_val"]})
    save_file({"weight": np.zeros(1, np.float32)}, path, metadata=seen)
    encoder = f"image_encoder.init_args.pretrained={path}"
    common = ["architecture=resnet", "modality=image", f"store={repeated}", "fold=0"]
    make_run(compose([*common, encoder]))
    with pytest.raises(ConfigError, match=r"out-of-fold patients of fold 0r1 .*K repeat=1"):
        make_run(compose([*common, encoder, "repeat=1"]))


def test_runs_of_two_partitions_are_trained_and_evaluated(file: Path, repeated: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "sweep", str(file), "--evaluate", f"store={repeated}", f"runs={file.parent}",
                "wandb=false", "trainer.max_epochs=1", "modality=image", "analysis.primary=null",
            ]
        )  # fmt: skip
    assert ended.value.code == 0
    folder = file.parent / "several"
    split = load_split(repeated, "default")
    for run in read_listing(folder).runs:
        table = pd.read_parquet(folder / run.run_id / "predictions.parquet")
        assert set(table["fold"]) == {run.fold}
        fold, _, repeat = run.fold.partition("r")
        parts = split.parts("all" if fold == "all" else int(fold), int(repeat or 0))
        for part, rows in table.groupby("part"):
            assert set(rows["patient_id"]) == set(parts[str(part)])
    cells = pd.read_csv(folder / "evaluation" / "cells.csv")
    assert (cells["repeats"] == 2).all()
    assert cells["complete"].all()


def test_split_by_the_command_line_in_repeats_and_by_centre(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "store"
    shutil.copytree(store, path, ignore=shutil.ignore_patterns("splits", "ledger.jsonl"))

    def split(*options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["split", str(path), *options])
        told = capsys.readouterr()
        return told.out if not ended.value.code else told.err

    assert "several.json" in split("--folds", "2", "--repeats", "3", "--name", "several")
    assert len(load_split(path, "several").further) == 2
    assert "--covariates centre" in split("--scheme", "centre", "--name", "centres")
    items = pd.read_parquet(path / "cohort.parquet")
    patients = sorted(items["patient_id"].unique())
    items["centre"] = items["patient_id"].map(lambda p: "ab"[patients.index(p) % 2])
    items.to_parquet(path / "cohort.parquet")
    assert "centres.json" in split("--scheme", "centre", "--name", "centres")
    centres = load_split(path, "centres")
    assert centres.scheme["centres"] == ["a", "b"]
    centre_of = dict(zip(items["patient_id"], items["centre"], strict=True))
    assert {centre_of[p] for p in centres.parts(1)["oof"]} == {"b"}
