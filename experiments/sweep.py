"""A sweep: axes in YAML, expanded once into run folders and frozen in `sweep.json`."""

import copy
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser
from omegaconf import OmegaConf

from datamodules.splits import Split
from datamodules.store import Store
from evaluation.analysis import Analysis, read_analysis
from evaluation.errors import EvaluationError
from experiments.compose import Run, explain, load_yaml, make_run, open_cohort, what_counts
from experiments.differences import analysis_difference, run_difference
from experiments.errors import ConfigError
from experiments.slurm_script import SlurmSettings
from experiments.status import is_locked, read_status, run_lock, write_atomic
from experiments.variants import CELL, as_text, axes_of, compose_cell
from experiments.warm_start import MODALITIES

_OWN = ("name", "data", "launcher", "analysis")


@dataclass(frozen=True)
class LauncherSettings:
    """How runs are put on the machine.

    Attributes:
        kind: `local`, the processes of this call, or `slurm`, job arrays.
        parallel: Runs at a time; `auto` is one a GPU, or two where there is none; with SLURM as
            many as it starts.
        devices_per_run: Devices of a run (on each node); more than one trains with DDP inside the
            run.
        runs_per_device: Local runs that share a GPU, where `parallel` is `auto`.
        slurm: What a run asks of SLURM.
    """

    kind: Literal["local", "slurm"] = "local"
    parallel: int | Literal["auto"] = "auto"
    devices_per_run: int = 1
    runs_per_device: int = 1
    slurm: SlurmSettings = field(default_factory=SlurmSettings)

    def __post_init__(self) -> None:
        numbers = (self.devices_per_run, self.runs_per_device)
        if min(numbers) < 1 or (self.parallel != "auto" and self.parallel < 1):
            raise ConfigError(
                "launcher must have parallel >= 1 (or auto), devices_per_run >= 1 and "
                f"runs_per_device >= 1, got {self.parallel}, {self.devices_per_run} and "
                f"{self.runs_per_device}. Correct the sweep's launcher settings."
            )


@dataclass(frozen=True)
class DataSettings:
    """How a cohort becomes the store and the split of the sweep (`ceus sweep --cohort`).

    Attributes:
        canvas: Side of the stored frames, pixels.
        covariates: Columns of the cohort table to keep.
        num_folds: Folds outside the hold-out.
        split_seed: Seed of the split.
        holdout_fraction: Share of patients held out; that of the reference study by default. A
            `split` column in the cohort table wins.
        phantom: Preset of the synthetic cohort that `--cohort phantom` makes.
    """

    canvas: int = 256
    covariates: tuple[str, ...] = ()
    num_folds: int = 5
    split_seed: int = 0
    holdout_fraction: float = 116 / 396
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
        launcher: How runs are put on the machine.
        analysis: The primary contrast and the operating points, declared before training.
    """

    name: str
    axes: dict[str, list[Any]]
    profile: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    data: DataSettings = DataSettings()
    launcher: LauncherSettings = field(default_factory=LauncherSettings)
    analysis: Analysis = field(default_factory=Analysis)


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


def read_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepFile:
    """Read a sweep YAML and the command line's overrides of it.

    Args:
        path: The YAML file, with the keys of `SweepFile`.
        overrides: `KEY=VALUE` for every run, as in `compose`; an axis given here is narrowed to
            this value; `name=`, `data.*=`, `launcher.*=` and `analysis.*=` are the sweep's own.

    Raises:
        ConfigError: For the first key or value that does not fit.
    """
    if not path.is_file():
        raise ConfigError(
            f"sweep must be a YAML file, got {str(path)!r}. See the files in experiments/sweep/."
        )
    own = [o for o in overrides if o.split("=")[0].split(".")[0] in _OWN]
    settings: Any = OmegaConf.merge(load_yaml(path), OmegaConf.from_dotlist(own))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SweepFile, "sweep")
    content: Any = OmegaConf.to_container(settings, resolve=True)
    try:
        parsed = parser.parse_object({"sweep": _without_values(content)})
        file: SweepFile = parser.instantiate(parsed).sweep
    except ArgumentError as error:
        raise ConfigError(f"{explain(error)} ({path})") from error
    except EvaluationError as error:  # of the analysis
        raise ConfigError(f"analysis.{error} ({path})") from error
    axes, common = dict(content["axes"]), dict(content.get("overrides", {}))
    for override in overrides:
        key, _, value = override.partition("=")
        if key in axes:
            axes[key] = [value]
        elif override not in own:
            common[key] = value
    if not axes or not all(axes.values()):
        raise ConfigError(
            f"every axis must have a value, got {axes!r} ({path}). Fill or remove it."
        )
    _check_primary(file.analysis, content["axes"], path)  # narrowed axes may leave it out for now
    return replace(file, axes=axes, overrides=common)


def _without_values(content: dict[str, Any]) -> dict[str, Any]:
    """A sweep's settings for the parser, which would import the classes that values name."""
    content = copy.deepcopy(content)
    for values in (content.get("axes"), content.get("overrides")):
        if isinstance(values, dict):
            values |= {k: [0] * len(v) if isinstance(v, list) else v for k, v in values.items()}
            values |= {k: 0 for k, v in values.items() if isinstance(v, dict)}
    return content


def _check_primary(analysis: Analysis, axes: Mapping[str, Sequence[Any]], path: Path) -> None:
    """A primary contrast of cells that the sweep does not run could never be tested."""
    primary = analysis.primary
    if primary is None:
        return
    architecture = primary.architecture.partition("+")[0]
    named = {"modality": primary.modalities, "architecture": (architecture,)}
    for key, values in named.items():
        missing = set(values) - {"selected"} - set(axes.get(key, values))
        if missing:
            raise ConfigError(
                f"analysis.primary must name what the sweep runs, got {key} "
                f"{', '.join(sorted(missing))} ({path}). Add it to the axes, or set "
                "analysis.primary=null."
            )


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
    return Sweep(file.name, folder, tuple(runs), file.launcher, file.analysis, needs)


def _runs(file: SweepFile) -> tuple[list[Run], dict[str, tuple[str, ...]]]:
    """The runs in the order of the axes, and which of them start from which (`warm_start`)."""
    cells = [tuple(map(as_text, cell)) for cell in itertools.product(*file.axes.values())]
    at = list(file.axes).index("modality") if "modality" in file.axes else -1
    cohort = cache(open_cohort)
    waiting, made = {}, {}
    for cell, config in zip(cells, _configs(file), strict=True):
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
    told = {axis for run in runs for axis in axes_of(run.study.architecture)}
    idle = [k for k in file.axes if k not in CELL and k.rpartition(".")[2] not in told]
    if idle:
        raise ConfigError(
            f"axes must change what a run gives, got {idle[0]}, which changes no run of sweep "
            f"{file.name}. Set it under overrides:."
        )


def _check_primary_name(file: SweepFile, runs: Sequence[Run]) -> None:
    primary = file.analysis.primary
    if primary is None or primary.architecture == "selected":
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
                "Name it in full, or use selected."
            )


def make_data(file: SweepFile, cohort: str) -> None:
    """Prepare a cohort and split it as the sweep's `data:` says; what is there is kept.

    Args:
        file: The sweep.
        cohort: Path of cohort.csv, or `phantom` for the synthetic cohort in `data/`.

    Raises:
        DataError: For bad input, or a store or split made otherwise before.
    """
    from datamodules.phantom import make_phantom
    from datamodules.prepare import prepare
    from datamodules.splits import make_split

    data = file.data
    store = Path(next(_configs(file))["study"]["store"])
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
        num_folds=data.num_folds,
        seed=data.split_seed,
        holdout_fraction=data.holdout_fraction,
    )


def _configs(file: SweepFile) -> Iterator[dict[str, Any]]:
    common = [f"{key}={as_text(value)}" for key, value in file.overrides.items()]
    profile = [f"profile={file.profile}"] if file.profile else []
    own = [f"trainer.devices={file.launcher.devices_per_run}", f"sweep={file.name}"]
    if file.launcher.kind == "slurm":
        own.append(f"trainer.num_nodes={file.launcher.slurm.nodes}")
    for values in itertools.product(*file.axes.values()):
        cell = dict(zip(file.axes, values, strict=True))
        yield compose_cell([*profile, *own, *common], cell)


def freeze(sweep: Sweep, *, extend: bool = False) -> None:
    """Write the list of runs, their folders and the sealed cohort; refuse a differing sweep.

    Args:
        sweep: What `load_sweep` gave.
        extend: Add the runs that are new to a sweep frozen before.

    Raises:
        ConfigError: If the folder holds a sweep of other runs and `extend` is not set.
    """
    for _ in range(100):  # another sweep that freezes takes an instant
        with run_lock(sweep.folder) as free:
            if free:
                _freeze(sweep, extend=extend)
                return
        time.sleep(0.1)
    raise ConfigError(
        f"sweep must be frozen by one process at a time, got another that does not end "
        f"({sweep.folder}). End it, and call again."
    )


def _freeze(sweep: Sweep, *, extend: bool) -> None:
    path = sweep.folder / "sweep.json"
    listed = [_entry(run, sweep.needs.get(run.run_id, ())) for run in sweep.runs]
    analysis = asdict(sweep.analysis)
    if path.is_file():
        listing = json.loads(path.read_text())
        frozen = listing["runs"]
        before = read_analysis(listing.get("analysis", {}))
        if before != sweep.analysis:
            raise ConfigError(
                f"analysis must be the one frozen in {path} before training, got "
                f"{analysis_difference(asdict(before), analysis)}. Undo the change, or give the "
                "sweep another name=."
            )
        old, new = ({entry["run_id"] for entry in entries} for entries in (frozen, listed))
        if old == new:
            _make_folders(sweep)
            return
        if not extend:
            difference = run_difference(sweep.runs, frozen, sweep.folder)
            raise ConfigError(
                f"sweep must be the one frozen in {path}, got {difference}. "
                "Give it another name=, undo the change, or add runs with --extend."
            )
        listed = [*frozen, *(entry for entry in listed if entry["run_id"] not in old)]
    _make_folders(sweep)
    _write_cohort(sweep)
    content = {"name": sweep.name, "analysis": analysis, "runs": listed}
    write_atomic(path, json.dumps(content, indent=1))


def pending(sweep: Sweep) -> list[Run]:
    """Runs that are neither done nor held by a living process, in order."""
    return [
        run
        for run in sweep.runs
        if read_status(run.folder).state != "done" and not is_locked(run.folder)
    ]


def _entry(run: Run, needs: Sequence[str]) -> dict[str, Any]:
    study = run.study
    entry = {"run_id": run.run_id, **{k: getattr(study, k) for k in CELL}, "shas": run.shas}
    return entry | ({"needs": list(needs)} if needs else {})


def _make_folders(sweep: Sweep) -> None:
    for run in sweep.runs:
        config = run.folder / "config.yaml"
        run.folder.mkdir(parents=True, exist_ok=True)
        text = OmegaConf.to_yaml(OmegaConf.create(run.config))
        before = config.read_text() if config.is_file() else None
        if before not in (None, text):
            _check_unedited(run, config)
        # Rewritten for a run not yet done: what is not in the id (store path, threads) may change.
        if before is None or (before != text and read_status(run.folder).state != "done"):
            write_atomic(config, text)


def _check_unedited(run: Run, path: Path) -> None:
    """Refuse a config.yaml in a run folder that would be another run by now."""
    try:
        found = _counted(load_yaml(path))
        same = found == _counted(OmegaConf.create(run.config))
    except (KeyError, TypeError):
        same = False
    if not same:
        raise ConfigError(
            f"config.yaml must be the one its run was named for, got an edited one ({path}). "
            "Undo the edit, or set your change on the command line or in the sweep and give it "
            "another name=."
        )


def _counted(config: Any) -> Any:
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return what_counts(plain)


def _write_cohort(sweep: Sweep) -> None:
    study = sweep.runs[0].study
    store, split = open_cohort(study.store, study.split)
    cohort, holdout = store.items.copy(), split.holdout
    cohort["label"] = cohort["label"].astype("Int8").mask(cohort["patient_id"].isin(holdout))
    write_atomic(sweep.folder / "cohort.parquet", cohort.to_parquet(index=False))
    _write_design(sweep, store, split)


def _write_design(sweep: Sweep, store: Store, split: Split) -> None:
    """What the report tells of store and split, so that it needs neither; no patient is named."""
    content: dict[str, Any] = {
        "canvas": store.canvas,
        "split": {"name": split.name, "seed": split.seed, **split.scheme},
    }
    for name in ("skipped", "quality"):
        path = store.path / f"{name}.csv"
        if path.is_file():
            write_atomic(sweep.folder / path.name, path.read_bytes())
    write_atomic(sweep.folder / "design.json", json.dumps(content, indent=1))
