"""Pretrained weights of a sweep: fetched, taken from a folder, looked at before all runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from experiments.config.compose import compose
from experiments.config.run import Run, make_run
from experiments.errors import ConfigError
from experiments.launchers.local import launch
from experiments.sweeps.expand import Sweep
from experiments.sweeps.file import LauncherSettings
from experiments.sweeps.freeze import freeze
from experiments.training.trained import load_trained
from tests.command import ceus

OWN = Path(__file__).parents[1] / "own"
TINY = OWN / "timm_tiny.yaml"
IMAGE, VIDEO = (f"study.{name}_encoder.init_args.pretrained" for name in ("image", "video"))
SWEEP = """
name: two
axes: {{modality: [image, video], fold: [0, 1]}}
overrides:
  architecture: {architecture}
  store: {store}
  runs: {runs}
  wandb: false
  trainer.max_epochs: 1
  study.image_encoder.init_args.pretrained: true
  study.video_encoder.init_args.pretrained: true
"""


@pytest.fixture
def sweep(store: Path, tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(SWEEP.format(architecture=TINY, store=store, runs=tmp_path))
    return path


def hub_with(folder: Path, net: torch.nn.Module) -> dict[str, str]:
    """An environment in which the hub's own cache holds a network's weights, and no network is."""
    repository = str(net.pretrained_cfg["hf_hub_id"]).replace("/", "--")
    root = folder / f"models--{repository}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    snapshot = root / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(net.state_dict(), snapshot / "model.safetensors")
    return {**os.environ, "HF_HUB_CACHE": str(folder), "HF_HUB_OFFLINE": "1"}


def test_weights_are_fetched_and_then_taken_from_the_folder(sweep: Path, tmp_path: Path) -> None:
    net = timm.create_model("test_resnet")
    command = [sys.executable, "-m", "experiments", "weights", sweep, "--to", tmp_path / "weights"]
    shown = subprocess.run(
        command, capture_output=True, text=True, env=hub_with(tmp_path / "hub", net), check=False
    )
    assert shown.returncode == 0, shown.stderr
    path = tmp_path / "weights" / "test_resnet.safetensors"
    assert f"{path}: " in shown.stdout
    fetched = load_file(path)
    assert all(torch.equal(fetched[key], value) for key, value in net.state_dict().items())

    again = ceus("weights", sweep, "--to", tmp_path / "weights")
    assert "was there" in again.stdout
    ended = ceus("sweep", sweep, f"weights={tmp_path / 'weights'}", "fold=0", "modality=image")
    assert ended.returncode == 0, ended.stderr
    (best,) = (tmp_path / "two").glob("*/checkpoints/best.ckpt")
    state = torch.load(best, weights_only=True)["state_dict"]
    assert state["encoder.net.conv1.0.weight"].shape == fetched["conv1.0.weight"].shape

    nothing = ceus("weights", sweep, "--to", tmp_path / "none", f"{IMAGE}=false", f"{VIDEO}=false")
    assert "nothing to fetch" in nothing.stdout
    assert not (tmp_path / "none").exists()
    lost = ceus("sweep", sweep, f"weights={tmp_path / 'none'}")
    assert lost.returncode == 2
    assert "weights must be a folder that ceus weights filled, got none" in lost.stderr

    path.unlink()
    missing = ceus("sweep", sweep, f"weights={tmp_path / 'weights'}")
    assert missing.returncode == 2
    assert "weights must be a folder with test_resnet.safetensors, got none there" in missing.stderr
    assert "ceus weights SWEEP --to" in missing.stderr


def test_weights_that_cannot_be_had_are_told_once_before_any_run(
    sweep: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "other.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), wrong)
    ended = ceus("sweep", sweep, "modality=image", f"{IMAGE}={wrong}")
    assert ended.returncode == 2
    assert "pretrained weights must fit test_resnet" in ended.stderr
    assert not (tmp_path / "two").exists()


def test_weights_may_be_moved_or_gone_and_the_run_is_the_same(store: Path, tmp_path: Path) -> None:
    path, moved = tmp_path / "a.safetensors", tmp_path / "elsewhere.safetensors"
    net = timm.create_model("test_resnet", num_classes=0)
    save_file(net.state_dict(), path)

    def frozen(weights: Path) -> Run:
        common = [f"architecture={TINY}", f"store={store}", f"runs={tmp_path}", "modality=image"]
        own = [f"image_encoder.init_args.pretrained={weights}", "finetune=probe", "wandb=false"]
        run = make_run(compose([*common, *own]))
        freeze(Sweep("fit", run.folder.parent, (run,), LauncherSettings()), extend=True)
        return run

    run = frozen(path)
    assert not launch([run], 1, LauncherSettings(parallel=1), before=lambda: None, needs={})
    path.rename(moved)
    assert frozen(moved).run_id == run.run_id
    moved.unlink()
    assert load_trained(run.folder).identity["run_id"] == run.run_id
    config = run.folder / "config.yaml"
    config.write_text(config.read_text().replace("label_smoothing: 0.0", "label_smoothing: 0.1"))
    with pytest.raises(ConfigError, match=r"config\.yaml must be the one its run was named for"):
        load_trained(run.folder)
