"""`ceus doctor`: one page of what is well, what is not, and what to do."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from datamodules.errors import DataError
from evaluation.errors import EvaluationError
from experiments.doctor import machine
from experiments.doctor.finding import DEFECT, STATES, Finding, UnansweredError, ask, told
from experiments.doctor.study import MACHINE, of_cluster, of_disk, of_sweep
from experiments.errors import ConfigError
from experiments.gpus import visible_gpus
from experiments.processes import warm_server
from experiments.sweeps.file import LauncherSettings

_DEVICES = "experiments.doctor.devices"
_WIDTH = 80
_COLOURS = {"pass": "green", "warn": "yellow", "fail": "red"}
_DRIVER = "Look with nvidia-smi and dmesg whether driver or card hang; restart the machine."


def doctor(
    store: Path | None = None,
    settings: Sequence[str] = (),
    *,
    sweep: str | None = None,
    gpu: bool = False,
    as_json: bool = False,
) -> int:
    """Look at machine, store and sweep for what would stand in the way.

    Args:
        store: A prepared store; without one, and without a sweep, only the machine is looked at.
        settings: KEY=VALUE for every run; an axis is narrowed.
        sweep: `demo`, `study`, or a YAML file of your own; `study` where a store is given.
        gpu: Also try everything on the GPU, in 8 minutes, as `make gpu-check` does; what it finds
            goes to the folder gpu-check.
        as_json: Print JSON in place of the page.

    Returns:
        0; 1 with warnings; 2 with failures.
    """
    findings: list[Finding] = []
    with Console(stderr=True).status("doctor: the machine") as status:
        for finding in _findings(store, settings, sweep, gpu):
            findings.append(finding)
            status.update(f"doctor: after {finding.name}")
    code = exit_code(findings)
    if as_json:
        print(json.dumps({"exit_code": code, "checks": list(map(asdict, findings))}, indent=1))
    else:
        console = Console()
        console.print(page(findings), width=min(_WIDTH, console.width))
    return code


def exit_code(findings: Sequence[Finding]) -> int:
    """The worst: 0, 1 with warnings, 2 with failures."""
    return max(STATES.index(finding.state) for finding in findings)


def page(findings: Sequence[Finding]) -> RenderableType:
    """The findings as a table, remedies below what they are for."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, max_width=18, overflow="ellipsis")
    table.add_column(overflow="fold")
    for finding in findings:
        state = Text(finding.state, style=_COLOURS[finding.state])
        table.add_row(state, Text(finding.name), Text(finding.found))
        if finding.remedy:
            table.add_row("", "", Text(f"→ {finding.remedy}", style="italic"))
    states = [finding.state for finding in findings]
    passed, warned, failed = map(states.count, STATES)
    return Group(table, Text(f"\n{passed} passed, {warned} to look at, {failed} failed."))


def _findings(
    store: Path | None, settings: Sequence[str], sweep: str | None, gpu: bool
) -> Iterator[Finding]:
    with contextlib.suppress(ConfigError):  # it is among the findings
        warm_server()  # imports while we look
    gpus = len(visible_gpus())
    yield from _here("Python", machine.python)
    yield from _here("packages", machine.packages)
    yield from _here("memory limit", machine.limits)
    yield from _here("/dev/shm", machine.shared_memory)
    yield from _here("cores", machine.processors, gpus)
    yield from _devices()
    offline = "Nothing is lost: set WANDB_MODE=offline, and later ceus wandb-sync."
    yield from ask("W&B", f"{MACHINE}:tracking", seconds=60, remedy=offline, state="warn")
    if store or sweep or settings:
        own = [*settings, *([f"store={store}"] if store else [])]
        yield from _here("sweep", of_sweep, sweep or "study", own)
    else:
        yield from of_cluster(LauncherSettings())
        yield from of_disk("runs", Path("runs"), 0.0, True)
    if gpu:
        yield gpu_check(Path("gpu-check"))


def _devices() -> Iterator[Finding]:
    yield from ask("GPUs", f"{_DEVICES}:gpus", seconds=90, remedy=_DRIVER)
    decode = "Clips are decoded on the CPU with decode=cpu."
    yield from ask("decoder", f"{_DEVICES}:decoder", seconds=90, remedy=decode)
    yield from ask("pinned memory", f"{_DEVICES}:pinned", seconds=60, remedy=_DRIVER)
    alone = "Runs on one GPU each go without it; look with NCCL_DEBUG=INFO."
    yield from ask("NCCL", f"{_DEVICES}:processes", seconds=120, remedy=alone)


def _here(
    name: str, check: Callable[..., Iterable[Finding]], *arguments: object
) -> Iterator[Finding]:
    """What a check finds in this process; an error is a finding, too."""
    try:
        yield from check(*arguments)
    except (ConfigError, DataError, EvaluationError) as error:
        yield Finding(name, "fail", str(error), "Correct it, as the message says.")
    except UnansweredError as error:
        yield Finding(name, "fail", str(error), "Look at the failures above; call again.")
    except Exception as error:  # noqa: BLE001  the others are to be seen
        yield Finding(name, "fail", told(error), DEFECT)


def gpu_check(out: Path, *options: str) -> Finding:
    """All steps of `experiments.gpu_check`, told in a line; its own lines go to stderr.

    Args:
        out: Folder for what it finds.
        options: Further ones of its command line.
    """
    if not options and not visible_gpus():
        advice = "Call it on the machine with the GPU."
        return Finding("GPU check", "warn", "not done: there is no GPU", advice)
    command = [sys.executable, "-P", "-m", "experiments.gpu_check", "--out", str(out), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, file=sys.stderr, end="")
    ends = re.findall(r"^  (\w[\w ]*?) in \d+ s", done.stdout, re.MULTILINE)
    found = ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends)) or "no step ended"
    advice = f"The JSON in {out} says of each step what was found."
    if done.returncode:
        return Finding("GPU check", "fail", found, advice)
    if "skipped" in ends:
        return Finding("GPU check", "warn", found, advice)
    return Finding("GPU check", "pass", f"{found} ({out})")
