"""Rows of cells: folds, out-of-fold figures, AUCs side by side, and figures on the hold-out."""

from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from evaluation.records.schema import repeat_of
from evaluation.statistics.auc import AucInterval, auc_interval, logit_interval
from evaluation.statistics.checks import one_class, undefined
from evaluation.statistics.cross_validated import cv_auc
from evaluation.statistics.repeated import repeated_cv_auc
from evaluation.statistics.roc import youden_threshold
from evaluation.statistics.selection import best_of
from evaluation.tables.operating import Thresholds, called, calls
from evaluation.tables.scores import DEPLOYED, SEALED, CellScores, partitions_of, progress


def fold_rows(scores: CellScores) -> list[dict[str, Any]]:
    """A row for each listed fold of each partition."""
    rows = []
    for repeat in scores.oof_by_repeat:
        patients = calls(scores, "oof", {}, repeat=repeat)
        names = {run.fold for run in scores.fold_runs if repeat_of(run.fold) == repeat}
        rows += [fold_row(scores, patients, name) for name in sorted(names, key=_number)]
    return rows


def _number(fold: str) -> tuple[int, str]:
    return len(fold), fold


def fold_row(scores: CellScores, patients: pd.DataFrame, fold: str) -> dict[str, Any]:
    """A fold's out-of-fold patients (of `calls`), cut at the quantile of its partition's others."""
    inside, others = patients[patients["fold"] == fold], patients[patients["fold"] != fold]
    auc = auc_interval(inside["label"], inside["score"])
    # Without a variance: one class, or a single patient of one.
    reasons = [auc.reason if np.isnan(auc.variance) else ""]
    if len(inside) and (reason := one_class(others["label"].to_numpy() == 1)):
        reasons.append(f"no threshold from the other folds: {reason}")
    return {
        **scores.name,
        "fold": fold,
        "repeat": repeat_of(fold),
        **progress([run for run in scores.fold_runs if run.fold == fold]),
        "patients": len(inside),
        "events": int(inside["label"].sum()),
        "auc": auc.auc,
        "threshold": inside["threshold"].iloc[0] if len(inside) else nan,
        **called(inside["label"], inside["score"], inside["threshold"]),
        "reason": "; ".join(filter(None, reasons)),
    }


def cell_row(scores: CellScores, folds: list[dict[str, Any]]) -> dict[str, Any]:
    """The out-of-fold figures of a cell, and of its folds, rows of `fold_rows` of any cells."""
    patients = calls(scores, "oof", {})
    labels, values = patients["label"], patients["score"]
    listed = [row for row in folds if scores.name.items() <= row.items()]
    scored = [row for row in listed if row["patients"]]
    aucs = np.array([row["auc"] for row in scored])
    pooled = auc_interval(labels, values)
    reasons = [f"fold {row['fold']}: {row['reason']}" for row in scored if row["reason"]]
    done = progress(scores.fold_runs)
    return {
        **scores.name,
        "complete": 0 < done["runs_done"] == done["runs_expected"],
        **done,
        "folds_done": sum(row["runs_done"] == row["runs_expected"] for row in listed),
        "folds_expected": len(listed),
        "repeats": len(scores.oof_by_repeat),
        "patients": len(patients),
        "events": int(labels.sum()),
        **_interval(oof_auc(scores), prefix="fold_mean_"),
        "fold_sd_auc": aucs.std(ddof=1) if aucs.size > 1 else nan,
        **_interval(pooled, prefix="pooled_"),
        **called(labels, values, patients["threshold"]),
        "oof_threshold": nan if np.isnan(pooled.auc) else youden_threshold(labels, values),
        "reason": "; ".join(filter(None, [pooled.reason, *reasons])),
    }


def oof_auc(scores: CellScores) -> AucInterval:
    """The headline: the mean over folds and, where there are several, over partitions."""
    partitions = partitions_of([scores]) if len(scores.oof_by_repeat) > 1 else []
    if len(partitions) > 1:
        return repeated_cv_auc(partitions)
    oof = next((t for t in scores.oof_by_repeat.values() if len(t)), scores.oof)
    return cv_auc(oof["label"], oof["score"], oof["fold"])


def auc_rows(scores: CellScores) -> list[dict[str, Any]]:
    """Every AUC of a cell: train (apparent), out-of-fold twice, and the hold-out."""
    oof, test, train = scores.oof, scores.test, scores.train.drop_duplicates("patient_id")
    pooling = "secondary: pooling mixes models"
    estimates = [
        ("train", "fold mean", "apparent", train, _apparent(scores)),
        ("oof", "fold mean", "headline", oof, oof_auc(scores)),
        ("oof", "pooled", pooling, oof, auc_interval(oof["label"], oof["score"])),
        ("test", scores.source, "test", test, _test_auc(scores)),
    ]
    if scores.source == DEPLOYED:
        own = scores.train_deployed
        auc = auc_interval(own["label"], own["score"])
        estimates.insert(1, ("train", DEPLOYED, "apparent", own, auc))
    rows = []
    for part, estimator, standing, table, auc in estimates:
        sealed = auc.reason == SEALED
        rows.append(
            {
                **scores.name,
                "part": part,
                "estimator": estimator,
                "standing": SEALED if sealed else standing,
                "patients": len(table),
                "events": None if sealed else int(table["label"].sum()),
                **_interval(auc),
                **_logit_ends(auc),
                "method": auc.method,
                "reason": auc.reason,
            }
        )
    return rows


def holdout_row(scores: CellScores, frozen: Thresholds) -> dict[str, Any]:
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
        **_interval(auc),
        "threshold": threshold,
        **called(patients["label"], patients["score"], cut),
        "reason": auc.reason,
    }


def modality_means(cells: pd.DataFrame, scores: list[CellScores]) -> pd.DataFrame:
    """A row a modality: means over the architectures whose runs are all done, and the best of them.

    `best_auc` is the naive fold-mean AUC of the best, `best_corrected` the same after the choice is
    allowed for (`best_of`), with its interval; of the architectures that could have been chosen.
    """
    figures = ["fold_mean_auc", "pooled_auc", "sensitivity", "specificity", "accuracy"]
    rows = []
    for modality, listed in cells.groupby("modality", sort=False):
        complete = listed[listed["complete"]]
        counts = {"architectures": len(complete), "architectures_expected": len(listed)}
        means = {name: complete[name].mean(skipna=False) for name in figures}
        reason = "; ".join(filter(None, dict.fromkeys(complete["reason"])))
        best = _best(complete, scores)
        rows.append({"modality": modality} | counts | means | best | {"reason": reason})
    return pd.DataFrame(rows)


def _best(complete: pd.DataFrame, scores: list[CellScores]) -> dict[str, Any]:
    names = set(zip(complete["architecture"], complete["modality"], strict=True))
    members = [each for each in scores if each.cell in names]
    row = dict.fromkeys(("best_auc", "optimism", "best_corrected", "best_low", "best_high"), nan)
    if not members:
        return {"best": None} | row
    # On the patients that all of them scored, which are fewer where one lists fewer folds.
    tables = [each.oof.set_index("patient_id") for each in members]
    shared = pd.concat([table["score"] for table in tables], axis=1, join="inner")
    known = tables[0].loc[shared.index]
    best = best_of(known["label"], shared.to_numpy(np.float64).T, known["fold"])
    chosen = members[best.model].architecture if best.model >= 0 else None
    figures = (best.naive, best.optimism, best.auc, best.low, best.high)
    return {"best": chosen} | dict(zip(row, figures, strict=True))


def _interval(auc: AucInterval, prefix: str = "") -> dict[str, float]:
    return {f"{prefix}{name}": getattr(auc, name) for name in ("auc", "variance", "low", "high")}


def _apparent(scores: CellScores) -> AucInterval:
    """Mean of the fold models' AUCs on their own training patients."""
    folds = scores.train.groupby("fold", sort=True)
    aucs = [auc_interval(own["label"], own["score"]).auc for _, own in folds]
    reason = "the folds share their training patients: no interval" if aucs else "no patients"
    mean = float(np.mean(aucs)) if aucs else nan
    return undefined(AucInterval, reason, auc=mean, level=0.95, method="none")


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
