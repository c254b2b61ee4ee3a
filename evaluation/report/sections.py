"""The sections of the report after its first screen, in order: words, tables, figures."""

from typing import Any

from evaluation.report import study_sections
from evaluation.report.published import PUBLISHED, SOURCE
from evaluation.report.views import (
    Column,
    Row,
    Section,
    View,
    cells,
    count,
    estimate,
    figure,
    people,
    rows_of,
    words,
)  # fmt: skip
from evaluation.report.views import notes as counted_notes
from evaluation.result import Evaluation
from evaluation.tables.comparisons import PAIRED, PRIMARY
from evaluation.tables.operating import YOUDEN
from evaluation.tables.scores import DEPLOYED
from evaluation.text.format import number, p_value, pair
from evaluation.text.sentences import notes

_RISKS = (0.1, 0.2, 0.3)


def sections(evaluation: Evaluation) -> list[Section]:
    """All of them but provenance, checklists and methods, which are lists of their own."""
    return [
        _results(evaluation),
        study_sections.patients(evaluation),
        _discrimination(evaluation),
        _operating(evaluation),
        _contrasts(evaluation),
        _calibration(evaluation),
        _decision(evaluation),
        _transfer(evaluation),
        study_sections.planning(evaluation),
        study_sections.training(evaluation),
        study_sections.openings(evaluation),
    ]


def _results(evaluation: Evaluation) -> Section:
    tables = evaluation.tables
    aucs = tables.aucs.set_index(["architecture", "modality", "part", "estimator"])
    rows: list[Row] = []
    for cell in rows_of(tables.cells):
        name = cell["architecture"], cell["modality"]
        row: dict[str, Any] = dict(cell)
        test = tables.test.set_index(["architecture", "modality"]).loc[name]
        deployed = (*name, "train", DEPLOYED)
        apparent = deployed if deployed in aucs.index else (*name, "train", "fold mean")
        by = "deployed" if test["source"] == DEPLOYED else "ensemble"
        runs = f"{by}, {test['runs_done']}/{test['runs_expected']} runs"
        row |= {"train": aucs.loc[apparent, "auc"], "source": runs}
        row |= {"test": test["auc"], "test_low": test["low"], "test_high": test["high"]}
        marks = "" if cell["complete"] else " (incomplete)"
        marks += " †" if cell["selected"] else ""
        rows.append(row | {"shown": f"{cell['architecture']}{marks}"})
    shown: list[Column] = [
        words("shown", "architecture"), words("modality", facet=True), people(),
        count("folds_done", "folds done"), figure("train", "train AUC (apparent)"),
        estimate("fold_mean_auc", "out-of-fold AUC, fold mean (LeDell 95 % CI)",
                 low="fold_mean_low", high="fold_mean_high"),
        figure("fold_sd_auc", "SD over folds"),
        estimate("pooled_auc", "pooled (DeLong 95 % CI), secondary",
                 low="pooled_low", high="pooled_high"),
        estimate("test", "test AUC (DeLong 95 % CI)", low="test_low", high="test_high"),
        words("source", "test scored by"),
    ]  # fmt: skip
    means = [figure("fold_mean_auc", "fold-mean AUC"), figure("pooled_auc", "pooled AUC")]
    means += [figure(rate) for rate in ("sensitivity", "specificity", "accuracy")]
    return Section(
        name="results",
        title="Results",
        words=(
            "The headline is the out-of-fold AUC: the mean over folds, each patient scored by "
            "models that never saw them. The train AUC is apparent, of the deployed model where "
            "there is one, and says only how far a model can learn its patients by heart.",
        ),
        views=(
            _reference(evaluation),
            View(
                name="cells", caption="All cells: train, out-of-fold and test side by side",
                columns=shown, rows=rows, csv="cells.csv",
                notes=[
                    "† the modality's architecture with the highest out-of-fold AUC.",
                    *notes(tables.cells), *notes(tables.test),
                ],
            ),
            View(
                name="modalities", caption="Means over the architectures whose runs are all done",
                columns=[words("modality"), count("architectures"), *means],
                rows=rows_of(tables.modalities), csv="modalities.csv",
            ),
        ),
    )  # fmt: skip


def _reference(evaluation: Evaluation) -> View:
    """Modality by modality as the reference study prints them, with its own figures beside."""
    tables = evaluation.tables
    found: list[Row] = []
    for cell in rows_of(tables.cells[tables.cells["selected"]]):
        name = {key: cell[key] for key in ("modality", "architecture")}
        aucs = tables.aucs[
            (tables.aucs["architecture"] == cell["architecture"])
            & (tables.aucs["modality"] == cell["modality"])
        ]
        points = tables.operating[
            (tables.operating["architecture"] == cell["architecture"])
            & (tables.operating["modality"] == cell["modality"])
            & (tables.operating["rule"] == YOUDEN)
        ].set_index("part")
        for auc in rows_of(aucs[aucs["estimator"] != "pooled"]):
            part = auc["part"]
            if (
                part == "train"
                and auc["estimator"] != DEPLOYED
                and DEPLOYED in set(aucs["estimator"])
            ):
                continue
            rates = dict(points.loc[part]) if part in points.index else {}
            usual = {"train": "train (apparent)", "oof": "out-of-fold", "test": "test"}[part]
            row = {**name, **auc, "part": usual, "source": "this sweep"}
            for rate in ("sensitivity", "specificity", "accuracy", "accuracy_all_negative"):
                row[rate] = rates.get(rate)
            found.append(row)
        for each in PUBLISHED:
            if each.modality == cell["modality"]:
                known = {"patients": each.patients, "events": each.events}
                published = vars(each) | known | {"architecture": "–"}
                published["accuracy_all_negative"] = 1 - each.events / each.patients
                found.append(published | {"source": "published, another cohort"})
    columns = [
        words("modality", facet=True), words("part", facet=True), words("source", facet=True),
        words("architecture"), people(), estimate("auc", "AUC (95 % CI)"),
        *(figure(rate) for rate in ("sensitivity", "specificity", "accuracy")),
        figure("accuracy_all_negative", "accuracy of calling everyone negative"),
    ]  # fmt: skip
    return View(
        name="reference",
        caption="In the form of the reference study: the selected architecture of each modality",
        columns=columns,
        rows=found,
        csv="operating.csv",
        notes=[
            f"Published figures: {SOURCE}; another cohort, so a difference from ours is not one "
            "of models. The study's split (280 train, 116 test) is its own.",
            "Sensitivity, specificity and accuracy of this sweep at Youden's threshold, which "
            "never saw the patients that it is applied to (train: it did).",
        ],
    )


def _discrimination(evaluation: Evaluation) -> Section:
    return Section(
        name="discrimination",
        title="ROC curves and spread over folds",
        figures=("roc", "folds"),
        views=(
            View(
                name="folds-table", caption="Folds", folded=True,
                columns=[*cells(), words("fold"), people(), figure("auc", "AUC"),
                         figure("threshold", "threshold of the other folds (log-odds)"),
                         figure("sensitivity"), figure("specificity"), figure("accuracy")],
                rows=rows_of(evaluation.tables.folds), csv="folds.csv",
            ),
        ),
    )  # fmt: skip


def _operating(evaluation: Evaluation) -> Section:
    rates = {"sensitivity": "sensitivity", "specificity": "specificity", "accuracy": "accuracy",
             "ppv": "PPV", "npv": "NPV"}  # fmt: skip
    rows = rows_of(evaluation.tables.operating)
    columns = [
        *cells(), words("part", facet=True), words("rule", facet=True),
        *(count(name, name.upper()) for name in ("tp", "fn", "tn", "fp")),
        *(estimate(name, title, low=f"{name}_low", high=f"{name}_high", digits=2)
          for name, title in rates.items()),
        figure("accuracy_all_negative", "accuracy, all called negative", 2),
    ]  # fmt: skip
    return Section(
        name="operating",
        title="Operating points",
        words=(
            "Sensitivity, specificity, accuracy and predictive values with Clopper and Pearson's "
            "exact 95 % intervals. Accuracy must be held against the last column: that of calling "
            "everyone negative.",
        ),
        figures=("confusion_oof", "confusion_test"),
        views=(
            View(
                name="youden", caption="At Youden's threshold", columns=columns,
                rows=[r for r in rows if r["rule"] == YOUDEN and r["part"] != "train"],
                csv="operating.csv", notes=counted_notes(rows),
            ),
            View(
                name="operating-table", caption="All operating points", columns=columns, rows=rows,
                csv="operating.csv", folded=True,
            ),
        ),
    )  # fmt: skip


def _contrasts(evaluation: Evaluation) -> Section:
    rows = [
        {**row, "pair": pair(row), "tested": row["patients_used"] == PAIRED}
        for row in rows_of(evaluation.tables.comparisons)
    ]

    def p(name: str, title: str) -> Column:
        shown = figure(name, title)

        def text(row: Row) -> str:
            value = row.get(name)
            return "–" if value is None else p_value(value).removeprefix("p = ").removeprefix("p ")

        return Column(title, text, shown.key)

    def difference(row: Row) -> str:
        if row["difference"] is None:
            return "–"
        low, high = (number(row[end]) for end in ("low", "high"))
        return f"{number(row['difference'])} ({low} to {high})"

    columns = [
        words("family", facet=True), words("part", facet=True), words("pair", "first − second"),
        words("patients_used", "patients", facet=True), count("patients_a", "n"),
        figure("auc_a", "AUC, first"), figure("auc_b", "AUC, second"),
        Column("difference (95 % CI)", difference, figure("difference").key),
        p("p_value", "p"), p("p_holm", "p, Holm"),
        p("sensitivity_p", "McNemar p, sensitivity"), p("specificity_p", "McNemar p, specificity"),
    ]  # fmt: skip
    declared = any(row["family"] == PRIMARY for row in rows)
    return Section(
        name="contrasts",
        title="Differences between models",
        words=(
            "One contrast was declared as primary before training and is tested without adjustment."
            if declared
            else "No primary contrast could be tested: all pairs are secondary.",
            "All other pairs belong to one of two families, modalities within an architecture and "
            "architectures within a modality, and are adjusted by Holm's method within the family "
            "and part.",
        ),
        figures=("forest",),
        views=(
            View(
                name="primary", caption="Primary contrast", columns=columns[1:],
                rows=[row for row in rows if row["family"] == PRIMARY], csv="comparisons.csv",
            ),
            View(
                name="contrasts-table", caption="All differences", columns=columns, rows=rows,
                csv="comparisons.csv", notes=counted_notes(rows), folded=True,
            ),
        ),
    )  # fmt: skip


def _calibration(evaluation: Evaluation) -> Section:
    rows = rows_of(evaluation.tables.calibration)
    columns = [
        *cells(), words("part", facet=True), figure("mean_probability", "mean prediction"),
        figure("observed", "observed rate"),
        estimate("intercept", "intercept", low="intercept_low", high="intercept_high", digits=2),
        estimate("slope", "slope", low="slope_low", high="slope_high", digits=2),
        figure("brier", "Brier"), figure("brier_scaled", "scaled Brier"),
        figure("ici", "ICI"), figure("e90", "E90"), words("smoother"),
    ]  # fmt: skip
    return Section(
        name="calibration",
        title="Calibration",
        words=(
            "Intercept (calibration in the large): 0 is right, below 0 predictions are too high. "
            "Slope: 1 is right, below 1 they are too extreme. ICI: mean distance of prediction and "
            "smoothed rate. Weighting of the loss was undone before, by the protocol.",
        ),
        figures=("calibration",),
        views=(
            View(
                name="calibration-table", caption="Calibration", columns=columns, rows=rows,
                csv="calibration.csv", notes=counted_notes(rows),
            ),
        ),
    )  # fmt: skip


def _decision(evaluation: Evaluation) -> Section:
    table = evaluation.tables.net_benefit
    rows: list[Row] = []
    for key, mine in table.groupby(["architecture", "modality", "part"], sort=False):
        row: dict[str, Any] = dict(zip(("architecture", "modality", "part"), key, strict=True))
        for risk in _RISKS:
            at = mine[mine["threshold"].astype(float).round(2) == risk].to_dict("records")
            for each in at:
                row |= {f"model_{risk}": each["model"], f"all_{risk}": each["treat_all"]}
        rows.append(row)
    columns = [*cells(), words("part", facet=True)]
    for risk in _RISKS:
        columns += [figure(f"model_{risk}", f"at {risk:g}"), figure(f"all_{risk}", "all treated")]
    return Section(
        name="decision",
        title="Net benefit",
        words=("Acting on no one has a net benefit of 0 at every risk.",),
        figures=("decision",),
        views=(
            View(
                name="decision-table", caption="Net benefit at three risks", columns=columns,
                rows=rows, csv="net_benefit.csv",
            ),
        ),
    )  # fmt: skip


def _transfer(evaluation: Evaluation) -> Section:
    tables = evaluation.tables
    rows = rows_of(tables.scales)
    columns = [
        *cells(), words("part", facet=True), count("patients"), figure("mean"), figure("sd", "SD"),
        figure("q50", "median"), figure("threshold"), figure("called_positive", "called positive"),
    ]  # fmt: skip
    cut = tables.operating[tables.operating["threshold"].notna()]
    thresholds = [
        {**row, "frozen": "frozen at the opening" if row["part"] == "test" else "of this sweep"}
        for row in rows_of(cut)
    ]
    return Section(
        name="thresholds",
        title="Thresholds and their transfer",
        words=(
            "A threshold is chosen on out-of-fold scores and applied to the deployed model. It "
            "transfers only if both lie on one scale: compare the rows of a cell, whose labels are "
            "not needed. Out-of-fold each fold is cut at the threshold of the other folds (table "
            "Folds); the thresholds for the hold-out were frozen to thresholds.json when it was "
            "first opened.",
        ),
        figures=("scales",),
        views=(
            View(
                name="thresholds-table", caption="Thresholds and where they came from",
                columns=[*cells(), words("part", facet=True), words("rule", facet=True),
                         figure("threshold", "threshold (log-odds)"),
                         figure("threshold_probability", "as probability"),
                         words("chosen_on", "chosen on"), words("frozen", "state")],
                rows=thresholds, csv="operating.csv", folded=True,
            ),
            View(
                name="scales-table", caption="Scales of the scores (log-odds)", columns=columns,
                rows=rows, csv="scales.csv", folded=True,
            ),
        ),
    )  # fmt: skip
