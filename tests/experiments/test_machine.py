"""What a machine or a shell leaves in the way: limits, ranks, locales, variables, old files."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.config.files import HERE, file_of
from experiments.run_folder.status import read_status
from tests.command import ceus

OWN = Path(__file__).parent / "own"
PATHS = f"{Path(__file__).parents[2]}{os.pathsep}{OWN}"


def fit(store: Path, runs: Path, *settings: str) -> list[str]:
    common = [f"architecture={OWN / 'tiny.yaml'}", "modality=image", f"store={store}"]
    return ["fit", *common, f"runs={runs}", "trainer.max_epochs=1", *settings]


def begun(
    *arguments: str, before: Callable[[], object] | None = None, **environment: str
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "experiments", *arguments],
        env=os.environ | {"PYTHONPATH": PATHS} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,  # noqa: PLW1509
    )


def limit(gigabytes: float) -> Callable[[], None]:
    size = int(gigabytes * 1e9)
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


@pytest.mark.parametrize("command", ["fit", "sweep", "evaluate"])
def test_a_memory_limit_that_cannot_suffice_is_told_at_once(
    store: Path, tmp_path: Path, command: str
) -> None:
    calls = {
        "fit": fit(store, tmp_path),
        "sweep": ["sweep", "demo", f"store={store}", f"runs={tmp_path}"],
        "evaluate": ["evaluate", str(tmp_path)],
    }
    started = time.monotonic()
    with begun(*calls[command], before=limit(1.5)) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "limit of a process's memory (ulimit -v) must be" in err
    assert "got 1.5 GB" in err
    assert "Traceback" not in err + out
    assert time.monotonic() - started < 20
    assert not list(tmp_path.iterdir())


def children_of(pid: int) -> dict[int, str]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found[int(path.parent.name)] = (path.parent / "cmdline").read_text()
        except OSError:
            continue
    return found


def test_the_death_of_the_server_of_runs_is_told_within_seconds(
    store: Path, tmp_path: Path
) -> None:
    long = ("trainer.max_epochs=100000", "patience=100000", "wandb=false")
    with begun(*fit(store, tmp_path, *long)) as process:
        deadline = time.monotonic() + 90
        while not any(read_status(p).epoch for p in tmp_path.glob("fit/tiny-*")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (server,) = (p for p, words in children_of(process.pid).items() if "forkserver" in words)
        os.kill(server, signal.SIGKILL)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert "1 failed" in out
    (run,) = tmp_path.glob("fit/tiny-*")
    assert read_status(run).state == "failed"
    assert "the process that runs are forked from died" in str(read_status(run).reason)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary folder with a path short enough for sockets, and a user's own folder in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        (Path(folder) / "ceus-of-mine").mkdir()
        yield Path(folder)


def test_what_others_left_in_the_environment_stops_no_run(
    store: Path, tmp_path: Path, temporary: Path
) -> None:
    ranks = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "NODE_RANK": "1"}
    others = {"MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "1", "SLURM_PROCID": "4"}
    odd = {"TMPDIR": str(temporary), "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    with begun(*fit(store, tmp_path / "rüns"), **ranks, **others, **odd) as process:
        killed = False
        while not killed and process.poll() is None:
            if list(temporary.glob("ceus-*/pymp-*/*")):
                process.kill()
                killed = True
            time.sleep(0.02)
        told = process.communicate()
    assert killed, told
    assert list(temporary.glob("ceus-*/pymp-*"))
    with begun(*fit(store, tmp_path / "rüns"), **ranks, **others, **odd) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    assert "1 done" in out
    assert [p.name for p in temporary.iterdir()] == ["ceus-of-mine"]
    folder = str(tmp_path / "rüns" / "fit")
    for command in ("status", "evaluate"):
        with begun(command, folder, **odd) as process:
            out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        assert "tiny" in out
        assert "?" in out or command == "status"


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("WANDB_MODE", "ofline", "online, offline or disabled"),
        ("WANDB_MODE", "", "online, offline or disabled"),
        ("WANDB_MODE", "Online", "online, offline or disabled"),
        ("WANDB_PROJECT", "a/b", "1 to 128 characters"),
        ("WANDB_PROJECT", "a" * 129, "1 to 128 characters"),
        ("WANDB_INIT_TIMEOUT", "ten", "a number of seconds"),
        ("WANDB_FINISH_TIMEOUT", "-1", "a number of seconds"),
    ],
)
def test_a_variable_that_wandb_would_refuse_is_told_before_anything_starts(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, rule: str
) -> None:
    monkeypatch.setenv(name, value)
    told = ceus(*fit(store, tmp_path), packages=OWN)
    assert told.returncode == 2
    assert told.stderr.startswith(f"error: {name} must be {rule}") or rule in told.stderr
    assert name in told.stderr
    assert not list(tmp_path.iterdir())
    told = ceus(*fit(store, tmp_path, "wandb=false", "storr=x"), packages=OWN)
    assert "Did you mean store" in told.stderr


@pytest.mark.parametrize("group", ["architecture", "sweep", "profile", "modality"])
def test_paths_of_the_documents_hold_without_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for shipped in (HERE / group).glob("*.yaml"):
        for shown in (f"experiments/yaml/{group}", f"experiments/{group}"):
            assert file_of(group, f"{shown}/{shipped.name}") == shipped
        own = tmp_path / "experiments" / "yaml" / group / shipped.name
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text("")
        assert file_of(group, f"experiments/yaml/{group}/{shipped.name}") == own.relative_to(
            tmp_path
        )


@pytest.mark.parametrize(
    "imported",
    ["from tests import conftest, command", "from experiments.tracking import wandb_run"],
)
def test_what_a_killed_process_left_of_wandb_the_next_one_removes(imported: str) -> None:
    code = (
        f"import os; {imported}\n"
        "from experiments.tracking.wandb_run import quiet_wandb; quiet_wandb()\n"
        "import experiments.training.execute, tempfile; print(tempfile.gettempdir(), flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    environment = {name: v for name, v in os.environ.items() if name != "PYTEST_DEBUG_TEMPROOT"}
    with tempfile.TemporaryDirectory(dir="/tmp") as root:  # pytest's own has too long a path
        for _ in range(2):
            told = subprocess.run(
                [sys.executable, "-c", code],
                env=environment | {"PYTHONPATH": PATHS, "TMPDIR": root},
                capture_output=True,
                text=True,
                check=False,
            )
            left = {path.name for path in Path(root).iterdir()} - {"torchinductor_root"}
            assert left == {Path(told.stdout.strip()).name}, told.stderr


def test_sockets_are_made_where_their_path_is_short_enough(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    code = (
        "import tempfile; from experiments import processes; processes.use_own_temporary_folder()\n"
        "print(tempfile.gettempdir())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": PATHS, "TMPDIR": str(long)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.startswith("/tmp/ceus-")
    assert not Path(told.stdout.strip()).exists()
    assert not list(long.iterdir())
