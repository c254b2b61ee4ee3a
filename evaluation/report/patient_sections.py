"""The sections on how firm a patient's prediction is, and on groups of patients."""

from evaluation.report.views import (
    Row,
    Section,
    View,
    cells,
    count,
    counted_reasons,
    estimate,
    figure,
    people,
    rows_of,
    words,
)
from evaluation.result import Evaluation
from evaluation.tables.readers import FOLDER, kept_study
from evaluation.text.format import PARTS
from evaluation.text.readers import reader_sentences


def instability(evaluation: Evaluation) -> Section:
    """How far models of one recipe disagree about a patient."""
    name, title = "instability", "Prediction instability"
    table = evaluation.tables.instability
    if table.empty:
        alone = (
            "Each patient is scored out-of-fold by one model of a cell: how far predictions would "
            "move by training again is not known. Further seeds, or repeats of the split, show it."
        )
        return Section(name=name, title=title, words=(alone,))
    rows: list[Row] = []
    for (architecture, modality), mine in table.groupby(["architecture", "modality"], sort=False):
        rows.append(
            {
                "architecture": architecture,
                "modality": modality,
                "patients": len(mine),
                "models": mine["models"].max(),
                "mean": mine["mape"].mean(),
                "median": mine["mape"].median(),
                "q90": mine["mape"].quantile(0.9),
                "highest": mine["mape"].max(),
                "spread": (mine["highest"] - mine["lowest"]).mean(),
            }
        )
    return Section(
        name=name,
        title=title,
        words=(
            "Models of the same recipe, of other seeds and other partitions, predict the same "
            "patient, whom none of them saw. MAPE: a patient's mean absolute distance of these "
            "predictions from their mean (Riley & Collins 2023). What is far from 0 is no firm "
            "prediction of a patient, whatever the AUC.",
        ),
        figures=("instability",),
        views=(
            View(
                name="instability-table", caption="Mean absolute prediction error (MAPE)",
                columns=[*cells(), count("patients"), count("models", "models a patient, at most"),
                         figure("mean", "mean MAPE"), figure("median"),
                         figure("q90", "90th percentile"), figure("highest"),
                         figure("spread", "highest less lowest prediction, mean")],
                rows=rows, csv="instability.csv",
            ),
        ),
    )  # fmt: skip


def subgroups(evaluation: Evaluation) -> Section:
    """The selected and the primary cells, level by level of each covariate."""
    rows = rows_of(evaluation.tables.subgroups)
    analysis = evaluation.sweep.analysis
    said = (
        f"A level is shown from {analysis.subgroup_events} events and "
        f"{analysis.subgroup_non_events} non-events on, as declared before training. Numbers are "
        "cut at the median of the development patients. Intervals are not adjusted, and levels are "
        "not tested against each other: two intervals that differ are a question, not a result.",
    )
    if not rows:
        said = (
            "No covariate with levels was kept when the cohort was prepared (ceus prepare "
            "--covariates centre,sex), so no figures by group are given.",
        )
    return Section(
        name="subgroups",
        title="Subgroups and centres",
        words=said,
        views=(
            View(
                name="subgroups-table",
                caption="The selected architecture of each modality, by group",
                columns=[words("covariate", facet=True), words("level"), *cells(),
                         words("part", facet=True), people(),
                         estimate("auc", "AUC, pooled (DeLong 95 % CI)"),
                         estimate("intercept", "calibration intercept", low="intercept_low",
                                  high="intercept_high", digits=2),
                         estimate("slope", "calibration slope", low="slope_low", high="slope_high",
                                  digits=2)],
                rows=rows, csv="subgroups.csv", notes=counted_reasons(rows),
            ),
        )
        if rows
        else (),
    )  # fmt: skip


def readers(evaluation: Evaluation) -> Section | None:
    """Radiologists beside the models on the same patients; None where none have read them."""
    study = kept_study(evaluation.sweep.path)
    if study is None:
        return None
    name, title = "readers", "Radiologists on the same patients"
    if study.predictions_sha != evaluation.sweep.predictions_sha:
        stale = (
            "A reader study is kept with this sweep, beside predictions that are not these: it is "
            "left out until ceus readers is called again."
        )
        return Section(name=name, title=title, words=(stale,))
    rows = rows_of(study.tables.aucs)
    return Section(
        name=name,
        title=title,
        words=(
            f"Of the {PARTS[study.part]} patients those who were read, first without, then with "
            "the models' probabilities in sight. The models' AUCs are of these patients in one "
            "ranking, with DeLong's intervals.",
            *reader_sentences(study.tables),
        ),
        views=(
            View(
                name="readers-table", caption="AUC of models and radiologists",
                columns=[words("kind", facet=True), words("name"), words("pass", facet=True),
                         people(), estimate("auc", "AUC (95 % CI)"),
                         figure("seconds", "seconds a patient, median", 0)],
                rows=rows, csv=f"../{FOLDER}/aucs.csv",
            ),
        ),
    )  # fmt: skip
