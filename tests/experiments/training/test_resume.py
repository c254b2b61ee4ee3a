"""A killed run ends as one that never was; a checkpoint that is none of its own is set aside."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from datamodules.files import sweep_up, write_atomic
from experiments.config.run import Run
from experiments.errors import ConfigError
from experiments.run_folder.status import next_attempt, read_status
from experiments.training.checkpoints import AtomicCheckpointIO
from experiments.training.resume import resume_point, seed_epoch

EMA = "lightning.pytorch.callbacks.EMAWeightAveraging"


def callbacks(marks: Path, at: list[str]) -> str:
    marks.mkdir()
    kill = {"class_path": "own_package.Kill", "init_args": {"at": at, "marks": str(marks)}}
    ema = {"class_path": EMA, "init_args": {"decay": 0.5}}
    return f"trainer.callbacks={json.dumps([ema, kill])}"


def numbers(run: Run) -> pd.DataFrame:
    table = pd.read_parquet(run.folder / "predictions.parquet")
    return table.drop(columns=["run_id", "config_sha", "checkpoint_sha"])


def metrics(run: Run) -> pd.DataFrame:
    """What was logged, but how fast it was."""
    table = pd.read_csv(run.folder / "metrics.csv")
    return table[[name for name in table if "per_second" not in name]]


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
    pd.testing.assert_frame_equal(metrics(calm), metrics(torn), check_exact=True)
    scored = metrics(calm).dropna(subset=["inner_bce", "train_loss"])
    assert list(scored["epoch"]) == list(range(len(scored)))
    assert metrics(calm)["step"].is_unique
    before, after = read_status(calm.folder), read_status(torn.folder)
    assert (before.epoch, before.inner_auroc) == (after.epoch, after.inner_auroc)
    assert after.epoch < 9  # early stopping
    assert after.resumed == after.epoch
    assert [entry["attempt"] for entry in after.history] == [1, 2, 3, 4, 5]
    assert {entry["state"] for entry in after.history} == {"failed"}
    assert not list(torn.folder.rglob("*.tmp"))
    assert [path.name for path in (torn.folder / "checkpoints").iterdir()] == ["best.ckpt"]


@pytest.fixture
def trained(make: Callable[..., Run], start: Callable[[Run], int], tmp_path: Path) -> Run:
    """A run that was killed when it had trained, before it was scored."""
    run = make("trainer.max_epochs=1", callbacks(tmp_path / "marks", ["predict 0"]))
    assert start(run) == -signal.SIGKILL
    return run


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = torch.load(path, weights_only=True)
    change(content["ceus"])
    torch.save(content, path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 256] = bytes(255 - byte for byte in content[middle : middle + 256])
    path.unlink()  # another name of the file keeps what it has
    path.write_bytes(content)


def test_a_checkpoint_that_is_not_whole_or_not_its_own_is_set_aside(
    trained: Run, caplog: pytest.LogCaptureFixture
) -> None:
    folder = trained.folder / "checkpoints"
    last = folder / "last.ckpt"
    content = last.read_bytes()
    assert resume_point(trained, processes=1, is_first=True) == (last, None)
    spoilt: list[tuple[Callable[[Path], object], str]] = [
        (flip, "is damaged; set aside as last.damaged-1.ckpt"),
        (lambda path: os.truncate(path, 1000), "is damaged; set aside as last.damaged-2.ckpt"),
        (lambda path: path.write_bytes(b""), "is damaged; set aside as last.damaged-3.ckpt"),
        (
            lambda path: rewrite(path, lambda record: record.update(run_id="tiny-image-other")),
            "is of another configuration, tiny-image-other; set aside as last.other-1.ckpt",
        ),
        (
            lambda path: rewrite(path, lambda record: record.update(processes=2)),
            "was trained by 2 processes, not 1; set aside as last.other-2.ckpt",
        ),
        (
            lambda path: [link.unlink() for link in path.parent.glob(".best-at-*")],
            "lacks its best checkpoint",
        ),
    ]
    for spoil, note in spoilt:
        last.write_bytes(content)
        spoil(last)
        kept = last.read_bytes()
        assert resume_point(trained, processes=1, is_first=False) == (None, None)
        assert last.read_bytes() == kept  # a further rank moves nothing
        point, told = resume_point(trained, processes=1, is_first=True)
        assert point is None
        assert note in str(told)
        assert "started over" in caplog.text
        assert not last.exists()
    assert len(list(folder.glob("last.*-*.ckpt"))) == len(spoilt)
    assert resume_point(trained, processes=1, is_first=True) == (None, None)


def test_a_run_goes_on_where_its_folder_was_moved_to(
    trained: Run, start: Callable[[Run], int], tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    study = replace(trained.study, runs=moved)
    run = replace(trained, study=study)
    run.folder.parent.mkdir(parents=True)
    shutil.move(trained.folder, run.folder)
    flip(run.folder / "checkpoints" / "best.ckpt")  # the pair's is taken
    assert start(run) == 0
    status = read_status(run.folder)
    assert (status.state, status.resumed, status.epoch, status.note) == ("done", 1, 1, None)


def test_only_plain_values_are_written(tmp_path: Path) -> None:
    writer = AtomicCheckpointIO()
    path = tmp_path / "checkpoints" / "last.ckpt"
    writer.save_checkpoint({"state": torch.ones(2), "hyper_parameters": {"net": object()}}, path)
    assert set(torch.load(path, weights_only=True)) == {"state"}
    with pytest.raises(ConfigError, match="checkpoint must hold tensors and plain values only"):
        AtomicCheckpointIO().save_checkpoint({"state": Path("x")}, path)
    assert set(torch.load(path, weights_only=True)) == {"state"}


def test_a_kill_while_writing_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_atomic(path, "before")
    killed = (
        "import os, signal, sys; from pathlib import Path; "
        "from datamodules.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as file:\n"
        "    file.write(b'aft'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", killed, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2
    sweep_up(tmp_path)
    assert [left.name for left in tmp_path.iterdir()] == ["last.ckpt"]


def test_an_epoch_draws_the_same_whatever_came_before() -> None:
    seed_epoch(1, 2, 0)
    first = torch.rand(3)
    torch.rand(5)
    seed_epoch(1, 2, 0)
    assert torch.equal(torch.rand(3), first)
    drawn = []
    for place in ((1, 2, 1), (1, 3, 0), (2, 2, 0)):
        seed_epoch(*place)
        drawn.append(torch.rand(3))
    assert not any(torch.equal(other, first) for other in drawn)


def test_the_attempt_before_enters_the_history() -> None:
    first = next_attempt(read_status(Path("nowhere")), started=1.0)
    assert (first.state, first.attempts, first.history) == ("running", 1, [])
    second = next_attempt(replace(first, epoch=3, halvings=1), started=2.0)
    assert (second.attempts, second.epoch, second.halvings) == (2, 0, 1)
    assert second.history[0]["state"] == "killed"  # still running, and its lock was free
    third = next_attempt(
        replace(second, state="interrupted", reason="stopped by Ctrl-C"), started=3
    )
    assert [entry["state"] for entry in third.history] == ["killed", "interrupted"]
