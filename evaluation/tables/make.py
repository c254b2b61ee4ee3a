"""From predictions to the numbers of a comparison: tidy tables, from which every figure is made.

A cell is an architecture × a modality. Its patients have one score each: the mean over seeds of the
log-odds of the predicted probability.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from evaluation.records.runs import Sweep
from evaluation.records.study import Study, read_study, training_table
from evaluation.tables.cells import (
    auc_rows,
    cell_row,
    fold_row,
    fold_rows,
    holdout_row,
    modality_means,
)
from evaluation.tables.cohort import characteristics_table, flow_table
from evaluation.tables.comparisons import compare, primary_contrast, select_architectures
from evaluation.tables.complete import complete_table
from evaluation.tables.curves import (
    band_rows,
    calibration_rows,
    net_benefit_rows,
    precision_recall_rows,
    recalibration_maps,
    recalibration_rows,
    roc_rows,
    scale_rows,
)
from evaluation.tables.net_benefit import net_benefit_contrast
from evaluation.tables.operating import COUNTS, Thresholds, calls, operating_points
from evaluation.tables.planning import planning
from evaluation.tables.sample_size import sample_size
from evaluation.tables.scores import CellScores, cell_scores
from evaluation.tables.stability import stability_tables
from evaluation.tables.subgroups import subgroup_table


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All numbers of an evaluation, tidy; NaN where undefined, with `reason` saying why.

    Attributes:
        runs: One row a listed run, and how it stands.
        cells: One row an architecture × modality, from out-of-fold scores.
        folds: One row a fold of a cell.
        modalities: Means over the architectures whose cell is complete, and the best of them, naive
            and corrected for the choice.
        aucs: Each AUC with its interval: train (apparent), out-of-fold and test side by side.
        operating: Sensitivity and the like, F1 and MCC at each operating point, with intervals and
            the range over folds.
        comparisons: Differences between cells: primary contrast and families after Holm.
        complete: The primary contrast and cells on all patients, and on those with every modality.
        test: One row a cell on the hold-out; without labels only the number of patients.
        patients: One row a patient of a cell and part: score, threshold and call.
        roc: Points of the ROC curves, pooled out-of-fold and test.
        roc_bands: Pointwise bands of them.
        precision_recall: Areas under the precision-recall curves, with the prevalence.
        calibration: Do the probabilities agree with the rates, as predicted and recalibrated?
        calibration_curves: Smoothed rates over the probabilities.
        net_benefit: Decision curves.
        instability: One row a patient whom several models of a cell score out-of-fold: how far
            their predictions lie apart.
        instability_models: What each of these models predicts, beside the mean of them.
        subgroups: The selected and the primary cells by centre and other kept covariates.
        recalibration: Maps from log-odds to recalibrated ones, of each fold and of the deployed
            model.
        net_benefit: Decision curves with pointwise intervals.
        net_benefit_contrast: The primary contrast in net benefit, over the declared range.
        scales: Where scores lie in each part: did the threshold transfer?
        planning: What a cohort of this size can show, and the optimism of choosing.
        sample_size: Riley's criteria: how many patients are needed, and whether they are there.
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
    complete: pd.DataFrame
    test: pd.DataFrame
    patients: pd.DataFrame
    roc: pd.DataFrame
    roc_bands: pd.DataFrame
    precision_recall: pd.DataFrame
    calibration: pd.DataFrame
    calibration_curves: pd.DataFrame
    recalibration: pd.DataFrame
    net_benefit: pd.DataFrame
    instability: pd.DataFrame
    instability_models: pd.DataFrame
    subgroups: pd.DataFrame
    net_benefit_contrast: pd.DataFrame
    scales: pd.DataFrame
    planning: pd.DataFrame
    sample_size: pd.DataFrame
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
    frozen, study = test_thresholds or {}, study or read_study(sweep)
    scores = cell_scores(sweep, test_labels)
    folds = [row for each in scores for row in fold_rows(each)]
    cells = _table([cell_row(each, folds) for each in scores])
    selected = select_architectures(cells)
    cells["selected"] = cells["architecture"] == cells["modality"].map(selected)
    complete = cells[cells["complete"] & cells["fold_mean_auc"].notna()]
    names = zip(complete["architecture"], complete["modality"], strict=True)
    aucs = dict(zip(names, complete["fold_mean_auc"], strict=True))
    primary = primary_contrast(scores, sweep.analysis, selected)
    maps = recalibration_maps(scores)
    calibration, curves = calibration_rows(scores, maps)
    parts = ("oof", "test")
    patients = _joined([_patients(each, part, frozen) for each in scores for part in parts])
    models, instability = stability_tables(scores)
    return Tables(
        runs=pd.DataFrame([asdict(run) for run in sweep.runs]),
        cells=cells,
        # A sweep without folds has the columns of the table all the same.
        folds=_table(folds or [fold_row(scores[0], calls(scores[0], "oof", {}), "")])[: len(folds)],
        modalities=modality_means(cells, scores),
        aucs=_table([row for each in scores for row in auc_rows(each)]),
        operating=_table(operating_points(scores, sweep.analysis, frozen)),
        comparisons=compare(scores, frozen, sweep.analysis, primary),
        complete=complete_table(scores, primary, study),
        test=_table([holdout_row(each, frozen) for each in scores]),
        patients=patients,
        roc=_joined(roc_rows(scores)),
        roc_bands=_joined(band_rows(scores)),
        precision_recall=_table(precision_recall_rows(scores)),
        calibration=_table(calibration),
        calibration_curves=_joined(curves),
        recalibration=_table(recalibration_rows(maps)),
        net_benefit=_joined(net_benefit_rows(scores)),
        instability=instability,
        instability_models=models,
        subgroups=subgroup_table(scores, selected, study, sweep.analysis),
        net_benefit_contrast=net_benefit_contrast(primary, sweep.analysis),
        scales=_table(scale_rows(scores, sweep.analysis, frozen)),
        planning=planning(scores, aucs, primary),
        sample_size=sample_size(scores, aucs),
        flow=flow_table(study, patients, test_labels),
        characteristics=characteristics_table(study, test_labels),
        training=training_table(study),
    )


def _patients(scores: CellScores, part: str, frozen: Thresholds) -> pd.DataFrame:
    table = calls(scores, part, frozen)
    for at, (name, value) in enumerate((scores.name | {"part": part}).items()):
        table.insert(at, name, value)
    return table


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    # Int64, because a count that is not known would turn its whole column into floats.
    table = pd.DataFrame(rows)
    return table.astype({name: "Int64" for name in (*COUNTS, "events") if name in table})


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables below each other; empty ones would take part in choosing the types of the columns."""
    return pd.concat([each for each in tables if len(each)] or tables[:1], ignore_index=True)
