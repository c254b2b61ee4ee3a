"""What an evaluation found, in sentences."""

from collections import Counter
from collections.abc import Mapping
from math import isnan
from typing import Any

import pandas as pd

from evaluation.records.schema import STATES
from evaluation.result import Evaluation
from evaluation.tables.cohort import LACKING_SHARE, lacking_table
from evaluation.tables.comparisons import CONFIRMATORY, PAIRED, PRIMARY
from evaluation.tables.operating import YOUDEN
from evaluation.tables.planning import OPTIMISM
from evaluation.tables.scores import DEPLOYED, SEALED
from evaluation.text.format import (
    PARTS,
    counted,
    difference,
    estimate,
    interval,
    model,
    number,
    p_value,
)


def headline(evaluation: Evaluation) -> str:
    """The answer to the primary question: of the confirmatory part, then of the other, labelled."""
    table = evaluation.tables.comparisons
    primary = table[(table["family"] == PRIMARY) & (table["patients_used"] == PAIRED)]
    if primary["p_value"].isna().all():
        return contrast_sentences(evaluation)[0] if len(table) else "Nothing could be compared yet."
    rows = sorted(primary.to_dict("records"), key=lambda row: row["standing"] != CONFIRMATORY)
    shown = [row for row in rows if not isnan(row["p_value"]) or row["standing"] == CONFIRMATORY]
    return " ".join(map(_answer, shown))


def _answer(row: Mapping[Any, Any]) -> str:
    where = "on the test set" if row["part"] == "test" else "out-of-fold"
    a, b = (model(row, side) for side in "ab")
    if isnan(row["p_value"]):
        return f"The confirmatory contrast, {where}, has no answer yet: {row['reason']}."
    if row["low"] > 0:
        answer = f"{a} had a higher AUC than {b}"
    elif row["high"] < 0:
        answer = f"{a} had a lower AUC than {b}"
    else:
        answer = f"no difference of AUC between {a} and {b} was shown"
    if row["standing"] != CONFIRMATORY:
        kind, _, why = row["standing"].partition(": ")
        answer = f"{kind}{f' ({why})' if why else ''}, {answer}"
    ends = f"{number(row['low'])} to {number(row['high'])}"
    answer = f"{answer} {where}: difference {number(row['difference'])} (95 % CI {ends}), "
    return f"{answer[0].upper()}{answer[1:]}{p_value(row['p_value'])}."


def findings(evaluation: Evaluation) -> list[dict[str, str]]:
    """The selected cell of each modality: its names, `oof` and `test` AUC ("" while sealed).

    `corrected` is its out-of-fold AUC once the choice is allowed for, `of` from how many it was
    chosen.
    """
    means = evaluation.tables.modalities.set_index("modality")
    opened = evaluation.seal.labels is not None
    tests = evaluation.tables.test.set_index(["architecture", "modality"])
    selected = []
    for cell in evaluation.selected.to_dict("records"):
        test = tests.loc[(cell["architecture"], cell["modality"])]
        mean = means.loc[cell["modality"]]
        selected.append(
            {
                "modality": cell["modality"],
                "architecture": cell["architecture"],
                "oof": estimate(cell, "fold_mean_"),
                "of": str(mean["architectures"]),
                "corrected": interval(mean["best_corrected"], mean["best_low"], mean["best_high"]),
                "test": estimate(test) if opened else "",
            }
        )
    return selected


def preface(evaluation: Evaluation) -> list[str]:
    """What else a reader must know before any figure."""
    sentences = [f"Runs: {states(evaluation)}.", *prediction_sentences(evaluation)]
    sentences += seal_sentences(evaluation) + lacking_sentences(evaluation)
    sentences += contrast_sentences(evaluation) + caution_sentences(evaluation)
    if not evaluation.tables.cells["complete"].all():
        sentences.append("Cells with runs that are not done are marked, and left out of the means.")
    if not is_deployed(evaluation):
        sentences.append(
            "No deployed model (no runs of fold all): a test AUC can only be that of the ensemble "
            "of fold models, to which no threshold transfers, for averaging narrows the scores."
        )
    return sentences


def contrast_sentences(evaluation: Evaluation) -> list[str]:
    """The primary contrast out-of-fold and on the test set, then each family in a sentence."""
    table = evaluation.tables.comparisons
    if table.empty:
        return []
    paired = table[table["patients_used"] == PAIRED]
    declared = evaluation.sweep.analysis.primary
    primary = paired[paired["family"] == PRIMARY].to_dict("records")
    sentences = []
    for row in primary:
        a, b = (model(row, side) for side in "ab")
        outcome = f"ΔAUC {difference(row)}, {p_value(row['p_value'])}"
        if isnan(row["p_value"]):
            outcome = row["reason"]
        kind, _, why = row["standing"].partition(": ")
        if why:
            outcome += f" ({why})"
        sentences.append(
            f"Primary contrast, {a} less {b}, {PARTS[row['part']]} ({kind}): {outcome}."
        )
    if declared is None:
        sentences.append(
            "No primary contrast was declared before training: all pairs are secondary."
        )
    elif not primary:
        modalities = " less ".join(declared.modalities)
        sentences.append(f"Primary contrast, {modalities}: not all of its runs are done.")
    secondary = paired[paired["family"] != PRIMARY]
    for (family, part), pairs in secondary.groupby(["family", "part"], sort=False):
        if (pairs["reason"] != SEALED).all():
            below = int((pairs["p_holm"] < 0.05).sum())
            sentences.append(
                f"{str(family).capitalize()}, {PARTS[str(part)]}: {below} of {len(pairs)} pairs "
                "differ at 0.05 after Holm."
            )
    return sentences


def caution_sentences(evaluation: Evaluation) -> list[str]:
    """What the figures must be held against: calling everyone one class, and choosing the best."""
    operating, planning = evaluation.tables.operating, evaluation.tables.planning
    accuracies = {
        name: operating.loc[operating["part"] == part, "accuracy_commoner_class"].dropna()
        for part, name in PARTS.items()
    }
    sentences = [
        f"Accuracy of calling everyone the commoner class, {name}: {number(accuracy.max())}."
        for name, accuracy in accuracies.items()
        if len(accuracy)
    ]
    points = operating[(operating["part"] == "oof") & (operating["rule"] == YOUDEN)]
    apart = points["sensitivity_highest_fold"] - points["sensitivity_lowest_fold"]
    for row in points.loc[apart.dropna().nlargest(1).index].to_dict("records"):
        ends = f"{number(row['sensitivity_lowest_fold'], 2)} and "
        ends += number(row["sensitivity_highest_fold"], 2)
        sentences.append(
            f"Sensitivity at Youden's threshold differs most between the folds of "
            f"{row['architecture']} {row['modality']}, where it lies between {ends}."
        )
    choice = planning[(planning["quantity"] == OPTIMISM) & planning["value"].notna()]
    sentences += [
        f"The best of {row['models']} equally good {row['modality']} models is expected to seem "
        f"{number(row['value'])} better than it is."
        for row in choice.to_dict("records")
    ]
    return sentences


def notes(table: pd.DataFrame) -> list[str]:
    """Why figures of a table of cells are undefined or weak: each reason once, with its cells."""
    cells: dict[str, list[str]] = {}
    for row in table.to_dict("records"):
        if row["reason"]:
            cells.setdefault(row["reason"], []).append(f"{row['architecture']} {row['modality']}")
    return [
        f"{reason} ({'all cells' if len(names) == len(table) else ', '.join(names)})"
        for reason, names in cells.items()
    ]


def lacking_sentences(evaluation: Evaluation, *, if_none: bool = False) -> list[str]:
    """How many patients of combined figures lack a modality, part by part; a warning if many.

    Where none does, it is said only with `if_none`.
    """
    sentences = []
    table = lacking_table(evaluation.study, evaluation.tables.patients)
    for row in table.to_dict("records"):
        of = f"of the {row['patients']} patients, {PARTS[row['part']]},"
        if not row["lacking"]:
            sentences += [f"Combined: none {of} lacks a modality."] if if_none else []
            continue
        said = (
            f"Combined: {row['lacking']} {of} lack a modality ({row['image']} an image, "
            f"{row['ceus']} a clip) and are scored on the other alone."
        )
        if row["share"] >= LACKING_SHARE:
            said = (
                f"Warning: {said} From {LACKING_SHARE:.0%} on a combined figure is in good part "
                "that of one modality."
            )
        sentences.append(said)
    return sentences


def seal_sentences(evaluation: Evaluation) -> list[str]:
    """How the hold-out stands: sealed or opened, how often, and what does not agree."""
    seal, holdout = evaluation.seal, evaluation.seal.holdout
    patients = int(evaluation.tables.test["patients"].max())
    openings = [*seal.openings, *seal.elsewhere]
    here = "" if seal.labels is not None else "their labels are not in this folder"
    if openings:
        last = max(opening["time"] for opening in openings)
        state = f"opened {counted(len(openings), 'time')}, last {last}{here and f'; {here}'}"
    elif holdout:
        state = f"sealed ({patients} patients; {here}, and its store's ledger has no opening)"
    else:
        state = f"sealed ({patients} patients; {here}). No opening is recorded here"
    sentences = [f"{state}."]
    if holdout is None:
        sentences.append(
            "the ledger of its store is out of reach: what other sweeps or copies of this folder "
            "opened, and what was deleted here, would not show."
        )
    own = evaluation.sweep.listing.registered
    for opening in seal.elsewhere:
        is_own = own and opening.get("sweep") == own.entry
        who = "this sweep or a copy of it" if is_own else f"sweep {opening.get('name')}"
        sentences.append(
            f"opened by {who} on {opening['time']} ({opening['shared']} of these patients; "
            f"{opening.get('reason')}), which is not recorded in this folder."
        )
    sentences += [
        f"opened while {counted(opening['unfinished'], 'run')} of this sweep were not done."
        for opening in seal.openings
        if opening.get("unfinished")
    ]
    if holdout and holdout.overlap:
        sentences.append(f"{holdout.overlap}.")
    if holdout and own is None:
        sentences.append("this sweep began before its store kept a ledger, and is not in it.")
    return [f"Test set: {each}" for each in (*sentences, *(f"{p}." for p in seal.problems))]


def prediction_sentences(evaluation: Evaluation) -> list[str]:
    """Of which runs predictions or declared analysis changed since, or cannot be told."""
    runs = evaluation.sweep.runs
    changed = sorted(run.run_id for run in runs if run.predictions == "changed")
    unknown = sum(run.predictions == "unknown" for run in runs)
    sentences = []
    if changed:
        sentences.append(f"Predictions changed since their run ended: {', '.join(changed)}.")
    if unknown:
        sentences.append(
            f"{counted(unknown, 'run')} kept no hash of the predictions, as before hashes were "
            "kept: a change of them would not show."
        )
    edited = sorted(run.run_id for run in runs if run.analysis == "changed")
    silent = sum(run.analysis == "unknown" for run in runs)
    if edited:
        sentences.append(
            "The declared analysis in sweep.json is not the one with which these runs began: "
            f"{', '.join(edited)}."
        )
    if silent:
        sentences.append(
            f"{counted(silent, 'run')} did not record which analysis was declared, as before it "
            "was recorded: that it came before training is not checked."
        )
    return sentences


def states(evaluation: Evaluation) -> str:
    """`30 done` or `28 done, 1 failed, 1 pending`."""
    counts = Counter(run.state for run in evaluation.sweep.runs)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def is_deployed(evaluation: Evaluation) -> bool:
    """Whether any test figure is one of a deployed model, so that a threshold applies to it."""
    return bool((evaluation.tables.test["source"] == DEPLOYED).any())


def interval_name(evaluation: Evaluation) -> str:
    """Whose the interval of an out-of-fold AUC is."""
    return "LeDell" if evaluation.repeats == 1 else "bootstrap"


def interval_sentences(evaluation: Evaluation) -> tuple[str, ...]:
    """What the out-of-fold intervals hold, and what they leave out."""
    if evaluation.repeats == 1:
        return (
            "The out-of-fold intervals are of the models as they were trained on the folds as they "
            "were drawn: what training again or another partition would change is not in them.",
        )
    return (
        f"The patients were dealt into folds {evaluation.repeats} times. Out-of-fold AUCs and "
        "their differences are means over these partitions, and their intervals are by a bootstrap "
        "over patients, seeds and partitions: training again and another partition are now partly "
        "in them; other patients to train on are not.",
        "Operating points, calls, calibration, curves and the correction for the choice of the "
        "best are of the first partition, in which each patient has one score.",
    )
