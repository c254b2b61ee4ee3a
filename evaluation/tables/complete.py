"""How the results depend on patients without a modality: on all of them, and on the others alone.

A cell scores whom it can: an image model those with an image, a combined one also those with one
modality. So figures of different cells, and a combined figure, may be of different patients.
"""

from typing import Any

import numpy as np
import pandas as pd

from evaluation.records.study import Study
from evaluation.statistics.auc import auc_interval
from evaluation.statistics.auc_tests import delong_test
from evaluation.statistics.cross_validated import cv_auc, cv_auc_test
from evaluation.tables.cohort import MODALITIES
from evaluation.tables.comparisons import Contrast, untested
from evaluation.tables.scores import CellScores

PRIMARY_CONTRAST, CELL = "primary contrast", "cell"

_COUNTS = (
    "patients", "events", "lack_image", "lack_clip", "patients_complete", "events_complete",
)  # fmt: skip
_COLUMNS = (
    "what", "part", "architecture", "modality", *_COUNTS, "value", "low", "high",
    "value_complete", "low_complete", "high_complete", "reason",
)  # fmt: skip
_LACK = {"image": "lack_image", "ceus": "lack_clip"}


def complete_table(cells: list[CellScores], primary: Contrast | None, study: Study) -> pd.DataFrame:
    """The primary contrast and each cell of whose patients some lack a modality: a row a part.

    `value` is the difference of AUC or the AUC, fold mean out-of-fold, over all patients that the
    cell (both sides) scored; `value_complete` that over those who have every modality. Empty where
    nobody lacks one, or items are not known.
    """
    rows: list[dict[str, Any]] = []
    columns = [f"items_{name}" for name in MODALITIES]
    if set(columns) <= set(study.patients):
        holds = study.patients[columns] > 0
        for part in ("oof", "test"):
            if primary:
                rows.append(_contrast(primary, part, holds))
            rows += [_cell(scores, part, holds) for scores in cells]
    lacking = [row for row in rows if row["patients"] > row["patients_complete"]]
    return pd.DataFrame(lacking, columns=list(_COLUMNS)).astype(dict.fromkeys(_COUNTS, "Int64"))


def _cell(scores: CellScores, part: str, holds: pd.DataFrame) -> dict[str, Any]:
    table = _scores(scores, part)
    row = {"what": CELL, "part": part, **scores.name, "reason": ""}
    return row | _both(table, part, holds, scores.sealed, 0)


def _contrast(primary: Contrast, part: str, holds: pd.DataFrame) -> dict[str, Any]:
    members = [member for side in primary for member in side.members]
    tables = [_scores(member, part) for member in members]
    names = {
        key: " − ".join(dict.fromkeys(str(getattr(side, key)) for side in primary))
        for key in ("architecture", "modality")
    }
    row = {"what": PRIMARY_CONTRAST, "part": part, **names}
    wide = pd.concat([table["score"] for table in tables], axis=1, join="inner")
    wide.columns = [f"score_{n}" for n in range(len(tables))]
    known = tables[0].loc[wide.index, ["fold", "label"]].join(wide)
    why = untested(primary, tables, part)
    return row | {"reason": why} | _both(known, part, holds, bool(why), len(primary[0].members))


def _both(
    table: pd.DataFrame, part: str, holds: pd.DataFrame, hidden: bool, first: int
) -> dict[str, Any]:
    """Counts and figures of all, and of those with every modality; `first` models of many."""
    own = holds.reindex(table.index, fill_value=False)
    row: dict[str, Any] = {
        name: int((~own[f"items_{modality}"]).sum()) for modality, name in _LACK.items()
    }
    for end, members in (("", table), ("_complete", table[own.all(axis=1)])):
        sealed = bool(members["label"].isna().any())
        row[f"patients{end}"] = len(members)
        row[f"events{end}"] = None if sealed else int(members["label"].sum())
        ends = (np.nan,) * 3 if hidden else _figure(members, part, first)
        names = (f"value{end}", f"low{end}", f"high{end}")
        row |= dict(zip(names, ends, strict=True))
    return row


def _figure(table: pd.DataFrame, part: str, first: int) -> tuple[float, float, float]:
    """The AUC, or with `first` the difference of the first models' mean AUC to the others'."""
    labels, folds = table["label"], table["fold"]
    scores = table.filter(like="score").to_numpy(np.float64).T
    if not first:
        auc = cv_auc(labels, scores[0], folds) if part == "oof" else auc_interval(labels, scores[0])
        return auc.auc, auc.low, auc.high
    a, b = scores[:first], scores[first:]
    test = cv_auc_test(labels, a, b, folds) if part == "oof" else delong_test(labels, a, b)
    return test.difference, test.low, test.high


def _scores(scores: CellScores, part: str) -> pd.DataFrame:
    return (scores.oof if part == "oof" else scores.test).set_index("patient_id")
