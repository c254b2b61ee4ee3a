"""Features of encoders as they come, each item once for a store, whichever run asks first.

    STORE/features/KEY.npz    names (N,), features (N, F) float32, their hash, and what they were
                              made from

KEY stands for the encoder's weights, what it is shown and in which precision: another seed of a
network from scratch, another size or sampling are other files, while all folds, and with pretrained
weights all seeds, share one. The folder may be deleted at any time.
"""

import fcntl
import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning import LightningModule, Trainer
from torch import nn

from datamodules import PatientDataModule
from datamodules.batches.rows import Row
from datamodules.errors import DataError
from datamodules.files import write_atomic
from experiments.errors import ConfigError
from lightning_modules import PatientClassifier
from lightning_modules.scores import Column, Late, gather_rows, rows_of

Array = npt.NDArray[np.float64]
ItemFeatures = Mapping[str, Mapping[str, npt.NDArray[np.float32]]]
"""By input and `ITEM@WINDOW`, each `(F,)`."""

_log = logging.getLogger(__name__)


class _FeatureReader(LightningModule):
    """Gives rows with the features of a classifier's encoders, in evaluation mode."""

    def __init__(self, model: PatientClassifier) -> None:
        super().__init__()
        self.model = model

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Column]:  # noqa: ARG002
        (features,) = self.model.encode(batch).values()
        rows = rows_of(batch, torch.zeros(len(features)))
        return rows | {"features": Late(features.float())}


def item_features(
    trainer: Trainer, model: PatientClassifier, data: PatientDataModule
) -> ItemFeatures:
    """Features of every image and every window of every clip, of the patients of all parts.

    Args:
        trainer: With the processes that compute them. Several compute them anew; one looks first
            whether they are there.
        model: With the encoders, as they come.
        data: With the items.

    Raises:
        DataError: If a file holds features of something else than its name says.
    """
    model.setup("predict")  # the memory order of its weights is part of what they compute
    found = {}
    for key in data.inputs:
        rows = data.item_rows(key)
        made_from = _made_from(trainer, model, data, key, rows)
        path = data.store.path / "features" / f"{_sha(made_from)}.npz"
        with _alone(path) if trainer.world_size == 1 else nullcontext():
            read = _read(path, made_from) if trainer.world_size == 1 else None
            if read is None:
                with data.predicting(rows):
                    batches: Any = trainer.predict(_FeatureReader(model), datamodule=data)
                table = gather_rows(batches)
                read = dict(zip(table["row_key"], table["features"], strict=True))
                _check_finite(read, key)
                if trainer.is_global_zero:
                    _write(path, made_from, read)
        found[key] = read
    return found


def _check_finite(features: Mapping[str, npt.NDArray[np.float32]], key: str) -> None:
    if bad := sum(not np.isfinite(values).all() for values in features.values()):
        raise ConfigError(
            f"features of the {key} encoder must be finite, got NaN or infinite ones for {bad} of "
            f"{len(features)} inputs. Check its weights, and trainer.precision: 16 bits overflow."
        )


def features_of(rows: Sequence[Row], items: ItemFeatures) -> dict[str, Array]:
    """Features `(N, F)` of rows by input, NaN throughout where a row lacks it."""
    features = {}
    for key, known in items.items():
        width = len(next(iter(known.values())))
        values = np.full((len(rows), width), np.nan)
        for number, row in enumerate(rows):
            if (item := row.items[key]) is not None:
                window = row.window_number if key == "video" else 0
                values[number] = known[f"{item}@{window}"]
        features[key] = values
    return features


def _made_from(
    trainer: Trainer,
    model: PatientClassifier,
    data: PatientDataModule,
    key: str,
    rows: Sequence[Row],
) -> dict[str, Any]:
    encoder = model.encoder_of(key)
    shown = [(row.items[key], None if row.window is None else row.window.tolist()) for row in rows]
    return {
        "encoder": repr(encoder),
        "weights": _weights_sha(encoder),
        "input": repr(data.inputs[key]),
        "rows": _sha(shown),
        "store": data.store.sha,
        "unit_features": model.unit_features,
        "mirror_views": model.mirror_views,
        "channels_last": model.channels_last,
        "precision": f"{trainer.precision}, {torch.get_float32_matmul_precision()}",
        "device": trainer.strategy.root_device.type,
        "torch": torch.__version__,
    }


def _weights_sha(encoder: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in encoder.state_dict().items():
        plain = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + plain.data)
    return digest.hexdigest()


def _sha(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def _content_sha(names: npt.NDArray[np.str_], features: npt.NDArray[np.float32]) -> str:
    head = f"{features.dtype} {features.shape} {names.tolist()}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(features).tobytes()).hexdigest()


def _read(path: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the file holds; None if there is none, or it cannot be read and is to be made anew."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names, features = file["names"], file["features"]
            stated, written = json.loads(str(file["made_from"])), str(file["sha"])
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001  a damaged archive raises what it likes
        _log.warning("%s cannot be read (%s); made anew", path.name, type(error).__name__)
        return None
    if written != _content_sha(names, features):
        _log.warning("%s is not as it was written; made anew", path.name)
        return None
    if stated != made_from:
        raise DataError(
            f"features must be of the encoder and input that {path.name} is named for, got others "
            f"({path}). Delete the file; it is made again."
        )
    return dict(zip(names.tolist(), features, strict=True))


def _write(path: Path, made_from: Mapping[str, Any], features: Mapping[str, Any]) -> None:
    content = io.BytesIO()
    names, values = np.array(list(features)), np.stack(list(features.values()))
    np.savez(
        content,
        names=names,
        features=values,
        sha=np.array(_content_sha(names, values)),
        made_from=np.array(json.dumps(made_from)),
    )
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, content.getvalue())
    except OSError as error:  # a store that may only be read
        _log.warning("features are not kept: %s", error)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Of two runs that want the same features the second waits for the first and reads them."""
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
    try:
        lock = path.with_suffix(".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a store that may only be read, or a file system without locks
        yield
        return
    with lock:
        yield
