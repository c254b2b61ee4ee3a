"""A sweep with a further axis, from its plan to its report."""

from pathlib import Path

import pandas as pd
import pytest

from evaluation import compute
from experiments.cli import main
from experiments.launchers.local import launch
from experiments.run_folder.status import Status, read_status, write_status
from experiments.sweeps.expand import expand
from experiments.sweeps.file import read_sweep
from experiments.sweeps.freeze import freeze

OWN = Path(__file__).parents[1] / "own"

SWEEP = """
name: axes
axes:
  architecture: [TINY]
  modality: [image]
  fold: [0, 1]
  model.init_args.pos_weight: [1, balanced]
"""


@pytest.fixture(autouse=True)
def own_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(OWN)
    monkeypatch.setenv("PYTHONPATH", str(OWN))
    monkeypatch.setenv("COLUMNS", "80")
    # As in a SLURM job of two tasks, which Lightning must not take for ranks of these runs.
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "ours")


def ceus(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    printed = capsys.readouterr()
    assert not caught.value.code, printed.err
    return printed.out


def test_a_further_axis_is_planned_run_and_evaluated_as_cells_of_their_own(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "axes.yaml"
    path.write_text(SWEEP)
    common = [f"architecture={OWN / 'tiny.yaml'}", f"store={store}", f"runs={tmp_path / 'runs'}"]
    command = ["sweep", path, *common, "fold=0", "trainer.max_epochs=1", "wandb=false"]
    cells = ["tiny+pos_weight=1", "tiny+pos_weight=balanced"]

    kept = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    planned = ceus(capsys, *command, "--plan")
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*")} == kept
    assert not (tmp_path / "runs").exists()
    assert max(map(len, planned.splitlines())) <= 80
    assert all(f"{cell} image" in planned for cell in cells)
    told = " ".join(planned.split())
    assert "2 runs: 0 done ✓" in told
    assert "2 to start ·" in told
    assert "timed on CPU, 2 at a time: an upper bound, for early stopping" in told
    failing = ceus(capsys, *command, "study.image_encoder.init_args.fail=true", "--plan")
    assert "RuntimeError: this encoder was told to fail" in " ".join(failing.split())

    printed = ceus(capsys, *command)
    folder = tmp_path / "runs" / "axes"
    assert "2 done, 0 failed, 0 left" in printed
    tables = [pd.read_parquet(p) for p in folder.glob("*/predictions.parquet")]
    assert sorted(table["architecture"].iloc[0] for table in tables) == cells
    assert list(compute(folder).tables.cells["architecture"]) == cells
    assert ceus(capsys, "status", folder).count("pos_weight") == 2  # a row a cell
    again = ceus(capsys, *command, "--plan")
    assert "2 done ✓" in again
    assert " of runs, " not in again


def test_runs_that_their_schedule_ends_are_timed(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "axes.yaml"
    path.write_text(SWEEP.replace("  model.init_args.pos_weight: [1, balanced]\n", ""))
    common = [f"architecture={OWN / 'tiny.yaml'}", f"store={store}", f"runs={tmp_path / 'runs'}"]
    planned = ceus(capsys, "sweep", path, *common, "fold=0", "selection=last", "--plan")
    assert "Not timed" not in planned
    told = " ".join(planned.split())
    assert "timed on CPU" in told
    assert "upper bound" not in told


def test_the_plan_prepares_no_cohort(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "axes.yaml"
    path.write_text(SWEEP.replace("TINY", "resnet"))
    with pytest.raises(SystemExit) as caught:
        main(["sweep", str(path), f"store={store}", "--cohort", "phantom", "--plan"])
    assert caught.value.code == 2
    assert "--plan must come without --cohort" in capsys.readouterr().err


def test_what_waits_in_vain_is_left_with_the_reason(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "axes.yaml"
    path.write_text(SWEEP)
    common = [f"architecture={OWN / 'tiny.yaml'}", f"store={store}", f"runs={tmp_path / 'runs'}"]
    sweep = expand(read_sweep(path, [*common, "fold=0", "trainer.max_epochs=1", "wandb=false"]))
    first, second = sweep.runs

    def before() -> None:
        freeze(sweep)
        write_status(first.folder, Status(state="failed", reason="why"))

    needs = {second.run_id: (first.run_id,)}
    assert launch([second], 2, sweep.launcher, before=before, needs=needs) == []
    status = read_status(second.folder)
    assert (status.state, status.attempts) == ("pending", 0)
    assert status.reason == f"waits for {first.run_id}, which is failed: why"
