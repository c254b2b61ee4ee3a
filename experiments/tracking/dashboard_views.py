"""Dashboards as code: what the workspace and the report of a sweep show at W&B."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from experiments.tracking.charts import ROC

EVALUATION = "evaluation"
"""Job type of the run that holds a sweep's evaluation."""

_CURVE = {"x": "fpr", "y": "tpr", "class": "curve"}
_COLUMNS = ["architecture", "modality", "fold", "seed"]
_FIGURES = ["oof_auroc", "oof_auroc_low", "oof_auroc_high", "oof_sensitivity", "oof_specificity"]


@dataclass(frozen=True)
class Place:
    """Where a dashboard lies at W&B.

    Attributes:
        entity: User or team; "" while nothing is created.
        project: Project of the runs.
    """

    entity: str
    project: str

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}"


def make_workspace(sweep: str, place: Place) -> ws.Workspace:
    """Runs of a sweep by cell: AUC and its spread over folds, ROC, training curves, the machine."""
    return ws.Workspace(
        entity=place.entity,
        project=place.project,
        name=f"ceus {sweep}",
        sections=[
            ws.Section(name="Out-of-fold AUC", panels=_auc_panels(), is_open=True),
            ws.Section(name="Training", panels=_training_panels(), is_open=True),
            ws.Section(name="Rates and machine", panels=_machine_panels()),
        ],
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Group") == sweep, expr.Metric("JobType") != EVALUATION),
            groupby=[expr.Config("modality"), expr.Config("architecture")],
            pinned_columns=[
                *(f"summary:{name}" for name in _FIGURES),
                *(f"config:{name}.value" for name in _COLUMNS),
            ],
        ),
    )


def make_report(sweep: str, place: Place) -> wr.Report:
    """The comparison with its intervals, then what lies under it."""
    evaluated = wr.Runset(
        name="evaluation", filters=f"Group = '{sweep}' and JobType = '{EVALUATION}'"
    )
    runs = wr.Runset(
        name="runs",
        filters=f"Group = '{sweep}' and JobType != '{EVALUATION}'",
        groupby=["config.modality", "config.architecture"],
        pinned_columns=[f"summary:{name}" for name in _FIGURES],
    )
    return wr.Report(
        entity=place.entity,
        project=place.project,
        title=f"ceus {sweep}: architectures x modalities",
        description="Out-of-fold comparison",
        width="fluid",
        blocks=[
            wr.P(
                "Every figure is out-of-fold: each patient is scored by models that never saw it. "
                "The hold-out is not in W&B. Patients are keyed hashes."
            ),
            wr.H2("Pooled AUC with DeLong's 95 % interval"),
            wr.PanelGrid(
                runsets=[evaluated],
                panels=_laid_out(
                    [
                        wr.MediaBrowser(title="AUC", media_keys=["auc_intervals"], num_columns=1),
                        _roc_panel("ROC, pooled out-of-fold", "roc_table"),
                        wr.WeavePanelSummaryTable(table_name="cells"),
                        wr.WeavePanelSummaryTable(table_name="folds"),
                    ],
                    width=12,
                ),
                hide_run_sets=True,
            ),
            wr.H2("Folds"),
            wr.PanelGrid(runsets=[runs], panels=_auc_panels()),
            wr.H2("Training"),
            wr.PanelGrid(runsets=[runs], panels=[*_training_panels(), *_machine_panels()]),
        ],
    )


def _auc_panels() -> list[Any]:
    spread = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    return _laid_out(
        [
            wr.BarPlot(
                title="AUC of a fold, mean ± SD over folds and seeds",
                metrics=["oof_auroc"],
                groupby=wr.Config("cell"),
                **spread,
            ),
            wr.ScatterPlot(
                title="AUC by fold", x=wr.Config("fold"), y=wr.SummaryMetric("oof_auroc")
            ),
            _roc_panel("ROC of a fold", "oof_roc_table"),
        ],
        width=8,
    )


def _training_panels() -> list[Any]:
    titles = {
        "inner_bce": "Inner validation, patient-level BCE",
        "inner_auroc": "Inner validation, AUROC",
        "train_loss": "Training loss",
    }
    return _curves(titles)


def _machine_panels() -> list[Any]:
    titles = {
        "lr-AdamW/pg1": "Learning rate, first group",
        "rows_per_second": "Rows a second",
        "gpu_memory_gb": "GPU memory, peak, GB",
    }
    return _curves(titles)


def _curves(titles: dict[str, str]) -> list[Any]:
    spread = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    panels = [
        wr.LinePlot(title=title, x="epoch", y=[name], groupby=wr.Config("cell"), **spread)
        for name, title in titles.items()
    ]
    return _laid_out(panels, width=8)


def _roc_panel(title: str, table: str) -> wr.CustomChart:
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": table}},
        chart_name=ROC,
        chart_fields=_CURVE,
        chart_strings={"title": title},
    )


def _laid_out(panels: Iterable[Any], *, width: int) -> list[Any]:
    """Panels side by side on W&B's grid of 24 columns."""
    each = 24 // width
    laid_out = list(panels)
    for number, panel in enumerate(laid_out):
        row, column = divmod(number, each)
        panel.layout = wr.Layout(x=column * width, y=row * 8, w=width, h=8)
    return laid_out
