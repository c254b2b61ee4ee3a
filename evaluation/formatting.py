"""Numbers and sentences as the terminal and the report show them."""

from collections import Counter
from math import isnan
from typing import TYPE_CHECKING

from evaluation.scores import DEPLOYED

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.evaluate import Evaluation


def number(value: float, digits: int = 3) -> str:
    """A figure with its digits; a dash where it is undefined, a true minus, an infinity sign."""
    if isnan(value):
        return "–"
    return f"{value:.{digits}f}".replace("inf", "∞").replace("-", "−")


def spread(mean: float, sd: float) -> str:
    """`mean ±SD`, without the SD where there is one fold only."""
    return number(mean) + ("" if isnan(sd) else f" ±{number(sd)}")


def interval(value: float, low: float, high: float) -> str:
    """`value (low–high)`, without the interval where it is undefined."""
    return number(value) + ("" if isnan(low) else f" ({number(low)}–{number(high)})")


def notes(table: "pd.DataFrame") -> list[str]:
    """Why figures of a table of cells are undefined or weak: each reason once, with its cells."""
    cells: dict[str, list[str]] = {}
    for row in table.to_dict("records"):
        if row["reason"]:
            cells.setdefault(row["reason"], []).append(f"{row['architecture']} {row['modality']}")
    return [
        f"{reason} ({'all cells' if len(names) == len(table) else ', '.join(names)})"
        for reason, names in cells.items()
    ]


def seal_sentences(evaluation: "Evaluation") -> list[str]:
    """How the hold-out stands: sealed or opened, how often, and what does not agree."""
    seal, test = evaluation.seal, evaluation.tables.test
    patients = int(test["patients"].max())
    if not seal.openings:
        return [f"Test set: sealed ({patients} patients; their labels are not in this folder)."]
    count = len(seal.openings)
    opened = f"opened {count} time{'' if count == 1 else 's'}, last {seal.openings[-1]['time']}"
    state = "" if seal.labels is not None else "; its labels are not in this folder"
    return [
        f"Test set: {opened}{state}.",
        *(f"Test set: {problem}." for problem in seal.problems),
    ]


def states(evaluation: "Evaluation") -> str:
    """`30 done` or `28 done, 1 failed, 1 pending`."""
    counts = Counter(run.state for run in evaluation.sweep.runs)
    order = ("done", "failed", "running", "pending")
    return ", ".join(f"{counts[state]} {state}" for state in order if counts[state])


def is_deployed(evaluation: "Evaluation") -> bool:
    """Whether any test figure is one of a deployed model, so that a threshold applies to it."""
    return bool((evaluation.tables.test["source"] == DEPLOYED).any())
