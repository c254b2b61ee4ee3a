"""The primary contrast in net benefit, over the declared range of risks."""

from typing import Any

import numpy as np
import pandas as pd

from evaluation.records.analysis import Analysis
from evaluation.statistics.net_benefit import net_benefit_difference
from evaluation.tables.comparisons import Contrast, untested
from evaluation.tables.scores import DEPLOYED, CellScores

MEAN_OVER_RANGE = "mean over the range"

_COLUMNS = (
    "part", "architecture_a", "modality_a", "architecture_b", "modality_b", "at",
    "threshold", "threshold_high", "patients", "events", "difference", "low", "high", "reason",
)  # fmt: skip


def net_benefit_contrast(primary: Contrast | None, analysis: Analysis) -> pd.DataFrame:
    """Its mean over the range, then each whole per cent of it: a row each and part.

    An ensemble of fold models is left out, as in the decision curves: its probabilities are those
    of no model.
    """
    rows: list[dict[str, Any]] = []
    if primary:
        rows = [row for part in ("oof", "test") for row in _of_part(primary, part, analysis)]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    return table.astype({"patients": "Int64", "events": "Int64"})


def _of_part(primary: Contrast, part: str, analysis: Analysis) -> list[dict[str, Any]]:
    low, high = analysis.net_benefit_range
    names = {
        f"{what}_{side}": getattr(of, what)
        for side, of in zip("ab", primary, strict=True)
        for what in ("architecture", "modality")
    }
    row: dict[str, Any] = {"part": part} | names
    row |= {"at": MEAN_OVER_RANGE, "threshold": low, "threshold_high": high}
    members = [member for side in primary for member in side.members]
    tables = [_scores(member, part) for member in members]
    if why := untested(primary, tables, part):
        return [row | {"reason": why}]
    if part == "test" and any(member.source != DEPLOYED for member in members):
        return [row | {"reason": "an ensemble of fold models has no probabilities of its own"}]
    wide = pd.concat([table["probability"] for table in tables], axis=1, join="inner")
    labels = tables[0].loc[wide.index, "label"]
    if wide.empty:
        return [row | {"reason": "no patients"}]
    count = len(primary[0].members)
    sides = wide.to_numpy(np.float64).T
    # Whole per cents, as the decision curves; the ends too.
    at = np.unique([low, *np.arange(np.ceil(low * 100), np.floor(high * 100) + 1) / 100, high])
    found = net_benefit_difference(labels, sides[:count], sides[count:], thresholds=at)
    row |= {"patients": len(wide), "events": int(labels.sum()), "reason": ""}
    ends = {"difference": found.mean, "low": found.mean_low, "high": found.mean_high}
    points = zip(found.thresholds, found.difference, found.low, found.high, strict=True)
    return [
        row | ends,
        *(
            row
            | {"at": "risk", "threshold": risk, "threshold_high": risk}
            | {"difference": value, "low": below, "high": above}
            for risk, value, below, above in points
        ),
    ]


def _scores(member: CellScores, part: str) -> pd.DataFrame:
    return (member.oof if part == "oof" else member.test).set_index("patient_id")
