"""Pretraining on the hospital's own frames: its run, and where its weights may not be used."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from datamodules.store.folder import Store
from datamodules.store.pseudonyms import Pseudonyms
from datamodules.store.splits import Split
from evaluation.records.schema import fold_name
from experiments.config.weights import encoders
from experiments.errors import ConfigError

WEIGHTS = "weights.safetensors"
"""Name of the file in a pretraining's run folder."""

_RECORD = "ceus_pretraining"
_MODEL = "lightning_modules.EncoderPretraining"
_AUGMENT = {
    "degrees": 15.0, "scale": 0.3, "shift": 0.15, "gain": 0.3, "tgc": 0.2, "speckle": 0.1,
}  # fmt: skip


def is_pretraining(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a run of `ceus pretrain`."""
    return bool(config["model"].get("class_path") == _MODEL)


def pretraining(config: Mapping[str, Any]) -> dict[str, Any]:
    """A classifier's configuration, of an image or a video, made one that pretrains its encoder."""
    old, study = config["model"]["init_args"], config["study"]
    shared = ("encoder", "encoder_lr", "channels_last")
    data = config["data"]
    augment = study["augment"]
    if not augment.get("init_args"):  # stronger than for training, where the user set none
        augment = {**augment, "init_args": _AUGMENT}
    return {
        **config,
        "study": {**study, "finetune": "full", "selection": "last", "warm_start": None},
        "model": {"class_path": _MODEL, "init_args": {name: old[name] for name in shared}},
        "data": {
            **data,
            "init_args": {
                **data["init_args"],
                "twins": True,
                "selection": "last",
                "augment": augment,
            },
        },
    }


def seen_record(store: Path, patients: Iterable[str]) -> dict[str, str]:
    """What a weights file says of the patients it was made from, as metadata of safetensors.

    Patients go by the store's keyed hashes; items by a hash of their bytes, which finds them again
    in a store that was prepared anew and has another key.
    """
    patients = set(patients)
    items = Store(store, with_unlabelled=True).items
    own = items[items["patient_id"].isin(patients)]
    record = {
        "patients": sorted(map(Pseudonyms(store).of, patients)),
        "items": sorted(map(_short, own["item_sha"])),
    }
    return {_RECORD: json.dumps(record)}


def refuse_leak(config: Mapping[str, Any], store: Store, split: Split) -> None:
    """Refuse weights that were pretrained on patients whom this run is scored on.

    Raises:
        ConfigError: Naming file, fold, and how many.
    """
    study = config["study"]
    repeat = study.get("repeat", 0)
    parts = split.parts(study["fold"], repeat)
    setting = f" repeat={repeat}" if repeat else ""
    for node in encoders(config["model"]):
        path = Path(str(node["init_args"]["pretrained"]))
        record = _record_of(path)
        if record is None:
            continue
        hashes = Pseudonyms(store.path)
        items = store.items
        for part, name in (("oof", "out-of-fold"), ("test", "hold-out")):
            patients = set(parts.get(part, ()))
            own = items[items["patient_id"].isin(patients)]
            known = own["item_sha"].map(_short).isin(record["items"])
            seen = {p for p in patients if hashes.of(p) in record["patients"]}
            seen |= set(own[known]["patient_id"])
            if seen:
                raise ConfigError(
                    f"pretrained weights must not have seen patients that the run is scored on, "
                    f"got {len(seen)} {name} patients of fold {fold_name(study['fold'], repeat)} "
                    f"({path}). Pretrain for this fold: ceus pretrain STORE --fold K{setting}, or "
                    "on patients without a label."
                )


def _record_of(path: Path) -> dict[str, Any] | None:
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(_RECORD)
    except SafetensorError:
        return None  # who loads the weights will say what is wrong with them
    return json.loads(text) if text else None


def _short(sha: str) -> str:
    return hashlib.sha256(sha.encode()).hexdigest()[:16]
