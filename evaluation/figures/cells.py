"""What the figures take from the tables: cells, in which order, and which parts have labels."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.figures.style import of_style, panels
from evaluation.result import Evaluation
from evaluation.tables.scores import of_cell
from evaluation.text.format import PARTS


def architectures_of(evaluation: Evaluation) -> list[str]:
    """In the order of the list of runs."""
    return list(dict.fromkeys(evaluation.tables.cells["architecture"]))


def modalities_of(evaluation: Evaluation) -> list[str]:
    """In the order of the list of runs."""
    return list(evaluation.tables.modalities["modality"])


def parts_of(evaluation: Evaluation) -> dict[str, str]:
    """Parts with labels, and what they are called."""
    opened = evaluation.seal.labels is not None
    return {part: name for part, name in PARTS.items() if part == "oof" or opened}


def part_panels(
    evaluation: Evaluation,
    *,
    height_mm: float,
    row_mm: float,
    x: str,
    y: str,
    rows: Mapping[str, str] | None = None,
) -> tuple[Figure, list[tuple[Axes, str, str]]]:
    """One column a modality; a row out-of-fold, and a row test once it is open.

    Args:
        evaluation: What is shown.
        height_mm: Height of what is not rows.
        row_mm: Height of each row.
        x: Label under the last row.
        y: Label before each row, completed by the row's name.
        rows: Other rows, and what they are called.

    Returns:
        The figure, and each panel with its row (of the parts, the part) and modality.
    """
    parts, modalities = rows or parts_of(evaluation), modalities_of(evaluation)
    figure, grid = panels(modalities, rows=len(parts), height_mm=height_mm + row_mm * len(parts))
    for row, name in zip(grid, parts.values(), strict=True):
        row[0].set_ylabel(f"{y}, {name}")
    for axes in grid[-1]:
        axes.set_xlabel(x)
    pairs = [(part, modality) for part in parts for modality in modalities]
    return figure, [(axes, *pair) for axes, pair in zip(chain(*grid), pairs, strict=True)]


def curves_of(
    evaluation: Evaluation, table: pd.DataFrame, part: str, modality: str
) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Each architecture with the points of its curve in a panel, or none, and how it is drawn."""
    for index, architecture in enumerate(architectures_of(evaluation)):
        yield architecture, of_cell(table, architecture, modality, part=part), of_style(index)
