"""Numbers and sentences as the terminal and the report show them."""

from collections import Counter
from math import isnan
from typing import TYPE_CHECKING

from evaluation.comparisons import PAIRED, PRIMARY
from evaluation.planning import OPTIMISM
from evaluation.scores import DEPLOYED, SEALED

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


def p_value(p: float) -> str:
    """`p = 0.012`, `p < 0.001`, or `p undefined`."""
    if isnan(p):
        return "p undefined"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def contrast_sentences(evaluation: "Evaluation") -> list[str]:
    """The primary contrast out-of-fold and on the test set, then each family in a sentence."""
    table = evaluation.tables.comparisons
    if table.empty:
        return []
    paired = table[table["patients_used"] == PAIRED]
    parts = {"oof": "out-of-fold", "test": "test"}
    told = []
    declared = evaluation.sweep.analysis.primary
    primary = paired[paired["family"] == PRIMARY].to_dict("records")
    for row in primary:
        a, b = (f"{row[f'architecture_{s}']} {row[f'modality_{s}']}" for s in "ab")
        found = f"{number(row['difference'])} ({number(row['low'])} to {number(row['high'])})"
        said = f"ΔAUC {found}, {p_value(row['p_value'])}"
        if isnan(row["p_value"]):
            said = row["reason"]
        elif row["part"] == "oof" and declared and declared.architecture == "selected":
            said += " (architectures chosen on the same patients)"
        told.append(f"Primary contrast, {a} less {b}, {parts[row['part']]}: {said}.")
    if declared is None:
        told.append("No primary contrast was declared before training: all pairs are secondary.")
    elif not primary:
        pair = " less ".join(declared.modalities)
        told.append(f"Primary contrast, {pair}: not all of its runs are done.")
    for (family, part), mine in paired[paired["family"] != PRIMARY].groupby(
        ["family", "part"], sort=False
    ):
        if (mine["reason"] != SEALED).all():
            below = int((mine["p_holm"] < 0.05).sum())
            told.append(
                f"{str(family).capitalize()}, {parts[str(part)]}: {below} of {len(mine)} pairs "
                "differ at 0.05 after Holm."
            )
    return told


def caution_sentences(evaluation: "Evaluation") -> list[str]:
    """What the figures must be held against: calling everyone negative, and choosing the best."""
    operating, planning = evaluation.tables.operating, evaluation.tables.planning
    told = []
    for part, name in (("oof", "out-of-fold"), ("test", "test")):
        accuracy = operating.loc[operating["part"] == part, "accuracy_all_negative"].dropna()
        if len(accuracy):
            told.append(f"Accuracy of calling everyone negative, {name}: {number(accuracy.max())}.")
    choice = planning[(planning["quantity"] == OPTIMISM) & planning["value"].notna()]
    told += [
        f"The best of {row['models']} equally good cells is expected to seem "
        f"{number(row['value'])} better than it is."
        for row in choice.to_dict("records")
    ]
    return told


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
