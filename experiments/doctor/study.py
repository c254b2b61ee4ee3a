"""A store and a sweep: whole, as fast as needed, and with room. No torch here, but in children."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.cores import cores
from experiments.config.run import Run
from experiments.doctor.finding import Finding, State, UnansweredError, ask, in_child
from experiments.doctor.machine import gigabytes
from experiments.launchers.modalities import check_modalities
from experiments.launchers.slots import slots
from experiments.run_folder.status import read_status
from experiments.sweeps.expand import Sweep, configs_of, expand
from experiments.sweeps.file import LauncherSettings, read_sweep

_HASH_SECONDS = 120.0  # after which no further item is begun
MACHINE, _COHORT = "experiments.doctor.machine", "experiments.doctor.cohort"
_REACHED = 0.5  # of what matrices alone are multiplied with: an upper bound for a training
_STEP = 3  # forward and backward passes, in forward passes
_BYTES_BEST, _BYTES_LAST = 4, 12  # a parameter: float32; and with both moments of AdamW


@dataclass(frozen=True)
class Need:
    """What an encoder needs.

    Attributes:
        tflop: 10^12 multiplications and additions of a forward pass of one input; a training step
            takes three times as many.
        kept: Bytes of one input kept for the backward pass, in bfloat16.
        parameters: Numbers that are trained.
    """

    tflop: float
    kept: int
    parameters: int


@dataclass(frozen=True)
class Reading:
    """What a store can be read at, by all cores of this process together.

    Attributes:
        decoded: Clips/s, as batches are, by the decoder that runs take.
        cached: Clips/s from decoded frames in memory; None where there is no room to try.
        needed: Bytes of all frames decoded.
        kept: Whether runs will keep all of them.
    """

    decoded: float
    cached: float | None
    needed: int
    kept: bool


def of_cluster(launcher: LauncherSettings) -> list[Finding]:
    """SLURM, as a sweep would use it."""
    advice = "The cluster's controller may be down: call again later, or ask its support."
    state: State = "fail" if launcher.kind == "slurm" else "warn"
    check = f"{MACHINE}:slurm"
    return ask("SLURM", check, launcher, seconds=30, remedy=advice, state=state)


def of_disk(name: str, folder: Path, needed: float, must_write: bool) -> list[Finding]:
    """The disk of a folder, as `machine.disk`."""
    arguments = (name, folder, needed, must_write)
    advice = "The disk hangs: choose another, or have it mended."
    return ask(f"disk: {name}", f"{MACHINE}:disk", *arguments, seconds=60, remedy=advice)


def of_sweep(name: str, settings: Sequence[str]) -> Iterator[Finding]:
    """All of a sweep and its store, one after another.

    Args:
        name: Of a shipped sweep, or the path of a YAML file.
        settings: KEY=VALUE for every run.

    Raises:
        ConfigError, DataError, EvaluationError: For the first setting that does not fit.
        UnansweredError: If encoders cannot be counted.
    """
    file = read_sweep(name, settings)
    yield from of_cluster(file.launcher)
    path = Path(next(configs_of(file))["study"]["store"])
    advice = "Look at the disk it lies on; is it a network's that hangs?"
    whole = ask(
        "store", f"{_COHORT}:whole", path, _HASH_SECONDS, seconds=_HASH_SECONDS + 60, remedy=advice
    )
    yield from whole
    if whole[0].state == "fail":
        return
    sweep = expand(file)
    check_modalities(sweep.runs)
    left = [run for run in sweep.runs if read_status(run.folder).state != "done"]
    cells = len({(run.study.architecture, run.study.modality) for run in sweep.runs})
    done = f", {len(sweep.runs) - len(left)} done" if len(left) < len(sweep.runs) else ""
    found = f"{sweep.name}: {len(sweep.runs)} runs of {cells} cells{done}"
    yield Finding("sweep", "pass", found)
    at_once = slots(file.launcher, sweep.runs) if file.launcher.kind == "local" else []
    gpus = len({gpu for slot in at_once for gpu in slot.gpus or ()})
    needs = in_child("experiments.doctor.needs:count_all", dict(_encoders(sweep.runs)), seconds=300)
    needed = _checkpoints(left, needs, max(1, len(at_once)))
    yield from of_disk("runs", sweep.folder.parent, needed, True)
    yield from of_disk("store", path, 0.0, False)
    yield from _paces(sweep, needs, gpus)


def _encoders(runs: Sequence[Run]) -> Iterator[tuple[str, tuple[Any, tuple[int, ...]]]]:
    for run in runs:
        study = run.config["study"]
        for face in faces_of(run):
            if f"{face}_encoder" not in study:  # an architecture whose model is made otherwise
                continue
            size = study[f"{face}_size"]
            shape = (3, size, size) if face == "image" else (3, study["num_frames"], size, size)
            yield f"{run.study.architecture} {face}", (study[f"{face}_encoder"], shape)


def faces_of(run: Run) -> tuple[str, ...]:
    """Of image and video those that a run sees."""
    modality = run.study.modality
    return ("image", "video") if modality == "combined" else (modality,)


def _checkpoints(left: Sequence[Run], needs: Mapping[str, Need | str], at_once: int) -> float:
    """Bytes: each run keeps its best weights, and those under way a last checkpoint."""
    sizes = []
    for run in left:
        counted = [needs.get(f"{run.study.architecture} {face}") for face in faces_of(run)]
        sizes.append(sum(need.parameters for need in counted if isinstance(need, Need)))
    largest = sorted(sizes)[-at_once:]
    return float(_BYTES_BEST * sum(sizes) + _BYTES_LAST * sum(largest))


def _paces(sweep: Sweep, needs: Mapping[str, Need | str], gpus: int) -> Iterator[Finding]:
    """For each architecture that sees clips whether its network or its readers wait."""
    runs = {run.study.architecture: run for run in reversed(sweep.runs) if "video" in faces_of(run)}
    if not runs:
        return
    try:
        speed: float = in_child("experiments.doctor.devices:tflops", seconds=60)
        read = {
            key: in_child(f"{_COHORT}:reading", config, seconds=120)
            for key, config in {_reading_of(r): r.config["study"] for r in runs.values()}.items()
        }
    except UnansweredError as error:
        advice = "Look at the store and its decoder above; `ceus --debug sweep` shows more."
        yield Finding("reading", "fail", str(error), advice)
        return
    for name in dict.fromkeys(run.study.architecture for run in sweep.runs):
        if name in runs:
            need = needs.get(f"{name} video", "it names no video_encoder")
            if isinstance(need, str):
                advice = "`ceus sweep … --plan` times it instead."
                yield Finding(f"pace: {name}", "warn", f"cannot be counted: {need}", advice)
                continue
            eats = max(1, gpus) * _REACHED * speed / (_STEP * max(need.tflop, 1e-9))
            yield pace(name, eats, read[_reading_of(runs[name])], gpus)


def _reading_of(run: Run) -> tuple[Any, ...]:
    study = run.config["study"]
    return tuple(study[key] for key in ("decode", "num_frames", "video_size", "cache", "cache_gb"))


def pace(name: str, eats: float, read: Reading, gpus: int) -> Finding:
    """Which of network and readers waits.

    Args:
        name: Of the architecture.
        eats: Clips/s that its network can train on at most.
        read: What readers deliver.
        gpus: How many train.
    """
    supply = read.cached if read.kept and read.cached else read.decoded
    device = f"{gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "the CPU"
    found = f"at most {_rate(eats)} clips/s on {device}; {_rate(read.decoded)}/s decoded"
    if read.kept and read.cached:
        found += f", {_rate(read.cached)}/s from the cache"
    if eats <= supply:
        first = ", after the first epoch" if eats > read.decoded else ""
        return Finding(f"pace: {name}", "pass", f"{found}: the readers wait{first}")
    advice = f"Give it {math.ceil(cores() * eats / supply)} cores"
    if not read.kept:
        advice += f", or room for decoded frames: {gigabytes(read.needed)} (cache=disk, cache_gb)"
    return Finding(f"pace: {name}", "warn", f"{found}: the network waits", f"{advice}.")


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
