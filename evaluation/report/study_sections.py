"""The sections on the study itself: patients, what their number can show, training, openings."""

from datamodules.ledger import read_ledger
from evaluation.report.views import (
    Section,
    View,
    cells,
    count,
    counted_reasons,
    figure,
    people,
    printed,
    rows_of,
    words,
)
from evaluation.result import Evaluation
from evaluation.tables.external import EXTERNAL
from evaluation.text.sentences import seal_sentences


def patients(evaluation: Evaluation) -> Section:
    """Flow and Table 1."""
    sealed = evaluation.seal.labels is None
    hidden = ("holdout_negative", "holdout_positive") if sealed else ()
    question = evaluation.sweep.question
    negative, positive = f"of these {question.negative}", f"of these {question.positive}"
    titles = {
        "development": "development", "development_negative": negative,
        "development_positive": positive, "holdout": "hold-out",
        "holdout_negative": negative, "holdout_positive": positive,
    }  # fmt: skip
    columns = [words("characteristic"), words("level", "unit")]
    columns += [printed(key, title) for key, title in titles.items() if key not in hidden]
    rows = rows_of(evaluation.tables.characteristics)
    covariates = evaluation.study.covariates
    return Section(
        name="patients",
        title="Patients",
        words=(
            f"Population: {question.population}. Endpoint: {question.endpoint} "
            f"(classes: {question.negative}, {question.positive}). Reference standard: "
            f"{question.reference_standard}",
            "Counts by label of the hold-out are not known while it is sealed."
            if sealed
            else "The hold-out was opened; its labels are counted below.",
            f"Covariates kept: {', '.join(covariates)}."
            if covariates
            else "No covariate was kept when the cohort was prepared "
            "(ceus prepare --covariates age,sex), so Table 1 holds technical facts only.",
        ),
        figures=("flow",),
        views=(
            View(
                name="characteristics", caption="Table 1. Characteristics by split and label",
                columns=[*columns, figure("smd", "standardised mean difference", 2)], rows=rows,
                csv="characteristics.csv",
                notes=["Standardised mean difference: hold-out less development, over the pooled "
                       "SD. Names and free text are not shown."],
            ),
            View(
                name="flow-table", caption="Flow: counts", folded=True,
                columns=[words("step"), words("split"), words("modality"), count("rows", "files"),
                         count("patients"), count("events"), words("reason")],
                rows=rows_of(evaluation.tables.flow), csv="flow.csv",
            ),
        ),
    )  # fmt: skip


def planning(evaluation: Evaluation) -> Section:
    """Detectable differences, power, optimism."""
    rows, sizes = (rows_of(t) for t in (evaluation.tables.planning, evaluation.tables.sample_size))
    return Section(
        name="planning",
        title="What a cohort of this size can show",
        words=(
            "By simulation at this cohort's size, AUC and correlation between models. The optimism "
            "is what picking the best architecture of a modality adds to its AUC when all are "
            "equally good.",
            "Riley's criteria (development: BMJ 2020, 368:m441; validation: BMJ 2024, 384:e074821) "
            "are for regression; none is known for networks, whose parameters are millions. So "
            "development is judged for the smallest model there is, of one parameter (as the "
            "recalibration map), beside how many parameters the cohort would support. The score's "
            "distribution is that of the binormal model at the cells' mean AUC.",
        ),
        views=(
            View(
                name="planning-table", caption="Planning figures",
                columns=[words("quantity"), words("modality"), words("part"), people(),
                         count("models"),
                         figure("auc", "AUC"), figure("correlation"), figure("value"),
                         figure("error", "simulation error", 4)],
                rows=rows, csv="planning.csv", notes=counted_reasons(rows),
            ),
            View(
                name="sample-size", caption="Riley's sample-size criteria",
                columns=[words("stage"), words("part"), words("criterion"),
                         count("needed_patients", "needs patients"),
                         count("needed_events", "events"), people("has patients (events)"),
                         words("met"), count("parameters", "parameters supported")],
                rows=sizes, csv="sample_size.csv", notes=counted_reasons(sizes),
            ),
        ),
    )  # fmt: skip


def training(evaluation: Evaluation) -> Section:
    """Curves, and the runs that are not done."""
    runs = rows_of(evaluation.tables.runs)
    unfinished = [row for row in runs if row["state"] != "done"]
    return Section(
        name="training",
        title="Training and runs",
        words=(
            ""
            if len(evaluation.tables.training)
            else "No run was trained over epochs, so there are no training curves.",
            "" if unfinished else f"All {len(runs)} runs are done.",
        ),
        figures=("training",),
        views=(
            View(
                name="unfinished", caption="Runs that are not done",
                columns=[words("run_id", "run"), words("state", facet=True), words("reason")],
                rows=unfinished, csv="runs.csv",
            ),
            View(
                name="training-table", caption="Training, run by run", folded=True,
                columns=[*cells(), words("fold", facet=True), words("seed"), count("epochs"),
                         count("chosen_epoch", "chosen epoch"),
                         figure("train_loss", "training loss"),
                         figure("inner_bce", "inner BCE"), figure("inner_auroc", "inner AUROC")],
                rows=rows_of(evaluation.tables.training), csv="training.csv",
            ),
        ),
    )  # fmt: skip


def openings(evaluation: Evaluation) -> Section:
    """The ledgers of the test set: the folder's own, and the store's with its splits and sweeps."""
    seal, holdout = evaluation.seal, evaluation.seal.holdout
    hashes = ("thresholds_sha", "labels_sha", "sha")
    rows = [
        {**opening, "number": n} | {name: f"{str(opening[name])[:16]}…" for name in hashes}
        for n, opening in enumerate(seal.openings, start=1)
    ]
    views = [
        View(
            name="ledger", caption="Openings from this folder (unsealed.jsonl)",
            columns=[count("number", "opening"), words("time"), words("reason"),
                     words("thresholds_sha", "thresholds"), words("labels_sha", "labels"),
                     words("sha", "line")],
            rows=rows,
        )
    ]  # fmt: skip
    chained = (
        "Each line of the ledgers holds a hash of itself and of the line before, so a line that is "
        "changed or taken out between others shows."
    )
    if holdout:
        chained += (
            f" The head of the store's ledger is {holdout.ledger.head}: kept elsewhere, it shows "
            "later whether lines were taken from the end (ceus evaluate --head)."
        )
        views += [
            View(
                name="store-openings", caption="Openings of these patients' labels in the store",
                columns=[words("time"), words("name", "sweep"), count("shared", "patients"),
                         words("reason")],
                rows=[dict(opening) for opening in holdout.openings],
            ),
            View(
                name="store-history", caption="Splits and sweeps of the store",
                columns=[words("what", ""), words("name"), words("time"),
                         count("held_out", "of this hold-out held out"),
                         count("not_held_out", "not held out"),
                         words("reason", "reason for an overlap")],
                rows=[dict(row) for row in holdout.history],
            ),
        ]  # fmt: skip
    if external := read_ledger(evaluation.sweep.path):
        views.append(
            View(
                name="external-tests", caption="External tests of models of this sweep",
                columns=[words("time"), words("cell"), people(), figure("auc", "AUC"),
                         words("rule", "decision by")],
                rows=[dict(entry) for entry in external.of(EXTERNAL)],
                notes=[f"{problem} (ledger.jsonl)" for problem in external.problems],
            )
        )  # fmt: skip
    return Section(
        name="openings",
        title="Openings of the test set, and external tests",
        words=(*seal_sentences(evaluation), chained),
        views=tuple(views),
    )
