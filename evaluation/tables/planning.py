"""What this cohort can show: detectable differences, the primary test's power, optimism of choice.

By simulation (`evaluation.statistics.power`) at the cohort's own size, AUC and correlation between
models.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import undefined
from evaluation.statistics.power import (
    Simulated,
    minimum_detectable_difference,
    optimism_of_best,
    simulate_power,
    within_class_correlation,
)
from evaluation.tables.comparisons import Contrast
from evaluation.tables.scores import Cell, CellScores

POWER = 0.8

DETECTABLE = f"minimum detectable AUC difference at a power of {POWER:g}"

PRIMARY_POWER = "power of the primary test if the out-of-fold AUCs are true"

OPTIMISM = "expected optimism of picking the best architecture of a modality"

_DRAWS = 1_000


def planning(
    cells: list[CellScores], aucs: Mapping[Cell, float], primary: Contrast | None
) -> pd.DataFrame:
    """One row a figure, from the fold-mean out-of-fold AUC of each complete cell.

    While the hold-out is sealed, its events are taken in proportion to the development patients'.
    """
    usable = [scores for scores in cells if scores.cell in aucs]
    if not usable:
        columns = ["quantity", "part", *_size(0, 0), "value", "error", "draws", "reason"]
        return pd.DataFrame(columns=columns)
    oof = max((scores.oof for scores in usable), key=len)
    tested = max((scores.test for scores in usable), key=len)
    patients, events = len(oof), int(oof["label"].sum())
    expected = len(tested) * events / patients
    test_events = round(expected) if usable[0].sealed else int(tested["label"].sum())
    auc, correlation = _typical(usable, aucs)

    def row(
        quantity: str,
        part: str,
        do: Callable[..., Simulated],
        correlation: float = correlation,
        oof: tuple[int, int] = (patients, events),
        **more: Any,
    ) -> dict[str, Any]:
        n, k = oof if part == "oof" else (len(tested), test_events)
        try:
            figure = do(positives=k, negatives=n - k, correlation=correlation, draws=_DRAWS)
        except EvaluationError as error:  # too few patients, one model, an AUC of 1
            figure = undefined(Simulated, str(error), draws=0)
        size = _size(n, k) | {"auc": auc, "correlation": correlation} | more
        return {"quantity": quantity, "part": part} | size | vars(figure)

    detect = partial(minimum_detectable_difference, auc, power=POWER)
    rows = [row(DETECTABLE, part, detect, power=POWER) for part in ("oof", "test")]
    if primary and {cell for side in primary for cell in side.cells} <= aucs.keys():
        a, b = (float(np.mean([aucs[cell] for cell in side.cells])) for side in primary)
        models = max(len(side.cells) for side in primary)
        power = partial(simulate_power, a, b, models=models)
        rows.append(row(PRIMARY_POWER, "test", power, auc=a, auc_b=b, models=models))
    # The choice that is made: of each modality its best architecture.
    for modality in dict.fromkeys(scores.modality for scores in usable):
        mine = [scores for scores in usable if scores.modality == modality]
        if len(mine) == 1:
            continue
        own_auc, own_correlation = _typical(mine, aucs)
        folds, scored = mine[0].oof["fold"].nunique(), mine[0].oof
        choose = partial(optimism_of_best, own_auc, models=len(mine), folds=folds)
        of = {"modality": modality, "models": len(mine), "folds": folds, "auc": own_auc}
        size = len(scored), int(scored["label"].sum())
        rows.append(row(OPTIMISM, "oof", choose, own_correlation, size, **of))
    return pd.DataFrame(rows).astype({"models": "Int64", "folds": "Int64"})


def _typical(cells: list[CellScores], aucs: Mapping[Cell, float]) -> tuple[float, float]:
    """The mean AUC of cells, and the correlation of any two on the patients that all scored."""
    first, *others = (scores.oof.set_index("patient_id") for scores in cells)
    shared = pd.concat([first["score"], *(o["score"] for o in others)], axis=1, join="inner")
    correlation = within_class_correlation(first["label"][shared.index], shared.T.to_numpy())
    return float(np.mean([aucs[scores.cell] for scores in cells])), correlation


def _size(patients: int, events: int) -> dict[str, Any]:
    names = ("modality", "models", "folds", "auc", "auc_b", "correlation", "power")
    return {"patients": patients, "events": events} | dict.fromkeys(names)
