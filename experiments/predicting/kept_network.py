"""A run's network kept for ONNX Runtime: torch takes longer to import than a patient to predict.

    RUN/network.onnx    the network, with the features that its encoders give
    RUN/network.json    how it is run, or why there is none, and what it was made from

No patient is in them. They may be deleted; a prediction within reach of the store makes them.
"""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules import DataError, Store
from datamodules.files import write_atomic
from evaluation.records.runs import Run
from experiments.errors import ConfigError
from experiments.gpus import Accelerator, visible_gpus
from experiments.predicting.deployed import Deployed
from experiments.predicting.network import Network, described_network, read_network
from experiments.predicting.output import tell

if TYPE_CHECKING:
    from experiments.predicting.scoring import Model

FILE, DESCRIPTION = "network.onnx", "network.json"
_FORMAT = 1
_MAKERS = ("torch", "onnx", "onnxscript", "onnxruntime")
_AS_SCORED, _AS_WARNED = 1e-5, 1e-3  # features only tell whom to warn of
_CHECKED = 32  # patients


def scores_by_kept(accelerator: Accelerator) -> bool:
    """Whether kept networks are what scores: ONNX Runtime is there, and no GPU is to be used."""
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not visible_gpus())
    return on_cpu and find_spec("onnxruntime") is not None


def kept_network(deployed: Deployed, run: Run) -> Network | None:
    """The network of a run, opened; None if there is none, or it is of another model.

    Args:
        deployed: The cell's.
        run: One of its runs.
    """
    folder = deployed.sweep.path / run.run_id
    written = _read(folder)
    if written.get("made_from") != _made_from(deployed, run) or "network" not in written:
        return None
    try:
        network = read_network(folder, written["network"], written["inputs"])
        network.load()
    except Exception:  # noqa: BLE001  a damaged one, which ONNX Runtime tells as it likes
        return None
    return network


def keep_network(deployed: Deployed, model: "Model", store: Path) -> Network | None:
    """Make a run's network and keep it, if it scores as the model does; tried once.

    Args:
        deployed: The cell's.
        model: Of one of its runs.
        store: The sweep's: it is held against the model on the training patients.
    """
    run, folder = model.run, deployed.sweep.path / model.run.run_id
    made_from, known = _made_from(deployed, run), _read(folder)
    is_tried = known.get("made_from") == made_from and "why_none" in known
    if is_tried or Store(store).sha != deployed.sweep.shas["store_sha"]:
        return None
    tell(f"{run.run_id}: keeping its network once, for later predictions")
    try:
        try:
            described, network = _made(model, folder, store)
        except (OSError, DataError):
            raise  # of the disk, or a file: another time
        except Exception as error:  # noqa: BLE001  of anyone's network, by exporters of all kinds
            reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
            described, network = {"why_none": reason}, None
            (folder / FILE).unlink(missing_ok=True)
            tell(f"{run.run_id}: torch is needed for later predictions, too ({reason})")
        described = {"made_from": made_from, **described}
        write_atomic(folder / DESCRIPTION, json.dumps({**described, "sha": _sha(described)}))
    except (OSError, DataError) as error:
        tell(f"{run.run_id}: its network could not be kept: {' '.join(str(error).split())[:200]}")
        return None
    return network


def _made(model: "Model", folder: Path, store: Path) -> tuple[dict[str, Any], Network]:
    """A network, written and as good as the model, and how it is run."""
    from experiments.exporting.program import as_network  # this imports torch

    content, inputs = as_network(model.trained)
    write_atomic(folder / FILE, content)
    written = described_network(model.run.run_id, folder / FILE, content, model.data.seed)
    described = json.loads(json.dumps({"network": written, "inputs": inputs}))  # as it is read
    network = read_network(folder, described["network"], described["inputs"])
    _check(network, model, store)
    return described, network


def _check(network: Network, model: "Model", store: Path) -> None:
    """Hold a network against the model on training patients, from their files on.

    Raises:
        ConfigError: If it gives others.
    """
    data = model.data
    data.take_own(store)
    patients = sorted({*data.patients("train"), *data.patients("inner_val")})
    some = patients[:: -(-len(patients) // _CHECKED)]
    expected = model.score_rows(data.evaluation_rows(some))
    given = network.score(Store(store), some)
    if list(given.features) != list(expected.features):
        raise ConfigError("its features are of other inputs")
    for name, found, wanted, most in (
        ("scores", given.score.to_frame(), expected.score.to_frame(), _AS_SCORED),
        *((k, given.features[k], table, _AS_WARNED) for k, table in expected.features.items()),
    ):
        error = np.abs(found.to_numpy() - wanted.loc[found.index].to_numpy())
        if not (error <= most * np.maximum(1, np.abs(found.to_numpy()))).all():
            raise ConfigError(f"its {name} differ by up to {error.max():.2g}")


def _read(folder: Path) -> dict[str, Any]:
    """What `network.json` holds; nothing if it is not there, or not as it was written."""
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        return content if content.pop("sha") == _sha(content) else {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _sha(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _made_from(deployed: Deployed, run: Run) -> dict[str, Any]:
    config = deployed.sweep.path / run.run_id / "config.yaml"  # an edited one torch refuses
    return {
        "format": _FORMAT,
        "checkpoint_sha": deployed.checkpoint_sha(run),
        "config_sha": hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else "",
        "packages": {name: _version(name) for name in _MAKERS},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
