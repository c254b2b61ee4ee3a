"""Runs that are a probe, or start from one, and runs that end without a choice."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.config.run import Run
from experiments.errors import ConfigError
from experiments.run_folder.status import read_status

Make = Callable[..., Run]
Launch = Callable[[Run], int]
SUM = "head.class_path=backbones.SumLogitFusion"


@pytest.fixture
def store(store: Path, tmp_path: Path) -> Path:
    """A copy, for features are kept in it; without those that other tests have left."""
    without = shutil.ignore_patterns("features")
    return Path(shutil.copytree(store, tmp_path / "own-store", ignore=without))


def table(run: Run) -> pd.DataFrame:
    return pd.read_parquet(run.folder / "predictions.parquet").sort_values(["part", "patient_id"])


def weights(run: Run) -> dict[str, torch.Tensor]:
    path = run.folder / "checkpoints" / "best.ckpt"
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


@pytest.mark.parametrize("finetune", ["probe", "lp-ft"])
def test_a_run_ends_in_a_probe_or_starts_from_one(make: Make, start: Launch, finetune: str) -> None:
    run = make(f"finetune={finetune}", "selection=last", "trainer.max_epochs=2", "encoder_lr=1e-4")
    assert start(run) == 0, read_status(run.folder).reason
    status = read_status(run.folder)
    assert (status.state, status.epoch) == ("done", 0 if finetune == "probe" else 2)
    assert "probe: inverse penalty" in (run.folder / "log.txt").read_text()
    scored = table(run)
    assert set(scored["part"]) == {"train", "inner_val", "oof", "test"}
    state = weights(run)
    assert state["head.1.weight"].abs().sum() > 0
    shift = state["logit_shift"].item()
    assert (shift == 0) is (finetune == "probe")  # a probe is fitted without weights
    by_hand = torch.sigmoid(torch.tensor(scored["logit"].to_numpy()) - shift)
    assert by_hand.numpy() == pytest.approx(scored["probability"].to_numpy(), abs=1e-6)


def test_features_are_computed_once_for_all_folds_and_heads(
    make: Make, start: Launch, store: Path
) -> None:
    runs = [make("finetune=probe", f"fold={fold}") for fold in (0, 1)]
    runs.append(make("finetune=lp-ft", "trainer.max_epochs=1"))
    assert [start(run) for run in runs] == [0, 0, 0]
    (kept,) = (store / "features").glob("*.npz")
    before = table(runs[0])

    kept.write_bytes(kept.read_bytes()[:-200])  # as by a full disk
    again = make("finetune=probe", "fold=0", "sweep=again")
    assert start(again) == 0
    pd.testing.assert_frame_equal(table(again), before)
    assert "made anew" in (again.folder / "log.txt").read_text()

    with np.load(kept) as file:
        content = dict(file)
    for spoil in (lambda values: values[::-1], lambda values: np.full_like(values, np.nan)):
        np.savez(kept, **content | {"features": spoil(content["features"])})
        altered = make("finetune=probe", "fold=0", f"sweep=altered{spoil(np.ones(1))[0]:.0f}")
        assert start(altered) == 0
        pd.testing.assert_frame_equal(table(altered), before)
        assert "not as it was written; made anew" in (altered.folder / "log.txt").read_text()
    content["made_from"] = np.array(
        str(content["made_from"]).replace('"weights": "', '"weights": "0')
    )
    np.savez(kept, **content)
    other = make("finetune=probe", "fold=0", "sweep=other")
    assert start(other) == 2
    reason = read_status(other.folder).reason or ""
    assert f"features must be of the encoder and input that {kept.name} is named for" in reason


def test_a_probe_of_both_scores_patients_who_lack_one(make: Make, start: Launch) -> None:
    run = make("modality=combined", "finetune=probe", SUM)
    assert start(run) == 0, read_status(run.folder).reason
    assert np.isfinite(table(run)["logit"]).all()
    assert "probe: inverse penalty image" in (run.folder / "log.txt").read_text()


def test_two_processes_start_where_one_does(make: Make, start: Launch) -> None:
    settings = ("finetune=lp-ft", "selection=last", "start_share=0.5", "trainer.max_epochs=1")
    one = make(*settings, "batch_size=4")
    two = make(*settings, "batch_size=2", "trainer.devices=2", "trainer.accelerator=cpu")
    assert [start(one), start(two)] == [0, 0], read_status(two.folder).reason
    difference = table(one)["logit"].to_numpy() - table(two)["logit"].to_numpy()
    assert np.abs(difference).max() < 1e-4


@pytest.mark.parametrize("selection", ["last", "ema", "inner_bce", "refit"])
def test_the_start_keeps_its_share_of_the_final_weights(
    make: Make, start: Launch, selection: str
) -> None:
    """Of those at the schedule's end, of their average, and of a chosen epoch's, alike."""
    settings = (f"selection={selection}", "pos_weight=1", "trainer.max_epochs=3", "last_every=1")
    probe = make("finetune=probe", *settings)
    tuned = make("finetune=lp-ft", *settings)
    mixed = make("finetune=lp-ft", "start_share=0.25", *settings)
    assert [start(run) for run in (probe, tuned, mixed)] == [0, 0, 0]
    first, last = weights(probe), weights(tuned)
    assert not torch.equal(first["encoder.layer.weight"], last["encoder.layer.weight"])
    for name, value in weights(mixed).items():
        torch.testing.assert_close(value, 0.25 * first[name] + 0.75 * last[name])
    epochs = [
        torch.load(run.folder / "checkpoints" / "best.ckpt", weights_only=True)["epoch"]
        for run in (tuned, mixed)
    ]
    assert epochs[0] == epochs[1]


def test_a_schedule_that_runs_to_its_end_trains_on_inner_validation(
    make: Make, start: Launch
) -> None:
    run = make("selection=last", "trainer.max_epochs=2", "patience=1")
    ema = make("selection=ema", "trainer.max_epochs=2")
    assert [start(run), start(ema)] == [0, 0]
    metrics = pd.read_csv(run.folder / "metrics.csv")
    assert "inner_bce" not in metrics
    assert read_status(run.folder).epoch == 2
    best = torch.load(run.folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == 2
    assert best["global_step"] == metrics["step"].max() + 1
    assert not torch.equal(weights(run)["head.1.weight"], weights(ema)["head.1.weight"])


def test_refit_trains_all_for_as_long_as_inner_validation_found_best(
    make: Make, start: Launch, tmp_path: Path
) -> None:
    choice = make("selection=inner_bce", "trainer.max_epochs=3")
    marks = tmp_path / "marks"
    marks.mkdir()
    killed = f"[{{class_path: own_package.Kill, init_args: {{at: ['between 1'], marks: {marks}}}}}]"
    runs = [
        make("selection=refit", "trainer.max_epochs=3"),
        make("selection=refit", "trainer.max_epochs=3", f"trainer.callbacks={killed}"),
    ]
    assert start(choice) == 0
    assert start(runs[0]) == 0, read_status(runs[0].folder).reason
    best = torch.load(choice.folder / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] + 1
    assert read_status(runs[0].folder).epoch == read_status(runs[0].folder).max_epochs == best
    assert start(runs[1]) == -9
    assert start(runs[1]) == 0, read_status(runs[1].folder).reason
    for name, value in weights(runs[0]).items():
        assert torch.equal(value, weights(runs[1])[name])


def test_a_probe_needs_a_linear_head(make: Make, start: Launch) -> None:
    run = make("modality=combined", "finetune=probe")
    with pytest.raises(ConfigError, match=r"head must be a backbones\.SumLogitFusion"):
        start(run)
    assert not (run.folder / "status.json").exists()
