"""What a run was trained on, kept beside it: facts of the files, and where their features lie.

    RUN/reference.npz    arrays of `Region` by input, facts (JSON), and what they were made from

Patients go by their number. The file may be deleted; the next prediction makes it from the store.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from datamodules import Store
from datamodules.files import write_atomic
from evaluation.errors import EvaluationError
from evaluation.records.holdout import store_of
from evaluation.records.runs import Run
from evaluation.statistics.unlike import Region, fit_region
from experiments.errors import ConfigError
from experiments.predicting.deployed import Deployed
from experiments.predicting.facts import facts_of
from experiments.predicting.output import tell

if TYPE_CHECKING:
    from experiments.predicting.scoring import Model

FILE = "reference.npz"
_FORMAT = 2


@dataclass(frozen=True)
class Reference:
    """The training patients of a run.

    Attributes:
        facts: Of their items, as `facts_of`, patients by their number.
        regions: Where their features lie, by input; without an input that has none.
    """

    facts: pd.DataFrame
    regions: Mapping[str, Region]


def kept_reference(deployed: Deployed, run: Run) -> Reference | None:
    """The reference of a run if there is one; it needs no torch.

    Args:
        deployed: The cell's.
        run: One of its runs.
    """
    return _read(deployed.sweep.path / run.run_id / FILE, _made_from(deployed, run))


def reference_of(deployed: Deployed, model: "Model", store: Path | None) -> Reference:
    """The reference of a run: read, or made from the store and kept.

    Args:
        deployed: The cell's.
        model: Of one of its runs.
        store: The sweep's store, if it was moved.

    Raises:
        ConfigError: If there is none yet and the store is out of reach, or is another.
    """
    run = model.run
    if (found := kept_reference(deployed, run)) is not None:
        return found
    place = store or store_of(deployed.sweep.path, deployed.sweep.listing)
    if place is None:
        raise ConfigError(
            "store of the sweep must be within reach for the first prediction by this version, "
            f"which notes in {FILE} what training patients are like, got none "
            f"({deployed.sweep.path}). Give it: --store STORE."
        )
    opened = Store(place)
    if opened.sha != deployed.sweep.shas["store_sha"]:
        raise ConfigError(
            f"store must be the one that the sweep was run on, got another ({place}). Give the "
            "right one: --store STORE."
        )
    tell(f"{run.run_id}: noting once what its training patients are like")
    made = _make(model, opened)
    content = _packed(made, _made_from(deployed, run))
    write_atomic(deployed.sweep.path / run.run_id / FILE, content)
    return made


def _made_from(deployed: Deployed, run: Run) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "checkpoint_sha": deployed.checkpoint_sha(run),
        **deployed.sweep.shas,
    }


def _make(model: "Model", store: Store) -> Reference:
    data = model.data
    data.take_own(store.path)
    patients = sorted({*data.patients("train"), *data.patients("inner_val")})
    features = model.score_rows(data.evaluation_rows(patients)).features
    facts = facts_of(store, patients)
    numbers = {patient: number for number, patient in enumerate(patients)}
    regions = {}
    for key, table in features.items():
        try:
            regions[key] = fit_region(table.to_numpy())
        except (
            EvaluationError
        ):  # two patients, or a network that gives NaN: nothing to hold against
            continue
    return Reference(facts.assign(patient_id=facts["patient_id"].map(numbers)), regions)


def _packed(made: Reference, made_from: Mapping[str, Any]) -> bytes:
    arrays = {
        f"{key}.{field.name}": np.asarray(getattr(region, field.name))
        for key, region in made.regions.items()
        for field in fields(Region)
    }
    content = io.BytesIO()
    np.savez(
        content,
        facts=np.array(made.facts.to_json(orient="split", double_precision=15)),
        made_from=np.array(json.dumps(made_from, sort_keys=True)),
        **arrays,  # type: ignore[arg-type]
    )
    return content.getvalue()


def _read(path: Path, made_from: Mapping[str, Any]) -> Reference | None:
    """What the file holds; None if there is none, it is of another model, or it is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            if str(file["made_from"]) != json.dumps(made_from, sort_keys=True):
                return None
            facts = pd.read_json(io.StringIO(str(file["facts"])), orient="split")
            keys = sorted({name.partition(".")[0] for name in file.files if "." in name})
            regions = {
                key: Region(**{field.name: file[f"{key}.{field.name}"] for field in fields(Region)})
                for key in keys
            }
    except FileNotFoundError:
        return None
    except Exception:  # noqa: BLE001  a damaged archive raises what it likes
        return None
    return Reference(facts, regions)
