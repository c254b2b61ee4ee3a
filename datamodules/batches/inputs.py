"""What is known of a store's items before a pixel is read: whose they are, their times, windows.

No torch here: an exported model is asked without it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.batches.sampling import ClipTimes, FrameSampling, Window
from datamodules.errors import DataError
from datamodules.store.clip_file import Index
from datamodules.store.folder import Store

MODALITY = {"image": "image", "video": "ceus"}
"""Modality in the store of each input."""


@dataclass(frozen=True)
class Input:
    """How images, or the frames of a clip, reach the encoder.

    Attributes:
        size: Side in pixels, 1 or more.
        mean: Mean of the encoder's pretraining data per channel, 0 to 1.
        std: Its standard deviation per channel, above 0.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"image_size and video_size must be 1 or more, got {self.size!r}.")
        if not all(value > 0 for value in self.std):
            raise DataError(f"image_std and video_std must be above 0, got {self.std!r}.")


def find_items(store: Store, inputs: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """The store's items by input (`image`, `video`) and patient, sorted."""
    table = store.items
    found: dict[str, dict[str, list[str]]] = {}
    for key in inputs:
        items = table[table["modality"] == MODALITY[key]].sort_values("item_id")
        of_patient = found[key] = {}
        for patient, item in zip(items["patient_id"], items["item_id"], strict=True):
            of_patient.setdefault(str(patient), []).append(item)
    return found


def patients_of(store: Store, items: Mapping[str, Mapping[str, Sequence[str]]]) -> tuple[str, ...]:
    """All patients of a store of new ones who have an item, sorted.

    Args:
        store: The store.
        items: As `find_items` gives them.

    Raises:
        DataError: If there are none.
    """
    patients = sorted({patient for of_patient in items.values() for patient in of_patient})
    if not patients:
        modalities = " or ".join(MODALITY[key] for key in items)
        got = ", ".join(sorted(set(store.items["modality"])))
        raise DataError(
            f"new patients must have items of modality {modalities}, got {got} only. Add "
            "such files, or take a model of another modality."
        )
    return tuple(patients)


def read_times(
    store: Store, index: Callable[[str], Index], item_ids: Iterable[str]
) -> dict[str, ClipTimes]:
    """Curve, rate, arrival and peak by clip.

    Args:
        store: The store.
        index: Reads the index of a clip. Every one is read: a lost clip is found now, not amid an
            epoch.
        item_ids: The clips.

    Raises:
        DataError: If one is lost or damaged.
    """
    table = store.items.set_index("item_id").loc[list(item_ids)]
    columns = (table[name].tolist() for name in ("fps", "arrival_s", "peak_s"))
    return {
        clip: ClipTimes(
            curve=index(clip)["level"],
            fps=fps,
            arrival_s=None if math.isnan(arrival) else arrival,
            peak_s=None if math.isnan(peak) else peak,
        )
        for clip, fps, arrival, peak in zip(table.index, *columns, strict=True)
    }


def evaluation_windows(
    sampling: FrameSampling, times: ClipTimes, clip: str, *, seed: int
) -> Sequence[Window]:
    """Windows of a clip at evaluation; chance, if any, depends on seed and clip alone."""
    return sampling.draw(times, rng=np.random.default_rng((seed, *clip.encode())))
