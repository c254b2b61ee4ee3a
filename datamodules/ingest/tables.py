"""The store's tables: what was asked in the cohort table, and what was found in the files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.ingest.arrival import Arrival, given_arrival
from datamodules.ingest.cohort import Row
from datamodules.store.clip_file import read_index

_ARRIVAL = ["arrival_s", "peak_s", "arrival_confidence"]
_FACTS = ["frames", "fps", "seconds", "width", "height", "source_sha", "item_sha", "warnings"]

_QUALITY = [
    "frames", "fps", "seconds", "width", "height", "codec", "colours", "resampled", "concealed",
    "bytes", "psnr", "ssim", "exact", "crop", "crop_method", "crop_confidence", "masked",
    "mask_confidence", *_ARRIVAL, "warnings",
]  # fmt: skip

Facts = Mapping[str, Any]


def make_tables(
    rows: Sequence[Row],
    item_ids: Mapping[int, str],
    facts: Mapping[str, Facts],
    items: Path,
    *,
    split: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cohort table and the quality table, one row an item, sorted by patient.

    Args:
        rows: of the cohort table, one or more.
        item_ids: item of each row, by line.
        facts: what is known of each item, by item_id.
        items: folder of the items' files.
        split: whether the cohort table has this column.
    """
    records = []
    for row in rows:
        item_id = item_ids[row.line]
        told = {**facts[item_id], **_arrival(facts[item_id], row, items / f"{item_id}.idx")}
        told["warnings"] = "; ".join(told["warnings"])
        record = {"item_id": item_id, "patient_id": row.patient_id, "label": row.label}
        records.append((record | {"modality": row.modality}, told, row))
    table = pd.DataFrame(
        {
            **record,
            **{name: told[name] for name in _FACTS},
            **({"split": row.split} if split else {}),
            **{name: told[name] for name in _ARRIVAL},
            **row.covariates,
        }
        for record, told, row in records
    )
    table = table.astype(dict.fromkeys(["fps", "seconds", *_ARRIVAL], "float64"))
    for name in rows[0].covariates:
        numbers = pd.to_numeric(table[name].replace("", None), errors="coerce")
        if numbers.notna().eq(table[name] != "").all():
            table[name] = numbers
    table = table.sort_values(["patient_id", "modality", "item_id"])
    quality = pd.DataFrame(
        {
            **{name: record[name] for name in ("item_id", "modality")},
            **{n: told[n] for n in _QUALITY},
        }
        for record, told, _ in records
    ).loc[table.index]
    return table.reset_index(drop=True), quality.reset_index(drop=True)


def _arrival(facts: Facts, row: Row, index: Path) -> dict[str, Any]:
    """Columns of `_ARRIVAL`: as the cohort table says, else as found; and all warnings."""
    if row.arrival_s is None or row.modality == "image":
        found = Arrival(**facts["arrival"])
    else:
        curve = read_index(index)["level"]
        found = given_arrival(curve, fps=facts["fps"], arrival_s=row.arrival_s)
    return {
        "arrival_s": found.arrival_s,
        "peak_s": found.peak_s,
        "arrival_confidence": found.confidence,
        "warnings": [*facts["warnings"], *found.warnings],
    }
