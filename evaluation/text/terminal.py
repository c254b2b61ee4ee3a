"""The comparison as text for the terminal."""

from collections.abc import Iterator
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from evaluation.result import Evaluation
from evaluation.tables.scores import DEPLOYED
from evaluation.text.format import estimate, number
from evaluation.text.sentences import (
    caution_sentences,
    contrast_sentences,
    findings,
    lacking_sentences,
    notes,
    prediction_sentences,
    seal_sentences,
    states,
)

_RATES = ("sensitivity", "specificity", "accuracy")


def render(evaluation: Evaluation, width: int = 80) -> str:
    """Cells by modality with their mean, contrasts, the test set, the path of the report."""
    file = StringIO()
    console = Console(file=file, width=width, color_system=None, highlight=False, markup=False)
    tables, sweep = evaluation.tables, evaluation.sweep
    console.print(f"Sweep {sweep.name}: {states(evaluation)}. Out-of-fold figures:")
    console.print(_cells(evaluation))
    for line in _of_the_chosen(evaluation):
        console.print(line)
    console.print("pooled: secondary, for pooling mixes the models of the folds")
    if not tables.cells["complete"].all():
        console.print("* a run of this cell is not done; the cell is left out of the means")
    for note in notes(tables.cells):
        console.print(f"– {note}")
    for sentence in lacking_sentences(evaluation):
        console.print(sentence)
    for run in sweep.runs:
        if run.state == "failed":
            console.print(f"Failed: {run.run_id}: {run.reason}")
    for sentence in [*prediction_sentences(evaluation), *seal_sentences(evaluation)]:
        console.print(sentence)
    if evaluation.seal.labels is not None:
        console.print(_test(evaluation))
        if (tables.test["source"] != DEPLOYED).any():
            console.print("‡ ensemble of fold models: no threshold transfers to it")
        for note in notes(tables.test):
            console.print(f"– {note}")
    for sentence in [*contrast_sentences(evaluation), *caution_sentences(evaluation)]:
        console.print(sentence)
    if evaluation.seal.holdout and evaluation.seal.holdout.ledger.head:
        console.print(f"Ledger head: {evaluation.seal.holdout.ledger.head}", soft_wrap=True)
    console.print(f"Report: {evaluation.report}", soft_wrap=True)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _of_the_chosen(evaluation: Evaluation) -> Iterator[str]:
    if evaluation.tables.cells["selected"].any():
        yield "† the modality's architecture with the best out-of-fold AUC"
    for each in findings(evaluation):
        if each["of"] != "1":
            yield (
                f"† {each['modality']}: {each['corrected']} corrected for choosing "
                f"{each['architecture']} of {each['of']}"
            )


def _cells(evaluation: Evaluation) -> Table:
    table = _table("patients\n(events)", "folds", "fold-mean AUC\n(95 % CI)", "pooled\nAUC")
    cells = evaluation.tables.cells
    for mean in evaluation.tables.modalities.to_dict("records"):
        for cell in cells[cells["modality"] == mean["modality"]].to_dict("records"):
            marks = ("" if cell["complete"] else "*") + (" †" if cell["selected"] else "")
            table.add_row(
                cell["architecture"] + marks,
                f"{cell['patients']} ({cell['events']})",
                f"{cell['folds_done']}/{cell['folds_expected']}",
                estimate(cell, "fold_mean_"),
                number(cell["pooled_auc"]),
                *(number(cell[name], 2) for name in _RATES),
            )
        table.add_row(
            mean["modality"].upper(),
            "",
            "mean",
            number(mean["fold_mean_auc"]),
            number(mean["pooled_auc"]),
            *(number(mean[name], 2) for name in _RATES),
            end_section=True,
        )
    return table


def _test(evaluation: Evaluation) -> Table:
    """Train (apparent), out-of-fold and test side by side."""
    table = _table("modality", "train\nAUC", "OOF\nAUC", "test AUC\n(95 % CI)")
    aucs = evaluation.tables.aucs
    apparent = aucs[(aucs["part"] == "train") & (aucs["estimator"] == "fold mean")]
    train = apparent.set_index(["architecture", "modality"])["auc"]
    oof = evaluation.tables.cells.set_index(["architecture", "modality"])["fold_mean_auc"]
    for row in evaluation.tables.test.to_dict("records"):
        cell = row["architecture"], row["modality"]
        marks = "" if row["runs_done"] == row["runs_expected"] else "*"
        marks += "" if row["source"] == DEPLOYED else " ‡"
        table.add_row(
            row["architecture"] + marks,
            row["modality"],
            number(train[cell]),
            number(oof[cell]),
            estimate(row),
            *(number(row[name], 2) for name in _RATES),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.HORIZONTALS, padding=0, pad_edge=False, show_edge=False)
    table.add_column("", overflow="fold", min_width=12)
    for name in columns:
        table.add_column(name, no_wrap=True)
    for name in ("sens", "spec", "acc"):
        table.add_column(name, no_wrap=True, justify="right", min_width=5)
    return table
