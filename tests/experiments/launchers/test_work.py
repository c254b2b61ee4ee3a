"""Workers that share a sweep, and runs that a command of the user's starts: real processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from experiments.errors import ConfigError
from experiments.launchers.order import SharedQueue
from experiments.run_folder.lock import is_locked, run_lock
from experiments.run_folder.status import Status, read_status, write_status
from experiments.sweeps.expand import Sweep, expand
from experiments.sweeps.file import LauncherSettings, read_sweep
from tests import command

OWN = Path(__file__).parents[1] / "own"
TINY = OWN / "tiny_sweep.yaml"
PACKAGES = os.pathsep.join([str(OWN), os.environ.get("PYTHONPATH", "")])
RUN = f"env PYTHONPATH={PACKAGES} {sys.executable} -P -m experiments.training {{run}}"


def ceus(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return command.ceus(*arguments, packages=OWN)


@pytest.fixture
def settings(store: Path, tmp_path: Path) -> list[str]:
    """Image, video, and combined from both, of one fold, long enough to be met under way."""
    network, epochs = f"architecture={OWN / 'tiny.yaml'}", "trainer.max_epochs=150"
    common = [network, f"store={store}", f"runs={tmp_path}", epochs, "patience=150", "wandb=false"]
    return [*common, "fold=0", "warm_start=sweep"]


@contextlib.contextmanager
def worker(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    called = [sys.executable, "-P", "-m", "experiments", "work", str(folder), "--parallel", "1"]
    environment = os.environ | {"PYTHONPATH": PACKAGES}
    pipe = subprocess.PIPE
    process = subprocess.Popen(called, env=environment, stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def held_by(process: "subprocess.Popen[str]", sweep: Sweep) -> str | None:
    """The run that a worker has under way, in a process of its own."""
    inodes = {
        str((run.folder / ".lock").stat().st_ino): run.run_id
        for run in sweep.runs
        if (run.folder / ".lock").is_file()
    }
    own = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        inode = fields[5].split(":")[2]
        if fields[1] == "FLOCK" and int(fields[4]) in own and inode in inodes:
            return inodes[inode]
    return None


def until(call: Callable[[], str | None]) -> str:
    deadline = time.monotonic() + 120
    while not (found := call()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_worker_takes_over_what_a_killed_one_had_and_each_run_is_done_once(
    settings: list[str], store: Path
) -> None:
    frozen = ceus("sweep", TINY, *settings, "--freeze")
    assert frozen.returncode == 0, frozen.stderr
    sweep = expand(read_sweep(TINY, settings))
    image, video, combined = sweep.runs
    assert not any(read_status(run.folder).attempts for run in sweep.runs)
    with worker(sweep.folder) as first, worker(sweep.folder) as second:
        lost = until(lambda: held_by(first, sweep))
        until(lambda: held_by(second, sweep))
        first.send_signal(signal.SIGKILL)
        first.wait()
        out, err = second.communicate()
        assert second.returncode == 0, out + err
    assert "3 done, 0 failed, 0 left" in out
    for run in sweep.runs:
        status = read_status(run.folder)
        killed = [before["state"] for before in status.history]
        assert (status.state, killed) == ("done", ["killed"] if run.run_id == lost else [])
    ends = [read_status(run.folder) for run in (image, video)]
    begun = read_status(combined.folder).started
    assert begun
    assert all(end.started and end.started + end.seconds <= begun + 1 for end in ends)
    again = ceus("work", sweep.folder)
    assert again.returncode == 0, again.stderr
    assert [read_status(run.folder).attempts for run in sweep.runs].count(1) == 2


def test_what_failed_is_tried_again_when_asked_and_what_waits_for_it_says_so(
    settings: list[str],
) -> None:
    settings += ["trainer.max_epochs=1", "study.video_encoder.init_args.fail=true"]
    sweep = expand(read_sweep(TINY, settings))
    image, video, combined = sweep.runs
    assert ceus("sweep", TINY, *settings, "--freeze").returncode == 0
    for option, attempts in (((), 1), ((), 1), (("--failed",), 2)):
        worked = ceus("work", sweep.folder, *option)
        assert worked.returncode == 1, worked.stderr
        assert "1 done, 1 failed, 1 left" in worked.stdout
        assert "RuntimeError: this encoder was told to fail" in worked.stdout
        assert f"{combined.run_id}: waits for {video.run_id}, which is failed" in worked.stdout
        assert read_status(video.folder).attempts == attempts
    assert read_status(image.folder).attempts == 1
    assert read_status(combined.folder).attempts == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["work", "{tmp}"], "folder must hold a sweep"),
        (["sweep", str(TINY), "--freeze", "--plan"], "--freeze must come without"),
        (["sweep", str(TINY), "--freeze", "--evaluate"], "--freeze must come without"),
    ],
)
def test_a_mistake_is_one_error(tmp_path: Path, arguments: list[str], message: str) -> None:
    told = ceus(*(text.format(tmp=tmp_path) for text in arguments))
    assert told.returncode == 2
    assert message in told.stderr
    assert not list(tmp_path.iterdir())


def test_none_at_a_time_is_refused(settings: list[str]) -> None:
    assert ceus("sweep", TINY, *settings, "--freeze").returncode == 0
    told = ceus("work", expand(read_sweep(TINY, settings)).folder, "--parallel", "0")
    assert told.returncode == 2
    assert "parallel >= 1" in told.stderr


KILLED = {"state": "killed", "epoch": 3}


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (Status(), "taken"),
        (Status(state="interrupted", attempts=1), "taken"),
        (Status(state="running", attempts=1, epoch=3), "taken"),  # and killed, for nobody holds it
        (Status(state="running", attempts=2, epoch=3, history=[KILLED]), "taken"),
        (Status(state="running", attempts=3, epoch=5, history=[KILLED, KILLED]), "taken"),
        (Status(state="running", attempts=3, epoch=3, history=[KILLED, KILLED]), "failed"),
        (Status(state="running", attempts=3, history=[KILLED, KILLED]), "failed"),
        (
            Status(state="running", attempts=3, history=[{**KILLED, "state": "failed"}, KILLED]),
            "taken",
        ),
        (Status(state="failed", attempts=1), "failed"),
        (Status(state="failed", attempts=2), "taken"),  # its attempts are those asked for again
        (Status(state="done", attempts=1), "done"),
    ],
)
def test_what_a_worker_takes(make: Callable[..., object], status: Status, state: str) -> None:
    run = make()
    folder: Path = run.folder  # type: ignore[attr-defined]
    write_status(folder, status)
    queue, skipped = SharedQueue([run], {}, {folder.name: 2}), []  # type: ignore[list-item]
    taken = queue.take(skipped.append)
    assert (taken is run, bool(skipped)) == ((state == "taken"), (state != "taken"))
    if state == "failed":
        assert read_status(folder).state == "failed"


def test_a_worker_waits_for_what_another_holds(make: Callable[..., object]) -> None:
    first, second = make(), make("seed=1")
    folders: list[Path] = [run.folder for run in (first, second)]  # type: ignore[attr-defined]
    needs = {folders[1].name: (folders[0].name,)}
    queue = SharedQueue([second, first], needs, {})  # type: ignore[list-item]
    with run_lock(folders[0]) as free:
        assert free
        write_status(folders[0], Status(state="running", attempts=1))
        assert queue.take(lambda _: None) is None
        assert queue.is_waiting
    write_status(folders[0], Status(state="done", attempts=1))
    queue = SharedQueue([second, first], needs, {})  # type: ignore[list-item]
    taken = [queue.take(lambda _: None)]
    assert queue.is_waiting or taken == [second]  # what was done meanwhile may free another
    time.sleep(1.1)  # it does not look all the time
    assert second in [*taken, queue.take(lambda _: None)]


def test_a_command_starts_each_run(settings: list[str]) -> None:
    said = f"sh -c 'echo {{devices}} {{log}}; exec {RUN}'"
    how = ["launcher.kind=command", "launcher.parallel=2", f"launcher.command={said!r}"]
    settings += ["trainer.max_epochs=1", "modality=image", "warm_start=null", *how]
    ran = ceus("sweep", TINY, *settings)
    assert ran.returncode == 0, ran.stderr
    assert "1 done, 0 failed, 0 left" in ran.stdout
    (run,) = expand(read_sweep(TINY, settings)).runs
    log = run.folder.absolute() / "command.txt"
    assert log.read_text().splitlines()[0] == f"1 {log}"
    assert read_status(run.folder).attempts == 1


@pytest.mark.parametrize(
    ("how", "code", "printed"),
    [
        ("false {run}", 1, ""),
        ("env no-such-scheduler {run}", 127, "No such file"),
        ("true {run}", 0, ""),
    ],
)
def test_a_command_that_starts_nothing_fails_its_run(
    settings: list[str], how: str, code: int, printed: str
) -> None:
    settings += ["modality=image", "warm_start=null", "launcher.kind=command"]
    settings += ["launcher.parallel=1", f"launcher.command={how!r}"]
    ran = ceus("sweep", TINY, *settings)
    assert ran.returncode == 1, ran.stderr
    assert f"ended with exit code {code} before it began; see its command.txt" in ran.stdout
    (run,) = expand(read_sweep(TINY, settings)).runs
    assert printed in (run.folder / "command.txt").read_text()
    assert read_status(run.folder).state == "failed"
    assert not is_locked(run.folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"command": None}, r"launcher\.command must be a command with \{run\}"),
        ({"command": "  "}, r"launcher\.command must be a command with \{run\}"),
        ({"command": "ssh gpu2 run"}, r"with \{run\} in it"),
        ({"command": "run {run} {device}"}, r"no other than \{devices\} and \{log\}"),
        ({"command": "sh -c 'run {run}"}, r"got .* \(No closing quotation\)"),
        ({"parallel": "auto"}, r"launcher\.parallel must be a number for launcher\.kind=command"),
        ({"kind": "local", "command": "nothing"}, r"launcher\.command must be"),
    ],
)
def test_a_template_that_cannot_start_a_run_is_refused(
    changed: dict[str, str | None], message: str
) -> None:
    good = LauncherSettings(kind="command", parallel=2, command="docker run '{{.ID}}' ceus {run}")
    with pytest.raises(ConfigError, match=message):
        replace(good, **changed)  # type: ignore[arg-type]


def test_a_folder_that_a_remote_shell_would_split_is_refused(
    settings: list[str], tmp_path: Path
) -> None:
    settings[2] = f'runs="{tmp_path}/two words"'
    how = ["launcher.kind=command", "launcher.parallel=1", f"launcher.command={RUN!r}"]
    ran = ceus("sweep", TINY, *settings, *how)
    assert ran.returncode == 2, ran.stdout
    assert "folder of a sweep must have a path of letters" in ran.stderr
    assert not (tmp_path / "two words").exists()


def test_a_program_that_is_not_there_is_told_before_any_run(
    settings: list[str], tmp_path: Path
) -> None:
    how = ["launcher.kind=command", "launcher.parallel=1", "launcher.command=dokcer {run}"]
    ran = ceus("sweep", TINY, *settings, *how)
    assert ran.returncode == 2, ran.stdout
    assert "must start a program of this machine, got 'dokcer'" in ran.stderr
    assert not list(tmp_path.rglob("status.json"))
