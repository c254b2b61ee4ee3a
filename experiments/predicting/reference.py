"""What predicting takes besides a run's checkpoint, kept beside it.

    RUN/reference.npz    where the features of its training patients lie (arrays of `Region` by
                         input), facts of their files, how its network is run, and what all this
                         was made from
    RUN/network.onnx     its network, where one could be made of it: it needs no torch, which takes
                         longer to import than a patient to predict

Patients go by their number. Both files may be deleted; the next prediction makes them.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Console

from datamodules import Store
from datamodules.files import write_atomic
from evaluation.errors import EvaluationError
from evaluation.records.holdout import store_of
from evaluation.records.runs import Run
from evaluation.statistics.unlike import Region, fit_region
from experiments.errors import ConfigError
from experiments.predicting.deployed import Deployed
from experiments.predicting.facts import facts_of
from experiments.predicting.network import Network, described_network, read_network

if TYPE_CHECKING:
    from experiments.predicting.scoring import Model

FILE, NETWORK = "reference.npz", "network.onnx"
_FORMAT = 3


@dataclass(frozen=True)
class Reference:
    """The training patients of a run.

    Attributes:
        facts: Of their items, as `facts_of`, patients by their number.
        regions: Where their features lie, by input; without an input that has none.
        network: Of the run, for ONNX Runtime; None where there is none.
    """

    facts: pd.DataFrame
    regions: Mapping[str, Region]
    network: Network | None


def kept_reference(deployed: Deployed, run: Run) -> Reference | None:
    """The reference of a run if there is one; it needs no torch.

    Args:
        deployed: The cell's.
        run: One of its runs.
    """
    return _read(deployed.sweep.path / run.run_id / FILE, _made_from(deployed, run))


def reference_of(deployed: Deployed, model: "Model", store: Path | None) -> Reference:
    """The reference of a run: read, or made from the store and kept, its network beside it.

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
    _tell(f"{run.run_id}: noting once what its training patients are like")
    folder, made_from = deployed.sweep.path / run.run_id, _made_from(deployed, run)
    described = _keep_network(model, folder)
    write_atomic(folder / FILE, _packed(*_make(model, opened), described, made_from))
    made = _read(folder / FILE, made_from)
    assert made is not None
    return made


def _made_from(deployed: Deployed, run: Run) -> dict[str, Any]:
    table = deployed.sweep.predictions
    (checkpoint_sha,) = set(table.loc[table["run_id"] == run.run_id, "checkpoint_sha"])
    config = deployed.sweep.path / run.run_id / "config.yaml"  # an edited one is refused with torch
    shas = {
        "checkpoint_sha": checkpoint_sha,
        "config_sha": hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else "",
        **deployed.sweep.shas,
    }
    return {"format": _FORMAT, **shas}


def _make(model: "Model", store: Store) -> tuple[pd.DataFrame, dict[str, Region]]:
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
    return facts.assign(patient_id=facts["patient_id"].map(numbers)), regions


def _keep_network(model: "Model", folder: Path) -> dict[str, Any] | None:
    """Write a run's network for ONNX Runtime and describe it; None where none can be made."""
    from experiments.exporting.program import as_network, inputs_of

    try:
        content = as_network(model.trained)
    except ConfigError as error:
        _tell(f"{model.run.run_id}: later predictions will need torch, too ({NETWORK}: {error})")
        return None
    write_atomic(folder / NETWORK, content)
    written = described_network(model.run.run_id, folder / NETWORK, content, model.data.seed)
    return {"network": written, "inputs": inputs_of(model.trained)}


def _tell(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def _packed(
    facts: pd.DataFrame,
    regions: Mapping[str, Region],
    described: Mapping[str, Any] | None,
    made_from: Mapping[str, Any],
) -> bytes:
    arrays = {
        f"{key}.{field.name}": np.asarray(getattr(region, field.name))
        for key, region in regions.items()
        for field in fields(Region)
    }
    content = io.BytesIO()
    np.savez(
        content,
        facts=np.array(facts.to_json(orient="split", double_precision=15)),
        network=np.array(json.dumps(described)),
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
            described = json.loads(str(file["network"]))
            keys = sorted({name.partition(".")[0] for name in file.files if "." in name})
            regions = {
                key: Region(**{field.name: file[f"{key}.{field.name}"] for field in fields(Region)})
                for key in keys
            }
            network = described and read_network(
                path.parent, described["network"], described["inputs"]
            )
    except Exception:  # noqa: BLE001  none, or a damaged archive, which raises what it likes
        return None
    return Reference(facts, regions, network)
