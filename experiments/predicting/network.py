"""A run's network as ONNX Runtime runs it: no torch, on the CPU."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
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
from datamodules.batches.rows import Row, evaluation_rows
from datamodules.batches.sampling import FrameSampling
from datamodules.store.clip_file import read_index
from experiments.errors import ConfigError
from experiments.predicting.ensemble import Scored, require_finite
from lightning_modules.scores import patient_scores

_ROWS = 8  # at a time


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

    def load(self) -> None:
        """Open the file."""
        _ = self._session

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(self.path, providers=["CPUExecutionProvider"])

    def score(self, store: Store, patients: Sequence[str] | None = None) -> Scored:
        """Scores of patients, by default of all who have an input, and the features it gives.

        Args:
            store: With their files.
            patients: Some who have an input.

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

        patients = patients_of(store, items) if patients is None else patients
        rows = evaluation_rows(patients, items, windows)
        given = self._run(PlainReader(store, self.inputs, self.sampling), rows)
        table = pd.DataFrame(
            {
                "row_key": [row.key for row in rows],
                "item_id": [row.item_id for row in rows],
                "patient_id": [row.patient_id for row in rows],
                "label": nan,
                "logit": given.pop("log_odds").astype(np.float64),
            }
        )
        scores = patient_scores(table.sort_values("row_key")).set_index("patient_id")
        require_finite(scores["logit"], self.run_id)
        features = {
            key: features_by_patient(key, given[name], rows)
            for key in self.inputs
            if (name := f"{key}_features") in given
        }
        return Scored(scores["logit"], scores["n_items"], features)

    def _run(self, reader: PlainReader, rows: Sequence[Row]) -> dict[str, Any]:
        """Outputs of all rows by name."""
        names = [each.name for each in self._session.get_inputs()]
        parts = []
        for at in range(0, len(rows), _ROWS):
            batch = reader.read(rows[at : at + _ROWS])
            parts.append(self._session.run(None, {name: batch[name] for name in names}))
        outputs = [each.name for each in self._session.get_outputs()]
        return dict(zip(outputs, map(np.concatenate, zip(*parts, strict=True)), strict=True))


def features_by_patient(key: str, given: Any, rows: Sequence[Row]) -> pd.DataFrame:
    """Mean features `(patients, F)` over the rows that have an input, of those `(N, F)` of all."""
    table = pd.DataFrame(given, index=[row.patient_id for row in rows])
    present = [row.items[key] is not None for row in rows]
    return table[present].groupby(level=0).mean()


def described_network(
    run_id: str, path: Path, content: bytes, sampling_seed: int
) -> dict[str, Any]:
    """What `read_network` takes of a network, for JSON."""
    sha = hashlib.sha256(content).hexdigest()
    return {"run_id": run_id, "file": path.name, "sha256": sha, "sampling_seed": sampling_seed}


def read_network(folder: Path, written: Mapping[str, Any], made: Mapping[str, Any]) -> Network:
    """A network as it was described.

    Args:
        folder: Where its file lies.
        written: As `described_network` gave it.
        made: How its inputs are made.

    Raises:
        ConfigError: If the file is another, or its sampling of frames cannot be had.
        OSError: If there is no file.
    """
    path = folder / written["file"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != written["sha256"]:
        raise ConfigError(
            f"network must be the one that was described with it, got another ({path}). Copy the "
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
            f"sampling of frames must be importable, got {error}. Install the package of "
            f"{written['class_path']}."
        ) from error
    if not (isinstance(kind, type) and FrameSampling in kind.__mro__):  # the file is data
        raise ConfigError(
            f"sampling of frames must be a FrameSampling, got {written['class_path']}. "
            "The file was changed: export the cell again."
        )
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in written["init_args"].items()
    }
    made: FrameSampling = kind(**settings)
    return made
