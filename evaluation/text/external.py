"""An external test in words, as a reviewer asks for it."""

from collections.abc import Iterator, Mapping
from math import isnan
from typing import Any

import pandas as pd

from evaluation.records.analysis import Analysis
from evaluation.tables.curves import AS_PREDICTED, RECALIBRATED
from evaluation.tables.operating import COUNTS
from evaluation.text.format import counted, estimate, interval, number


def external_sentences(
    tables: Mapping[str, pd.DataFrame], *, name: str, analysis: Analysis
) -> Iterator[str]:
    """Discrimination, operating points, calibration and net benefit, a sentence or two each.

    Args:
        tables: Of `evaluation.tables.external.external_tables`.
        name: Of the cell.
        analysis: What was declared before training.
    """
    (auc,) = tables["aucs"].to_dict("records")
    yield (
        f"External test of {name}: {counted(int(auc['patients']), 'patient')}, "
        f"{int(auc['events'])} positive; nothing was fitted to them."
    )
    yield f"AUC {estimate(auc)} (95 % CI, DeLong){_because(auc)}."
    for row in tables["operating"].to_dict("records"):
        yield _operating(row)
    for row in tables["calibration"].to_dict("records"):
        yield _calibration(row)
    yield _net_benefit(tables["net_benefit"], analysis)


def _operating(row: Mapping[Any, Any]) -> str:
    at = f"At the threshold frozen for {row['rule']}"
    if isnan(row["threshold"]):
        return f"{at}: none{_because(row)}."
    rates = (
        f"{word} {interval(*(row[f'{rate}{end}'] for end in ('', '_low', '_high')))}"
        for word, rate in (
            ("sensitivity", "sensitivity"), ("specificity", "specificity"), ("PPV", "ppv"),
            ("NPV", "npv"),
        )
    )  # fmt: skip
    tp, fn, tn, fp = (int(row[name]) for name in COUNTS)
    counts = f"{tp} of {tp + fn} positive and {tn} of {tn + fp} negative patients called right"
    return f"{at} (log-odds {number(row['threshold'])}): {counts}; {', '.join(rates)}."


def _calibration(row: Mapping[Any, Any]) -> str:
    state = {AS_PREDICTED: "as predicted", RECALIBRATED: "by the sweep's recalibration map"}
    figures = (
        f"{word} {interval(*(row[f'{key}{end}'] for end in ('', '_low', '_high')))}"
        for word, key in (
            ("slope", "slope"),
            ("calibration in the large", "intercept"),
            ("observed over expected", "observed_over_expected"),
            ("Brier score", "brier"),
            ("ICI", "ici"),
        )
    )
    return f"Probabilities {state[row['state']]}: {', '.join(figures)}{_because(row)}."


def _net_benefit(curve: pd.DataFrame, analysis: Analysis) -> str:
    low, high = analysis.net_benefit_range
    inside = curve[(curve["threshold"] >= low - 1e-9) & (curve["threshold"] <= high + 1e-9)]
    best_other = inside[["treat_all", "treat_none"]].max(axis=1)
    better = int((inside["model"] > best_other + 1e-12).sum())  # equal but for rounding is not
    return (
        f"Net benefit over risks of {low:g} to {high:g}: mean {number(inside['model'].mean())}, of "
        f"treating all {number(inside['treat_all'].mean())}; the model is above treating all and "
        f"treating none at {better} of {len(inside)} risks."
    )


def _because(row: Mapping[Any, Any]) -> str:
    return f" ({row['reason']})" if row.get("reason") else ""
