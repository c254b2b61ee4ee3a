"""Runs that are asked to stop, that stall, and that cannot write; real processes and signals."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pytest

from experiments.config.run import Run
from experiments.launchers.local import launch
from experiments.processes import warm_server
from experiments.run_folder.failures import duration
from experiments.run_folder.lock import is_locked
from experiments.run_folder.status import Status, read_status
from experiments.sweeps.file import LauncherSettings
from experiments.training.process import run_and_exit
from experiments.training.watch import GRACE_SECONDS
from tests.command import ceus

OWN = Path(__file__).parents[1] / "own"
SLEEPER = "study.image_encoder={class_path: own_package.Sleeper, init_args: {rank: %d, step: %d}}"
TWO = ["trainer.devices=2", "trainer.accelerator=cpu"]
LONG = ["trainer.max_epochs=100000", "patience=100000", "batch_size=4"]


@pytest.fixture(autouse=True)
def own_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(OWN))


@contextmanager
def begun(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A command in a terminal of its own, whose Ctrl-C reaches all of its processes."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(folder: Path, good: Callable[[Status], bool]) -> None:
    deadline = time.monotonic() + 120
    while not good(read_status(folder)):
        assert time.monotonic() < deadline, read_status(folder)
        time.sleep(0.05)


def left_of(group: int) -> list[str]:
    """Commands of the processes that a terminal's session still has."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == group and fields[0] != "Z":
                found.append((path.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it ended while we looked
            continue
    return found


def none_left(group: int) -> None:
    deadline = time.monotonic() + 10
    while left := left_of(group):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_ctrl_c_saves_the_epoch_and_leaves_nothing_behind(
    make: Callable[..., Run], store: Path, tmp_path: Path
) -> None:
    settings = [*LONG, "last_every=100000", "modality=image", "wandb=false"]
    run = make(*settings)
    common = [f"architecture={OWN / 'tiny.yaml'}", f"store={store}", f"runs={tmp_path}"]
    with begun("experiments", "fit", *common, *settings) as sweep:
        wait_for(run.folder, lambda status: status.epoch >= 3)
        os.killpg(sweep.pid, signal.SIGINT)
        _, told = sweep.communicate(timeout=60)
        none_left(sweep.pid)
    assert sweep.returncode == 130, told
    assert "Stopping 1 runs. Ctrl-C again ends them at once." in told
    assert told.strip().endswith("Stopped. Call the same command again to go on.")
    assert "Traceback" not in told
    status = read_status(run.folder)
    assert (status.state, status.reason) == ("interrupted", "stopped by SIGTERM")
    assert (run.folder / "checkpoints" / "last.ckpt").is_file()  # before its turn
    assert not is_locked(run.folder)


def test_what_is_done_after_ctrl_c_is_evaluated(store: Path, tmp_path: Path) -> None:
    common = [f"architecture={OWN / 'tiny.yaml'}", f"store={store}", f"runs={tmp_path}"]
    settings = ["launcher.parallel=1", "wandb=false", "modality=image", "trainer.max_epochs=300"]
    folder = tmp_path / "tiny"
    with begun("experiments", "sweep", OWN / "tiny_sweep.yaml", *common, *settings) as sweep:
        deadline = time.monotonic() + 120
        while [read_status(p).state for p in folder.glob("tiny-*")].count("done") < 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(sweep.pid, signal.SIGINT)
        told = sweep.communicate(timeout=60)
    assert sweep.returncode == 130, told
    states = sorted(read_status(p).state for p in folder.glob("tiny-*"))
    assert states[0] == "done"
    assert states[1] in ("interrupted", "pending")
    evaluated = ceus("evaluate", folder)
    assert evaluated.returncode == 0, evaluated.stderr
    assert f"Sweep tiny: 1 done, 1 {states[1]}." in evaluated.stdout
    assert "* a run of this cell is not done" in evaluated.stdout
    assert (folder / "evaluation" / "cells.csv").is_file()


def test_what_imports_ahead_ends_with_the_caller(tmp_path: Path) -> None:
    settings = ["sweep", "demo", f"store={tmp_path / 'missing'}"]
    with begun("experiments", *settings) as sweep:
        assert sweep.wait() == 2
        time.sleep(0.2)
        assert not left_of(sweep.pid)  # it has imports of many seconds before it


def test_ctrl_c_amid_imports_is_told_in_a_line(store: Path, tmp_path: Path) -> None:
    settings = [f"architecture={OWN / 'tiny.yaml'}", "modality=image", f"store={store}"]
    with begun("experiments", "fit", *settings, f"runs={tmp_path}", "wandb=false") as sweep:
        time.sleep(2.5)
        os.killpg(sweep.pid, signal.SIGINT)
        told = sweep.communicate()[1]
    assert sweep.returncode == 130
    assert told.strip() == "Stopped. Call the same command again to go on."


def _in_a_terminal(folder: Path) -> None:
    """`python -m experiments.training` of a person, but for the imports."""
    os.setsid()
    run_and_exit(folder, 1, has_terminal=True)


def test_a_second_ctrl_c_ends_at_once(make: Callable[..., Run]) -> None:
    run = make(*LONG, SLEEPER % (0, 2))
    process = warm_server().Process(target=_in_a_terminal, args=(run.folder,))
    process.start()
    wait_for(run.folder, lambda status: status.max_epochs is not None)
    time.sleep(2.0)  # asleep in its second step by now; not yet there it ends all the same
    os.killpg(process.pid, signal.SIGINT)
    asked = time.monotonic()
    time.sleep(0.7)
    os.killpg(process.pid, signal.SIGINT)
    process.join(timeout=30)
    assert process.exitcode == 130
    assert time.monotonic() - asked < GRACE_SECONDS - 1
    none_left(process.pid)
    status = read_status(run.folder)
    assert (status.state, status.reason) == ("interrupted", "stopped by Ctrl-C")


def test_a_stalled_run_is_stopped_with_the_stacks_of_all_ranks(
    make: Callable[..., Run], start: Callable[[Run], int]
) -> None:
    run = make(*LONG, *TWO, "stall_minutes=0.1", SLEEPER % (1, 3))
    assert start(run) == 1
    status = read_status(run.folder)
    assert status.state == "failed"
    assert str(status.reason).startswith("stalled: no step in ")
    log = (run.folder / "log.txt").read_text()
    assert log.count("stalled: no step in ") == 2
    assert 'own_package.py", line' in log.partition("stalled")[2]  # where rank 1 sleeps
    assert "all_reduce" in log or "distributed" in log.partition("stalled")[2]
    assert not is_locked(run.folder)


def test_a_full_or_read_only_disk_is_one_error_and_nothing_is_lost(
    store: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs the rights of root")
    command = ["unshare", "-m", sys.executable, OWN / "tight_storage.py", store, folder]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["killed"] == -signal.SIGKILL
    code, told = found["full"]
    assert code == 2
    assert "0 done, 1 failed, 0 left" in told
    # The status itself may find no room.
    assert re.search("No space left on device|could not be written: the disk is full", told)
    assert "Traceback" not in told
    assert found["kept"]
    assert found["again"] == 0
    assert found["resumed"] > 0
    code, shown = found["status"]
    assert code == 0
    assert "1 runs: 1 done" in shown
    code, told = found["fit"]
    assert code == 2
    assert "error: folder must be writable, got 'Read-only file system' (" in told
    assert "Traceback" not in told


def rank_one_of(first: int) -> int:
    """The process that a first rank started for the second."""
    found = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in found}
    return next(int(pid) for pid, command in commands.items() if "experiments.training" in command)


def test_a_rank_that_is_killed_ends_the_run_that_waits_for_it(
    make: Callable[..., Run], start: Callable[[Run], int]
) -> None:
    run = make(*LONG, *TWO, (SLEEPER % (1, 3)).replace("Sleeper", "Deserter"))
    assert start(run) == 1
    status = read_status(run.folder)
    assert status.state == "failed"
    assert str(status.reason).startswith("rank 1: killed by SIGKILL, most likely by the system")
    assert not is_locked(run.folder)


@pytest.mark.chaos
def test_a_run_of_two_processes_survives_the_death_of_either(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    settings = [*TWO, "trainer.max_epochs=12", "modality=combined", "batch_size=2", "patience=12"]
    calm, torn = make(*settings), make(*settings, f"runs={tmp_path / 'torn'}")
    assert calm.run_id == torn.run_id
    launched = LauncherSettings(parallel=1, devices_per_run=2)
    assert launch([calm], 1, launched, before=lambda: None, needs={}) == []
    moments = random.Random(1)
    for epochs, rank in ((2, 1), (6, 0)):
        with begun("experiments.training", torn.folder) as process:
            wait_for(torn.folder, lambda status, least=epochs: status.epoch >= least)  # type: ignore[misc]
            time.sleep(moments.uniform(0, 0.2))
            victim = rank_one_of(process.pid) if rank else process.pid
            os.kill(victim, signal.SIGKILL)
            assert process.wait(timeout=30) != 0
            none_left(process.pid)
        status = read_status(torn.folder)
        assert status.epoch < 12
        assert (status.state, rank) in (("failed", 1), ("running", 1), ("running", 0))
    assert launch([torn], 1, launched, before=lambda: None, needs={}) == []
    status = read_status(torn.folder)
    assert status.resumed >= 5
    assert len(status.history) == 2
    pd.testing.assert_frame_equal(
        *(pd.read_parquet(run.folder / "predictions.parquet") for run in (calm, torn)),
        check_exact=True,
    )
    losses = [pd.read_csv(run.folder / "metrics.csv")["train_loss"] for run in (calm, torn)]
    pd.testing.assert_series_equal(*losses, check_exact=True)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (99, "99 s"), (720, "12 min"), (12600, "3.5 h")]
)
def test_a_time_is_told_as_a_person_would(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
