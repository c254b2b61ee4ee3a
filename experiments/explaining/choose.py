"""Which run of a sweep explains a patient, and whom to explain."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from evaluation.files import read_parquet
from evaluation.records.holdout import store_of
from evaluation.records.listing import FILE, read_listing
from evaluation.records.schema import repeat_of
from experiments.errors import ConfigError

_UNSEEN = ("oof", "test")


@dataclass(frozen=True)
class Asked:
    """A patient and the run to explain it.

    Attributes:
        run: Folder of the run.
        patient_id: The patient.
        part: Where the run has it; one that it was trained on says little.
    """

    run: Path
    patient_id: str
    part: str


def asked(folder: Path, cell: str, patients: Sequence[str]) -> list[Asked]:
    """Of each patient the run to ask: of a sweep the first that was not trained on it.

    Args:
        folder: Of a run or of a sweep.
        cell: ARCHITECTURE-MODALITY, of a sweep.
        patients: Their ids; none for the two that a run scores lowest and highest unseen.

    Raises:
        ConfigError: If it is neither, there is no such cell, or no run of it has scored a patient.
    """
    scores = {run: _scores(run) for run in _runs(folder, cell)}
    known = {str(patient) for table in scores.values() for patient in table["patient_id"]}
    if not patients:
        table = next(iter(scores.values()))
        unseen = table[table["part"].isin(_UNSEEN)]
        order = (unseen if len(unseen) else table).sort_values(["logit", "patient_id"])
        patients = list(dict.fromkeys(str(order["patient_id"].iloc[at]) for at in (0, -1)))
    found = []
    for patient in dict.fromkeys(patients):
        if patient not in known:
            raise ConfigError(
                f"patients must be of the {len(known)} that the runs have scored, got {patient!r} "
                f"({folder}). Take ids from the store's cohort.parquet; one without the model's "
                "modality is not scored."
            )
        parts = [
            (run, str(part))
            for run, table in scores.items()
            for part in table.loc[table["patient_id"] == patient, "part"]
        ]
        run, part = min(parts, key=lambda each: each[1] not in _UNSEEN)
        found.append(Asked(run, patient, part))
    return found


def store_near(folder: Path, store: Path | None) -> Path | None:
    """The store of a run or sweep as its sweep names it; None where a run's own word is all."""
    sweep = folder if (folder / FILE).is_file() else folder.parent
    if store is None and (sweep / FILE).is_file():
        return store_of(sweep, read_listing(sweep))
    return store


def _runs(folder: Path, cell: str) -> list[Path]:
    if (folder / "config.yaml").is_file():
        return [folder]
    if not (folder / FILE).is_file():
        raise ConfigError(
            f"folder must be of a run or a sweep, got one with neither config.yaml nor {FILE} "
            f"({folder}). Name one, as runs/demo."
        )
    listed = [run for run in read_listing(folder).runs if repeat_of(run.fold) == 0]
    cells = list(dict.fromkeys(f"{run.architecture}-{run.modality}" for run in listed))
    if cell not in cells:
        got = repr(cell) if cell else "none"
        raise ConfigError(
            f"cell must be one of {', '.join(cells)}, got {got} ({folder}). Give it: --cell "
            f"{cells[0]}"
        )
    return [folder / run.run_id for run in listed if f"{run.architecture}-{run.modality}" == cell]


def _scores(run: Path) -> pd.DataFrame:
    path = run / "predictions.parquet"
    if not path.is_file():
        raise ConfigError(
            f"runs must be done, got one without predictions.parquet ({run}). Call the sweep "
            "again, or name a run that is done."
        )
    try:
        return read_parquet(path, ["part", "patient_id", "logit"])
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"predictions.parquet must be as its run wrote it, got {type(error).__name__} "
            f"({path}). Bring it back, or delete the run's status.json and call the sweep again."
        ) from error
