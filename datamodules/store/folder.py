"""The store: what `ceus prepare` leaves and everything else reads.

    store.json        {"format": 3, "canvas": 256, "as_is": false}
    cohort.parquet    one row an item
    items/            ITEM.h264 and ITEM.idx for a clip, ITEM.png for an image, MASK.mask.png
    quality.csv       one row an item: what it was, what was found, how well it was kept
    skipped.csv       rows of the cohort table left out and why, patients with none left numbered
    prepared.json     what a rerun need not do again
    splits/           NAME.json
    ledger.jsonl      hold-outs, sweeps and openings (`datamodules.ledger`)
    patient.key       of the patients' hashes (`datamodules.store.pseudonyms`); for its owner only

No name of a patient or of a file is in it, only the pseudonym `patient_id`.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from datamodules.errors import DataError
from datamodules.store.columns import ITEM_COLUMNS

STORE_FORMAT = 3
MASK_SUFFIX = ".mask.png"
"""End of the name of a mask: red where the lesion is, green where its parenchyma."""


class Store:
    """A prepared cohort, read only.

    Args:
        path: The folder.
        with_unlabelled: Whether `items` has those of patients without a label, too: no study sees
            them, pretraining does.

    Raises:
        DataError: If it is not there, not a store, not finished, or of another format.
    """

    def __init__(self, path: Path, *, with_unlabelled: bool = False) -> None:
        self.path, self._with_unlabelled = Path(path), with_unlabelled
        if not self.path.is_dir():
            raise DataError(
                f"store must be a folder, got none ({self.path}). Make it: ceus prepare COHORT.csv "
                f"{self.path}"
            )
        try:
            header = json.loads((self.path / "store.json").read_text())
            self.format, self.canvas = int(header["format"]), int(header["canvas"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"store must hold a store.json, got {type(error).__name__} ({self.path}). "
                "Name a folder made by `ceus prepare`."
            ) from error
        self.as_is: bool | None = header.get("as_is")
        """Whether frames were kept whole, as `ceus prepare --as-is` does; None: not recorded."""
        if self.format != STORE_FORMAT:
            raise DataError(
                f"format of the store must be {STORE_FORMAT}, got {self.format} ({self.path}). "
                "Run `ceus prepare` into a new folder."
            )
        if not (self.path / "cohort.parquet").is_file():
            raise DataError(
                f"store must hold a cohort.parquet, got none ({self.path}). "
                "`ceus prepare` did not finish: run it again."
            )

    @cached_property
    def items(self) -> pd.DataFrame:
        """One row an item, sorted by patient (docs/design.md, Store); missing text is ""."""
        path = self.path / "cohort.parquet"
        try:
            # By this thread: one that a memory limit forbids would be waited for.
            table = pd.read_parquet(path, use_threads=False, pre_buffer=False)
            table["patient_id"], table["label"]  # every reader's
        except (OSError, ValueError, KeyError) as error:  # pyarrow's own are one of these
            raise DataError(
                f"cohort.parquet of the store must be as `ceus prepare` wrote it, got "
                f"{type(error).__name__}: {error} ({path}). Run `ceus prepare` again."
            ) from error
        if self._with_unlabelled or not table["label"].isna().any():
            return table
        return table[table["label"].notna()].astype({"label": int}).reset_index(drop=True)

    @property
    def item_columns(self) -> tuple[str, ...]:
        """Names of the store's own columns of `items`, see `datamodules.store.columns`."""
        return tuple(name for name in ITEM_COLUMNS if name in self.items)

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the columns of `items` that the user asked to keep, in their order."""
        return tuple(str(name) for name in self.items if name not in ITEM_COLUMNS)

    @cached_property
    def labels(self) -> dict[str, int]:
        """Label, 0 or 1, of every patient who has one."""
        known = self.items[self.items["label"].notna()]
        return dict(zip(known["patient_id"], known["label"].astype(int), strict=True))

    @cached_property
    def sha(self) -> str:
        """Hash of what the store means to a study.

        Items, patients, labels, hold-out, bytes, and when contrast arrives and peaks.
        """
        table = self.items.assign(
            split=self.items.get("split", ""),
            arrival_s=self.items.get("arrival_s", float("nan")),
            peak_s=self.items.get("peak_s", float("nan")),
        )
        columns = [
            "item_id", "patient_id", "label", "modality", "split", "item_sha", "arrival_s",
            "peak_s",
        ]  # fmt: skip
        rows = sorted(table[columns].astype(str).itertuples(index=False, name=None))
        text = json.dumps([self.format, self.canvas, rows])
        return hashlib.sha256(text.encode()).hexdigest()

    def item_path(self, item_id: str, suffix: str) -> Path:
        """The file of an item: suffix ".png" for an image, ".h264" and ".idx" for a clip.

        Raises:
            DataError: If the store has no such item, or it is of the other modality.
        """
        modality = self._modality.get(item_id)
        expected = "image" if suffix == ".png" else "ceus"
        if modality != expected:
            raise DataError(
                f"item_id must be one of the store's items of modality {expected}, got {item_id!r}"
                f" of modality {modality} ({self.path}). Take it from `Store.items`."
            )
        return self.path / "items" / f"{item_id}{suffix}"

    def image(self, item_id: str) -> npt.NDArray[np.uint8]:
        """One image, uint8 (3, canvas, canvas), RGB.

        Raises:
            DataError: If there is no such image or its file is damaged.
        """
        return self._picture(self.item_path(item_id, ".png"))

    def mask(self, item_id: str) -> npt.NDArray[np.bool_] | None:
        """Where lesion and parenchyma are in the frames of a clip, bool (2, canvas, canvas).

        The parenchyma is without the lesion, and empty where none was given. None for a clip
        without a mask.

        Raises:
            DataError: If there is no such clip or the mask's file is damaged.
        """
        self.item_path(item_id, ".idx")  # is a clip
        names = self.items.get("mask")
        name = "" if names is None else str(names[self.items["item_id"] == item_id].iloc[0])
        if not name:
            return None
        lesion, parenchyma, _ = self._picture(self.path / "items" / f"{name}{MASK_SUFFIX}") > 0
        return np.stack([lesion, parenchyma & ~lesion])

    def _picture(self, path: Path) -> npt.NDArray[np.uint8]:
        try:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except OSError as error:
            raise DataError(
                f"image must be readable, got {type(error).__name__} ({path}). "
                "The disk or the copy is damaged: delete this store and run `ceus prepare`."
            ) from error
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    @cached_property
    def _modality(self) -> dict[str, str]:
        return dict(zip(self.items["item_id"], self.items["modality"], strict=True))
