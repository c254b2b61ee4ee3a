"""Axes crossed into resolved runs."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from evaluation.records.analysis import MEAN, SELECTED, Analysis
from evaluation.records.question import Question
from evaluation.records.schema import CELL, MODALITIES, REPEAT
from experiments.config.run import Run, make_run, open_cohort
from experiments.config.variants import as_text, axes_of, compose_cells
from experiments.errors import ConfigError
from experiments.run_folder.lock import is_locked
from experiments.run_folder.status import read_status
from experiments.sweeps.file import LauncherSettings, SweepFile


@dataclass(frozen=True)
class Sweep:
    """Runs that are evaluated together, in the order in which they are started.

    Attributes:
        needs: For a run's id the ids of the runs that must be done before it starts; a run that
            is not named waits for none.
    """

    name: str
    folder: Path
    runs: tuple[Run, ...]
    launcher: LauncherSettings
    analysis: Analysis = field(default_factory=Analysis)
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    question: Question = field(default_factory=Question)


def expand(file: SweepFile) -> Sweep:
    """Cross the axes into resolved runs.

    Raises:
        ConfigError, DataError: For the first setting, store, split or fold that does not fit.
    """
    _check_values(file)
    # A further axis that changes nothing in a cell gives the same run again.
    every, needs = _runs(file)
    runs = list({run.run_id: run for run in every}.values())
    _check_axes(file, runs)
    _check_primary_name(file, runs)
    folder = runs[0].folder.parent
    return Sweep(file.name, folder, tuple(runs), file.launcher, file.analysis, needs, file.question)


def _runs(file: SweepFile) -> tuple[list[Run], dict[str, tuple[str, ...]]]:
    """The runs in the order of the axes, and which of them start from which (`warm_start`)."""
    cells = [tuple(map(as_text, cell)) for cell in itertools.product(*file.axes.values())]
    at = list(file.axes).index("modality") if "modality" in file.axes else -1
    cohort = cache(open_cohort)
    waiting, made = {}, {}
    for cell, config in zip(cells, configs_of(file), strict=True):
        study = config["study"]
        if study["modality"] == "combined" and study["warm_start"] == "sweep":
            waiting[cell] = config
        else:
            made[cell] = make_run(config, cohort)
    needs = {}
    for cell, config in waiting.items():
        # The same cell but for its modality, whatever further axes there are.
        wanted = {name: (*cell[:at], name, *cell[at + 1 :]) for name in MODALITIES}
        if at < 0 or not made.keys() >= set(wanted.values()):
            raise ConfigError(
                "axes must have the modalities image and video where warm_start is sweep, got "
                f"{file.axes.get('modality')} (sweep {file.name}). Add them, or name the folder of "
                "a finished sweep: warm_start=DIR."
            )
        start = {name: made[of].run_id for name, of in wanted.items()}
        run = make_run({**config, "study": {**config["study"], "warm_start": start}}, cohort)
        made[cell], needs[run.run_id] = run, tuple(start.values())
    return [made[cell] for cell in cells], needs


def _check_values(file: SweepFile) -> None:
    for key, values in file.axes.items():
        texts = [as_text(value) for value in values]
        if twice := sorted({text for text in texts if texts.count(text) > 1}):
            raise ConfigError(
                f"axes must give each run once, got {key}={twice[0]} twice (sweep {file.name}). "
                "Remove repeated values."
            )


def _check_axes(file: SweepFile, runs: Sequence[Run]) -> None:
    """Two runs of one name would be one model to evaluation; an axis for nothing is a mistake."""
    named_axes = {axis for run in runs for axis in axes_of(run.study.architecture)}
    named_axes |= {*CELL, REPEAT}
    idle = [k for k in file.axes if k not in named_axes and k.rpartition(".")[2] not in named_axes]
    if idle:
        raise ConfigError(
            f"axes must change what a run gives, got {idle[0]}, which changes no run of sweep "
            f"{file.name}. Set it under overrides:."
        )


def _check_primary_name(file: SweepFile, runs: Sequence[Run]) -> None:
    primary = file.analysis.primary
    if primary is None or primary.architecture in (MEAN, SELECTED):
        return
    base = primary.architecture.partition("+")[0]
    for run in runs:
        name, modality = run.study.architecture, run.study.modality
        if modality not in primary.modalities or name.partition("+")[0] != base:
            continue
        if axes_of(name) != axes_of(primary.architecture):
            raise ConfigError(
                f"analysis.primary.architecture must name a cell of each modality, got "
                f"{primary.architecture!r} where {modality} has {name!r} (sweep {file.name}). "
                "Name it in full, or use mean."
            )


def make_data(file: SweepFile, cohort: str) -> None:
    """Prepare a cohort and split it as the sweep's `data:` says; what is there is kept.

    Args:
        file: The sweep.
        cohort: Path of cohort.csv, or `phantom` for the synthetic cohort in `data/`.

    Raises:
        DataError: For bad input, or a store or split made otherwise before.
    """
    from datamodules.ingest.prepare import prepare
    from datamodules.phantom.make import make_phantom
    from datamodules.store.splits import make_split

    data = file.data
    store = Path(next(configs_of(file))["study"]["store"])
    is_phantom = cohort == "phantom"
    table = (
        make_phantom(Path("data") / f"phantom-{data.phantom}", preset=data.phantom)
        if is_phantom
        else Path(cohort)
    )
    # A phantom's frames are ultrasound from edge to edge.
    prepare(table, store, canvas=data.canvas, covariates=data.covariates, as_is=is_phantom)
    make_split(
        store,
        scheme=data.scheme,
        num_folds=data.num_folds,
        repeats=data.repeats,
        seed=data.split_seed,
        holdout_fraction=data.holdout_fraction,
    )


def configs_of(file: SweepFile) -> Iterator[dict[str, Any]]:
    """Resolved configurations of all runs, in the order of the axes; no store is opened."""
    common = [f"{key}={as_text(value)}" for key, value in file.overrides.items()]
    profile = [f"profile={file.profile}"] if file.profile else []
    # In quotes, for 2024 is a name, too.
    own = [f"trainer.devices={file.launcher.devices_per_run}", f'sweep="{file.name}"']
    if file.launcher.kind == "slurm":
        own.append(f"trainer.num_nodes={file.launcher.slurm.nodes}")
    product = itertools.product(*file.axes.values())
    cells = (dict(zip(file.axes, values, strict=True)) for values in product)
    return compose_cells([*profile, *own, *common], cells)


def pending(sweep: Sweep) -> list[Run]:
    """Runs that are neither done nor held by a living process, in order."""
    return [
        run
        for run in sweep.runs
        if read_status(run.folder).state != "done" and not is_locked(run.folder)
    ]
