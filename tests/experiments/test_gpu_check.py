"""The script of `make gpu-check`, on a machine without a GPU."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.gpu_check.__main__ import STEPS, Step, do_step, main

OWN = """
import subprocess, sys, time
from experiments.gpu_check.step import FailedError, SkipError

def hang(where):
    where.tell(found=1)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    where.tell(child=child.pid)
    print("what it was at")
    time.sleep(600)

def crash(where):
    import os
    os.abort()

def fail(where):
    where.tell(found=2)
    raise FailedError("frames differ")

def skip(where):
    raise SkipError("no such library")

def err(where):
    raise ZeroDivisionError("by nothing")

def work(where):
    where.tell(found=3)
"""


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Does a step of our own in a process, in so many seconds."""
    (tmp_path / "own_steps.py").write_text(OWN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))

    def do(name: str, seconds: float = 60.0) -> SimpleNamespace:
        made = Step(name, f"own_steps.{name}", seconds, "")
        found = do_step(made, tmp_path, "cpu", seconds)
        return SimpleNamespace(**{"found": None, "log": ""} | found)

    return do


def runs(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return status.exists() and "Z (zombie)" not in status.read_text()


def wait_until(holds: Callable[[], bool]) -> bool:
    """A signal takes effect when the process is next on a core."""
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def test_a_step_that_hangs_ends_in_its_time_with_all_it_started(step: Any) -> None:
    begun = time.monotonic()
    hung = step("hang", 8.0)
    assert time.monotonic() - begun < 30
    assert (hung.state, hung.reason, hung.found) == ("timed out", "not through in 8 s", 1)
    assert "what it was at" in hung.log
    assert wait_until(lambda: not runs(hung.child))


@pytest.mark.parametrize(
    ("name", "state", "reason", "found"),
    [
        ("work", "passed", None, 3),
        ("fail", "failed", "frames differ", 2),
        ("skip", "skipped", "no such library", None),
        ("err", "failed", "ZeroDivisionError: by nothing", None),
        ("crash", "failed", "ended with exit code -6", None),
    ],
)
def test_how_a_step_ends_is_told(
    step: Any, name: str, state: str, reason: str | None, found: int | None
) -> None:
    ended = step(name)
    assert (ended.state, ended.reason, ended.found) == (state, reason, found)
    assert ("Traceback" in ended.log) == (name == "err")


def test_without_a_device_every_step_is_skipped_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    steps = json.loads(path.read_text())["steps"]
    assert list(steps) == [step.name for step in STEPS]
    assert {(s["state"], s["reason"]) for s in steps.values()} == {
        ("skipped", "there is no CUDA device")
    }


def test_one_step_is_done_and_the_others_stay_as_they_were_found(tmp_path: Path) -> None:
    """Two processes that meet: by gloo here, by NCCL where there are devices."""
    assert main(["nccl", "--device", "cpu", "--out", str(tmp_path), "--seconds", "0"]) == 0
    (path,) = tmp_path.glob("*.json")
    (told,) = json.loads(path.read_text())["steps"].values()
    assert told["reason"] == "the time for all steps is used up"
    result = json.loads(path.read_text())
    result["steps"]["study"] = {"state": "passed", "reason": None, "seconds": 9.0}
    path.write_text(json.dumps(result))
    assert main(["nccl", "--device", "cpu", "--out", str(tmp_path)]) == 0
    steps = json.loads(path.read_text())["steps"]
    assert {name: s["state"] for name, s in steps.items()} == {"study": "passed", "nccl": "passed"}
    assert {"seconds_1", "seconds_2"} <= set(steps["nccl"])


def test_make_lists_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--out", str(tmp_path / "none")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(STEPS)]] == [step.name for step in STEPS]
    assert not (tmp_path / "none").exists()
    with pytest.raises(SystemExit):
        main(["nothing"])
    told = capsys.readouterr().err
    assert "no step is called nothing" in told
    made = subprocess.run(
        ["make", "--dry-run", "gpu-check", "DRY_RUN=1", "-o", "setup"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "-m experiments.gpu_check --out benchmarks/gpu --dry-run" in made.stdout
