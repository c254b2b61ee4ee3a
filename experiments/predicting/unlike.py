"""Warnings that a new patient is unlike those the model was trained on, each with its price."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluation.statistics.unlike import Region, outside
from experiments.predicting.ensemble import Scored
from experiments.predicting.facts import ARRIVAL, FACTS, ITEMS, Limit, lacking, without_arrival

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


def odd_facts(
    facts: pd.DataFrame, limits: Mapping[str, Limit], inputs: Sequence[str]
) -> dict[str, list[Finding]]:
    """What is odd about files, by patient.

    Args:
        facts: Of the new patients' items, as `facts_of`.
        limits: Of the training patients, as `limits_of`.
        inputs: Of the model, `image` and `video` or one of them.
    """
    found: dict[str, list[Finding]] = defaultdict(list)

    def tell(patients: pd.Series, check: str, text: str) -> None:
        for patient in patients.index[patients] if check in limits else ():
            found[patient].append(Finding(check, text, limits[check].false_alarms))

    for key in inputs:
        modality, word = ITEMS[key]
        own = facts[facts["modality"] == modality]
        tell(lacking(facts, modality), f"no {word}", f"has no {word}: the score is of the rest")
        for name, words in FACTS.items():
            if (limit := limits.get(f"{word} {name}")) is None:
                continue
            odd = own[(own[name] < limit.low) | (own[name] > limit.high)]
            for patient, value in zip(odd["patient_id"], odd[name], strict=True):
                text = f"{word} has a {words.format(value)}"
                text += f", outside of {limit.low:.4g} to {limit.high:.4g} in training"
                found[patient].append(Finding(f"{word} {name}", text, limit.false_alarms))
        if modality == "ceus":
            tell(without_arrival(own), ARRIVAL, "clip shows no arrival of contrast")
    return found


def far_features(
    scored: Sequence[Scored], regions: Sequence[Mapping[str, Region]], inputs: Sequence[str]
) -> dict[str, list[Finding]]:
    """Whose features lie far from those of training, by patient.

    Args:
        scored: By each run.
        regions: Of each run, by input.
        inputs: Of the model.
    """
    found: dict[str, list[Finding]] = defaultdict(list)
    for key in inputs:
        seeds = [
            (each.features.get(key), own.get(key))
            for each, own in zip(scored, regions, strict=True)
        ]
        for name in _DISTANCES:
            _distance(found, seeds, name, ITEMS[key][1])
    return found


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
