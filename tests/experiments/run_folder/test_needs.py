"""Runs that wait for others, and locks that other machines see."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.errors import ConfigError
from experiments.launchers.order import waves
from experiments.launchers.slurm import submit
from experiments.launchers.slurm_script import array_script
from experiments.run_folder.lock import is_locked, run_lock
from experiments.run_folder.needs import check_needs
from experiments.run_folder.status import Status, read_status, write_status
from experiments.sweeps.expand import Sweep, expand
from experiments.sweeps.file import SlurmSettings, read_sweep
from experiments.sweeps.freeze import freeze
from experiments.training.execute import execute

SHIPPED = Path(__file__).parents[3] / "experiments" / "yaml" / "sweep"


@pytest.fixture
def made(store: Path, tmp_path: Path) -> Sweep:
    """image, video and combined of one fold, the last needing the others."""
    common = [f"store={store}", f"runs={tmp_path}", "architecture=resnet", "fold=0"]
    sweep = expand(read_sweep(SHIPPED / "demo.yaml", common))
    image, video, combined = sweep.runs
    return replace(sweep, needs={combined.run_id: (image.run_id, video.run_id)})


def test_waves_follow_the_needs(made: Sweep) -> None:
    image, video, combined = made.runs
    assert waves(made.runs, made.needs) == [[image, video], [combined]]
    assert waves([combined], made.needs) == [[combined]]
    circle = {**made.needs, image.run_id: (combined.run_id,)}
    with pytest.raises(ConfigError, match="needs of a run must not lead back to it"):
        waves(made.runs, circle)


def test_a_run_whose_need_failed_does_not_start_and_says_why(made: Sweep) -> None:
    image, video, combined = made.runs
    freeze(made)
    write_status(image.folder, Status(state="done"))
    write_status(video.folder, Status(state="failed", reason="out of memory"))
    with pytest.raises(ConfigError, match=r"all that a run needs must be done .* Call the sweep"):
        execute(combined.folder)
    status = read_status(combined.folder)
    assert (status.state, status.attempts) == ("pending", 0)
    assert f"waits for {video.run_id}, which is failed: out of memory" in str(status.reason)
    assert not is_locked(combined.folder)
    write_status(video.folder, Status(state="done"))
    check_needs(combined.folder)


def test_a_run_that_is_done_is_left_alone(made: Sweep) -> None:
    freeze(made)
    write_status(made.runs[0].folder, Status(state="done", attempts=1))
    execute(made.runs[0].folder)
    assert read_status(made.runs[0].folder) == Status(state="done", attempts=1)


@pytest.mark.parametrize(
    ("holder", "seconds_ago", "held"),
    [
        ("elsewhere 12", 0, True),
        ("elsewhere 12", 600, False),  # it died without a word
        ("elsewhere 34", 0, False),  # the job that SLURM put back into the queue is this one
        (f"{os.uname().nodename} 12", 0, False),  # here the kernel knows
        ("", 0, False),
    ],
)
def test_a_lock_is_seen_from_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: str, seconds_ago: int, held: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "34")
    lock = tmp_path / ".lock"
    lock.write_text(holder)
    then = time.time() - seconds_ago
    os.utime(lock, (then, then))
    assert is_locked(tmp_path) is held
    with run_lock(tmp_path) as free:
        assert free is not held
        assert is_locked(tmp_path)
        assert lock.read_text() == (holder if held else f"{os.uname().nodename} 34")
    assert lock.read_text() == (holder if held else "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nodes": 0}, r"launcher\.slurm\.nodes must be at least 1, got 0"),
        ({"requeues": -1}, r"launcher\.slurm\.requeues must be at least 0"),
        ({"hours": 0}, r"launcher\.slurm\.hours must be above 0"),
        ({"sbatch": ("account=x",)}, r"launcher\.slurm\.sbatch must be options of sbatch"),
    ],
)
def test_slurm_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SlurmSettings(**settings)  # type: ignore[arg-type]


def test_a_script_asks_for_what_the_sweep_says() -> None:
    settings = SlurmSettings(
        partition="gpu",
        hours=1.5,
        nodes=2,
        gres="gpu:a100",
        cpus_per_task=8,
        mem="64G",
        requeues=0,
        sbatch=("--account=hospital",),
        setup=("module load cuda",),
    )
    script = array_script(
        settings,
        path=Path("/shared/runs/mine/slurm/001.sbatch"),
        name="mine",
        run_ids=["a", "b"],
        throttle=3,
        devices=4,
        after="",
    ).splitlines()
    for option in (
        "--array=0-1%3",
        "--partition=gpu",
        "--time=1:30:00",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--gres=gpu:a100:4",
        "--cpus-per-task=8",
        "--mem=64G",
        "--no-requeue",
        "--account=hospital",
    ):
        assert f"#SBATCH {option}" in script
    assert "module load cuda" in script
    assert not any("scontrol" in line or "signal=" in line for line in script)
    assert any(line.startswith("srun") and "--cpus-per-task=8" in line for line in script)


def test_a_machine_without_slurm_is_named(
    made: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze(made)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"must be installed for launcher\.kind=slurm"):
        submit(made, made.runs)


def test_a_controller_that_does_not_answer_is_named(
    made: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze(made)
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("experiments.launchers.slurm._PATIENCE_SECONDS", 0.2)
    with pytest.raises(ConfigError, match=r"scontrol must answer, got nothing for 0\.2 s"):
        submit(made, made.runs)


def test_a_sweep_is_submitted_by_one_process_at_a_time(made: Sweep) -> None:
    freeze(made)
    with (
        run_lock(made.folder / "slurm"),
        pytest.raises(ConfigError, match="must be submitted by one process at a time"),
    ):
        submit(made, made.runs)
