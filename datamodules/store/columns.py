"""The columns of the store's table, `cohort.parquet`: one row an item, sorted by patient.

`ceus prepare` writes them in this order, and after them the columns of the cohort table that the
user asked to keep: those are the covariates. Missing text is "".
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column: its name, the type of its values, and what they mean."""

    name: str
    kind: type[str] | type[int] | type[float]
    meaning: str


COLUMNS = (
    Column("item_id", str, "16 hex digits that name the item's files"),
    Column("patient_id", str, "pseudonym"),
    Column(
        "label", int, "0 or 1, the same in all rows of a patient; missing: for pretraining only"
    ),
    Column("modality", str, "image or ceus"),
    Column("frames", int, "frames of the stored clip; 1 of an image"),
    Column("fps", float, "frames per second of the stored clip; NaN of an image"),
    Column("seconds", float, "length of the stored clip; 0 of an image"),
    Column("width", int, "pixels of the source's frames, upright, before the crop"),
    Column("height", int, "pixels of the source's frames, upright, before the crop"),
    Column("source_sha", str, "SHA-256 of the source, in hex"),
    Column("item_sha", str, "SHA-256 of the item's files, in hex"),
    Column("warnings", str, "what is odd, in words, separated by semicolons"),
    Column("split", str, "train or test; only where the cohort table has this column"),
    Column("arrival_s", float, "seconds to the arrival of contrast; NaN if not known"),
    Column("peak_s", float, "seconds to the peak of contrast; NaN if not known"),
    Column("arrival_confidence", float, "0 to 1; 1 where a person gave the arrival"),
    Column("mask", str, "16 hex digits that name the file of its mask; only where a clip has one"),
)

ITEM_COLUMNS = tuple(column.name for column in COLUMNS)
