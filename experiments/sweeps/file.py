"""The content of a sweep YAML, checked."""

import copy
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser
from omegaconf import OmegaConf

from datamodules.store.splits import REFERENCE_HOLDOUT
from evaluation.errors import EvaluationError
from evaluation.records.analysis import MEAN, SELECTED, Analysis
from evaluation.records.question import Question
from experiments.config.files import file_of, from_overrides, load_yaml
from experiments.config.study import check_name, explain
from experiments.errors import ConfigError

# Each becomes a part of a line of a script. sbatch splits its lines at blanks and expands nothing.
_SLURM_RULES = {
    "partition": ("names of partitions with commas between", r"[\w.,-]+"),
    "gres": ("a resource, as gpu or gpu:a100", r"[\w.:-]+"),
    "mem": ("a size as sbatch takes it, as 64G", r"\d+(\.\d+)?[KMGTkmgt]?[Bb]?"),
    "sbatch": (
        "options of sbatch, each as --name=value in one line without '$' and '`'",
        r"-[^\x00-\x1f\x7f-\x9f\u2028\u2029$`]+",
    ),
    "setup": (
        "lines of shell, one each without control characters",
        r"[^\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]*",
    ),
}


@dataclass(frozen=True)
class SlurmSettings:
    """What a run asks of SLURM; None leaves it to the cluster.

    Attributes:
        partition: Partitions, comma-separated.
        hours: Time limit of one task, hours. A run that needs more goes on in a further one.
        nodes: Nodes of a run; each has `devices_per_run` processes and devices.
        gres: Generic resource of which a node gives `devices_per_run`: `gpu`, or `gpu:a100`.
            None asks for none, as on a cluster without GPUs.
        cpus_per_task: CPU cores of each process.
        mem: Memory of a node, as sbatch takes it: `64G`.
        requeues: How often a task may go back into the queue shortly before its time limit or when
            it is preempted; 0 never.
        warn_seconds: How long before the time limit it goes back.
        sbatch: Further options of sbatch, one each: `--account=hospital`.
        setup: Lines of shell before the run starts: `module load cuda`.
    """

    partition: str | None = None
    hours: float | None = None
    nodes: int = 1
    gres: str | None = "gpu"
    cpus_per_task: int | None = None
    mem: str | None = None
    requeues: int = 10
    warn_seconds: int = 120
    sbatch: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("requeues", 0), ("warn_seconds", 1)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"launcher.slurm.{name} must be at least {least}, got {getattr(self, name)!r}. "
                    "Correct the sweep's launcher settings."
                )
        if self.hours is not None and self.hours <= 0:
            raise ConfigError(
                f"launcher.slurm.hours must be above 0, got {self.hours!r}. Give the time limit of "
                "one run, or null for the partition's."
            )
        for name, (rule, pattern) in _SLURM_RULES.items():
            value = getattr(self, name)
            for text in (value,) if isinstance(value, str) else value or ():
                if not re.fullmatch(pattern, text):
                    raise ConfigError(
                        f"launcher.slurm.{name} must be {rule}, got {text!r}. Correct the sweep's "
                        "launcher settings."
                    )


_OWN = ("name", "data", "deploy", "launcher", "analysis", "question")


@dataclass(frozen=True)
class LauncherSettings:
    """How runs are put on the machine.

    Attributes:
        kind: `local`, the processes of this call; `slurm`, job arrays; or `command`, one of your
            own for each run.
        parallel: Runs at a time; `auto` is one a GPU, or two where there is none; with SLURM as
            many as it starts; a number with `command`.
        devices_per_run: Devices of a run (on each node); more than one trains with DDP inside the
            run.
        runs_per_device: Local runs that share a GPU, where `parallel` is `auto`.
        slurm: What a run asks of SLURM.
        command: What starts a run with `kind: command` and lasts as long as it does, in words as a
            shell would split them. `{run}` is the run's folder, `{devices}` is `devices_per_run`,
            `{log}` a file in the folder for what the command prints.
    """

    kind: Literal["local", "slurm", "command"] = "local"
    parallel: int | Literal["auto"] = "auto"
    devices_per_run: int = 1
    runs_per_device: int = 1
    slurm: SlurmSettings = field(default_factory=SlurmSettings)
    command: str | None = None

    def __post_init__(self) -> None:
        numbers = (self.devices_per_run, self.runs_per_device)
        if min(numbers) < 1 or (self.parallel != "auto" and self.parallel < 1):
            raise ConfigError(
                "launcher must have parallel >= 1 (or auto), devices_per_run >= 1 and "
                f"runs_per_device >= 1, got {self.parallel}, {self.devices_per_run} and "
                f"{self.runs_per_device}. Correct the sweep's launcher settings."
            )
        if self.kind == "command" and self.parallel == "auto":
            raise ConfigError(
                "launcher.parallel must be a number for launcher.kind=command, got auto: only you "
                "know how many runs fit where the command puts them. Set launcher.parallel=N."
            )
        if self.kind == "command" or self.command is not None:
            _check_command(self.command or "")


def _check_command(command: str) -> None:
    try:
        words, problem = shlex.split(command), ""
    except ValueError as error:
        words, problem = [], f" ({error})"
    names = set(re.findall(r"\{([a-z_]+)\}", command))
    if not words or "run" not in names or names - {"run", "devices", "log"}:
        raise ConfigError(
            "launcher.command must be a command with {run} in it, and beside it no other than "
            f"{{devices}} and {{log}}, got {command!r}{problem}. Give one, as "
            "'ssh gpu2 ~/ceus/.venv/bin/python -P -m experiments.training {run}'."
        )


@dataclass(frozen=True)
class DataSettings:
    """How a cohort becomes the store and the split of the sweep (`ceus sweep --cohort`).

    Attributes:
        canvas: Side of the stored frames, pixels.
        covariates: Columns of the cohort table to keep.
        scheme: What a fold is: `patient`, or a `centre`, a column that `covariates` keeps.
        num_folds: Folds outside the hold-out; 5 if not given, or one a centre.
        repeats: How often the development patients are dealt into folds; `repeat` is the axis.
        split_seed: Seed of the split.
        holdout_fraction: Share of patients held out; that of the reference study by default. A
            `split` column in the cohort table wins.
        phantom: Preset of the synthetic cohort that `--cohort phantom` makes.
    """

    canvas: int = 256
    covariates: tuple[str, ...] = ()
    scheme: Literal["patient", "centre"] = "patient"
    num_folds: int | None = None
    repeats: int = 1
    split_seed: int = 0
    holdout_fraction: float = REFERENCE_HOLDOUT
    phantom: Literal["demo", "published"] = "published"


@dataclass(frozen=True)
class SweepFile:
    """The content of a sweep YAML.

    Attributes:
        name: Folder of the sweep under the runs folder.
        axes: For each key the values that are crossed; architecture and modality are required.
        profile: Profile of every run.
        overrides: Dotted keys set in every run.
        data: How a cohort becomes the sweep's store.
        deploy: Whether the best architecture of each modality, by mean AUC out of fold, is trained
            once more on all development patients when the runs of all folds are done. `none` where
            `all` is a value of the axis fold, which trains every architecture so.
        launcher: How runs are put on the machine.
        analysis: The primary contrast and the operating points, declared before training.
        question: What is asked, in the words of its field; in the YAML also the name of a shipped
            question, or the path of a YAML file.
    """

    name: str
    axes: dict[str, list[Any]]
    profile: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    data: DataSettings = DataSettings()
    deploy: Literal["none", "best"] = "none"
    launcher: LauncherSettings = field(default_factory=LauncherSettings)
    analysis: Analysis = field(default_factory=Analysis)
    question: Question = field(default_factory=Question)


def read_sweep(name: str | Path, overrides: Sequence[str] = ()) -> SweepFile:
    """Read a sweep YAML and the command line's overrides of it.

    Args:
        name: Name of a shipped sweep, or the path of a YAML file with the keys of `SweepFile`.
        overrides: `KEY=VALUE` for every run, as in `compose`; an axis given here is narrowed to
            this value or, in brackets, these: `modality=[image, video]`; `name=`, `data.*=`,
            `launcher.*=`, `analysis.*=` and `question=` are the sweep's own.

    Raises:
        ConfigError: For the first key or value that does not fit.
    """
    path = file_of("sweep", str(name))
    own = [o for o in overrides if o.split("=")[0].split(".")[0] in _OWN]
    settings: Any = OmegaConf.merge(load_yaml(path), from_overrides(own))
    if isinstance(settings.get("question"), str):
        settings.question = load_yaml(file_of("question", settings.question))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SweepFile, "sweep")
    content: Any = OmegaConf.to_container(settings, resolve=True)
    try:
        parsed = parser.parse_object({"sweep": _without_values(content)})
        file: SweepFile = parser.instantiate(parsed).sweep
    except ArgumentError as error:
        raise ConfigError(f"{explain(error)} ({path})") from error
    except EvaluationError as error:  # of the analysis or the question
        where = "" if str(error).startswith("question.") else "analysis."
        raise ConfigError(f"{where}{error} ({path})") from error
    check_name("name", file.name)
    axes, common = dict(content["axes"]), dict(content.get("overrides", {}))
    for override in overrides:
        key, _, value = override.partition("=")
        if key in axes:
            axes[key] = _values_given(override)
        elif override not in own:
            common[key] = value
    if empty := [key for key, values in axes.items() if not values]:
        raise ConfigError(
            f"axes must have a value each, got none for {empty[0]} ({path}, or the command line). "
            "Fill or remove it."
        )
    # Of the axes in the file too: narrowed ones may leave the contrast out for now.
    every = {key: [*values, *axes[key]] for key, values in content["axes"].items()}
    analysis = _checked_primary(file.analysis, every, path)
    if file.deploy != "none" and "all" in map(str, axes.get("fold", ())):
        raise ConfigError(
            f"deploy must be none where the axis fold has the value all, got {file.deploy} "
            f"({path}): all architectures are deployed then. Set deploy=none, or leave all out."
        )
    return replace(file, axes=axes, overrides=common, analysis=analysis)


def _values_given(override: str) -> list[Any]:
    """Of an axis, from the command line: one value, or several in brackets."""
    key, _, value = override.partition("=")
    if not value.startswith("["):
        return [value]
    values: Any = OmegaConf.to_container(OmegaConf.select(from_overrides([override]), key))
    return list(values)


def _without_values(content: dict[str, Any]) -> dict[str, Any]:
    """A sweep's settings for the parser, which would import the classes that values name."""
    content = copy.deepcopy(content)
    for values in (content.get("axes"), content.get("overrides")):
        if isinstance(values, dict):
            values |= {k: [0] * len(v) if isinstance(v, list) else v for k, v in values.items()}
            values |= {k: 0 for k, v in values.items() if isinstance(v, dict)}
    return content


def _checked_primary(analysis: Analysis, axes: Mapping[str, Sequence[Any]], path: Path) -> Analysis:
    """The analysis, its architecture by the name that its cells have, where that is a path's.

    A primary contrast of cells that the sweep does not run could never be tested.
    """
    primary = analysis.primary
    if primary is None:
        return analysis
    inside = {str(value): _name_inside(str(value)) for value in axes.get("architecture", ())}
    if {MEAN, SELECTED} & set(inside.values()):
        raise ConfigError(
            f"an architecture must not be called {MEAN} or {SELECTED}, which have a meaning in "
            f"analysis.primary, got {', '.join(inside.values())} ({path}). Rename it."
        )
    name = inside.get(primary.architecture, primary.architecture)
    known = {MEAN, SELECTED, *inside.values()} if inside else {name.partition("+")[0]}
    for key, missing in (
        ("modality", set(primary.modalities) - set(axes.get("modality", primary.modalities))),
        ("architecture", {name.partition("+")[0]} - known),
    ):
        if missing:
            raise ConfigError(
                f"analysis.primary must name what the sweep runs, got {key} "
                f"{', '.join(sorted(missing))} ({path}). Add it to the axes, or set "
                "analysis.primary=null."
            )
    return replace(analysis, primary=replace(primary, architecture=name))


def _name_inside(architecture: str) -> str:
    """The name that runs of an architecture get, which is that in the file where it is a path."""
    file = load_yaml(file_of("architecture", architecture))
    return str(OmegaConf.select(file, "study.architecture", default=architecture))
