"""Combined runs that start from the image and the video run of their cell, as real runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.cli import main
from experiments.config.compose import compose
from experiments.config.run import Run, make_run
from experiments.errors import ConfigError
from experiments.run_folder.status import read_status, write_status
from experiments.sweeps.expand import Sweep, expand
from experiments.sweeps.file import read_sweep
from experiments.sweeps.freeze import freeze
from experiments.training.build import build, protocol_callbacks
from experiments.training.checkpoints import IDENTITY, start_from_needed
from experiments.training.execute import execute

OWN = Path(__file__).parents[1] / "own"
HEADS = "head: [{class_path: backbones.ConcatFusion}, {class_path: backbones.GatedFusion}]"
AVERAGE = "study.head.class_path=backbones.AverageLogitFusion"


@pytest.fixture(autouse=True)
def own_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(OWN)


def cell(store: Path, runs: Path, *overrides: str) -> list[str]:
    tiny = [f"architecture={OWN / 'tiny.yaml'}", f"store={store}", f"runs={runs}"]
    return [*tiny, "trainer.max_epochs=2", "wandb=false", *overrides]


def sweep(store: Path, runs: Path, *overrides: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(OWN / "tiny_sweep.yaml"), *cell(store, runs, *overrides)])
    return int(ended.value.code)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def averaged(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of an image, a video and a combined run that averages the two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(OWN)
        runs = tmp_path_factory.mktemp("runs")
        assert sweep(store, runs, "fold=0", "warm_start=sweep", AVERAGE) == 0
    return runs / "tiny"


def run_of(folder: Path, modality: str) -> Path:
    (found,) = folder.glob(f"tiny-{modality}-*")
    return found


def table(folder: Path, modality: str) -> pd.DataFrame:
    frame = pd.read_parquet(run_of(folder, modality) / "predictions.parquet")
    return frame.set_index(["part", "patient_id"])


def logit(probability: pd.Series) -> pd.Series:
    return np.log(probability / (1 - probability))


def test_the_average_is_that_of_the_two_runs_and_nothing_is_trained(averaged: Path) -> None:
    image, video, both = (table(averaged, m) for m in ("image", "video", "combined"))
    # The logits as they are for the balance of the cohort, not for the one each was trained to.
    own = pd.concat([logit(image["probability"]), logit(video["probability"])], axis=1)
    assert len(both) == len(own)
    assert (both["logit"] - own.mean(axis=1)).abs().max() < 1e-5
    assert (both["logit"] - logit(both["probability"])).abs().max() < 1e-5
    assert (image["logit"] - logit(image["probability"])).abs().min() > 0.05, "weighted"
    folder = run_of(averaged, "combined")
    assert not (folder / "checkpoints" / "last.ckpt").exists()
    weights = {
        modality: torch.load(
            run_of(averaged, modality) / "checkpoints" / "best.ckpt", weights_only=True
        )
        for modality in ("image", "video", "combined")
    }
    taken = weights["combined"]["state_dict"]["video_encoder.layer.weight"]
    assert torch.equal(taken, weights["video"]["state_dict"]["encoder.layer.weight"])
    identity = weights["combined"][IDENTITY]
    assert identity["run_id"] == folder.name
    assert identity["modality"] == "combined"
    assert "optimizer_states" not in weights["image"]
    metrics = pd.read_csv(folder / "metrics.csv")
    inner = both.loc["inner_val"]
    p, y = inner["probability"], inner["label"]
    bce = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert metrics["inner_bce"].iloc[0] == pytest.approx(bce, abs=1e-6)


def test_the_sum_starts_where_the_two_runs_ended_and_counts_the_prior_once(
    averaged: Path, store: Path, tmp_path: Path
) -> None:
    still = ["encoder_lr=1e-12", "head_lr=1e-12", "trainer.max_epochs=1", "pos_weight=1"]
    recipe = ["finetune=lp-ft", "selection=last", "head.class_path=backbones.SumLogitFusion"]
    fusion = ["modality=combined", f"warm_start={averaged}", "name=sum", "fold=0", *still, *recipe]
    assert sweep(store, tmp_path, *fusion, "analysis.primary=null") == 0
    states = {
        m: torch.load(run_of(folder, m) / "checkpoints" / "best.ckpt", weights_only=True)[
            "state_dict"
        ]
        for m, folder in (("image", averaged), ("video", averaged), ("combined", tmp_path / "sum"))
    }
    both = states.pop("combined")
    for m, alone in states.items():
        torch.testing.assert_close(both[f"head.{m}_head.1.weight"], alone["head.1.weight"])
    shift = sum(alone["logit_shift"] for alone in states.values())
    config = compose([*cell(store, tmp_path, "modality=combined"), "selection=last"])
    negatives, positives = build(config)[2].train_label_counts()
    expected = np.log(negatives / positives) - shift
    assert both["head.bias"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert both["head.doubt"].item() == pytest.approx(1 / (negatives + positives))


def test_another_sweep_starts_from_it_and_scores_averaged_weights(
    averaged: Path, store: Path, tmp_path: Path
) -> None:
    settings = ["freeze_epochs=1", "ema_decay=0.5", "layer_decay=0.5", "trainer.max_epochs=4"]
    kill = {"at": ["predict 0"], "marks": str(tmp_path)}
    callback = {"class_path": "own_package.Kill", "init_args": kill}
    settings.append(f"trainer.callbacks={json.dumps([callback])}")
    fusion = ["modality=combined", f"warm_start={averaged}", *settings, "name=fusion", "fold=0"]
    assert sweep(store, tmp_path, *fusion, "analysis.primary=null") == 1
    folder = run_of(tmp_path / "fusion", "combined")
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert sweep(store, tmp_path, *fusion, "analysis.primary=null") == 0
    metrics = pd.read_csv(folder / "metrics.csv")["inner_bce"].dropna()
    inner = table(tmp_path / "fusion", "combined").loc["inner_val"]
    p, y = inner["probability"], inner["label"]
    bce = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    # What chose the checkpoint is what was saved and what predicts.
    assert bce == pytest.approx(metrics.min(), abs=1e-6)
    name = "head.head.3.weight"
    assert not torch.equal(last["state_dict"][name], last["current_model_state"][name])
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert "current_model_state" not in best
    assert len(metrics) == 4


def test_a_run_whose_need_failed_waits(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = ["study.video_encoder.init_args.fail=true", "fold=0", "warm_start=sweep"]
    assert sweep(store, tmp_path, *failing) == 1
    printed = capsys.readouterr().out
    assert "1 done, 1 failed, 1 left" in printed
    status = read_status(run_of(tmp_path / "tiny", "combined"))
    reason = f"waits for {run_of(tmp_path / 'tiny', 'video').name}, which is failed"
    assert (status.state, status.attempts) == ("pending", 0)
    assert str(status.reason).startswith(reason)
    assert reason in printed


def combined(store: Path, runs: Path, *overrides: str) -> Run:
    return make_run(compose(cell(store, runs, "modality=combined", *overrides)))


def starting(averaged: Path, store: Path, runs: Path, *overrides: str) -> tuple[Run, Any]:
    """A run that starts from copies of the two, and its model."""
    parts = {m: runs / run_of(averaged, m).name for m in ("image", "video")}
    for modality, folder in parts.items():
        shutil.copytree(run_of(averaged, modality), folder, dirs_exist_ok=True)
    start = [f"study.warm_start.{modality}={folder}" for modality, folder in parts.items()]
    run = combined(store, runs, "warm_start={}", *start, *overrides)
    return run, build(run.config, root=runs)[1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_id", "tiny-image-fold0-seed0-00000000"),
        ("modality", "image"),
        ("architecture", "resnet"),
        ("fold", "1"),
        ("seed", "1"),
        ("split_sha", "0"),
        ("store_sha", "0"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    averaged: Path, store: Path, tmp_path: Path, key: str, value: str
) -> None:
    run, model = starting(averaged, store, tmp_path)
    path = run_of(tmp_path, "video") / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint[IDENTITY][key] = value
    torch.save(checkpoint, path)
    with pytest.raises(ConfigError, match=f"must be of {key} .*, got {value} .*video run of the"):
        start_from_needed(run, model)


def test_what_cannot_be_started_from_is_refused(
    averaged: Path, store: Path, tmp_path: Path
) -> None:
    run, model = starting(averaged, store, tmp_path)
    start_from_needed(run, model)
    other, _ = starting(averaged, store, tmp_path, "fold=1")
    with pytest.raises(ConfigError, match=r"must be of fold 1, got 0 \(.*image"):
        start_from_needed(other, model)
    wider = ["study.image_encoder.init_args.num_features=7"]
    other, wide = starting(averaged, store, tmp_path, *wider)
    with pytest.raises(ConfigError, match=r"must have the encoders of this run, got: .*size"):
        start_from_needed(other, wide)
    with pytest.raises(ConfigError, match=r"must go with a model that has start_from\(\), got Lin"):
        start_from_needed(run, torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    image, video = run_of(tmp_path, "image"), run_of(tmp_path, "video")
    best = "checkpoints/best.ckpt"
    shutil.copy(image / best, video / best)
    with pytest.raises(ConfigError, match=f"must be of run_id {video.name}, got {image.name}"):
        start_from_needed(run, model)
    torch.save({"state_dict": {}}, image / best)
    with pytest.raises(ConfigError, match="must be one that a run has written, got KeyError"):
        start_from_needed(run, model)
    write_status(image, read_status(run.folder))
    with pytest.raises(ConfigError, match="image run of warm_start must be done, got pending"):
        start_from_needed(run, model)
    shutil.rmtree(image)
    with pytest.raises(ConfigError, match="must be done, got missing"):
        start_from_needed(run, model)


def test_the_id_stands_for_the_runs_started_from(
    averaged: Path, store: Path, tmp_path: Path
) -> None:
    cold = combined(store, tmp_path)
    warm = combined(store, tmp_path, f"warm_start={averaged}")
    moved, _ = starting(averaged, store, tmp_path)
    assert len({cold.run_id, warm.run_id, moved.run_id}) == 2
    assert warm.run_id == moved.run_id, "where the runs lie does not count"
    other = run_of(averaged, "image").with_name("tiny-image-fold0-seed0-00000000")
    named = [f"study.warm_start.video={run_of(averaged, 'video')}"]
    start = ["warm_start={}", f"study.warm_start.image={other}", *named]
    assert combined(store, tmp_path, *start).run_id != warm.run_id


def test_a_sweep_names_what_its_runs_need(store: Path, tmp_path: Path) -> None:
    made = expand(read_sweep(OWN / "tiny_sweep.yaml", cell(store, tmp_path, "warm_start=sweep")))
    runs = {run.run_id: run for run in made.runs}
    assert len(runs) == 6
    assert len(made.needs) == 2
    for name, needs in made.needs.items():
        cells = [(runs[n].study.modality, runs[n].study.fold) for n in needs]
        assert cells == [("image", runs[name].study.fold), ("video", runs[name].study.fold)]
        assert runs[name].config["study"]["warm_start"] == dict(
            zip(("image", "video"), needs, strict=True)
        )
    heads = tmp_path / "heads.yaml"
    heads.write_text((OWN / "tiny_sweep.yaml").read_text().replace("fold: [0, 1]", HEADS))
    both = expand(read_sweep(heads, cell(store, tmp_path, "warm_start=sweep")))
    assert [run.study.modality for run in both.runs] == ["image", "video", "combined", "combined"]
    assert len(both.needs) == 2
    assert len(set(both.needs.values())) == 1, "two heads start from the same two runs"
    cold = expand(read_sweep(OWN / "tiny_sweep.yaml", cell(store, tmp_path)))
    same = {run.run_id for run in cold.runs} & set(runs)
    assert len(same) == 4, "image and video runs are those of a sweep without warm start"
    assert not cold.needs
    narrowed = ["warm_start=sweep", "modality=combined", "analysis.primary=null"]
    file = read_sweep(OWN / "tiny_sweep.yaml", cell(store, tmp_path, *narrowed))
    with pytest.raises(ConfigError, match="axes must have the modalities image and video"):
        expand(file)


def test_a_warm_start_that_names_no_runs_is_refused(
    averaged: Path, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"must be sweep or the folder of a sweep, got 'nowhere'"):
        combined(store, tmp_path, "warm_start=nowhere")
    with pytest.raises(ConfigError, match="must find one image run of tiny, fold 1, seed 0, got 0"):
        combined(store, tmp_path, f"warm_start={averaged}", "fold=1")
    with pytest.raises(ConfigError, match="or name an image and a video run, got"):
        combined(store, tmp_path, "warm_start={}", "study.warm_start.image=x")


def test_settings_that_do_not_go_together_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pos_weight must be 1 where class_sampling is balanced"):
        combined(store, tmp_path, "class_sampling=balanced")
    assert combined(store, tmp_path, "class_sampling=balanced", "pos_weight=1")
    for setting in ("freeze_epochs=-1", "ema_decay=1.0"):
        study = combined(store, tmp_path, setting).study
        with pytest.raises(ConfigError, match="freeze_epochs must be at least 0 and ema_decay in"):
            protocol_callbacks(study, tmp_path)
    cold = combined(store, tmp_path, AVERAGE)
    freeze(Sweep("fit", cold.folder.parent, (cold,), None))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="warm_start must be set where nothing is trained"):
        execute(cold.folder)
    assert json.loads((cold.folder / "status.json").read_text())["state"] == "failed"
