"""Operating points: where a score is cut, by which rule, and what comes of it."""

from collections.abc import Mapping
from functools import partial
from math import log, nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from evaluation.records.analysis import Analysis
from evaluation.statistics.checks import one_class
from evaluation.statistics.precision_recall import f1, f1_interval, mcc, mcc_interval
from evaluation.statistics.proportions import clopper_pearson
from evaluation.statistics.roc import (
    RATES,
    Confusion,
    Rule,
    confusion,
    cross_fitted_thresholds,
    npv_threshold,
    sensitivity_threshold,
    youden_threshold,
)
from evaluation.tables.scores import SEALED, CellScores, sigmoid

YOUDEN, NPV = "youden", "NPV"

COUNTS = ("tp", "fn", "tn", "fp")

Thresholds = Mapping[tuple[str, str, str], float]
"""Log-odds from which a patient is called positive, by (architecture, modality, rule)."""


def rules(analysis: Analysis) -> dict[str, Rule | float]:
    """The operating points: rules that find a threshold, or a threshold itself (log-odds)."""
    points: dict[str, Rule | float] = {
        YOUDEN: youden_threshold,
        f"sensitivity {analysis.sensitivity:.2f}": partial(
            sensitivity_threshold, sensitivity=analysis.sensitivity
        ),
    }
    if analysis.npv is not None:
        points[f"{NPV} {analysis.npv:g}"] = partial(npv_threshold, npv=analysis.npv)
    for p in analysis.probabilities:
        points[f"probability {p:g}"] = log(p / (1 - p))
    return points


def oof_thresholds(
    cells: list[CellScores], analysis: Analysis
) -> dict[tuple[str, str, str], float]:
    """The threshold of every cell and rule over all its out-of-fold patients; NaN if undefined."""
    thresholds: dict[tuple[str, str, str], float] = {}
    for scores in cells:
        labels, values = scores.oof["label"], scores.oof["score"]
        undefined = one_class(labels.to_numpy() == 1)
        for name, rule in rules(analysis).items():
            key = (*scores.cell, name)
            if not callable(rule):
                thresholds[key] = rule
            else:
                thresholds[key] = nan if undefined else rule(labels, values)
    return thresholds


def operating_points(
    cells: list[CellScores], analysis: Analysis, frozen: Thresholds
) -> list[dict[str, Any]]:
    """A row for each cell, part and rule.

    Out-of-fold each fold is cut at the quantile that the other folds choose
    (`cross_fitted_thresholds`), and how far its rates differ between folds stands beside. The
    hold-out is cut at the frozen threshold, a score, and the deployed model's own training patients
    at that of all out-of-fold patients: of one model there is one scale.
    """
    own = oof_thresholds(cells, analysis)
    rows = []
    for scores in cells:
        for part, table in scores.parts().items():
            for name, rule in rules(analysis).items():
                key = (*scores.cell, name)
                chosen_on = (
                    "all out-of-fold patients" if callable(rule) else "declared before training"
                )
                threshold, reason = (frozen if part == "test" else own).get(key, nan), ""
                cut = np.full(len(table), threshold)
                if part == "oof" and callable(rule):
                    chosen_on, threshold = "the other folds, by quantile", nan
                    by_fold, why = cross_fitted_thresholds(
                        table["label"], table["score"], table["fold"], rule=rule
                    )
                    cut = table["fold"].map(by_fold).to_numpy(np.float64)
                    reason = "; ".join(f"fold {fold}: {text}" for fold, text in why.items())
                if part == "oof" and (single := _single(table)):
                    reason = "; ".join(filter(None, [reason, single]))
                elif part != "oof" and np.isnan(threshold):
                    reason = one_class(scores.oof["label"].to_numpy() == 1) or (
                        "no threshold on the out-of-fold patients reaches it"
                    )
                if name.startswith(NPV) and cut.size and np.isposinf(cut).all():
                    reason = "; ".join(
                        filter(None, [reason, "calling everyone negative reaches it"])
                    )
                if part == "test" and scores.sealed:
                    reason, cut = SEALED, cut[:0]
                rows.append(
                    {
                        **scores.name,
                        "part": part,
                        "rule": name,
                        "chosen_on": chosen_on,
                        "threshold": threshold,
                        "threshold_probability": float(sigmoid(pd.Series([threshold]))[0]),
                        "patients": len(table),
                        "events": None if reason == SEALED else int(table["label"].sum()),
                        **called(table["label"], table["score"], cut, intervals=True),
                        **_range_over_folds(table if part == "oof" else table[:0], cut),
                        "reason": reason,
                    }
                )
    return rows


def _range_over_folds(table: pd.DataFrame, cut: NDArray[np.float64]) -> dict[str, float]:
    """The lowest and highest sensitivity and specificity of a fold; NaN where there are none."""
    folds = [
        called(mine["label"], mine["score"], cut[table["fold"] == name])
        for name, mine in table.groupby("fold")
    ]
    names = ("sensitivity", "specificity")
    rates = pd.DataFrame(folds, columns=list(names), dtype=float)
    ends = {"lowest": rates.min(), "highest": rates.max()}
    return {f"{rate}_{end}_fold": ends[end][rate] for rate in names for end in ends}


def _single(table: pd.DataFrame) -> str:
    """Which folds hold one patient of a class; "" if none does."""
    counts = pd.crosstab(table["fold"], table["label"])
    names = ", ".join(str(name) for name in counts.index[(counts == 1).any(axis=1)])
    return f"fold {names}: a rate of a single patient is 0 or 1" if names else ""


def called(
    labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike, *, intervals: bool = False
) -> dict[str, Any]:
    """Counts and rates at the thresholds, one a patient; undefined as soon as one of these is.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) log-odds.
        thresholds: (n,) log-odds; none, or with a NaN, is undefined.
        intervals: Whether to give exact intervals, the accuracy of calling everyone the commoner
            class, and F1 and MCC with theirs.
    """
    cut = np.asarray(thresholds, dtype=np.float64)
    counts: Confusion | None = None
    if cut.size and not np.isnan(cut).any():
        counts = confusion(labels, scores, cut)
    row: dict[str, Any] = {name: counts and getattr(counts, name) for name in COUNTS}
    for rate in RATES:
        row[rate] = getattr(counts, rate) if counts else nan
        if intervals:
            ends = clopper_pearson(*counts.share(rate)) if counts else (nan, nan)
            row |= dict(zip((f"{rate}_low", f"{rate}_high"), ends, strict=True))
    if intervals:
        row["accuracy_commoner_class"] = counts.accuracy_commoner_class if counts else nan
        for name, value, interval in (("f1", f1, f1_interval), ("mcc", mcc, mcc_interval)):
            ends = interval(counts) if counts else (nan, nan)
            row |= {name: value(counts) if counts else nan}
            row |= dict(zip((f"{name}_low", f"{name}_high"), ends, strict=True))
    return row


def calls(
    scores: CellScores, part: str, thresholds: Thresholds, *, repeat: int | None = None
) -> pd.DataFrame:
    """`threshold` and `call` (0/1, NA where undefined) at Youden's threshold beside the scores.

    Out-of-fold scores are those of a partition, the first if none is named.
    """
    table = scores.oof if part == "oof" else scores.test
    if repeat is not None:
        table = scores.oof_by_repeat[repeat]
    if part == "oof":
        by_fold, _ = cross_fitted_thresholds(table["label"], table["score"], table["fold"])
        threshold = table["fold"].map(by_fold).astype(float)
    else:
        frozen = thresholds.get((*scores.cell, YOUDEN), nan)
        threshold = pd.Series(frozen if part in scores.parts() else nan, index=table.index)
    call = (table["score"] >= threshold).astype("Int64").mask(threshold.isna())
    return table.assign(threshold=threshold, call=call)
