"""What is known of a deployed model besides its networks, and what these give."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from evaluation.records.analysis import Analysis
from experiments.errors import ConfigError


@dataclass(frozen=True)
class Ensemble:
    """A cell's deployed model: how its scores become probabilities and decisions.

    Attributes:
        sweep: Name of its sweep.
        cell: Architecture and modality.
        runs: Ids of its runs of fold `all`.
        seeds: Of each.
        shas: Hashes of store, split and predictions that it belongs to.
        prepared: How files are prepared: `canvas` and `as_is` of `ceus prepare`.
        intercept: Of the recalibration map of log-odds; NaN where there is none.
        slope: Of the same.
        no_map: Why there is none; "" if there is.
        thresholds: Log-odds from which a patient is called positive, by rule; NaN if undefined.
        frozen: Whether an opening of the test set froze them.
        sealed: Whether the sweep's test set is.
        analysis: What the sweep declared before training.
    """

    sweep: str
    cell: tuple[str, str]
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    shas: Mapping[str, str]
    prepared: Mapping[str, Any]
    intercept: float
    slope: float
    no_map: str
    thresholds: Mapping[str, float]
    frozen: bool
    sealed: bool
    analysis: Analysis


@dataclass(frozen=True)
class Scored:
    """Patients as one run scores them.

    Attributes:
        score: Log-odds by patient, the weighting of the loss undone, sorted.
        items: How many items of each were scored.
        features: By input and patient, what its encoder gives, the mean over rows; `(patients, F)`.
            Without an input that gave none.
    """

    score: pd.Series
    items: pd.Series
    features: Mapping[str, pd.DataFrame]


def require_finite(logits: pd.Series, run_id: str) -> None:
    """Raises ConfigError unless all logits are finite."""
    if not logits.abs().lt(float("inf")).all():
        raise ConfigError(
            f"logits must be finite, got NaN or infinity ({run_id}). Is the input of the kind "
            "that the model was trained on?"
        )
