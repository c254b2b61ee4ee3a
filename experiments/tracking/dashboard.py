"""A sweep at W&B: its evaluation tracked, its workspace and report written down or created."""

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from datamodules.files import write_atomic
from evaluation import Evaluation, compute
from evaluation.figures import comparison_figure
from experiments.errors import ConfigError
from experiments.tracking.charts import BARS, Chart, Figures, roc_chart, show
from experiments.tracking.dashboard_views import EVALUATION, Place, make_report, make_workspace
from experiments.tracking.sync import require_account
from experiments.tracking.wandb_run import begin, finish, identity, project_name, quiet_wandb

FILE = "dashboard.json"


@dataclass(frozen=True)
class Dashboard:
    """What `make_dashboard` made.

    Attributes:
        file: Definition of workspace and report, for review.
        urls: Of workspace and report at W&B; empty when nothing was asked of it.
    """

    file: Path
    urls: tuple[str, ...] = ()


def make_dashboard(
    folder: Path, *, online: bool = False, entity: str = "", project: str = ""
) -> Dashboard:
    """Define a workspace and a report that compare the cells of a sweep, and track its evaluation.

    What W&B cannot compute, AUCs pooled over folds with their intervals, is logged as a run of job
    type `evaluation`: a table of the cells, the figure with the intervals, ROC curves over each
    other. All of it is out-of-fold; the hold-out is never in it.

    Args:
        folder: Sweep folder, as runs/demo.
        online: Create both at W&B, or bring up to date what an earlier call created, and upload
            the evaluation; otherwise they are only written into the folder.
        entity: User or team at W&B; by default WANDB_ENTITY, then the account's own.
        project: Project at W&B; by default WANDB_PROJECT, then ceus.

    Raises:
        EvaluationError: As `evaluation.compute`.
        ConfigError: If W&B does not accept the account or the dashboard.
    """
    if project:
        os.environ["WANDB_PROJECT"] = project
    entity = entity or os.environ.get("WANDB_ENTITY", "")
    if online:
        entity = entity or str(require_account().default_entity)
        os.environ["WANDB_MODE"] = "online"
        os.environ["WANDB_ENTITY"] = entity
    evaluation = compute(folder)
    _track(evaluation)
    sweep = evaluation.sweep.name
    where = Place(entity, project_name())
    workspace, report = make_workspace(sweep, where), make_report(sweep, where)
    path = folder / FILE
    before = _online_before(path)
    content = {"workspace": _definition(workspace), "report": _definition(report), "online": before}
    write_atomic(path, json.dumps(content, indent=1))
    if not online:
        return Dashboard(path)
    try:
        _save(workspace, report, before.setdefault(str(where), {}))
    finally:
        write_atomic(path, json.dumps(content, indent=1))
    return Dashboard(path, (workspace.url, report.url))


def _online_before(path: Path) -> dict[str, Any]:
    """What an earlier call created at W&B, by place."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["online"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{FILE} must be as `ceus dashboard` wrote it, got {error!r} ({path}). Delete it: it "
            "is made anew, and what lies at W&B stays there."
        ) from error


def sweep_figures(evaluation: Evaluation) -> Figures:
    """Tables and charts of a sweep's evaluation; only what is out-of-fold."""
    tables = evaluation.tables
    cells = tables.cells.drop(columns=["reason"])
    named = cells["architecture"] + " " + cells["modality"]
    bars = pd.DataFrame({"cell": named, "AUC": cells["pooled_auc"]}).dropna()
    charts = {
        "cells": Chart(cells),
        "folds": Chart(tables.folds.drop(columns=["reason"])),
        "auc": Chart(bars, BARS, {"label": "cell", "value": "AUC"}, "AUC, pooled out-of-fold"),
    }
    points = tables.roc[tables.roc["part"] == "oof"]
    curves = {
        f"{architecture} {modality}": points_of_cell
        for (architecture, modality), points_of_cell in points.groupby(
            ["architecture", "modality"], sort=False
        )
    }
    if curves:
        charts["roc"] = roc_chart(curves, "ROC, pooled out-of-fold")
    done = sum(run.state == "done" for run in evaluation.sweep.runs)
    return Figures({"runs_done": done, "runs_listed": len(evaluation.sweep.runs)}, charts)


def _track(evaluation: Evaluation) -> None:
    """Log the evaluation as a run of the sweep, under one id however often it is made."""
    sweep = evaluation.sweep
    listed = json.dumps(sorted(run.run_id for run in sweep.runs))
    run_id = f"{sweep.name}-{EVALUATION}-{hashlib.sha256(listed.encode()).hexdigest()[:8]}"
    run = begin(
        **identity(sweep.name, EVALUATION, run_id),
        dir=str(sweep.path),
        resume="allow",
        config={"sweep": sweep.name, **sweep.shas},
    )
    picture = io.BytesIO()
    comparison_figure(evaluation).savefig(picture, dpi=200)
    show(run, sweep_figures(evaluation))
    with Image.open(picture) as image:
        run.log({"auc_intervals": quiet_wandb().Image(image)})
    try:
        finish(run)
    except (TimeoutError, RuntimeError) as error:
        raise ConfigError(
            f"W&B must take the evaluation, got: {error}. It lies in {sweep.path / 'wandb'}; call "
            "this again when the server answers."
        ) from error


def _definition(view: Any) -> Any:
    """As W&B stores it, without the names and ids that are drawn anew at every call."""
    model = json.loads(view._to_model().model_dump_json(by_alias=True, exclude_none=True))
    return _without_ids({key: value for key, value in model.items() if key != "name"})


def _without_ids(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _without_ids(v) for k, v in node.items() if k not in {"__id__", "id"}}
    return [_without_ids(value) for value in node] if isinstance(node, list) else node


def _save(workspace: Any, report: Any, known: dict[str, str]) -> None:
    """Create both at W&B, or replace those that are known; then they are known."""
    workspace._internal_name = known.get("workspace_name", "")
    workspace._internal_id = known.get("workspace_id", "")
    report.id = known.get("report_id", "")
    try:
        workspace.save()
        known["workspace_name"] = workspace._internal_name
        known["workspace_id"] = workspace._internal_id
        report.save()
        known["report_id"] = report.id
    except Exception as error:  # W&B raises errors of many kinds here
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"W&B must accept the dashboard, got: {reason} (entity {workspace.entity}, project "
            f"{workspace.project}). Check both; to create it anew, delete {FILE} in the sweep."
        ) from error
