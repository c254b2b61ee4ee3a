"""R's answers, and sweep folders with scores that the tests choose."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

SHIFT = 0.75  # log of the loss weight: probability = sigmoid(logit - SHIFT)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


@dataclass
class SweepMaker:
    """Writes a sweep folder, one run at a time, and the store that it pretends to come from."""

    path: Path
    architectures: Sequence[str] = ("alpha", "beta")
    modalities: Sequence[str] = ("image", "video")
    folds: Sequence[Any] = (0, 1)
    seeds: Sequence[int] = (0,)
    patients: int = 40
    holdout: int = 10
    analysis: dict[str, Any] = field(default_factory=dict)
    entries: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [f"p{number:03d}" for number in range(self.patients + self.holdout)]
        self.labels = {name: int(number % 3 == 0) for number, name in enumerate(names)}
        self.development, self.hidden = names[: self.patients], names[self.patients :]
        # Blocks of six keep the classes balanced over the folds.
        numbered = [fold for fold in self.folds if fold != "all"]
        self.home = {
            name: numbered[(n // 6) % len(numbered)] for n, name in enumerate(self.development)
        }

    def table(self, entry: dict[str, Any]) -> pd.DataFrame:
        fold = entry["fold"]
        parts = dict.fromkeys(self.hidden, "test")
        for number, name in enumerate(self.development):
            inner = "inner_val" if number % 5 == 0 else "train"
            parts[name] = "oof" if self.home[name] == fold else inner
        rng = np.random.default_rng(sum(entry["run_id"].encode()))
        truth = np.array([self.labels[name] for name in parts])
        logit = np.round(rng.normal(truth * 1.2, 1.0), 2)
        return pd.DataFrame(
            {
                **{key: entry[key] for key in ("run_id", "architecture", "modality", "seed")},
                "fold": str(fold),
                "part": list(parts.values()),
                "patient_id": list(parts),
                "label": [
                    np.nan if part == "test" else float(self.labels[name])
                    for name, part in parts.items()
                ],
                "logit": logit,
                "probability": sigmoid(logit - SHIFT),
                "n_items": 1,
                "config_sha": "c" * 64,
                "split_sha": "a" * 64,
                "store_sha": "b" * 64,
                "checkpoint_sha": "d" * 64,
            }
        )

    def write(self) -> "SweepMaker":
        self.path.mkdir(parents=True)
        for architecture in self.architectures:
            for modality in self.modalities:
                for fold in self.folds:
                    for seed in self.seeds:
                        run_id = f"{architecture}-{modality}-fold{fold}-seed{seed}-01234567"
                        self.entries.append(
                            {
                                "run_id": run_id,
                                "architecture": architecture,
                                "modality": modality,
                                "fold": fold,
                                "seed": seed,
                            }
                        )
        self.list_runs()
        for entry in self.entries:
            (self.path / entry["run_id"]).mkdir()
            self.put(entry["run_id"], self.table(entry))
            self.status(entry["run_id"], "done")
            environment = {"python": "3.11.0", "packages": {"torch": "2.6.0"}}
            (self.path / entry["run_id"] / "environment.json").write_text(json.dumps(environment))
        for folder, sealed in ((self.path, True), (self.store, False)):
            folder.mkdir(exist_ok=True)
            # An image and a clip each, and a second image of every fifth patient.
            held = [
                (name, modality)
                for number, name in enumerate([*self.development, *self.hidden])
                for modality in ("ceus", "image", "image")[: 2 + (number % 5 == 0)]
            ]
            names = [name for name, _ in held]
            clip = [modality == "ceus" for _, modality in held]
            cohort = pd.DataFrame(
                {
                    "item_id": [f"{number:016x}" for number in range(len(names))],
                    "patient_id": names,
                    "modality": [modality for _, modality in held],
                    "frames": np.where(clip, 30, 1),
                    "fps": np.where(clip, 15.0, np.nan),
                    "seconds": np.where(clip, 2.0, np.nan),
                    "width": 64,
                    "height": 48,
                    "warnings": ["2 damaged frames, concealed" if each else "" for each in clip],
                    "label": pd.array(
                        [
                            None if sealed and name in self.hidden else self.labels[name]
                            for name in names
                        ],
                        dtype="Int8",
                    ),
                }
            )
            cohort.to_parquet(folder / "cohort.parquet", index=False)
        return self

    @property
    def store(self) -> Path:
        return self.path.parent / "store"

    def list_runs(self) -> None:
        content = {"name": "trial", "analysis": self.analysis, "runs": self.entries}
        (self.path / "sweep.json").write_text(json.dumps(content))

    def status(self, run_id: str, state: str, reason: str | None = None) -> None:
        content = {"state": state, "reason": reason, "attempts": 1}
        (self.path / run_id / "status.json").write_text(json.dumps(content))

    def put(self, run_id: str, table: pd.DataFrame) -> None:
        table.to_parquet(self.path / run_id / "predictions.parquet", index=False)

    def get(self, run_id: str) -> pd.DataFrame:
        return pd.read_parquet(self.path / run_id / "predictions.parquet")

    def change(self, run_id: str, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        self.put(run_id, edit(self.get(run_id)))

    def run_ids(self, **where: Any) -> list[str]:
        return [e["run_id"] for e in self.entries if all(e[k] == v for k, v in where.items())]


@pytest.fixture
def reference() -> Callable[[str], tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """R's answer and the columns it was given, every number to the last digit."""

    def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        folder = Path(__file__).parent / "fixtures"
        # Not pandas: its default parser is off by an ulp in some of its versions.
        with (folder / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        columns = {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}
        return json.loads((folder / f"{name}.json").read_text()), columns

    return read


@pytest.fixture(scope="session")
def sweep_maker() -> type[SweepMaker]:
    """To make sweeps of other sizes."""
    return SweepMaker


@pytest.fixture
def sweep(tmp_path: Path) -> SweepMaker:
    """Two architectures × two modalities × two folds, all done, the test set sealed."""
    return SweepMaker(tmp_path / "trial").write()
