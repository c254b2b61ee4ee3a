"""The model card of the deployed models, in the form of the Hugging Face Hub."""

from typing import Any

import pandas as pd
import yaml

from evaluation.result import Evaluation
from evaluation.tables.operating import YOUDEN
from evaluation.tables.scores import DEPLOYED
from evaluation.text.format import interval, number
from evaluation.text.sentences import headline


def model_card(evaluation: Evaluation) -> str | None:
    """The card as Markdown with YAML in front; None where no deployed model is done.

    A deployed model is the runs of fold `all` of a cell, one a seed, averaged on the log-odds.
    """
    runs = [run for run in evaluation.sweep.runs if run.fold == "all" and run.state == "done"]
    if not runs:
        return None
    opened = evaluation.seal.labels is not None
    shas = evaluation.sweep.predictions.groupby("run_id")["checkpoint_sha"].first()
    weights = [
        f"| {run.architecture} | {run.modality} | {run.seed} | `{run.run_id}/checkpoints/best.ckpt`"
        f" | `{shas[run.run_id]}` |"
        for run in runs
    ]
    front = yaml.safe_dump(
        _front(evaluation), sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    development = evaluation.tables.flow
    counts = "; ".join(
        f"{row['split']} {row['patients']} patients ("
        + ("labels sealed" if pd.isna(row["events"]) else f"{row['events']} with OLNM")
        + ")"
        for row in development[development["step"] == "split"].to_dict("records")
    )
    tested = (
        "The test AUC is that of these models on patients held out from all training."
        if opened
        else "The test set is sealed, so these models have no test figure yet. The out-of-fold "
        "figures are those of models trained the same way on fewer patients."
    )
    return f"""---
{front}---

# {evaluation.sweep.name}: occult lymph node metastasis in papillary thyroid carcinoma

{headline(evaluation)}

## Model description

Binary classifiers of patients with papillary thyroid carcinoma and clinically negative nodes: the
probability of an occult lymph node metastasis (OLNM), from a 2D ultrasound image, a CEUS clip, or
both. A deployed model is one network a seed, trained on all development patients; a patient's
score is the mean log-odds over items and seeds. Settings: `config.yaml` of each run.

| architecture | modality | seed | weights | SHA-256 |
| --- | --- | --- | --- | --- |
{chr(10).join(weights)}

## Intended use

Research on the value of CEUS before surgery. Not a medical device, and not for decisions on
patients. Intended users, setting and exclusions: for the authors.

## How to load

Weights are plain state, read with `torch.load(path, weights_only=True)` into the network that
`config.yaml` names. `probability = sigmoid(logit - log(pos_weight))`; inputs must be prepared by
`ceus prepare`, as the training data were.

## Training data

{counts or "Patients are counted in the report"}. Split hash
`{evaluation.sweep.shas["split_sha"]}`, store hash `{evaluation.sweep.shas["store_sha"]}`.
No patient data are part of this card.

## Evaluation

{tested} Intervals: 95 %, LeDell (out-of-fold, fold mean) and DeLong (test). Thresholds: Youden's,
over all out-of-fold scores.

{_results(evaluation)}

## Limitations

One cohort; no external test. The best of several cells seems better than it is (report, planning
figures). Performance in subgroups was not computed. Images of other devices, presets or exports
were not tried. Further limitations: for the authors.

## Ethics, licence, contact

For the authors: ethical approval, licence of the weights, and whom to ask.
"""


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
                "split": _PART[part],
            },
            "metrics": [
                {
                    "type": "roc_auc",
                    "name": f"AUC, {row['architecture']} {row['modality']}, {_PART[part]}",
                    "value": round(float(row["auc"]), 4),
                }
            ],
        }
        for row in shown.to_dict("records")
    ]
    return {
        "library_name": "pytorch",
        "pipeline_tag": "video-classification",
        "tags": ["medical", "ultrasound", "ceus", "thyroid"],
        "model-index": [{"name": evaluation.sweep.name, "results": results}],
    }


_TASK = {"image": "image-classification", "video": "video-classification"}

_PART = {"oof": "out-of-fold", "test": "test"}


def _results(evaluation: Evaluation) -> str:
    tables = evaluation.tables
    test = tables.test.set_index(["architecture", "modality"])
    points = tables.operating[
        (tables.operating["rule"] == YOUDEN) & (tables.operating["part"] == "test")
    ].set_index(["architecture", "modality"])
    lines = [
        "| architecture | modality | out-of-fold AUC | test AUC | sensitivity | specificity | "
        "threshold (log-odds) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in tables.cells.to_dict("records"):
        name = cell["architecture"], cell["modality"]
        held = test.loc[name]
        if held["source"] != DEPLOYED or not held["runs_done"]:
            continue
        found = points.loc[name] if name in points.index else {}
        rates = [number(found[key], 2) if len(found) else "–" for key in _RATES]
        oof = interval(cell["fold_mean_auc"], cell["fold_mean_low"], cell["fold_mean_high"])
        cut = number(cell["oof_threshold"])
        tested = interval(held["auc"], held["low"], held["high"])
        lines.append(f"| {name[0]} | {name[1]} | {oof} | {tested} | {' | '.join(rates)} | {cut} |")
    return "\n".join(lines)


_RATES = ("sensitivity", "specificity")
