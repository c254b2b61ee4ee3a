"""Encoders that learn the hospital's frames without labels, and whose runs may use them."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open

from datamodules.ingest.prepare import prepare
from datamodules.store.folder import Store
from datamodules.store.splits import load_split, make_split
from experiments.cli import main
from experiments.run_folder.status import read_status

ARCHITECTURE = Path(__file__).parents[1] / "own" / "timm_tiny.yaml"


@pytest.fixture(scope="module")
def store(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six of 26 patients lack a label."""
    folder = tmp_path_factory.mktemp("unlabelled")
    shutil.copytree(cohort.parent, folder / "cohort")
    table = pd.read_csv(cohort, dtype=str)
    without = sorted(table["patient_id"].unique())[:6]
    table.loc[table["patient_id"].isin(without), "label"] = ""
    table.to_csv(folder / "cohort" / "cohort.csv", index=False)
    store = prepare(
        folder / "cohort" / "cohort.csv",
        folder / "store",
        canvas=64,
        as_is=True,
        progress=False,
        workers=1,
    )
    make_split(store, num_folds=2)
    return store


def ceus(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def pretrain(store: Path, runs: Path, *arguments: str) -> Path:
    """The weights' file."""
    settings = (f"runs={runs}", "wandb=false", "batch_size=8", "trainer.max_epochs=2")
    assert ceus("pretrain", store, "--encoder", ARCHITECTURE, *arguments, *settings) == 0
    (path,) = (runs / "pretrain").glob("*/weights.safetensors")
    return path


def fit(store: Path, runs: Path, weights: Path, *settings: str, modality: str = "image") -> int:
    return ceus(
        "fit", f"architecture={ARCHITECTURE}", f"modality={modality}", f"store={store}",
        f"runs={runs}", "wandb=false", "trainer.max_epochs=1", *settings,
        f"{modality}_encoder.init_args.pretrained={weights}",
    )  # fmt: skip


def test_patients_without_a_label_are_of_no_study(store: Path) -> None:
    study, every = Store(store), Store(store, with_unlabelled=True)
    assert every.items["patient_id"].nunique() - study.items["patient_id"].nunique() == 6
    assert study.items["label"].isin([0, 1]).all()
    split = load_split(store, "default")
    dealt = {p for part in split.parts("all").values() for p in part}
    assert dealt == set(study.items["patient_id"])


@pytest.mark.parametrize("modality", ["image", "video"])
def test_an_encoder_learns_of_patients_without_a_label_and_any_fold_may_use_it(
    store: Path, tmp_path: Path, modality: str
) -> None:
    path = pretrain(store, tmp_path, "--modality", modality)
    run = path.parent
    assert read_status(run).state == "done"
    metrics = pd.read_csv(run / "metrics.csv")
    assert {"train_loss", "feature_spread"} <= set(metrics)
    text = (run / "log.txt").read_text()
    assert not any(
        patient in text for patient in Store(store, with_unlabelled=True).items["patient_id"]
    )
    with safe_open(path, framework="numpy") as file:
        seen = file.metadata()["ceus_pretraining"]
    assert not any(
        patient in seen for patient in Store(store, with_unlabelled=True).items["patient_id"]
    )
    assert fit(store, tmp_path, path, "finetune=probe", modality=modality) == 0
    (fitted,) = (tmp_path / "fit").glob("*/checkpoints/best.ckpt")
    state = torch.load(fitted, weights_only=True)["state_dict"]
    with safe_open(path, framework="torch") as file:
        for name in file.keys():  # noqa: SIM118  no dict
            assert torch.equal(state[f"encoder.net.{name}"], file.get_tensor(name))


def test_weights_that_saw_the_scored_patients_are_refused(
    store: Path, cohort: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = pretrain(store, tmp_path, "--fold", "0")
    assert fit(store, tmp_path, path, "fold=0") == 0
    assert fit(store, tmp_path, path, "fold=1") == 2
    assert "out-of-fold patients of fold 1" in capfd.readouterr().err
    everyone = pretrain(store, tmp_path / "all", "--fold", "all")
    assert fit(store, tmp_path, everyone, "fold=all") == 0
    assert fit(store, tmp_path, everyone, "fold=0") == 2

    # Another split holds out patients whom these weights have seen; so does a store made anew.
    make_split(store, name="other", num_folds=2, seed=7, overlap_reason="to see it refused")
    assert fit(store, tmp_path, everyone, "fold=all", "split=other") == 2
    assert "hold-out patients of fold all" in capfd.readouterr().err
    shutil.copytree(store, tmp_path / "anew")
    (tmp_path / "anew" / "patient.key").unlink()
    assert fit(tmp_path / "anew", tmp_path, path, "fold=1") == 2


def test_pretraining_needs_someone_to_learn_from(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_parquet(store / "cohort.parquet")
    labelled = shutil.copytree(store, tmp_path / "labelled")
    table[table["label"].notna()].to_parquet(labelled / "cohort.parquet", index=False)
    assert ceus("pretrain", labelled, "--encoder", ARCHITECTURE, f"runs={tmp_path}") == 2
    assert "Set --fold K" in capfd.readouterr().err
