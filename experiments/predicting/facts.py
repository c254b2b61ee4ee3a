"""What is measured of a patient's files, and the limits within which those of training lie."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from datamodules import Store
from datamodules.store.clip_file import read_index
from evaluation.statistics.unlike import outside

FACTS = {
    "width": "frame width of {:.0f} pixels",
    "height": "frame height of {:.0f} pixels",
    "fps": "rate of {:.3g} frames/s",
    "seconds": "length of {:.3g} s",
    "brightness": "mean grey level of {:.3g}",
}
"""Measured of a file, and what a warning calls it."""

ITEMS = {"image": ("image", "image"), "video": ("ceus", "clip")}
"""Of an input, the modality in a store and the word for its items."""

COMMON = 0.05  # what so many training patients lack is nothing odd
ARRIVAL = "no arrival"


@dataclass(frozen=True)
class Limit:
    """Beyond what a file is unlike those of training, and what the rule costs.

    Attributes:
        false_alarms: Share of training patients beyond, each judged by the others; NaN with one.
        low: Least value; NaN where nothing is measured, but something lacking.
        high: Largest value.
    """

    false_alarms: float
    low: float = nan
    high: float = nan


def facts_of(store: Store, patients: Iterable[str]) -> pd.DataFrame:
    """A row an item of these patients: patient_id, modality, the columns of FACTS, `arrival`.

    `arrival` is whether an arrival of contrast is known; of an image it says nothing, as fps.
    """
    items = store.items
    items = items[items["patient_id"].isin(set(patients))].reset_index(drop=True)
    brightness = [
        store.image(item).mean()
        if modality == "image"
        else read_index(store.item_path(item, ".idx"))["level"].mean()
        for item, modality in zip(items["item_id"], items["modality"], strict=True)
    ]
    return pd.DataFrame(
        {
            **{name: items[name] for name in ("patient_id", "modality")},
            **{name: items[name].astype(float) for name in FACTS if name in items},
            "brightness": np.asarray(brightness, float),
            "arrival": items["arrival_s"].notna(),
        }
    )


def limits_of(known: pd.DataFrame, inputs: Sequence[str]) -> dict[str, Limit]:
    """The limits of each check, as `clip fps`, `no clip` or `no arrival`; no patient is in them.

    Args:
        known: Of the training patients, as `facts_of`.
        inputs: Of the model, `image` and `video` or one of them.
    """
    limits = {}
    for key in inputs:
        modality, word = ITEMS[key]
        training = known[known["modality"] == modality]
        share = float(lacking(known, modality).mean())
        if len(inputs) > 1 and share < COMMON:
            limits[f"no {word}"] = Limit(share)
        for name in FACTS:
            values = training.dropna(subset=[name])
            if not values.empty:
                alarm = outside(values[name], [], patients=values["patient_id"])
                limits[f"{word} {name}"] = Limit(alarm.false_alarms, alarm.low, alarm.high)
        if modality == "ceus" and not training.empty:
            share = float(without_arrival(training).mean())
            if share < COMMON:
                limits[ARRIVAL] = Limit(share)
    return limits


def lacking(facts: pd.DataFrame, modality: str) -> pd.Series:
    """Whether each patient has no item of a modality."""
    return ~facts["modality"].eq(modality).groupby(facts["patient_id"]).any()


def without_arrival(clips: pd.DataFrame) -> pd.Series:
    """Whether each patient has a clip in which no arrival is known."""
    return (~clips["arrival"].astype(bool)).groupby(clips["patient_id"]).any()
