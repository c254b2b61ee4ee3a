"""A finished run asked what it looked at, and exported, by the command line."""

import json
import re
import shutil
from pathlib import Path

import av
import pandas as pd
import pytest
import torch
from PIL import Image

from datamodules.store.folder import Store
from datamodules.store.pseudonyms import Pseudonyms
from experiments.config.compose import compose
from experiments.config.run import Run, make_run
from experiments.launchers.local import launch
from experiments.reading.overlays import read_overlays
from experiments.sweeps.expand import Sweep
from experiments.sweeps.file import LauncherSettings
from experiments.sweeps.freeze import freeze
from tests.command import ceus

OWN = Path(__file__).parent / "own"


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A combined run of timm's smallest network, done."""
    runs = tmp_path_factory.mktemp("runs")
    common = [f"architecture={OWN / 'timm_tiny.yaml'}", f"store={store}", f"runs={runs}"]
    settings = ["modality=combined", "wandb=false", "trainer.max_epochs=1"]
    run = make_run(compose([*common, *settings, "trainer.accelerator=cpu"]))
    launcher = LauncherSettings(parallel=1)
    freeze(Sweep("fit", run.folder.parent, (run,), launcher), extend=True)
    assert not launch([run], 1, launcher, before=lambda: None, needs={})
    return run


def test_a_patient_is_explained(run: Run, store: Path, tmp_path: Path) -> None:
    scored = pd.read_parquet(run.folder / "predictions.parquet")
    patient = str(scored.loc[scored["part"] == "oof", "patient_id"].iloc[0])
    named = ("explain", run.folder.parent, "--cell", "timm_tiny-combined")
    result = ceus(*named, "--patients", patient, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    described = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert described
    for content in described:
        assert content["patient"] == Pseudonyms(store).of(patient)
        assert len(content["frames_s"]) == len(content["importance_in_time"]) == 4
        assert set(content["log_odds_alone"]) == {"image", "video"}
        assert set(content["correlation_with_random_weights"]["video"]) == {
            "grad_cam",
            "occlusion",
            "gradients",
        }
    clips = set(Store(store).items.query("modality == 'ceus'")["item_id"])
    overlays = read_overlays(tmp_path)  # as the page of readers takes them
    assert len(overlays) == len(described)
    assert {overlay.item for overlay in overlays} <= clips
    for path in tmp_path.iterdir():
        assert patient not in path.name
        assert patient.encode() not in path.read_bytes()
    for path in tmp_path.glob("*.png"):
        Image.open(path).verify()
    for path in tmp_path.glob("*.mp4"):
        with av.open(str(path)) as clip:
            frames = list(clip.decode(video=0))
            assert len(frames) > 4
            assert frames[0].width == 512


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--cell", "swin-video"], "cell must be one of timm_tiny-combined, got 'swin-video'"),
        ([], "cell must be one of timm_tiny-combined, got none"),
        (["--cell", "timm_tiny-combined", "--patients", "NOBODY"], "got 'NOBODY'"),
    ],
)
def test_what_cannot_be_explained_is_one_error(
    arguments: list[str], complaint: str, run: Run, tmp_path: Path
) -> None:
    result = ceus("explain", run.folder.parent, *arguments, "--out", tmp_path)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["explain", "export"])
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("empty", "config.yaml"),
        ("checkpoint", "checkpoint must be one that a run has written"),
        ("other", "checkpoint must be of this run"),
        ("pending", "run must be done, got pending"),
        ("edited", "config.yaml must be the one its run was named for"),
    ],
)
def test_a_run_that_is_not_whole_is_refused(
    command: str, damage: str, complaint: str, run: Run, tmp_path: Path
) -> None:
    if command == "export":
        pytest.importorskip("onnxscript")
    folder = tmp_path / run.folder.name
    if damage == "empty":
        folder.mkdir()
    else:
        if damage == "other":
            folder = folder.with_name("another")
        shutil.copytree(run.folder, folder)
        if damage == "checkpoint":
            (folder / "checkpoints" / "best.ckpt").write_bytes(b"no checkpoint")
        if damage == "edited":
            config = folder / "config.yaml"
            config.write_text(
                config.read_text().replace("label_smoothing: 0.0", "label_smoothing: 0.1")
            )
        if damage == "pending":
            (folder / "status.json").unlink()
    result = ceus(command, folder)
    assert result.returncode == 2
    assert re.search(complaint, result.stderr), result.stderr


def test_an_exported_model_gives_the_same(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from experiments.exporting.program import log_odds, names_of, run_onnx
    from experiments.training.trained import load_trained

    result = ceus("export", run.folder, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    trained = load_trained(run.folder)
    data = trained.data
    batch = data.read_finished(data.evaluation_rows(data.patients("oof")))
    names = names_of(trained)
    described = json.loads((tmp_path / "model.json").read_text())
    assert tuple(described["inputs"]) == names
    for count in (1, len(batch["label"])):
        rows = tuple(batch[name][:count] for name in names)
        given = run_onnx(tmp_path / "model.onnx", rows)
        torch.testing.assert_close(given, log_odds(trained, rows), atol=1e-4, rtol=0)


def test_lacking_packages_are_one_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.exporting import program

    monkeypatch.setattr(program, "PACKAGES", ("onnx_that_nobody_has",))
    result = ceus("export", run.folder, "--out", tmp_path)
    assert result.returncode == 2
    assert "pip install 'ceus[export]'" in result.stderr
