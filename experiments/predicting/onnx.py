"""A cell's deployed model as `ceus export` wrote it: ONNX Runtime scores, and torch is not needed.

    FOLDER/ensemble.json   what `Ensemble` holds, how inputs are made, each network's file and hash,
                           and the limits of the training files
    FOLDER/seed0.onnx      a network a seed

The folder is all that a prediction needs; no patient is in it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from math import nan
from pathlib import Path
from typing import Any

from datamodules import Store
from datamodules.store.folder import STORE_FORMAT
from evaluation.records.analysis import read_analysis
from experiments.errors import ConfigError
from experiments.predicting.ensemble import Ensemble, Scored
from experiments.predicting.facts import Limit, facts_of
from experiments.predicting.network import Network, read_network
from experiments.predicting.output import json_text, require_rule
from experiments.predicting.sets import Cuts
from experiments.predicting.unlike import Finding, odd_facts

FILE = "ensemble.json"
_FORMAT = 1


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
        """Open the networks."""
        for network in self.networks:
            network.load()

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
        networks: Of each seed, as `described_network` describes it.
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
        networks = tuple(
            read_network(folder, each, content["inputs"]) for each in content["networks"]
        )
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


def _number(value: Any) -> float:
    """Of JSON, where null is undefined and infinity is text."""
    return nan if value is None else float(value)
