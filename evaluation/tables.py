"""From predictions to the numbers of a comparison: one row a cell, a fold, a modality.

A cell is an architecture × a modality. Its patients have one score each: the mean over seeds of the
log-odds of the predicted probability.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from evaluation.auc import auc_interval
from evaluation.checks import one_class
from evaluation.runs import Run, Sweep
from evaluation.thresholds import (
    confusion,
    cross_fitted_thresholds,
    roc_curve,
    youden_threshold,
)

DEPLOYED = "deployed model"
ENSEMBLE = "ensemble of fold models"
SEALED = "sealed"

Cell = tuple[str, str]

_COUNTS = ("tp", "fn", "tn", "fp")
_RATES = ("sensitivity", "specificity", "accuracy")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All numbers of an evaluation, tidy; NaN where undefined, with `reason` saying why.

    Attributes:
        cells: One row an architecture × modality, from out-of-fold scores.
        folds: One row a fold of a cell.
        modalities: Means over the architectures whose cell is complete.
        patients: One row a patient of a cell: its out-of-fold score, threshold and call.
        roc: Points of the pooled out-of-fold ROC curve of each cell.
        test: One row a cell on the hold-out; without labels only the number of patients.
    """

    cells: pd.DataFrame
    folds: pd.DataFrame
    modalities: pd.DataFrame
    patients: pd.DataFrame
    roc: pd.DataFrame
    test: pd.DataFrame


def make_tables(
    sweep: Sweep,
    *,
    test_labels: Mapping[str, int] | None = None,
    test_thresholds: Mapping[Cell, float] | None = None,
) -> Tables:
    """Compute all tables.

    Args:
        sweep: As read.
        test_labels: 0/1 by patient of the hold-out; None while the test set is sealed.
        test_thresholds: By (architecture, modality), frozen when the test set was opened.
    """
    oof = _mean_over_seeds(sweep.predictions, "oof")
    holdout = _mean_over_seeds(sweep.predictions, "test")
    cells, folds, patients, rocs, tests = [], [], [], [], []
    for cell, runs in _by_cell(sweep.runs).items():
        name = dict(zip(("architecture", "modality"), cell, strict=True))
        in_folds = [run for run in runs if run.fold != "all"]
        fold_rows, mine = _folds(_of_cell(oof, cell), in_folds)
        folds += [name | row for row in fold_rows]
        cells.append(name | _cell(mine, fold_rows, in_folds))
        patients.append(mine)
        rocs.append(pd.DataFrame(name | _roc(mine)))
        threshold = (test_thresholds or {}).get(cell, nan)
        tests.append(name | _test(_of_cell(holdout, cell), runs, test_labels, threshold))
    cells_table = _table(cells)
    return Tables(
        cells=cells_table,
        folds=_table(folds),
        modalities=_modalities(cells_table),
        patients=pd.concat(patients, ignore_index=True),
        roc=pd.concat(rocs, ignore_index=True),
        test=_table(tests),
    )


def _by_cell(runs: Sequence[Run]) -> dict[Cell, list[Run]]:
    cells: dict[Cell, list[Run]] = {}
    for run in runs:
        cells.setdefault((run.architecture, run.modality), []).append(run)
    return cells


def _of_cell(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    return table[(table["architecture"] == cell[0]) & (table["modality"] == cell[1])]


def _mean_over_seeds(predictions: pd.DataFrame, part: str) -> pd.DataFrame:
    rows = predictions[predictions["part"] == part]
    groups = rows.groupby(["architecture", "modality", "fold", "patient_id"], sort=True)
    scores = groups.agg(
        label=("label", "first"), seeds=("seed", "nunique"), score=("score", "mean")
    )
    return scores.assign(probability=_sigmoid(scores["score"])).reset_index()


def _folds(patients: pd.DataFrame, runs: list[Run]) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """A row for each listed fold, and the patients with the threshold and call of their fold."""
    thresholds, reasons = cross_fitted_thresholds(
        patients["label"], patients["score"], patients["fold"]
    )
    patients = patients.assign(threshold=patients["fold"].map(thresholds).astype(float))
    called = (patients["score"] >= patients["threshold"]).astype("Int64")
    patients = patients.assign(call=called.mask(patients["threshold"].isna()))
    rows = []
    for fold in sorted({run.fold for run in runs}, key=lambda name: (len(name), name)):
        mine = patients[patients["fold"] == fold]
        auc = auc_interval(mine["label"], mine["score"])
        undefined = auc.reason if np.isnan(auc.auc) else ""
        rows.append(
            {
                "fold": fold,
                **_progress([run for run in runs if run.fold == fold]),
                "patients": len(mine),
                "events": int(mine["label"].sum()),
                "auc": auc.auc,
                "threshold": thresholds.get(fold, nan),
                **_calls(mine["label"], mine["score"], mine["threshold"]),
                "reason": "; ".join(filter(None, [undefined, reasons.get(fold)])),
            }
        )
    return rows, patients


def _cell(patients: pd.DataFrame, folds: list[dict[str, Any]], runs: list[Run]) -> dict[str, Any]:
    labels, scores = patients["label"], patients["score"]
    scored = [row for row in folds if row["patients"]]
    aucs = np.array([row["auc"] for row in scored])
    pooled = auc_interval(labels, scores)
    undefined = [f"fold {row['fold']}: {row['reason']}" for row in scored if row["reason"]]
    progress = _progress(runs)
    return {
        "complete": bool(runs) and progress["runs_done"] == progress["runs_expected"],
        **progress,
        "folds_done": sum(row["runs_done"] == row["runs_expected"] for row in folds),
        "folds_expected": len(folds),
        "patients": len(patients),
        "events": int(labels.sum()),
        "fold_mean_auc": aucs.mean() if aucs.size else nan,
        "fold_sd_auc": aucs.std(ddof=1) if aucs.size > 1 else nan,
        "pooled_auc": pooled.auc,
        "pooled_variance": pooled.variance,
        "pooled_low": pooled.low,
        "pooled_high": pooled.high,
        **_calls(labels, scores, patients["threshold"]),
        "oof_threshold": nan if np.isnan(pooled.auc) else youden_threshold(labels, scores),
        "reason": "; ".join(filter(None, [pooled.reason, *undefined])),
    }


def _test(
    rows: pd.DataFrame, runs: list[Run], labels: Mapping[str, int] | None, threshold: float
) -> dict[str, Any]:
    """The deployed model if the sweep lists one, else the mean of the fold models.

    A threshold does not transfer to an ensemble of fold models: averaging narrows the scores.
    """
    deployed = [run for run in runs if run.fold == "all"]
    of = deployed or runs
    # `rows` are means over seeds, so a fold that lacks a seed weighs no less than another.
    scores = rows[rows["fold"].isin({run.fold for run in of})].groupby("patient_id")["score"].mean()
    patients = len(scores)
    sealed = labels is None
    if labels is None:
        labels, scores = {}, scores.iloc[:0]
    y = np.array([labels.get(patient, nan) for patient in scores.index])
    auc = auc_interval(y, scores)
    if sealed or not deployed:
        threshold = nan
    return {
        "source": DEPLOYED if deployed else ENSEMBLE,
        **_progress(of),
        "patients": patients,
        "events": None if sealed else int(y.sum()),
        "auc": auc.auc,
        "variance": auc.variance,
        "low": auc.low,
        "high": auc.high,
        "threshold": threshold,
        **_calls(y, scores, np.full(y.size, threshold)),
        "reason": SEALED if sealed else auc.reason,
    }


def _modalities(cells: pd.DataFrame) -> pd.DataFrame:
    figures = ["fold_mean_auc", "pooled_auc", *_RATES]
    rows = []
    for modality, mine in cells.groupby("modality", sort=False):
        complete = mine[mine["complete"]]
        means = {name: complete[name].mean(skipna=False) for name in figures}
        rows.append(
            {
                "modality": modality,
                "architectures": len(complete),
                "architectures_expected": len(mine),
                **means,
            }
        )
    return pd.DataFrame(rows)


def _roc(patients: pd.DataFrame) -> dict[str, Any]:
    if one_class(patients["label"].to_numpy() == 1):
        return dict.fromkeys(("threshold", "tp", "fp", "sensitivity", "specificity"), ())
    curve = roc_curve(patients["label"], patients["score"])
    return {
        "threshold": curve.thresholds,
        "tp": curve.true_positives,
        "fp": curve.false_positives,
        "sensitivity": curve.sensitivity,
        "specificity": curve.specificity,
    }


def _progress(runs: list[Run]) -> dict[str, int]:
    return {
        "runs_done": sum(run.state == "done" for run in runs),
        "runs_expected": len(runs),
    }


def _calls(labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike) -> dict[str, Any]:
    """Counts and rates at the thresholds, one a patient; undefined as soon as one of these is."""
    cut = np.asarray(thresholds, dtype=np.float64)
    if cut.size == 0 or np.isnan(cut).any():
        return dict.fromkeys(_COUNTS) | dict.fromkeys(_RATES, nan)
    counts = confusion(labels, scores, cut)
    return {name: getattr(counts, name) for name in _COUNTS + _RATES}


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    # Int64, because a count that is not known would turn its whole column into floats.
    table = pd.DataFrame(rows)
    return table.astype({name: "Int64" for name in (*_COUNTS, "events") if name in table})


def _sigmoid(score: pd.Series) -> pd.Series:
    # Clipped where the probability is 0 or 1 in float64 anyway and exp would overflow.
    return pd.Series(1 / (1 + np.exp(-score.clip(-700, 700))))
