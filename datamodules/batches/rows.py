"""Rows: what becomes one row of a batch, and which rows a patient has."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from datamodules.batches.sampling import Window

Items = Mapping[str, Mapping[str, Sequence[str]]]
"""Item ids by input (`image`, `video`) and patient, e.g. `{"image": {"p1": ["a", "b"]}}`."""


@dataclass(frozen=True, eq=False)
class Row:
    """One image, one window of one clip, or a pair of them.

    Attributes:
        index: Position in the part; chance depends on it, so not on batch, thread or process.
        patient_id: Whose row it is.
        items: Item id by input (`image`, `video`); None where the patient has none.
        window: Frame indices of the clip; None without a clip, and in training, where they are
            drawn when the row is read.
        window_number: Position among the windows of the clip.
        loss_weight: Factor of the row's loss in training, 0 or more.
    """

    index: int
    patient_id: str
    items: Mapping[str, str | None]
    window: Window | None = None
    window_number: int = 0
    loss_weight: float = 1.0

    @property
    def item_id(self) -> str:
        """The item's id; `IMAGE+CLIP` for a pair, with nothing in the place of a lacking one."""
        return "+".join(item or "" for item in self.items.values())

    @property
    def key(self) -> str:
        """What a row of evaluation goes by: its item and the number of its window."""
        return f"{self.item_id}@{self.window_number}"


def training_rows(patients: Sequence[str], items: Items, rng: np.random.Generator) -> list[Row]:
    """As many rows a patient as it has images or clips, whichever are more.

    Images and clips are each shuffled and paired in turn, the fewer repeating: 3 images a, b, c and
    2 clips x, y may give (b, y), (a, x), (c, y). Their number does not depend on `rng`.
    """
    rows: list[Row] = []
    for patient in patients:
        shuffled = {
            key: [ids[i] for i in rng.permutation(len(ids))]
            for key, ids in _items_of(patient, items).items()
        }
        for j in range(max(map(len, shuffled.values()))):
            pair = {key: ids[j % len(ids)] for key, ids in shuffled.items()}
            rows.append(Row(len(rows), patient, pair))
    return rows


def evaluation_rows(
    patients: Sequence[str], items: Items, windows: Callable[[str], Sequence[Window]]
) -> list[Row]:
    """Every image with every window of every clip.

    Args:
        patients: Patients of the part.
        items: Items by input and patient.
        windows: The windows of a clip.
    """
    rows: list[Row] = []
    for patient in patients:
        for pair in _pairs(_items_of(patient, items)):
            clip = pair.get("video")
            for number, window in enumerate(windows(clip) if clip else [None]):
                rows.append(Row(len(rows), patient, pair, window, number))
    return rows


def _items_of(patient: str, items: Items) -> dict[str, Sequence[str | None]]:
    return {key: ids.get(patient, [None]) for key, ids in items.items()}


def _pairs(items: Mapping[str, Sequence[str | None]]) -> Iterator[dict[str, str | None]]:
    for pair in product(*items.values()):
        yield dict(zip(items, pair, strict=True))
