"""`ceus status` of folders of every size, as a terminal of 80 columns shows them."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from evaluation import EvaluationError
from evaluation.records.schema import fold_name
from experiments.launchers.overview import overview
from experiments.run_folder.lock import run_lock
from experiments.run_folder.status import Status, write_status

ARCHITECTURES = ("resnet", "densenet", "inception", "mvit", "swin")
DONE = Status(state="done", attempts=1, epoch=20, max_epochs=50, inner_auroc=0.7312, seconds=754)


def write_sweep(folder: Path, folds: Sequence[int | str], seeds: Sequence[int]) -> list[Path]:
    """Folders of a sweep of the study's shape, all runs done."""
    cells = itertools.product(ARCHITECTURES, ("image", "video", "combined"), folds, seeds)
    entries = []
    for architecture, modality, fold, seed in cells:
        name = f"{architecture}-{modality}-fold{fold}-seed{seed}-01234567"
        cell = {"architecture": architecture, "modality": modality, "fold": fold, "seed": seed}
        entries.append({"run_id": name, **cell})
        (folder / name).mkdir(parents=True)
        write_status(folder / name, DONE)
    (folder / "sweep.json").write_text(json.dumps({"name": folder.name, "runs": entries}))
    return [folder / entry["run_id"] for entry in entries]


def shown(folder: Path, *, failed: bool = False) -> str:
    console = Console(width=80, highlight=False)
    with console.capture() as capture:
        console.print(overview(folder, failed=failed, width=80))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    return text


def test_thirty_runs_are_a_row_a_cell(tmp_path: Path) -> None:
    runs = write_sweep(tmp_path / "demo", [0, 1], [0])
    running = Status(state="running", attempts=1, epoch=3, max_epochs=50, inner_auroc=0.6)
    failed = Status(state="failed", reason="RuntimeError: no luck", attempts=2, seconds=9)
    failed.history.append({"attempt": 1, "state": "killed", "reason": "ended without a word"})
    write_status(runs[0], running)
    write_status(runs[1], failed)
    write_status(runs[2], running)  # nobody holds it
    write_status(runs[3], Status())
    with run_lock(runs[0]):
        text = shown(tmp_path / "demo")
        reasons = shown(tmp_path / "demo", failed=True)
    lines = text.splitlines()
    assert lines[0].startswith("sweep demo: 30 runs: 26 done, 1 running, 1 failed, 1 killed, 1 pen")
    assert "a run takes 13 min" in " ".join(text.split())
    assert "resnet        image     3/50 0.600    failed" in text
    assert "resnet        video     killed        ." in text
    assert "swin          combined  0.731 13 min  0.731 13 min" in text
    assert "1 failed: RuntimeError: no luck" in text
    assert "failed: resnet-image-fold1-seed0-01234567" in reasons
    assert "attempt 1: killed: ended without a word" in reasons
    assert "log.txt" in reasons
    assert "killed: resnet-video-fold0-seed0-01234567" in reasons


def test_two_hundred_and_seventy_runs_fit_a_terminal(tmp_path: Path) -> None:
    runs = write_sweep(tmp_path / "study", [0, 1, 2, 3, 4, "all"], [0, 1, 2])
    assert len(runs) == 270
    for number, run in enumerate(runs[:8]):
        write_status(run, Status(state="failed", reason=f"reason {number} " + "x" * 90))
    text = shown(tmp_path / "study")
    assert text.count("\n") < 65
    assert "270 runs: 262 done, 8 failed" in text
    assert "swin          combined  2     0.731" in text
    assert text.count("failed: reason") == 5
    assert "3 further reasons" in text
    assert shown(tmp_path / "study", failed=True).count("log.txt") == 8


def test_repeats_are_rows_and_fit_a_terminal(tmp_path: Path) -> None:
    folds = [fold_name(fold, repeat) for repeat in range(5) for fold in range(5)]
    write_sweep(tmp_path / "repeated", [*folds, "all"], seeds=[0])
    lines = shown(tmp_path / "repeated").splitlines()
    header, *rows = lines[2:]
    names = ["architecture", "modality", "repeat", "0", "1", "2", "3", "4", "all"]
    assert header.replace("fold ", "").split() == names
    assert len(rows) == 15 * 5
    first, second = (row.split() for row in rows[:2])
    assert (first[:3], first.count("0.731")) == (["resnet", "image", "0"], 6)
    assert (second[:3], second.count("0.731")) == (
        ["resnet", "image", "1"],
        5,
    )  # fold all is of no repeat


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="folder must hold a sweep"):
        overview(tmp_path)
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(
        EvaluationError, match=r"sweep\.json must be the list that `ceus sweep` writes"
    ):
        overview(tmp_path)
