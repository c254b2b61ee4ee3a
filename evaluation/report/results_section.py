"""The section on the results: train, out-of-fold and test, and the published figures beside."""

from evaluation.report.views import (
    Column,
    Row,
    Section,
    View,
    count,
    counted_reasons,
    estimate,
    figure,
    people,
    rows_of,
    words,
)
from evaluation.result import Evaluation
from evaluation.tables.operating import YOUDEN
from evaluation.tables.scores import DEPLOYED, Cell, of_cell
from evaluation.text.sentences import interval_name, interval_sentences, notes

_RATES = ("sensitivity", "specificity", "accuracy")
_PARTS = {"train": "train (apparent)", "oof": "out-of-fold", "test": "test"}


def results(evaluation: Evaluation) -> Section:
    """All cells, their means, and the selected ones as the reference study prints its own."""
    tables = evaluation.tables
    of_folds = interval_name(evaluation)
    rows, means_rows = _cell_rows(evaluation), rows_of(tables.modalities)
    shown: list[Column] = [
        words("shown", "architecture"), words("modality", facet=True), people(),
        count("folds_done", "folds done"), figure("train", "train AUC (apparent)"),
        estimate("fold_mean_auc", f"out-of-fold AUC, fold mean ({of_folds} 95 % CI)",
                 low="fold_mean_low", high="fold_mean_high"),
        figure("fold_sd_auc", "SD over folds"),
        estimate("pooled_auc", "pooled (DeLong 95 % CI), secondary",
                 low="pooled_low", high="pooled_high"),
        estimate("test", "test AUC (DeLong 95 % CI)", low="test_low", high="test_high"),
        words("source", "test scored by"),
    ]  # fmt: skip
    means = [figure("fold_mean_auc", "fold-mean AUC"), figure("pooled_auc", "pooled AUC")]
    means += [figure(rate) for rate in _RATES]
    return Section(
        name="results",
        title="Results",
        words=(
            "The headline is the out-of-fold AUC: the mean over folds, each patient scored by "
            "models that never saw them. The train AUC is apparent, of the deployed model where "
            "there is one, and says only how far a model can learn its patients by heart.",
            *interval_sentences(evaluation),
        ),
        views=(
            _reference(evaluation),
            View(
                name="cells", caption="All cells: train, out-of-fold and test side by side",
                columns=shown, rows=rows, csv="cells.csv",
                notes=[
                    "† the modality's architecture with the highest out-of-fold AUC, chosen on "
                    "these patients: exploratory. Corrected for the choice: table below.",
                    *notes(tables.cells), *notes(tables.test),
                ],
            ),
            View(
                name="modalities",
                caption="Means over the architectures whose runs are all done, and their best",
                columns=[
                    words("modality"), count("architectures"), *means, words("best"),
                    figure("best_auc", "its AUC"), figure("optimism", "of it by the choice"),
                    estimate("best_corrected", "corrected for the choice (95 % CI)",
                             low="best_low", high="best_high"),
                ],
                rows=means_rows, csv="modalities.csv",
                notes=["The best by fold-mean AUC is chosen on the patients that it is judged on. "
                       "The choice is repeated in 1,000 bootstrap cohorts of patients, and what it "
                       "adds on average is taken off.", *counted_reasons(means_rows)],
            ),
        ),
    )  # fmt: skip


def _cell_rows(evaluation: Evaluation) -> list[Row]:
    """Each cell with its train and test AUC beside the out-of-fold figures."""
    tables = evaluation.tables
    aucs = tables.aucs.set_index(["architecture", "modality", "part", "estimator"])
    tests = tables.test.set_index(["architecture", "modality"])
    rows: list[Row] = []
    for cell in rows_of(tables.cells):
        name = cell["architecture"], cell["modality"]
        test = tests.loc[name]
        deployed = (*name, "train", DEPLOYED)
        apparent = deployed if deployed in aucs.index else (*name, "train", "fold mean")
        scorer = "deployed" if test["source"] == DEPLOYED else "ensemble"
        marks = ("" if cell["complete"] else " (incomplete)") + (" †" if cell["selected"] else "")
        rows.append(
            {
                **cell,
                "shown": f"{cell['architecture']}{marks}",
                "train": aucs.loc[apparent, "auc"],
                "test": test["auc"],
                "test_low": test["low"],
                "test_high": test["high"],
                "source": f"{scorer}, {test['runs_done']}/{test['runs_expected']} runs",
            }
        )
    return rows


def _reference(evaluation: Evaluation) -> View:
    """Modality by modality as the reference study prints them, with its own figures beside."""
    published = evaluation.sweep.question.published
    rows: list[Row] = []
    for cell in rows_of(evaluation.selected):
        rows += _own_rows(evaluation, (cell["architecture"], cell["modality"]))
        rows += [
            row
            | {
                "architecture": "–",
                "source": "published, another cohort",
                "accuracy_commoner_class": max(
                    row["events"] / row["patients"], 1 - row["events"] / row["patients"]
                ),
            }
            for row in (published.rows if published else ())
            if row["modality"] == cell["modality"]
        ]
    columns = [
        words("modality", facet=True), words("part", facet=True), words("source", facet=True),
        words("architecture"), people(), estimate("auc", "AUC (95 % CI)"),
        *(figure(rate) for rate in _RATES),
        figure("accuracy_commoner_class", "accuracy of calling everyone the commoner class"),
    ]  # fmt: skip
    notes = [
        "Sensitivity, specificity and accuracy of this sweep at Youden's threshold, which no "
        "label of the patients that it is applied to helped to choose (train: it did)."
    ]
    if published:
        notes.insert(
            0,
            f"Published figures: {published.source}; another cohort, so a difference from ours is "
            "not one of models.",
        )
    return View(
        name="reference",
        caption="In the form of a paper's table: the selected architecture of each modality",
        columns=columns,
        rows=rows,
        csv="operating.csv",
        notes=notes,
    )


def _own_rows(evaluation: Evaluation, cell: Cell) -> list[Row]:
    """A cell's parts in that form; train is that of the deployed model where there is one."""
    aucs, points = (
        of_cell(t, *cell) for t in (evaluation.tables.aucs, evaluation.tables.operating)
    )
    points = points[points["rule"] == YOUDEN].set_index("part")
    shown = aucs["estimator"] != "pooled"
    if (aucs["estimator"] == DEPLOYED).any():
        shown &= (aucs["part"] != "train") | (aucs["estimator"] == DEPLOYED)
    rows: list[Row] = []
    for auc in rows_of(aucs[shown]):
        rates = dict(points.loc[auc["part"]]) if auc["part"] in points.index else {}
        row = {**auc, "part": _PARTS[auc["part"]], "source": "this sweep"}
        names = (*_RATES, "accuracy_commoner_class")
        rows.append(row | {name: rates.get(name) for name in names})
    return rows
