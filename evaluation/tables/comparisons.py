"""Differences between cells: the primary contrast, and families of all others after Holm.

A pair is compared on the patients that both cells scored; where a modality is missing for some,
the AUCs over all available patients stand beside it, with an interval and no test.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from evaluation.records.analysis import Analysis
from evaluation.statistics.auc_tests import AucTest, delong_test, overlapping_test
from evaluation.statistics.checks import undefined
from evaluation.statistics.cross_validated import cv_auc_test, cv_overlapping_test
from evaluation.statistics.proportions import holm, mcnemar
from evaluation.tables.operating import Thresholds, calls
from evaluation.tables.scores import SEALED, Cell, CellScores

PRIMARY = "primary"

OF_MODALITIES = "modalities within an architecture"

OF_ARCHITECTURES = "architectures within a modality"

PAIRED, AVAILABLE = "paired", "all available"

COLUMNS = (
    "family", "part", "patients_used", "architecture_a", "modality_a", "architecture_b",
    "modality_b", "patients_a", "patients_b", "events_a", "events_b", "method", "auc_a", "auc_b",
    "difference", "low", "high", "z", "p_value", "family_size", "p_holm", "sensitivity_p",
    "specificity_p", "reason",
)  # fmt: skip
_TEST_FIELDS = ("auc_a", "auc_b", "difference", "low", "high", "z", "p_value", "reason")


def select_architectures(cells: pd.DataFrame) -> dict[str, str]:
    """For each modality the architecture with the highest fold-mean out-of-fold AUC.

    Only complete cells are chosen from; of equal ones the first in the list.
    """
    usable = cells[cells["complete"] & cells["fold_mean_auc"].notna()]
    best = usable.sort_values("fold_mean_auc", ascending=False, kind="stable")
    return dict(best.groupby("modality", sort=False)["architecture"].first())


def primary_pair(analysis: Analysis, selected: Mapping[str, str]) -> tuple[Cell, Cell] | None:
    """The two cells of the primary contrast; None if none is declared or none can be selected."""
    if analysis.primary is None:
        return None
    chosen = []
    for modality in analysis.primary.modalities:
        fixed = analysis.primary.architecture
        architecture = selected.get(modality) if fixed == "selected" else fixed
        if architecture is None:
            return None
        chosen.append((architecture, modality))
    return chosen[0], chosen[1]


def compare(
    cells: list[CellScores], frozen: Thresholds, primary: tuple[Cell, Cell] | None
) -> pd.DataFrame:
    """A row for each pair, part and set of patients; calls on the test set at frozen thresholds."""
    by_cell = {scores.cell: scores for scores in cells}
    called = {
        (cell, part): calls(scores, part, frozen)
        for cell, scores in by_cell.items()
        for part in ("oof", "test")
    }
    sides = ("architecture_a", "modality_a", "architecture_b", "modality_b")
    rows: list[dict[str, Any]] = []
    for family, a, b in _pairs(by_cell, primary):
        names = dict(zip(sides, (*a, *b), strict=True))
        for part in ("oof", "test"):
            sealed = part == "test" and by_cell[a].sealed
            for used, result in _of_pair(called[a, part], called[b, part], part, sealed):
                where = {"family": family, "part": part, "patients_used": used}
                rows.append(where | names | result)
    return _adjusted(pd.DataFrame(rows, columns=COLUMNS))


def _pairs(
    cells: Mapping[Cell, CellScores], primary: tuple[Cell, Cell] | None
) -> Iterator[tuple[str, Cell, Cell]]:
    """Later in the list less earlier; the primary pair is in no family."""
    if primary and set(primary) <= cells.keys():
        yield PRIMARY, *primary
    architectures, modalities = (list(dict.fromkeys(cell[i] for cell in cells)) for i in (0, 1))
    families = [
        (OF_MODALITIES, [[(name, m) for m in modalities] for name in architectures]),
        (OF_ARCHITECTURES, [[(name, m) for name in architectures] for m in modalities]),
    ]
    for family, groups in families:
        for group in groups:
            for b, a in combinations([cell for cell in group if cell in cells], 2):
                if primary is None or {a, b} != set(primary):
                    yield family, a, b


def _of_pair(
    a: pd.DataFrame, b: pd.DataFrame, part: str, sealed: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    both = a.merge(b, on="patient_id", suffixes=("_a", "_b"))
    # Label and fold are the patient's own, checked when the sweep was read.
    labels = both["label_a"]
    if sealed:
        test = undefined(AucTest, SEALED)
    elif part == "oof":
        test = cv_auc_test(labels, both["score_a"], both["score_b"], both["fold_a"])
    else:
        test = delong_test(labels, both["score_a"], both["score_b"])
    yield PAIRED, _row(test, both["label_a"], both["label_b"], part) | _mcnemar(both, sealed)
    if set(a["patient_id"]) == set(b["patient_id"]):
        return
    columns = ["patient_id", "label", "score"]
    if sealed:
        test = undefined(AucTest, SEALED)
    elif part == "oof":
        sides = [tuple(table[name] for name in (*columns, "fold")) for table in (a, b)]
        test = cv_overlapping_test(sides[0], sides[1])  # type: ignore[arg-type]
    else:
        sides = [tuple(table[name] for name in columns) for table in (a, b)]
        test = overlapping_test(sides[0], sides[1])  # type: ignore[arg-type]
    untested = {"z": np.nan, "p_value": np.nan}
    yield AVAILABLE, _row(test, a["label"], b["label"], part) | untested


def _row(test: AucTest, labels_a: pd.Series, labels_b: pd.Series, part: str) -> dict[str, Any]:
    sealed = test.reason == SEALED
    return {
        "patients_a": len(labels_a),
        "patients_b": len(labels_b),
        "events_a": None if sealed else int(labels_a.sum()),
        "events_b": None if sealed else int(labels_b.sum()),
        "method": "influence curve of the fold mean" if part == "oof" else "DeLong",
    } | {name: getattr(test, name) for name in _TEST_FIELDS}


def _mcnemar(both: pd.DataFrame, sealed: bool) -> dict[str, float]:
    """Exact p-values of a difference in sensitivity and in specificity at Youden's threshold."""
    p_values = {}
    for name, label in (("sensitivity_p", 1), ("specificity_p", 0)):
        patients = both[both["label_a"] == label]
        calls_a, calls_b = patients["call_a"], patients["call_b"]
        if sealed or patients.empty or calls_a.isna().any() or calls_b.isna().any():
            p_values[name] = np.nan
            continue
        right_a, right_b = calls_a == label, calls_b == label
        only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
        p_values[name] = mcnemar(only_a, only_b).p_exact
    return p_values


def _adjusted(table: pd.DataFrame) -> pd.DataFrame:
    """Holm within each family and part, over all its pairs, whether they could be tested or not."""
    table["family_size"], table["p_holm"] = pd.NA, np.nan
    paired = table[table["patients_used"] == PAIRED]
    for (family, _), pairs in paired.groupby(["family", "part"]):
        table.loc[pairs.index, "family_size"] = len(pairs)
        if family != PRIMARY:
            table.loc[pairs.index, "p_holm"] = holm(pairs["p_value"], size=len(pairs))
    counts = ("events_a", "events_b", "family_size")
    return table.astype(dict.fromkeys(counts, "Int64"))
