"""Figures of the selected and the primary cells within centres and other groups of patients."""

from collections.abc import Iterator
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from evaluation.records.analysis import MEAN, SELECTED, Analysis
from evaluation.records.study import Study
from evaluation.statistics.auc import auc_interval
from evaluation.statistics.calibration import calibration
from evaluation.tables.cohort import MAX_LEVELS, is_measured
from evaluation.tables.scores import CellScores

_FIGURES = ("auc", "low", "high", "intercept", "intercept_low", "intercept_high", "slope",
            "slope_low", "slope_high")  # fmt: skip
COLUMNS = (
    "covariate", "level", "architecture", "modality", "part", "patients", "events", *_FIGURES,
    "reason",
)  # fmt: skip


def subgroup_table(
    cells: list[CellScores], selected: dict[str, str], study: Study, analysis: Analysis
) -> pd.DataFrame:
    """A row a level of each kept covariate, cell and part whose labels are known.

    AUCs are pooled over folds, of the first partition, with DeLong's interval: a level may be too
    small for one in each fold. Measured numbers (`is_measured`) are cut at the median of the
    development patients. A level with fewer events or non-events than declared has counts
    alone.

    Args:
        cells: All of them.
        selected: Architecture by modality.
        study: With the patients' covariates.
        analysis: With the fewest events and non-events of a level, and the primary contrast.
    """
    rows = []
    patients = study.patients
    for name in study.covariates:
        for scores in _chosen(cells, selected, analysis):
            parts = {"oof": scores.oof} | ({} if scores.sealed else {"test": scores.test})
            development = patients.loc[patients.index.isin(scores.oof["patient_id"]), name]
            for part, table in parts.items():
                values = table["patient_id"].map(patients[name])
                for level, mine in _levels(values, development):
                    where = {"covariate": name, "level": level} | scores.name | {"part": part}
                    rows.append(where | _figures(table[mine], analysis))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"events": "Int64", "patients": "Int64"} | dict.fromkeys(_FIGURES, float))


def _chosen(
    cells: list[CellScores], selected: dict[str, str], analysis: Analysis
) -> list[CellScores]:
    wanted = {(architecture, modality) for modality, architecture in selected.items()}
    if analysis.primary and analysis.primary.architecture not in (MEAN, SELECTED):
        wanted |= {(analysis.primary.architecture, m) for m in analysis.primary.modalities}
    order = list(dict.fromkeys(scores.modality for scores in cells))
    chosen = [scores for scores in cells if scores.cell in wanted]
    return sorted(chosen, key=lambda scores: order.index(scores.modality))


def _levels(values: pd.Series, development: pd.Series) -> Iterator[tuple[str, pd.Series]]:
    """Names of levels, and who is of them; a covariate that may name patients has none."""
    known, every = values.replace("", None), development.replace("", None)
    if is_measured(development):
        median = float(every.astype(float).median())
        numbers = known.astype(float)
        if (every.astype(float) > median).any():
            yield f"at most {median:g}", numbers <= median
            yield f"above {median:g}", numbers > median
        else:  # half of them have the highest value there is
            yield f"below {median:g}", numbers < median
            yield f"at least {median:g}", numbers >= median
    else:
        levels = sorted(every.dropna().unique(), key=str)
        if len(levels) > MAX_LEVELS or len(levels) == every.notna().sum():
            return
        # A level of the hold-out alone is there, too.
        further = sorted(set(known.dropna().unique()) - set(levels), key=str)
        for level in [*levels, *further][: MAX_LEVELS + 1]:
            yield str(level), known == level
    if known.isna().any():
        yield "missing", known.isna()


def _figures(table: pd.DataFrame, analysis: Analysis) -> dict[str, Any]:
    labels, scores = table["label"], table["score"]
    events = int(labels.sum())
    row: dict[str, Any] = {"patients": len(table), "events": events} | dict.fromkeys(_FIGURES, nan)
    least = analysis.subgroup_events, analysis.subgroup_non_events
    if events < least[0] or len(table) - events < least[1]:
        few = f"too few: at least {least[0]} events and {least[1]} non-events are asked for"
        return row | {"reason": few}
    auc = auc_interval(labels, scores)
    agreement = calibration(labels, table["probability"], log_odds=np.asarray(scores))
    row |= {name: getattr(auc, name) for name in ("auc", "low", "high")}
    row |= {name: getattr(agreement, name) for name in _FIGURES[3:]}
    return row | {"reason": "; ".join(filter(None, dict.fromkeys((auc.reason, agreement.reason))))}
