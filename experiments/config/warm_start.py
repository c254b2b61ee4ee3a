"""Which image and video run a combined run starts from. Nothing here imports torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.errors import EvaluationError
from evaluation.records.listing import read_listing
from evaluation.records.schema import MODALITIES, fold_name
from experiments.errors import ConfigError
from experiments.run_folder.status import read_status


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with `study.warm_start` as `{image: RUN, video: RUN}`, or None.

    `sweep` and a sweep's folder stand for the runs of the same architecture, fold and seed that its
    `sweep.json` lists. A run is named by its id within the run's own sweep, else by its folder.

    Raises:
        ConfigError: If no such run is listed, or the setting is none of these.
    """
    study = config["study"]
    start = study.get("warm_start")
    if start is None or study["modality"] != "combined":
        start = None
    elif isinstance(start, str):
        folder = _own_sweep(study) if start == "sweep" else Path(start)
        listed = {name: _listed(folder, study, name) for name in MODALITIES}
        start = {n: r if start == "sweep" else str(folder / r) for n, r in listed.items()}
    elif not isinstance(start, Mapping) or set(start) != set(MODALITIES):
        raise ConfigError(
            f"study.warm_start must be sweep, a sweep's folder, or name an image and a video run, "
            f"got {start!r}. Set warm_start=sweep, or warm_start.image=RUN warm_start.video=RUN."
        )
    return {**config, "study": {**study, "warm_start": start}}


def needed(study: Mapping[str, Any]) -> dict[str, Path]:
    """Folders of the runs that a resolved `study:` starts from, by modality; empty for none."""
    start: Mapping[str, str] = study.get("warm_start") or {}
    return {
        name: Path(run) if len(Path(run).parts) > 1 else _own_sweep(study) / run
        for name, run in start.items()
    }


def check_done(study: Mapping[str, Any]) -> None:
    """Refuse to start from what is not finished.

    Raises:
        ConfigError: Naming the first run that is not done.
    """
    for name, folder in needed(study).items():
        state = read_status(folder).state if folder.is_dir() else "missing"
        if state != "done":
            raise ConfigError(
                f"{name} run of warm_start must be done, got {state} ({folder}). Run it first."
            )


def family(architecture: str) -> str:
    """An architecture without the settings that a sweep's further axes name: `resnet+a=1`."""
    return architecture.partition("+")[0]


def _own_sweep(study: Mapping[str, Any]) -> Path:
    return Path(study["runs"], study["sweep"])


def _listed(folder: Path, study: Mapping[str, Any], modality: str) -> str:
    try:
        listing = read_listing(folder)
    except EvaluationError as error:
        raise ConfigError(
            f"study.warm_start must be sweep or the folder of a sweep, got "
            f"{study['warm_start']!r}: {error} Run the image and video runs first."
        ) from error
    fold = fold_name(study["fold"], study.get("repeat", 0))
    wanted = (family(study["architecture"]), modality, fold, study["seed"])
    run_ids = [
        run.run_id
        for run in listing.runs
        if (family(run.architecture), run.modality, run.fold, run.seed) == wanted
    ]
    if len(run_ids) != 1:
        raise ConfigError(
            f"study.warm_start must find one {modality} run of {study['architecture']}, fold "
            f"{fold}, seed {study['seed']}, got {len(run_ids)} ({folder}). "
            f"Name it: warm_start.{modality}=RUN."
        )
    return run_ids[0]
