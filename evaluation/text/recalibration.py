"""The recalibration maps of the deployed models, as the file that a prediction applies."""

import json
from math import isnan

from evaluation.result import Evaluation
from evaluation.tables.scores import DEPLOYED

FILE = "recalibration.json"


def recalibration_json(evaluation: Evaluation) -> str:
    """Of each cell the map fitted on all its out-of-fold scores, and what it was fitted on.

    `intercept` and `slope` are null where there is no map, with the `reason`. `predictions_sha`,
    `split_sha` and `store_sha` say which sweep the maps belong to.
    """
    sweep, table = evaluation.sweep, evaluation.tables.recalibration
    maps = [
        {
            "architecture": row["architecture"],
            "modality": row["modality"],
            "patients": row["patients"],
            "events": int(row["events"]),
            **{name: None if isnan(row[name]) else row[name] for name in ("intercept", "slope")},
            "reason": row["reason"],
        }
        for row in table[table["applies_to"] == DEPLOYED].to_dict("records")
    ]
    content = {
        "format": 1,
        "sweep": sweep.name,
        **sweep.shas,
        "predictions_sha": sweep.predictions_sha,
        "formula": "probability = 1 / (1 + exp(-(intercept + slope * score)))",
        "score": "mean over items and seeds of the log-odds, the loss weight undone",
        "fitted_on": "out-of-fold scores of all folds",
        "maps": maps,
    }
    return json.dumps(content, indent=1) + "\n"
