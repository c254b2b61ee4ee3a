"""Warnings that a new patient is unlike those the model was trained on, each with its price."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluation.statistics.unlike import Region, outside
from experiments.predicting.reference import FACTS, Reference
from experiments.predicting.scoring import Scored

_ITEMS = {"image": ("image", "image"), "video": ("ceus", "clip")}
"""Of an input, the modality in a store and the word for its items."""

_COMMON = 0.05  # what so many training patients lack is nothing odd
_DISTANCES = {"mahalanobis": "apart", "nearest": "alone"}
"""Distances of `Region`, and where those of its own patients stand."""


@dataclass(frozen=True)
class Finding:
    """A warning.

    Attributes:
        check: What was looked at, as `clip fps` or `image mahalanobis`.
        text: In words.
        false_alarms: Share of training patients who would be warned of, each judged by the others.
    """

    check: str
    text: str
    false_alarms: float

    def __str__(self) -> str:
        if np.isnan(self.false_alarms):
            return self.text
        return f"{self.text} (so are {100 * self.false_alarms:.1f} % of training patients)"


def findings_of(
    facts: pd.DataFrame,
    scored: Sequence[Scored],
    references: Sequence[Reference],
    *,
    inputs: Sequence[str],
) -> dict[str, list[Finding]]:
    """What is odd, by patient.

    Args:
        facts: Of the new patients' items, as `facts_of`.
        scored: By each run.
        references: Of each run.
        inputs: Of the model, `image` and `video` or one of them.
    """
    found: dict[str, list[Finding]] = defaultdict(list)
    known, both = references[0].facts, list(zip(scored, references, strict=True))
    for key in inputs:
        modality, word = _ITEMS[key]
        own, training = (table[table["modality"] == modality] for table in (facts, known))
        if len(inputs) > 1:
            _lacking(found, facts, known, modality, word)
        if training.empty:
            continue
        for name in FACTS:
            _measured(found, own, training, name, word)
        if modality == "ceus":
            _arrival(found, own, training)
        seeds = [(each.features.get(key), ref.regions.get(key)) for each, ref in both]
        for name in _DISTANCES:
            _distance(found, seeds, name, word)
    return found


def _lacking(
    found: dict[str, list[Finding]],
    facts: pd.DataFrame,
    known: pd.DataFrame,
    modality: str,
    word: str,
) -> None:
    def lack(table: pd.DataFrame) -> pd.Series:
        return ~table["modality"].eq(modality).groupby(table["patient_id"]).any()

    share, lacking = float(lack(known).mean()), lack(facts)
    for patient in lacking.index[lacking]:
        if share < _COMMON:
            text = f"has no {word}: the score is of the rest"
            found[patient].append(Finding(f"no {word}", text, share))


def _arrival(found: dict[str, list[Finding]], own: pd.DataFrame, training: pd.DataFrame) -> None:
    def lack(table: pd.DataFrame) -> pd.Series:
        return (~table["arrival"].astype(bool)).groupby(table["patient_id"]).any()

    share, lacking = float(lack(training).mean()), lack(own)
    for patient in lacking.index[lacking]:
        if share < _COMMON:
            text = "clip shows no arrival of contrast"
            found[patient].append(Finding("no arrival", text, share))


def _measured(
    found: dict[str, list[Finding]], own: pd.DataFrame, training: pd.DataFrame, name: str, word: str
) -> None:
    training, own = training.dropna(subset=[name]), own.dropna(subset=[name])
    if training.empty or own.empty:
        return
    alarm = outside(training[name], own[name], patients=training["patient_id"])
    odd = own[alarm.unlike]
    for patient, value in zip(odd["patient_id"], odd[name], strict=True):
        text = f"{word} has a {FACTS[name].format(value)}"
        text += f", outside of {alarm.low:.4g} to {alarm.high:.4g} in training"
        found[patient].append(Finding(f"{word} {name}", text, alarm.false_alarms))


def _distance(
    found: dict[str, list[Finding]],
    seeds: Sequence[tuple[pd.DataFrame | None, Region | None]],
    name: str,
    word: str,
) -> None:
    """One distance a patient: of several seeds the mean of those, each over its training median."""
    training, new = [], []
    for features, region in seeds:
        if features is None or region is None:
            return
        own = getattr(region, _DISTANCES[name])
        scale = max(float(np.median(own)), np.finfo(float).tiny)
        training.append(own / scale)
        new.append(pd.Series(getattr(region, name)(features.to_numpy()), features.index) / scale)
    distances = pd.concat(new, axis=1).mean(axis=1)
    alarm = outside(np.mean(training, axis=0), distances, both_sides=False)
    for patient, distance in distances[alarm.unlike].items():
        text = (
            f"{word} lies far from the training patients in the space of features "
            f"({name}: {distance:.3g} of their median, beyond {alarm.high:.3g})"
        )
        found[str(patient)].append(Finding(f"{word} {name}", text, alarm.false_alarms))
