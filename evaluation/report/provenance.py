"""What the report came from: hashes, seeds, environments, settings, and the files beside it."""

import hashlib
import importlib.metadata
from collections import Counter
from typing import Any

from evaluation.report.views import View, words
from evaluation.result import Evaluation
from evaluation.text.format import brief, counted, in_use
from evaluation.text.recalibration import FILE, recalibration_json

_OWN_PACKAGES = ("ceus", "numpy", "scipy", "pandas", "matplotlib")
_SETTINGS = (
    "size", "image_encoder", "video_encoder", "head", "image_size", "video_size", "num_frames",
    "train_sampling", "eval_sampling", "augment", "mirror_views", "encoder_lr",
    "head_lr", "batch_size", "patience",
)  # fmt: skip


def provenance(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Where runs differ, each value stands with its number of runs."""
    sweep = evaluation.sweep
    maps = hashlib.sha256(recalibration_json(evaluation).encode())
    rows: list[tuple[str, str]] = [
        ("split", sweep.shas["split_sha"]),
        ("store", sweep.shas["store_sha"]),
        ("predictions of all done runs (SHA-256)", sweep.predictions_sha),
        (f"{FILE} (SHA-256)", maps.hexdigest()),
        ("seeds", ", ".join(map(str, sorted({run.seed for run in sweep.runs})))),
    ]
    rows += [
        (f"split: {key}", str(value))
        for key, value in evaluation.study.design.get("split", {}).items()
    ]
    keys = dict.fromkeys(key for flat in sweep.environments.values() for key in flat)
    for key in keys:
        values = Counter(flat.get(key, "not recorded") for flat in sweep.environments.values())
        shown = [
            f"{value} ({counted(runs, 'run')})" if len(values) > 1 else value
            for value, runs in sorted(values.items())
        ]
        rows.append((f"trained with: {key}", ", ".join(shown)))
    rows += [
        (f"evaluated with: {name}", importlib.metadata.version(name)) for name in _OWN_PACKAGES
    ]
    return rows


def settings_view(evaluation: Evaluation) -> View:
    """The models of the cells, as their configuration names them."""
    rows = []
    for (architecture, modality), config in evaluation.study.settings.items():
        row: dict[str, Any] = {"architecture": architecture, "modality": modality}
        study = config.get("study", {})
        row |= {name: brief(study.get(name)) for name in _SETTINGS if in_use(name, modality)}
        trainer = config.get("trainer", {})
        row |= {name: brief(trainer.get(name)) for name in ("max_epochs", "precision")}
        rows.append(row)
    names = (*_SETTINGS, "max_epochs", "precision")
    return View(
        name="settings",
        caption="Settings of the cells",
        folded=True,
        columns=[
            words("architecture", facet=True), words("modality", facet=True),
            *(words(name) for name in names),
        ],
        rows=rows,
        notes=["The whole configuration of a run is its config.yaml."],
    )  # fmt: skip
