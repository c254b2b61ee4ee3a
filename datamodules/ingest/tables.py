"""The store's tables: what was asked in the cohort table, and what was found in the files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.errors import DataError
from datamodules.ingest.arrival import Arrival, given_arrival
from datamodules.ingest.cohort import Row
from datamodules.store.centres import CENTRE
from datamodules.store.clip_file import read_index
from datamodules.store.columns import COLUMNS, ITEM_COLUMNS

_UNKNOWN_OR_COMMA = r"(?i)\s*(n/?a|nan|none|null|unknown|missing|-+|\?+|[+-]?\d+,\d+)\s*"
_QUALITY = [
    "item_id", "modality", "frames", "fps", "seconds", "width", "height", "codec", "colours",
    "resampled", "concealed", "bytes", "psnr", "ssim", "exact", "crop", "crop_method",
    "crop_confidence", "masked", "mask_confidence", "arrival_s", "peak_s", "arrival_confidence",
    "warnings",
]  # fmt: skip
_FOUND_LATER = {"item_id", "modality", "arrival_s", "peak_s", "arrival_confidence"}
Facts = Mapping[str, Any]


def require_whole(facts: Any) -> None:
    """Raises ValueError if an item's facts lack what the tables need."""
    needed = {*_QUALITY, "source_sha", "item_sha", "arrival"} - _FOUND_LATER
    if not isinstance(facts, dict) or not needed <= facts.keys():
        raise ValueError("facts of an item that lack some")
    if not isinstance(facts["warnings"], list) or not isinstance(facts["arrival"], dict):
        raise ValueError("facts of an item of another kind")


def make_tables(
    rows: Sequence[Row],
    item_ids: Mapping[int, str],
    facts: Mapping[str, Facts],
    masks: Mapping[int, str],
    items: Path,
    *,
    split: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cohort table and the quality table, one row an item, sorted by patient.

    Args:
        rows: Rows of the cohort table, one or more.
        item_ids: Item of each row, by line.
        facts: What is known of each item, by item_id.
        masks: Name of the mask of each row that has one, by line.
        items: Folder of the items' files.
        split: Whether the cohort table has this column.
    """
    records = []
    for row in rows:
        item_id = item_ids[row.line]
        arrival = _arrival(facts[item_id], row, items / f"{item_id}.idx")
        warnings = "; ".join([*facts[item_id]["warnings"], *arrival.warnings])
        records.append(
            {
                **facts[item_id],
                "item_id": item_id,
                "patient_id": row.patient_id,
                "label": row.label,
                "modality": row.modality,
                "split": row.split,
                "mask": masks.get(row.line, ""),
                "arrival_s": arrival.arrival_s,
                "peak_s": arrival.peak_s,
                "arrival_confidence": arrival.confidence,
                "warnings": warnings,
            }
        )
    absent = {name for name, there in (("split", split), ("mask", masks)) if not there}
    names = [name for name in ITEM_COLUMNS if name not in absent]
    table = pd.DataFrame(
        {**{name: record[name] for name in names}, **row.covariates}
        for record, row in zip(records, rows, strict=True)
    )
    table = table.astype({column.name: "float64" for column in COLUMNS if column.kind is float})
    if table["label"].isna().any():
        table["label"] = table["label"].astype("Int8")
    for name in rows[0].covariates:
        table[name] = _numbers_or_text(name, table[name], rows)
    table = table.sort_values(["patient_id", "modality", "item_id"])
    quality = pd.DataFrame(records)[_QUALITY].loc[table.index]
    return table.reset_index(drop=True), quality.reset_index(drop=True)


def _numbers_or_text(name: str, values: pd.Series, rows: Sequence[Row]) -> pd.Series:
    """A covariate as numbers where all that is known of it is; codes as "007" stay text.

    Raises:
        DataError: If only words for what is unknown, or commas in the place of points, keep it from
            being numbers.
    """
    if name == CENTRE or values.str.fullmatch(r"[+-]?0\d.*").any():
        return values
    numbers = pd.to_numeric(values.replace("", None), errors="coerce")
    others = numbers.isna() & (values != "")
    if not others.any():
        return numbers
    mended = values[others].str.fullmatch(_UNKNOWN_OR_COMMA)
    if numbers.notna().any() and mended.all():
        at = int(others.to_numpy().argmax())
        raise DataError(
            f"covariate {name} must be a number, with a point for decimals, or empty where it is "
            f"unknown, got {values.iloc[at]!r} (line {rows[at].line}; {int(others.sum())} such, "
            f"{int(numbers.notna().sum())} numbers). Correct the table."
        )
    return values


def _arrival(facts: Facts, row: Row, index: Path) -> Arrival:
    """As the cohort table says, else as found."""
    if row.arrival_s is None or row.modality == "image":
        return Arrival(**facts["arrival"])
    curve = read_index(index)["level"]
    return given_arrival(curve, fps=facts["fps"], arrival_s=row.arrival_s)
