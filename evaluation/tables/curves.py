"""Tables behind the figures: ROC curves and bands, calibration, net benefit, scales of scores."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from evaluation.records.analysis import Analysis
from evaluation.statistics.calibration import (
    Calibration,
    IciInterval,
    calibration,
    calibration_curve,
    ici_interval,
)
from evaluation.statistics.checks import one_class, undefined
from evaluation.statistics.net_benefit import decision_curve
from evaluation.statistics.precision_recall import average_precision
from evaluation.statistics.recalibration import (
    Recalibration,
    cross_fitted_recalibration,
    recalibration,
)
from evaluation.statistics.roc import roc_curve
from evaluation.statistics.roc_band import roc_band
from evaluation.tables.operating import YOUDEN, Thresholds, oof_thresholds
from evaluation.tables.scores import DEPLOYED, Cell, CellScores, sigmoid

ACT_AT = np.arange(1, 100) / 100
"""Risks of the decision curves."""


def roc_rows(cells: list[CellScores]) -> list[pd.DataFrame]:
    """All points of each ROC curve: pooled out-of-fold, and the hold-out once it is open."""
    columns = ("threshold", "tp", "fp", "sensitivity", "specificity")
    return [
        _points(name, columns, None if _undefined(table) else roc_curve(*_labelled(table)))
        for name, table in _scored(cells)
    ]


def band_rows(cells: list[CellScores]) -> list[pd.DataFrame]:
    """Pointwise 95 % bands of the same curves."""
    columns = ("specificity", "low", "high")
    return [
        _points(name, columns, None if _undefined(table) else roc_band(*_labelled(table)))
        for name, table in _scored(cells)
    ]


AS_PREDICTED, RECALIBRATED = "as predicted", "recalibrated"
"""States of the probabilities in the tables of calibration."""


def calibration_rows(
    cells: list[CellScores], maps: Sequence["CellMap"]
) -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    """Figures of the calibration, and the smoothed curves, as predicted and recalibrated.

    Out-of-fold each fold is recalibrated by the map of the other folds; the deployed model on the
    hold-out by that of all out-of-fold scores. An ensemble's probabilities are those of no model.

    Args:
        cells: Scores of the cells.
        maps: Theirs, as `recalibration_maps`.
    """
    rows, curves = [], []
    named_maps = {(*m.cell, m.applies_to): m.map for m in maps}
    for name, table in _scored(cells, of_models=True):
        cell = name["architecture"], name["modality"]
        mapped = pd.Series(np.nan, index=table.index)
        for fold, own in table.groupby("fold"):
            of = named_maps[(*cell, DEPLOYED if name["part"] == "test" else str(fold))]
            mapped[own.index] = of.log_odds(own["score"])
        for state, odds in ((AS_PREDICTED, table["score"]), (RECALIBRATED, mapped)):
            named = name | {"state": state}
            if odds.isna().any():
                counts = {"patients": len(table), "events": int(table["label"].sum())}
                row = undefined(Calibration, "a fold has no map", **counts, smoother="loess")
                rows.append(named | _with_ends(row, undefined(IciInterval, "")))
                continue
            p = sigmoid(odds)
            found = calibration(table["label"], p, log_odds=odds)
            rows.append(named | _with_ends(found, ici_interval(table["label"], p)))
            curve = calibration_curve(table["label"], p)
            points = {"probability": curve.probability, "observed": curve.observed}
            curves.append(pd.DataFrame(named | points))
    return rows, curves


def _with_ends(found: Calibration, interval: IciInterval) -> dict[str, Any]:
    """Of a calibration and the intervals of its ICI: all figures, and why any is undefined."""
    ends = {name: end for name, end in asdict(interval).items() if name.endswith(("_low", "_high"))}
    reasons = dict.fromkeys(filter(None, (*found.reason.split("; "), interval.reason)))
    return asdict(found) | ends | {"reason": "; ".join(reasons)}


@dataclass(frozen=True)
class CellMap:
    """A map of a cell.

    Attributes:
        cell: Architecture and modality.
        applies_to: Name of the fold whose scores it recalibrates, or DEPLOYED.
        map: Fitted on the out-of-fold scores of the other folds, or of all.
    """

    cell: Cell
    applies_to: str
    map: Recalibration


def recalibration_maps(cells: list[CellScores]) -> list[CellMap]:
    """Of each cell the map of every fold, fitted on the others, and that of the deployed model."""
    maps = []
    for scores in cells:
        labels, odds, folds = (scores.oof[name] for name in ("label", "score", "fold"))
        by_fold = cross_fitted_recalibration(labels, odds, folds)[1]
        maps += [CellMap(scores.cell, str(fold), found) for fold, found in by_fold.items()]
        maps.append(CellMap(scores.cell, DEPLOYED, recalibration(labels, odds)))
    return maps


def recalibration_rows(maps: Sequence[CellMap]) -> list[dict[str, Any]]:
    """A row a map."""
    return [
        dict(zip(("architecture", "modality"), each.cell, strict=True))
        | {"applies_to": each.applies_to}
        | asdict(each.map)
        for each in maps
    ]


def net_benefit_rows(cells: list[CellScores]) -> list[pd.DataFrame]:
    """Decision curves over the risks of ACT_AT."""
    columns = ("threshold", "model", "treat_all", "treat_none", "avoided", "low", "high")
    tables = []
    for name, table in _scored(cells, of_models=True):
        labelled = _labelled(table, "probability")
        curve = decision_curve(*labelled, thresholds=ACT_AT) if len(table) else None
        tables.append(_points(name, columns, curve))
    return tables


def precision_recall_rows(cells: list[CellScores]) -> list[dict[str, Any]]:
    """Areas under the precision-recall curve: pooled out-of-fold, and the hold-out once open."""
    return [name | asdict(average_precision(*_labelled(table))) for name, table in _scored(cells)]


def scale_rows(
    cells: list[CellScores], analysis: Analysis, frozen: Thresholds
) -> list[dict[str, Any]]:
    """Where the scores of a cell lie in each part, and the share above Youden's threshold.

    No label is needed, so the deployed model on the hold-out can be held against the out-of-fold
    scores before it is opened: did the threshold transfer?
    """
    own = oof_thresholds(cells, analysis)
    rows = []
    for scores in cells:
        key = (*scores.cell, YOUDEN)
        threshold = frozen.get(key, own[key])
        for part, table in scores.parts().items():
            x = table["score"]
            quantiles = x.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
            names = ("q05", "q25", "q50", "q75", "q95")
            called = float((x >= threshold).mean()) if len(x) else np.nan
            rows.append(
                {
                    **scores.name,
                    "part": part,
                    "patients": len(x),
                    "mean": x.mean(),
                    "sd": x.std(),
                    **dict(zip(names, quantiles, strict=True)),
                    "threshold": threshold,
                    "called_positive": np.nan if np.isnan(threshold) else called,
                }
            )
    return rows


def _points(name: dict[str, str], columns: tuple[str, ...], curve: object) -> pd.DataFrame:
    """The fields of a curve under these names; no rows where it is None."""
    points = vars(curve).values() if curve else [np.empty(0)] * len(columns)
    return pd.DataFrame(name | dict(zip(columns, points, strict=True)))


def _labelled(table: pd.DataFrame, column: str = "score") -> tuple[pd.Series, pd.Series]:
    return table["label"], table[column]


def _undefined(table: pd.DataFrame) -> str:
    return one_class(table["label"].to_numpy() == 1)


def _scored(
    cells: list[CellScores], *, of_models: bool = False
) -> list[tuple[dict[str, str], pd.DataFrame]]:
    """Cells and parts that have labels; with `of_models` no ensemble."""
    scored = []
    for scores in cells:
        scored.append((scores.name | {"part": "oof"}, scores.oof))
        if not scores.sealed and (scores.source == DEPLOYED or not of_models):
            scored.append((scores.name | {"part": "test"}, scores.test))
    return scored
