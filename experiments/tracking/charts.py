"""What W&B is shown of scores: tables and its own chart types, out-of-fold patients only.

The hold-out never goes there, sealed or not, and patients go by their hashes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from datamodules.store.pseudonyms import Pseudonyms
from evaluation import EvaluationError, auc_interval, confusion, roc_curve, youden_threshold

if TYPE_CHECKING:
    import wandb


CLASSES = ("negative", "positive")
"""Names of label 0 and 1."""

ROC = "wandb/area-under-curve/v0"
BARS = "wandb/bar/v0"
CONFUSION = "wandb/confusion_matrix/v1"


@dataclass(frozen=True)
class Chart:
    """A table, drawn by one of W&B's chart types where it names one.

    Attributes:
        table: One row a mark.
        preset: Name of the chart type at W&B; "" for a table alone.
        fields: Column of the table for each channel of the preset.
        title: Over the chart.
    """

    table: pd.DataFrame
    preset: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Figures:
    """What is known at the end of a run or a sweep.

    Attributes:
        summary: Single figures; those that are undefined are left out.
        charts: By the key they are logged under.
    """

    summary: Mapping[str, float | str]
    charts: Mapping[str, Chart]


def run_figures(predictions: pd.DataFrame, patients: Pseudonyms) -> Figures:
    """Out-of-fold table, ROC curve and confusion matrix of one run.

    The matrix is cut at Youden's threshold of the run's own inner validation: within one run there
    are no other folds to take it from (docs/design.md, Protocol), and the out-of-fold patients have
    no say in it. `ceus evaluate` cuts at the quantile that the other folds choose; its
    figures are the study's.

    Args:
        predictions: The run's prediction table (docs/design.md, Predictions table).
        patients: Pseudonyms of the store it was made from.

    Returns:
        Nothing for a run of fold `all`, which has no out-of-fold patients.
    """
    oof = predictions[predictions["part"] == "oof"]
    inner = predictions[predictions["part"] == "inner_val"]
    if oof.empty:
        return Figures({}, {})
    label, probability = oof["label"].astype(int), oof["probability"]
    rows = {
        "patient": [patients.of(patient) for patient in oof["patient_id"]],
        "label": label.to_numpy(),
        "probability": probability.to_numpy(),
        "fold": oof["fold"].to_numpy(),
    }
    charts = {"oof": Chart(pd.DataFrame(rows).sort_values("patient", ignore_index=True))}
    auc = auc_interval(label, oof["logit"])
    summary: dict[str, float | str] = {
        "oof_patients": len(oof),
        "oof_events": int(label.sum()),
        **_finite({"oof_auroc": auc.auc, "oof_auroc_low": auc.low, "oof_auroc_high": auc.high}),
    }
    reasons = [auc.reason]
    if isfinite(auc.auc):
        curve = roc_curve(label, oof["logit"])
        points = {"specificity": curve.specificity, "sensitivity": curve.sensitivity}
        charts["oof_roc"] = roc_chart({"out-of-fold": pd.DataFrame(points)}, "Out-of-fold ROC")
    try:
        cut = youden_threshold(inner["label"], inner["probability"])
    except EvaluationError as error:
        reasons.append(f"no threshold from inner validation: {error}")
    else:
        cut = max(cut, 0.0)  # where no threshold beats chance, everyone is called positive
        counts = confusion(label, probability, cut)
        charts["oof_confusion"] = _confusion(
            [[counts.tn, counts.fp], [counts.fn, counts.tp]],
            f"Out-of-fold, cut at {cut:.3f} (Youden on inner validation)",
        )
        shares = {f"oof_{name}": getattr(counts, name) for name in ("sensitivity", "specificity")}
        summary |= _finite({"inner_threshold": cut, **shares})
    if reason := "; ".join(filter(None, reasons)):
        summary["oof_note"] = reason
    return Figures(summary, charts)


def roc_chart(curves: Mapping[str, pd.DataFrame], title: str) -> Chart:
    """ROC curves over each other, each named.

    Args:
        curves: By name, with columns specificity and sensitivity.
        title: Over the chart.
    """
    parts = [
        pd.DataFrame(
            {
                "fpr": 1 - points["specificity"].to_numpy(float),
                "tpr": points["sensitivity"].to_numpy(float),
                "curve": name,
            }
        ).sort_values(["fpr", "tpr"])
        for name, points in curves.items()
    ]
    fields = {"x": "fpr", "y": "tpr", "class": "curve"}
    return Chart(pd.concat(parts, ignore_index=True), ROC, fields, title)


def show(run: "wandb.Run", figures: Figures) -> None:
    """Log figures to a W&B run, in one step."""
    import wandb

    if figures.summary:
        run.summary.update(dict(figures.summary))
    logged: dict[str, Any] = {}
    for key, chart in figures.charts.items():
        columns: list[Any] = list(chart.table.columns)
        data: list[Any] = [
            [_plain(value) for value in row] for row in chart.table.itertuples(index=False)
        ]
        table = wandb.Table(columns=columns, data=data)
        # Bound to the run a table is a file of the run. Left to itself, W&B makes an artifact of
        # it, too: staged in the user's home, whose path would then stand in the run's log.
        table.bind_to_run(run, key, run.step)  # type: ignore[no-untyped-call]
        logged[key] = (
            wandb.plot_table(
                chart.preset, table, dict(chart.fields), string_fields={"title": chart.title}
            )
            if chart.preset
            else table
        )
    if logged:
        run.log(logged)


def _confusion(counts: list[list[int]], title: str) -> Chart:
    rows = [
        [actual, called, counts[i][j]]
        for i, actual in enumerate(CLASSES)
        for j, called in enumerate(CLASSES)
    ]
    columns = ["Actual", "Predicted", "nPredictions"]
    fields = {name: name for name in columns}
    return Chart(pd.DataFrame(rows, columns=columns), CONFUSION, fields, title)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isfinite(value)}


def _plain(value: Any) -> Any:
    """A cell as JSON knows it; what is undefined is empty."""
    if value is None or value is pd.NA or (isinstance(value, float) and not isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value
