"""From predictions to the numbers of a comparison: tidy tables, from which every figure is made.

A cell is an architecture × a modality. Its patients have one score each: the mean over seeds of the
log-odds of the predicted probability.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from evaluation.records.runs import Sweep
from evaluation.records.study import Study, read_study, training_table
from evaluation.statistics.auc import AucInterval, auc_interval, logit_interval
from evaluation.statistics.checks import one_class
from evaluation.statistics.cross_validated import cv_auc
from evaluation.statistics.roc import youden_threshold
from evaluation.tables.cohort import characteristics_table, flow_table
from evaluation.tables.comparisons import compare, primary_pair, select_architectures
from evaluation.tables.curves import (
    band_rows,
    calibration_rows,
    net_benefit_rows,
    roc_rows,
    scale_rows,
)
from evaluation.tables.operating import COUNTS, Thresholds, called, calls, operating_points
from evaluation.tables.planning import planning
from evaluation.tables.scores import DEPLOYED, SEALED, CellScores, cell_scores, progress


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All numbers of an evaluation, tidy; NaN where undefined, with `reason` saying why.

    Attributes:
        runs: One row a listed run, and how it stands.
        cells: One row an architecture × modality, from out-of-fold scores.
        folds: One row a fold of a cell.
        modalities: Means over the architectures whose cell is complete.
        aucs: Each AUC with its interval: train (apparent), out-of-fold and test side by side.
        operating: Sensitivity and the like at each operating point, with exact intervals.
        comparisons: Differences between cells: primary contrast and families after Holm.
        test: One row a cell on the hold-out; without labels only the number of patients.
        patients: One row a patient of a cell and part: score, threshold and call.
        roc: Points of the ROC curves, pooled out-of-fold and test.
        roc_bands: Pointwise bands of them.
        calibration: Do the probabilities agree with the rates?
        calibration_curves: Smoothed rates over the probabilities.
        net_benefit: Decision curves.
        scales: Where scores lie in each part: did the threshold transfer?
        planning: What a cohort of this size can show, and the optimism of choosing.
        flow: From the rows of the cohort table to the patients scored.
        characteristics: Who the patients are, by split and label.
        training: One row a run: epochs, the chosen one and its figures.
    """

    runs: pd.DataFrame
    cells: pd.DataFrame
    folds: pd.DataFrame
    modalities: pd.DataFrame
    aucs: pd.DataFrame
    operating: pd.DataFrame
    comparisons: pd.DataFrame
    test: pd.DataFrame
    patients: pd.DataFrame
    roc: pd.DataFrame
    roc_bands: pd.DataFrame
    calibration: pd.DataFrame
    calibration_curves: pd.DataFrame
    net_benefit: pd.DataFrame
    scales: pd.DataFrame
    planning: pd.DataFrame
    flow: pd.DataFrame
    characteristics: pd.DataFrame
    training: pd.DataFrame


def make_tables(
    sweep: Sweep,
    *,
    study: Study | None = None,
    test_labels: Mapping[str, int] | None = None,
    test_thresholds: Thresholds | None = None,
) -> Tables:
    """Compute all tables.

    Args:
        sweep: As read.
        study: The rest of the folder; read if not given.
        test_labels: 0/1 by patient of the hold-out; None while the test set is sealed.
        test_thresholds: By (architecture, modality, rule), frozen when the test set was opened.
    """
    frozen = test_thresholds or {}
    scores = cell_scores(sweep, test_labels)
    folds = [row for each in scores for row in _folds(each)]
    cells = _table([_cell(each, folds) for each in scores])
    selected = select_architectures(cells)
    mine = zip(cells["architecture"], cells["modality"], strict=True)
    cells["selected"] = [selected.get(modality) == name for name, modality in mine]
    complete = cells[cells["complete"] & cells["fold_mean_auc"].notna()]
    aucs = {
        (row["architecture"], row["modality"]): row["fold_mean_auc"]
        for row in complete.to_dict("records")
    }
    calibration, curves = calibration_rows(scores)
    patients = _joined([_patients(each, part, frozen) for each in scores for part in _SCORED])
    study = study or read_study(sweep)
    return Tables(
        runs=pd.DataFrame([asdict(run) for run in sweep.runs]),
        cells=cells,
        # A sweep without folds has the columns of the table all the same.
        folds=_table(folds or [_fold(scores[0], calls(scores[0], "oof", {}), "")]).iloc[
            : len(folds)
        ],
        modalities=_modalities(cells),
        aucs=_table([row for each in scores for row in _aucs(each)]),
        operating=_table(operating_points(scores, sweep.analysis, frozen)),
        comparisons=compare(scores, sweep.analysis, frozen, selected),
        test=_table([_test(each, frozen) for each in scores]),
        patients=patients,
        roc=_joined(roc_rows(scores)),
        roc_bands=_joined(band_rows(scores)),
        calibration=_table(calibration),
        calibration_curves=_joined(curves),
        net_benefit=_joined(net_benefit_rows(scores)),
        scales=_table(scale_rows(scores, sweep.analysis, frozen)),
        planning=planning(scores, aucs, primary_pair(sweep.analysis, selected)),
        flow=flow_table(study, patients, test_labels),
        characteristics=characteristics_table(study, test_labels),
        training=training_table(study),
    )


_SCORED = ("oof", "test")


def _folds(scores: CellScores) -> list[dict[str, Any]]:
    """A row for each listed fold."""
    patients, names = calls(scores, "oof", {}), {run.fold for run in scores.fold_runs}
    return [_fold(scores, patients, name) for name in sorted(names, key=lambda n: (len(n), n))]


def _fold(scores: CellScores, patients: pd.DataFrame, fold: str) -> dict[str, Any]:
    """The patients of a fold, cut at the threshold of the other folds."""
    mine, others = patients[patients["fold"] == fold], patients[patients["fold"] != fold]
    auc = auc_interval(mine["label"], mine["score"])
    reasons = [auc.reason if np.isnan(auc.auc) else ""]
    if len(mine) and (reason := one_class(others["label"].to_numpy() == 1)):
        reasons.append(f"no threshold from the other folds: {reason}")
    return {
        **scores.name,
        "fold": fold,
        **progress([run for run in scores.fold_runs if run.fold == fold]),
        "patients": len(mine),
        "events": int(mine["label"].sum()),
        "auc": auc.auc,
        "threshold": mine["threshold"].iloc[0] if len(mine) else nan,
        **called(mine["label"], mine["score"], mine["threshold"]),
        "reason": "; ".join(filter(None, reasons)),
    }


def _cell(scores: CellScores, folds: list[dict[str, Any]]) -> dict[str, Any]:
    patients = calls(scores, "oof", {})
    labels, values = patients["label"], patients["score"]
    mine = [row for row in folds if scores.name.items() <= row.items()]
    scored = [row for row in mine if row["patients"]]
    aucs = np.array([row["auc"] for row in scored])
    headline = cv_auc(labels, values, patients["fold"])
    pooled = auc_interval(labels, values)
    undefined = [f"fold {row['fold']}: {row['reason']}" for row in scored if row["reason"]]
    done = progress(scores.fold_runs)
    return {
        **scores.name,
        "complete": 0 < done["runs_done"] == done["runs_expected"],
        **done,
        "folds_done": sum(row["runs_done"] == row["runs_expected"] for row in mine),
        "folds_expected": len(mine),
        "patients": len(patients),
        "events": int(labels.sum()),
        "fold_mean_auc": headline.auc,
        "fold_mean_variance": headline.variance,
        "fold_mean_low": headline.low,
        "fold_mean_high": headline.high,
        "fold_sd_auc": aucs.std(ddof=1) if aucs.size > 1 else nan,
        "pooled_auc": pooled.auc,
        "pooled_variance": pooled.variance,
        "pooled_low": pooled.low,
        "pooled_high": pooled.high,
        **called(labels, values, patients["threshold"]),
        "oof_threshold": nan if np.isnan(pooled.auc) else youden_threshold(labels, values),
        "reason": "; ".join(filter(None, [pooled.reason, *undefined])),
    }


def _aucs(scores: CellScores) -> list[dict[str, Any]]:
    """Every AUC of a cell: train (apparent), out-of-fold twice, and the hold-out."""
    train = [
        auc_interval(mine["label"], mine["score"]).auc
        for _, mine in scores.train.groupby("fold", sort=True)
    ]
    overlap = "the folds share their training patients: no interval"
    apparent = AucInterval(
        auc=float(np.mean(train)) if train else nan,
        variance=nan,
        low=nan,
        high=nan,
        level=0.95,
        method="none",
        reason=overlap if train else "no patients",
    )
    oof, test = scores.oof, scores.test
    pooling = "secondary: pooling mixes models"
    found = [
        ("train", "fold mean", "apparent", scores.train.drop_duplicates("patient_id"), apparent),
        ("oof", "fold mean", "headline", oof, cv_auc(oof["label"], oof["score"], oof["fold"])),
        ("oof", "pooled", pooling, oof, auc_interval(oof["label"], oof["score"])),
        ("test", scores.source, "test", test, _test_auc(scores)),
    ]
    if scores.source == DEPLOYED:
        mine = scores.train_deployed
        own = auc_interval(mine["label"], mine["score"])
        found.insert(1, ("train", DEPLOYED, "apparent", mine, own))
    rows = []
    for part, estimator, standing, table, auc in found:
        sealed = auc.reason == SEALED
        rows.append(
            {
                **scores.name,
                "part": part,
                "estimator": estimator,
                "standing": SEALED if sealed else standing,
                "patients": len(table),
                "events": None if sealed else int(table["label"].sum()),
                "auc": auc.auc,
                "variance": auc.variance,
                "low": auc.low,
                "high": auc.high,
                **_logit_ends(auc),
                "method": auc.method,
                "reason": auc.reason,
            }
        )
    return rows


def _logit_ends(auc: AucInterval) -> dict[str, float]:
    """The interval on the log-odds beside DeLong's, which a small cohort's may clip at 1."""
    ends = logit_interval(auc.auc, auc.variance, level=auc.level)
    return {
        f"logit_{name}": float(end) if auc.method == "wald" else nan
        for name, end in zip(("low", "high"), ends, strict=True)
    }


def _test_auc(scores: CellScores) -> AucInterval:
    if scores.sealed:
        return replace(auc_interval([], []), reason=SEALED)
    return auc_interval(scores.test["label"], scores.test["score"])


def _test(scores: CellScores, frozen: Thresholds) -> dict[str, Any]:
    """The deployed model if the sweep lists one, else the mean of the fold models."""
    auc, patients = _test_auc(scores), calls(scores, "test", frozen)
    threshold = patients["threshold"].iloc[0] if len(patients) and not scores.sealed else nan
    cut = np.full(0 if scores.sealed else len(patients), threshold)
    return {
        **scores.name,
        "source": scores.source,
        **progress(scores.tested_runs),
        "patients": len(patients),
        "events": None if scores.sealed else int(patients["label"].sum()),
        "auc": auc.auc,
        "variance": auc.variance,
        "low": auc.low,
        "high": auc.high,
        "threshold": threshold,
        **called(patients["label"], patients["score"], cut),
        "reason": auc.reason,
    }


def _patients(scores: CellScores, part: str, frozen: Thresholds) -> pd.DataFrame:
    table = calls(scores, part, frozen)
    for at, (name, value) in enumerate((scores.name | {"part": part}).items()):
        table.insert(at, name, value)
    return table


def _modalities(cells: pd.DataFrame) -> pd.DataFrame:
    figures = ["fold_mean_auc", "pooled_auc", "sensitivity", "specificity", "accuracy"]
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


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    # Int64, because a count that is not known would turn its whole column into floats.
    table = pd.DataFrame(rows)
    return table.astype({name: "Int64" for name in (*COUNTS, "events") if name in table})


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables below each other; empty ones would take part in choosing the types of the columns."""
    return pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
