"""What a sweep folder tells of the study besides predictions: cohort, design, settings, training.

All of it is for the report; a folder without these files is evaluated all the same.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from evaluation.errors import EvaluationError
from evaluation.files import read_csv, read_parquet
from evaluation.records.runs import Run, Sweep
from evaluation.records.schema import ITEMS, RUN_COLUMNS

_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error,
    yaml.YAMLError,
)  # fmt: skip
_CURVES = ("train_loss", "inner_bce", "inner_auroc")


@dataclass(frozen=True, kw_only=True)
class Study:
    """The rest of a sweep folder, as read.

    Attributes:
        items: `cohort.parquet`, one row an item, sealed labels NA; None if the sweep has none.
        skipped: Rows of the cohort table that were left out: line, reason, modality, lost_patient.
        quality: How items were taken and kept, one row an item; None if not recorded.
        design: `design.json`: canvas, covariates and split; {} if not recorded.
        settings: Resolved configuration of the first run of each cell, by (architecture, modality).
        curves: `metrics.csv` of all runs: run_id, architecture, modality, fold, seed, epoch and
            train_loss, inner_bce, inner_auroc.
    """

    items: pd.DataFrame | None
    skipped: pd.DataFrame
    quality: pd.DataFrame | None
    design: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    curves: pd.DataFrame

    @cached_property
    def patients(self) -> pd.DataFrame:
        """One row a patient, indexed by patient_id: label, items by modality, covariates."""
        if self.items is None:
            return pd.DataFrame()
        groups = self.items.groupby("patient_id", sort=True)
        table = groups[["label", *self.covariates]].first()
        if "modality" in self.items:
            counts = pd.crosstab(self.items["patient_id"], self.items["modality"])
            kinds = [*(k for k in ITEMS if k in counts), *(k for k in counts if k not in ITEMS)]
            table = table.join(counts[kinds].add_prefix("items_"))
        return table

    @property
    def covariates(self) -> list[str]:
        """Columns of the cohort table that the study asked to keep, as its store says."""
        columns = set() if self.items is None else set(self.items)
        return [str(name) for name in self.design.get("covariates", ()) if name in columns]


def read_study(sweep: Sweep) -> Study:
    """Read what there is.

    Raises:
        EvaluationError: for a file that is there and cannot be read.
    """
    skipped = _read(read_csv, sweep.path / "skipped.csv")
    columns = ["line", "reason", "modality", "lost_patient"]
    return Study(
        items=_read(read_parquet, sweep.path / "cohort.parquet"),
        skipped=pd.DataFrame() if skipped is None else skipped.reindex(columns=columns),
        quality=_read(read_csv, sweep.path / "quality.csv"),
        design=_read(_json, sweep.path / "design.json") or {},
        settings=_settings(sweep),
        curves=_curves(sweep),
    )


def _settings(sweep: Sweep) -> dict[tuple[str, str], Mapping[str, Any]]:
    settings: dict[tuple[str, str], Mapping[str, Any]] = {}
    for run in sweep.runs:
        cell = (run.architecture, run.modality)
        path = sweep.path / run.run_id / "config.yaml"
        if cell not in settings and path.is_file():
            settings[cell] = _read(_yaml, path) or {}
    return settings


def _curves(sweep: Sweep) -> pd.DataFrame:
    tables: list[dict[str, Any]] = []
    for run in sweep.runs:
        if run.state == "done":
            path = sweep.path / run.run_id / "metrics.csv"
            tables += _read(lambda p, run=run: _curve(p, run), path) or []
    return pd.DataFrame(tables, columns=(*RUN_COLUMNS, "epoch", *_CURVES))


def _curve(path: Path, run: Run) -> list[dict[str, Any]]:
    """One row an epoch; training, validation and learning rates have rows of their own."""
    epochs: dict[int, dict[str, float]] = {}
    # Not pandas: hundreds of small files are read ten times as fast by csv.
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            figures = {name: float(row[name]) for name in _CURVES if row.get(name)}
            if figures:  # learning rates are logged without an epoch
                epochs.setdefault(int(row["epoch"]), {}).update(figures)
    names = {name: getattr(run, name) for name in RUN_COLUMNS}
    undefined = dict.fromkeys(_CURVES, np.nan)
    return [names | {"epoch": epoch} | undefined | epochs[epoch] for epoch in sorted(epochs)]


def training_table(study: Study) -> pd.DataFrame:
    """One row a run: epochs trained, and the epoch that was kept, with its figures.

    It is the one of the lowest inner BCE; the last where inner validation was not watched.
    """
    rows = []
    for _, epochs in study.curves.groupby("run_id", sort=False):
        watched = epochs["inner_bce"].dropna()
        kept = int(np.argmin(epochs["inner_bce"].fillna(np.inf))) if len(watched) else -1
        best = epochs.iloc[kept].to_dict()
        rows.append(
            {
                **{name: best[name] for name in RUN_COLUMNS},
                "epochs": int(epochs["epoch"].max()) + 1,
                "chosen_epoch": int(best["epoch"]) + 1,
                **{name: best[name] for name in _CURVES},
                "last_train_loss": epochs["train_loss"].iloc[-1],
                "last_inner_bce": watched.iloc[-1] if len(watched) else np.nan,
            }
        )
    last = ("last_train_loss", "last_inner_bce")
    return pd.DataFrame(rows, columns=(*RUN_COLUMNS, "epochs", "chosen_epoch", *_CURVES, *last))


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _yaml(path: Path) -> Any:
    # libyaml's loader where it is built in: ten times as fast on the configurations of a sweep.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    config = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    if not {"study", "trainer"} <= set(config):  # the first and the last: cut off it lacks one
        raise ValueError("a configuration without study: or trainer:")
    return config


def _read(reader: Any, path: Path) -> Any:
    """What a reader makes of a file; None if there is none."""
    if not path.is_file():
        return None
    try:
        return reader(path)
    except _UNREADABLE as error:
        raise EvaluationError(
            f"{path.name} must be as the sweep wrote it, got {type(error).__name__} ({path}: "
            f"{error}). Bring it back, or delete it: the report does without."
        ) from error
