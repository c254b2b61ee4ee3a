"""A cell's deployed model as `ceus export` wrote it: ONNX Runtime scores, and torch is not needed.

    FOLDER/ensemble.json   what `Ensemble` holds, how inputs are made, each network's file and hash,
                           and the limits of the training files
    FOLDER/seed0.onnx      a network a seed

The folder is all that a prediction needs; no patient is in it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from datamodules import Store
from datamodules.batches.inputs import (
    Input,
    evaluation_windows,
    find_items,
    patients_of,
    read_times,
)
from datamodules.batches.plain import PlainReader
from datamodules.batches.rows import evaluation_rows
from datamodules.batches.sampling import FrameSampling
from datamodules.store.clip_file import read_index
from datamodules.store.folder import STORE_FORMAT
from evaluation.records.analysis import read_analysis
from experiments.errors import ConfigError
from experiments.predicting.ensemble import Ensemble, Scored, require_finite
from experiments.predicting.facts import Limit, facts_of
from experiments.predicting.output import json_text, require_rule
from experiments.predicting.sets import Cuts
from experiments.predicting.unlike import Finding, odd_facts
from lightning_modules.scores import patient_scores

FILE = "ensemble.json"
_FORMAT = 1
_ROWS = 8  # at a time

Batch = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Network:
    """A seed's network.

    Attributes:
        run_id: Its run.
        path: Its file.
        inputs: `image` and `video`, in this order, or one of them.
        sampling: Of clips; None without a video input.
        seed: Of that sampling, where it has chance.
    """

    run_id: str
    path: Path
    inputs: Mapping[str, Input]
    sampling: FrameSampling | None
    seed: int

    def score(self, store: Store) -> Scored:
        """Scores of all patients of a store who have an input; no features.

        Raises:
            ConfigError: If a logit is not finite.
            DataError: If there are no such patients, or a file is damaged.
        """
        items = find_items(store, self.inputs)
        clips = [clip for ids in items.get("video", {}).values() for clip in ids]
        times = read_times(store, lambda clip: read_index(store.item_path(clip, ".idx")), clips)

        def windows(clip: str) -> Any:
            assert self.sampling is not None  # there are no clips without
            return evaluation_windows(self.sampling, times[clip], clip, seed=self.seed)

        rows = evaluation_rows(patients_of(store, items), items, windows)
        reader, run = PlainReader(store, self.inputs, self.sampling), _opened(self.path)
        logits = [run(reader.read(rows[at : at + _ROWS])) for at in range(0, len(rows), _ROWS)]
        table = pd.DataFrame(
            {
                "row_key": [row.key for row in rows],
                "item_id": [row.item_id for row in rows],
                "patient_id": [row.patient_id for row in rows],
                "label": nan,
                "logit": np.concatenate(logits).astype(np.float64),
            }
        )
        scores = patient_scores(table.sort_values("row_key")).set_index("patient_id")
        require_finite(scores["logit"], self.run_id)
        return Scored(scores["logit"], scores["n_items"], {})


@dataclass(frozen=True)
class Exported:
    """A cell's deployed model, apart from its sweep.

    Attributes:
        ensemble: How scores become probabilities and decisions.
        networks: One a seed.
        limits: Within which the training patients' files lie.
        cuts: Of conformal sets, by level: none.
        left_out: What is not looked at.
    """

    ensemble: Ensemble
    networks: tuple[Network, ...]
    limits: Mapping[str, Limit]
    cuts: Cuts = field(default_factory=dict)
    left_out: str = (
        "an exported model does not know distances in the space of features, nor whether a file is "
        "of its sweep: not looked at"
    )

    def load(self) -> None:
        """Nothing: networks are opened where they score."""

    def score(self, new: Store) -> tuple[list[Scored], dict[str, list[Finding]]]:
        """Scores of all patients of a store by each network, and what is odd by patient.

        Raises:
            ConfigError, DataError: as `Network.score`.
        """
        scored = [network.score(new) for network in self.networks]
        facts = facts_of(new, new.items["patient_id"])
        return scored, odd_facts(facts, self.limits, tuple(self.networks[0].inputs))


def described(
    ensemble: Ensemble,
    inputs: Mapping[str, Any],
    networks: Sequence[Mapping[str, Any]],
    limits: Mapping[str, Limit],
) -> str:
    """The content of `ensemble.json`.

    Args:
        ensemble: Of the cell.
        inputs: How they are made.
        networks: Of each seed `run_id`, `file`, `sha256` and `sampling_seed`.
        limits: Of the files of its training patients.
    """
    content = {
        "format": _FORMAT,
        **asdict(ensemble),
        "store_format": STORE_FORMAT,
        "inputs": inputs,
        "networks": networks,
        "score": "mean over networks of a patient's log-odds: mean over an item's windows, then "
        "over the patient's items",
        "probability": "1 / (1 + exp(-(intercept + slope * score))); of the score itself where "
        "there is no map",
        "decision": "positive where score is at or above the threshold of a rule",
        "limits": {name: asdict(limit) for name, limit in limits.items()},
    }
    return json_text(content)


def open_exported(folder: Path, *, rule: str, unused: Sequence[str]) -> Exported:
    """An exported cell, ready to score.

    Args:
        folder: As `ceus export` wrote it.
        rule: Operating point, which it must have.
        unused: Options that were given and are of sweeps only.

    Raises:
        ConfigError: If the folder is no such one, a file is not as it was written, or what is asked
            for needs the sweep.
    """
    if unused:
        raise ConfigError(
            f"--onnx must be given without {', '.join(unused)}, which an exported model does not "
            "have. Leave it out, or predict by the sweep's folder."
        )
    if find_spec("onnxruntime") is None:
        raise ConfigError(
            "package onnxruntime must be installed for --onnx, got none. Install it: pip install "
            "onnxruntime"
        )
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        written, prepared = content["format"], content["store_format"]
        ensemble = _ensemble(content) if written == _FORMAT else None
        limits = {
            name: Limit(**{key: _number(value) for key, value in limit.items()})
            for name, limit in content["limits"].items()
        }
        networks = tuple(_network(folder, each, content["inputs"]) for each in content["networks"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        what = error.strerror if isinstance(error, OSError) else repr(error)
        raise ConfigError(
            f"{FILE} must be as ceus export wrote it, got {what} ({path}). Write it: ceus export "
            "SWEEP --cell CELL, and name the folder that it says."
        ) from error
    if ensemble is None or prepared != STORE_FORMAT:
        raise ConfigError(
            f"{FILE} must be of format {_FORMAT} and of a store of format {STORE_FORMAT}, as this "
            f"version has them, got {written} and {prepared} ({path}). Predict with the version "
            "that it was exported with, or export it again."
        )
    require_rule(ensemble, rule)
    return Exported(ensemble, networks, limits)


def _ensemble(content: Mapping[str, Any]) -> Ensemble:
    architecture, modality = content["cell"]
    return Ensemble(
        sweep=content["sweep"],
        cell=(architecture, modality),
        runs=tuple(content["runs"]),
        seeds=tuple(content["seeds"]),
        shas=content["shas"],
        prepared={name: content["prepared"][name] for name in ("canvas", "as_is")},
        intercept=_number(content["intercept"]),
        slope=_number(content["slope"]),
        no_map=content["no_map"],
        thresholds={rule: _number(value) for rule, value in content["thresholds"].items()},
        frozen=content["frozen"],
        sealed=content["sealed"],
        analysis=read_analysis(content["analysis"]),
    )


def _network(folder: Path, written: Mapping[str, Any], made: Mapping[str, Any]) -> Network:
    path = folder / written["file"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != written["sha256"]:
        raise ConfigError(
            f"network must be the one that {FILE} was written with, got another ({path}). Copy the "
            "folder again, or export it again."
        )
    inputs = {
        key: Input(each["size"], tuple(each["mean"]), tuple(each["std"]))
        for key, each in made.items()
        if "size" in each
    }
    return Network(
        run_id=written["run_id"],
        path=path,
        inputs=inputs,
        sampling=_sampling(made["video"]["sampling"]) if "video" in inputs else None,
        seed=written["sampling_seed"],
    )


def _sampling(written: Mapping[str, Any]) -> FrameSampling:
    module, _, name = written["class_path"].rpartition(".")
    try:
        kind: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"sampling of frames must be importable, got {error} ({FILE}). Install the package of "
            f"{written['class_path']}."
        ) from error
    if not (isinstance(kind, type) and FrameSampling in kind.__mro__):  # the file is data
        raise ConfigError(
            f"sampling of frames must be a FrameSampling, got {written['class_path']} ({FILE}). "
            "The file was changed: export the cell again."
        )
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in written["init_args"].items()
    }
    made: FrameSampling = kind(**settings)
    return made


def _opened(path: Path) -> Callable[[Batch], npt.NDArray[np.float32]]:
    """What gives log-odds `(B,)` of a batch of inputs by name, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(batch: Batch) -> npt.NDArray[np.float32]:
        (given,) = session.run(None, {name: batch[name] for name in names})
        return np.asarray(given)

    return run


def _number(value: Any) -> float:
    """Of JSON, where null is undefined and infinity is text."""
    return nan if value is None else float(value)
