"""The model card of the deployed models, in the form of the Hugging Face Hub."""

from typing import Any

import pandas as pd
import yaml

from evaluation.result import Evaluation
from evaluation.tables.operating import YOUDEN
from evaluation.tables.scores import DEPLOYED, of_cell
from evaluation.text.format import PARTS, estimate, number
from evaluation.text.sentences import findings, headline, interval_name, lacking_sentences
from evaluation.text.templates import templates

_TASK = {"image": "image-classification", "video": "video-classification"}


def model_card(evaluation: Evaluation) -> str | None:
    """The card as Markdown with YAML in front; None where no deployed model is done.

    A deployed model is the runs of fold `all` of a cell, one a seed, averaged on the log-odds.
    """
    runs = [run for run in evaluation.sweep.runs if run.fold == "all" and run.state == "done"]
    if not runs:
        return None
    flow = evaluation.tables.flow
    splits = flow[flow["step"] == "split"].to_dict("records")
    front = _front(evaluation)
    card = templates().get_template("model_card.md")
    return card.render(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True, default_flow_style=False),
        sweep=evaluation.sweep,
        headline=headline(evaluation),
        findings=findings(evaluation),
        runs=runs,
        weights=evaluation.sweep.predictions.groupby("run_id")["checkpoint_sha"].first(),
        splits=[
            row | {"events": None if pd.isna(row["events"]) else row["events"]} for row in splits
        ],
        opened=evaluation.seal.labels is not None,
        results=_results(evaluation),
        interval=interval_name(evaluation),
        lacking=lacking_sentences(evaluation),
    )


def _front(evaluation: Evaluation) -> dict[str, Any]:
    """Metadata of the Hub; the AUC of every cell, on the test set once it is open."""
    aucs = evaluation.tables.aucs
    part = "oof" if evaluation.seal.labels is None else "test"
    shown = aucs[(aucs["part"] == part) & (aucs["estimator"] != "pooled") & aucs["auc"].notna()]
    results = [
        {
            "task": {"type": _TASK.get(row["modality"], "other")},
            "dataset": {
                "name": evaluation.sweep.name,
                "type": "private",
                "config": f"{row['architecture']}-{row['modality']}",
                "split": PARTS[part],
            },
            "metrics": [
                {
                    "type": "roc_auc",
                    "name": f"AUC, {row['architecture']} {row['modality']}, {PARTS[part]}",
                    "value": round(float(row["auc"]), 4),
                }
            ],
        }
        for row in shown.to_dict("records")
    ]
    return {
        "library_name": "pytorch",
        "pipeline_tag": "video-classification",
        "tags": ["medical", "ultrasound"],
        "model-index": [{"name": evaluation.sweep.name, "results": results}],
    }


def _results(evaluation: Evaluation) -> list[dict[str, str]]:
    """The figures of each cell that has a deployed model, as text."""
    tables, rows = evaluation.tables, []
    points = tables.operating[tables.operating["rule"] == YOUDEN]
    for cell in tables.cells.to_dict("records"):
        name = cell["architecture"], cell["modality"]
        (test,) = of_cell(tables.test, *name).to_dict("records")
        if test["source"] != DEPLOYED or not test["runs_done"]:
            continue
        (point,) = of_cell(points, *name, part="test").to_dict("records")
        rows.append(
            {
                "architecture": cell["architecture"],
                "modality": cell["modality"],
                "oof": estimate(cell, "fold_mean_"),
                "test": estimate(test),
                "sensitivity": number(point["sensitivity"], 2),
                "specificity": number(point["specificity"], 2),
                "threshold": number(cell["oof_threshold"]),
            }
        )
    return rows
