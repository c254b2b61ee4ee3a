"""A killed run ends as one that never was; a checkpoint that is none of its own is set aside."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from experiments.compose import Run
from experiments.status import read_status

EMA = "lightning.pytorch.callbacks.EMAWeightAveraging"


def callbacks(marks: Path, at: list[str]) -> str:
    marks.mkdir()
    kill = {"class_path": "own_package.Kill", "init_args": {"at": at, "marks": str(marks)}}
    ema = {"class_path": EMA, "init_args": {"decay": 0.5}}
    return f"trainer.callbacks={json.dumps([ema, kill])}"


def numbers(run: Run) -> pd.DataFrame:
    table = pd.read_parquet(run.folder / "predictions.parquet")
    return table.drop(columns=["run_id", "config_sha", "checkpoint_sha"])


def test_a_run_killed_everywhere_ends_as_if_undisturbed(
    make: Callable[..., Run], start: Callable[[Run], int], tmp_path: Path
) -> None:
    settings = [
        "trainer.max_epochs=9",
        "patience=2",
        "batch_size=4",
        "model.class_path=own_package.Plateau",
        "model.init_args.dropout=0.5",
    ]
    places = ["train 2", "between 1", "train 5", "validate 2", "predict 0"]
    calm = make(*settings, callbacks(tmp_path / "calm", []))
    torn = make(*settings, callbacks(tmp_path / "torn", places))
    assert start(calm) == 0
    for attempt in range(1, len(places) + 1):
        assert start(torn) == -signal.SIGKILL
        status = read_status(torn.folder)
        assert status.state == "failed"
        assert "main memory" in str(status.reason)
        assert status.attempts == attempt
    assert start(torn) == 0
    assert {path.name for path in (tmp_path / "torn").iterdir()} == set(places)
    pd.testing.assert_frame_equal(numbers(calm), numbers(torn), check_exact=True)
    metrics = (calm.folder / "metrics.csv").read_text()
    assert metrics == (torn.folder / "metrics.csv").read_text()
    rows = pd.read_csv(calm.folder / "metrics.csv")
    assert list(rows["epoch"]) == list(range(len(rows)))
    assert rows.notna().all().all()
    before, after = read_status(calm.folder), read_status(torn.folder)
    assert (before.epoch, before.inner_auroc) == (after.epoch, after.inner_auroc)
    assert after.epoch < 9  # early stopping
    assert after.resumed == after.epoch
    assert [entry["attempt"] for entry in after.history] == [1, 2, 3, 4, 5]
    assert {entry["state"] for entry in after.history} == {"failed"}
    assert not list(torn.folder.rglob("*.tmp"))
    assert not list(torn.folder.rglob(".best-at-*"))
