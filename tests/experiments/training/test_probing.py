"""Runs that are a probe, or start from one, and runs that end without a choice."""

from collections.abc import Callable

import pandas as pd
import pytest
import torch

from experiments.config.run import Run
from experiments.run_folder.status import read_status

Make = Callable[..., Run]
Launch = Callable[[Run], int]


@pytest.mark.parametrize("finetune", ["probe", "lp-ft"])
def test_a_run_ends_in_a_probe_or_starts_from_one(make: Make, start: Launch, finetune: str) -> None:
    run = make(f"finetune={finetune}", "selection=last", "trainer.max_epochs=2", "encoder_lr=1e-4")
    assert start(run) == 0, read_status(run.folder).reason
    status = read_status(run.folder)
    assert (status.state, status.epoch) == ("done", 0 if finetune == "probe" else 2)
    assert "probe: inverse penalty" in (run.folder / "log.txt").read_text()
    table = pd.read_parquet(run.folder / "predictions.parquet")
    assert set(table["part"]) == {"train", "inner_val", "oof", "test"}
    state = torch.load(run.folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert state["head.1.weight"].abs().sum() > 0
    shift = state["logit_shift"].item()
    assert (shift == 0) is (finetune == "probe")  # a probe is fitted without weights
    by_hand = torch.sigmoid(torch.tensor(table["logit"].to_numpy()) - shift)
    assert by_hand.numpy() == pytest.approx(table["probability"].to_numpy(), abs=1e-6)


def test_a_schedule_that_runs_to_its_end_trains_on_inner_validation(
    make: Make, start: Launch
) -> None:
    run = make("selection=last", "trainer.max_epochs=2", "patience=1")
    assert start(run) == 0
    metrics = pd.read_csv(run.folder / "metrics.csv")
    assert "inner_bce" not in metrics
    assert read_status(run.folder).epoch == 2
    best = torch.load(run.folder / "checkpoints" / "best.ckpt", weights_only=True)
    last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert best["epoch"] == 1
    for name, value in best["state_dict"].items():
        assert torch.equal(value, last["state_dict"][name])


def test_a_probe_needs_a_linear_head(make: Make, start: Launch) -> None:
    run = make("modality=combined", "finetune=probe")
    assert start(run) == 2
    reason = read_status(run.folder).reason or ""
    assert "head must be a backbones.SumLogitFusion" in reason
