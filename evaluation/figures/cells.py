"""What the figures take from the tables: cells, in which order, and which parts have labels."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.evaluate import Evaluation

PARTS = {"oof": "out-of-fold", "test": "test"}
"""Parts with labels, and what they are called."""


def architectures_of(evaluation: "Evaluation") -> list[str]:
    """In the order of the list of runs."""
    return list(dict.fromkeys(evaluation.tables.cells["architecture"]))


def modalities_of(evaluation: "Evaluation") -> list[str]:
    """In the order of the list of runs."""
    return list(evaluation.tables.modalities["modality"])


def parts_of(evaluation: "Evaluation") -> dict[str, str]:
    """Parts with labels, and what they are called."""
    opened = evaluation.seal.labels is not None
    return {part: name for part, name in PARTS.items() if part == "oof" or opened}


def of_cell(
    table: "pd.DataFrame", architecture: str, modality: str, *, part: str | None = None
) -> "pd.DataFrame":
    """The rows of a cell, and of a part."""
    mine = (table["architecture"] == architecture) & (table["modality"] == modality)
    return table[mine if part is None else mine & (table["part"] == part)]
