"""`python -m experiments.gpu_check`: every step in a process of its own, within its own time."""

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from datamodules.cores import cores
from datamodules.files import write_atomic
from experiments.ffmpeg import ffmpeg_environment
from experiments.gpu_check.step import read_figures
from experiments.gpus import gpus_by_nvml, visible_gpus

_MOST_SECONDS = 480.0
_HERE = "experiments.gpu_check"
_PACKAGES = ("torch", "torchvision", "torchcodec", "lightning", "timm", "decord", "av", "numpy")


@dataclass(frozen=True)
class Step:
    """One step of the check.

    Attributes:
        name: In the JSON.
        function: What does it.
        seconds: Most that it may take.
        does: For people.
    """

    name: str
    function: str
    seconds: float
    does: str


STEPS = (
    Step(
        "study", f"{_HERE}.runs.study", 200,
        "15 cells of the profile `study` on a phantom of 30 patients, 2 epochs, two runs a "
        "device: all done, logits finite, no warning",
    ),
    Step(
        "stage", f"{_HERE}.pixels.stage", 40,
        "batches as the device finishes them against the CPU's, under load: at most 1 grey "
        "level",
    ),
    Step(
        "logits", f"{_HERE}.networks.features", 50,
        "the ten encoders on the device against the CPU in float32",
    ),
    Step(
        "decode", f"{_HERE}.pixels.decode", 50,
        "torchcodec and decord-CUDA under load, with repeats and missing clips, against the "
        "CPU; clips/s at 1, 2, 4 threads",
    ),
    Step(
        "waits", f"{_HERE}.networks.waits", 40,
        "what makes the host wait in five steps, and the share of time in which the device "
        "idles",
    ),
    Step(
        "pace", f"{_HERE}.networks.pace", 80,
        "clips/s of each video encoder: resident, loader alone at 4, 8, 14 threads, end to "
        "end; memory; channels_last and cudnn.benchmark on and off",
    ),
    Step(
        "memory", f"{_HERE}.runs.memory", 70,
        "out of memory: swin's batch halves, densenet names the setting",
    ),
    Step(
        "resume", f"{_HERE}.runs.resume", 60,
        "SIGKILL amid an epoch, and on from there, with EMA and freezing",
    ),
    Step(
        "nccl", f"{_HERE}.runs.nccl", 30,
        "NCCL with one process, and with two where there are two GPUs",
    ),
    Step(
        "tests", f"{_HERE}.runs.tests", 60,
        "pytest -m gpu",
    ),
)  # fmt: skip
"""In order of value: the last give way where time runs out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the steps; 0 if none failed or ran out of time, else 1."""
    parser = argparse.ArgumentParser(prog="make gpu-check", description=__doc__)
    parser.add_argument("steps", nargs="*", help="those to do; by default all")
    parser.add_argument("--dry-run", action="store_true", help="list the steps and what each needs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/gpu"), help="folder")
    parser.add_argument("--seconds", type=float, default=_MOST_SECONDS, help="most in all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := set(options.steps) - {step.name for step in STEPS}:
        parser.error(f"no step is called {', '.join(sorted(unknown))}; --dry-run lists them")
    chosen = [step for step in STEPS if not options.steps or step.name in options.steps]
    if options.dry_run:
        print(_listing(chosen))
        return 0
    result = _about(options.device)
    path = options.out / f"{_slug(result['card'])}.json"
    options.out.mkdir(parents=True, exist_ok=True)
    if options.steps and path.is_file():  # the others are as they were found before
        result["steps"] = json.loads(path.read_text())["steps"]
    deadline = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory(prefix="ceus-gpu-") as folder:
        for step in chosen:
            print(f"{step.name}: {step.does}", flush=True)
            left = deadline - time.monotonic()
            most = step.seconds if options.device == "cuda" else left
            found = do_step(step, Path(folder), options.device, min(most, left))
            result["steps"][step.name] = found
            write_atomic(path, json.dumps(result, indent=1) + "\n")
            print(f"  {found['state']} in {found['seconds']:.0f} s {found['reason'] or ''}")
    print(path)
    bad = [s for s in result["steps"].values() if s["state"] in ("failed", "timed out")]
    return 1 if bad else 0


def do_step(step: Step, folder: Path, device: str, seconds: float) -> dict[str, Any]:
    """A step's findings, from its own process; in the end that and all it started is ended."""
    told: dict[str, Any] = {"state": "skipped", "reason": None, "seconds": 0.0}
    if device == "cuda" and not visible_gpus():
        return told | {"reason": "there is no CUDA device"}
    if seconds < 5:
        return told | {"reason": "the time for all steps is used up"}
    figures, log = folder / f"{step.name}.json", folder / f"{step.name}.log"
    code = f"from {_HERE}.step import child; child()"
    command = [sys.executable, "-P", "-c", code, step.function]
    command += [str(folder), device, str(figures)]
    # No account and no downloads.
    environment = os.environ | ffmpeg_environment()
    environment |= {"WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    begun = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        end: dict[str, Any]
        try:
            process.wait(seconds)
            end = {"state": "failed", "reason": f"ended with exit code {process.returncode}"}
        except subprocess.TimeoutExpired:
            end = {"state": "timed out", "reason": f"not through in {seconds:.0f} s"}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    found = (
        told | end | {"seconds": round(time.monotonic() - begun, 1)} | dict(read_figures(figures))
    )
    if found["state"] not in ("passed", "skipped"):
        found["log"] = log.read_text(errors="replace")[-3000:]
    return found


def _about(device: str) -> dict[str, Any]:
    """The card and what it was run with."""
    gpus = gpus_by_nvml() or []
    packages = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "card": gpus[0].name if gpus and device == "cuda" else f"no GPU, {platform.machine()}",
        "gpus": [asdict(gpu) for gpu in gpus],
        "cores": cores(),
        "python": platform.python_version(),
        "packages": packages,
        "commit": commit.stdout.strip() or None,
        "begun": time.strftime("%Y-%m-%d %H:%M:%S"),
        "steps": {},
    }


def _listing(steps: Sequence[Step]) -> str:
    lines = [f"{step.name:<8}{step.seconds:>4.0f} s  {step.does}" for step in steps]
    return "\n".join(
        [
            *lines,
            "",
            f"At most {_MOST_SECONDS / 60:.0f} minutes in all, and no step longer than stated; "
            "what does not fit is skipped.",
            "Needs a CUDA device and what `pip install -e .` brings; `decode` also torchcodec",
            "(`.[gpu]`) or decord built by `make decord-cuda`; `tests` pytest and a checkout.",
            "No internet, no account, no pretrained weights: networks start from random ones.",
        ]
    )


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


if __name__ == "__main__":
    sys.exit(main())
