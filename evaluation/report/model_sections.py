"""The sections on the models: how they discriminate, call, differ, and what they are worth."""

from typing import Any

from evaluation.report.views import (
    Column,
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
from evaluation.tables.comparisons import CONFIRMATORY, PRIMARY
from evaluation.tables.complete import CELL, PRIMARY_CONTRAST
from evaluation.tables.net_benefit import MEAN_OVER_RANGE
from evaluation.tables.operating import YOUDEN
from evaluation.text.format import PARTS, bare_p, difference, pair
from evaluation.text.sentences import findings, interval_sentences

_RISKS = (0.1, 0.2, 0.3)
_ROWS_OF_A_PAGE = 24
_OF_SELECTED = {"sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV",
                "npv": "NPV", "f1": "F1", "mcc": "MCC"}  # fmt: skip


def discrimination(evaluation: Evaluation) -> Section:
    """ROC curves, and the folds one by one."""
    folds = rows_of(evaluation.tables.folds)
    centres = evaluation.study.design.get("split", {}).get("centres", ())
    named = ", ".join(f"{fold} {centre}" for fold, centre in enumerate(centres))
    return Section(
        name="discrimination",
        title="ROC curves and spread over folds",
        words=(f"A fold is a centre, left out of training: {named}.",) if named else (),
        figures=("roc", "folds"),
        views=(
            View(
                name="folds-table", caption="Folds", folded=True,
                columns=[*cells(), words("fold"), people(), figure("auc", "AUC"),
                         figure("threshold", "threshold, the other folds' quantile (log-odds)"),
                         figure("sensitivity"), figure("specificity"), figure("accuracy")],
                rows=folds, csv="folds.csv", notes=counted_reasons(folds),
            ),
        ),
    )  # fmt: skip


def operating(evaluation: Evaluation) -> Section:
    """Calls at every operating point."""
    rates = {"sensitivity": "sensitivity", "specificity": "specificity", "accuracy": "accuracy",
             "ppv": "PPV", "npv": "NPV"}  # fmt: skip
    rows = rows_of(evaluation.tables.operating)
    columns = [
        *cells(), words("part", facet=True), words("rule", facet=True),
        *(count(name, name.upper()) for name in ("tp", "fn", "tn", "fp")),
        *(estimate(name, title, low=f"{name}_low", high=f"{name}_high", digits=2)
          for name, title in rates.items()),
        *(_over_folds(rate) for rate in ("sensitivity", "specificity")),
        figure("accuracy_commoner_class", "accuracy, all called the commoner class", 2),
    ]  # fmt: skip
    chosen = _of_selected(evaluation, rows)
    youden = [row for row in rows if row["rule"] == YOUDEN and row["part"] != "train"]
    return Section(
        name="operating",
        title="Operating points",
        words=(
            "Sensitivity, specificity, accuracy and predictive values with Clopper and Pearson's "
            "exact 95 % intervals. Accuracy must be held against the last column: that of calling "
            "everyone the commoner class. F1 has the exact interval of the proportion that it is a "
            "function of, MCC Wald's on Fisher's z. PR-AUC is the average precision, pooled, with "
            "Boyd's logit interval; a score that tells nothing has that of the prevalence.",
        ),
        figures=("confusion_oof", "confusion_test"),
        views=(
            View(
                narrow=True, name="youden", caption="At Youden's threshold", columns=columns,
                rows=youden, csv="operating.csv", notes=counted_reasons(rows),
                folded=len(youden) > _ROWS_OF_A_PAGE,
            ),
            View(
                narrow=True, name="selected-points",
                caption="Each modality's selected architecture at every operating point (95 % CI)",
                columns=[
                    *cells(), words("part", facet=True), words("rule", facet=True),
                    *(estimate(name, title, low=f"{name}_low", high=f"{name}_high", digits=2)
                      for name, title in _OF_SELECTED.items()),
                    figure("called_negative", "called negative", 2),
                    estimate("pr_auc", "PR-AUC", low="pr_low", high="pr_high", digits=2),
                    figure("baseline", "prevalence", 2),
                ],
                rows=chosen, csv="operating.csv", notes=counted_reasons(chosen),
            ),
            View(
                narrow=True, name="operating-table", caption="All operating points",
                columns=columns, rows=rows, csv="operating.csv", folded=True,
            ),
        ),
    )  # fmt: skip


def _of_selected(evaluation: Evaluation, rows: list[Row]) -> list[Row]:
    """Points of the selected cells but of their training, with their precision-recall areas."""
    selected = {(each["architecture"], each["modality"]) for each in findings(evaluation)}
    areas = {
        (area["architecture"], area["modality"], area["part"]): {
            "pr_auc": area["pr_auc"], "pr_low": area["low"], "pr_high": area["high"],
            "baseline": area["baseline"],
        }
        for area in rows_of(evaluation.tables.precision_recall)
    }  # fmt: skip
    chosen: list[Row] = []
    for row in rows:
        cell = row["architecture"], row["modality"]
        if cell in selected and row["part"] != "train":
            negative = None if row["tn"] is None else (row["tn"] + row["fn"]) / row["patients"]
            area = areas.get((*cell, row["part"]), {})
            chosen.append({**row, **area, "called_negative": negative})
    return chosen


def contrasts(evaluation: Evaluation) -> Section:
    """The primary contrast, and the families of all other pairs."""
    rows = [{**row, "pair": pair(row)} for row in rows_of(evaluation.tables.comparisons)]
    columns = [
        words("part", facet=True), words("standing"), words("pair", "first − second"),
        words("patients_used", "patients", facet=True), count("patients_a", "n"),
        figure("auc_a", "AUC, first"), figure("auc_b", "AUC, second"),
        Column("difference (95 % CI)", _difference, figure("difference").key),
        _p("p_value", "p"),
    ]  # fmt: skip
    adjusted = [
        _p("p_holm", "p, Holm"),
        _p("sensitivity_p_holm", "McNemar p, Holm, sensitivity"),
        _p("specificity_p_holm", "McNemar p, Holm, specificity"),
    ]
    primary = [row for row in rows if row["family"] == PRIMARY]
    complete = rows_of(evaluation.tables.complete)
    beside = [
        words("part", facet=True), words("architecture", facet=True), words("modality", facet=True),
        count("lack_image", "lack an image"), count("lack_clip", "lack a clip"),
        people("all patients (events)"), estimate("value", "on all (95 % CI)"),
        count("patients_complete", "patients with both"), count("events_complete", "events"),
        estimate("value_complete", "on them (95 % CI)", low="low_complete", high="high_complete"),
    ]  # fmt: skip
    confirmatory = [PARTS[row["part"]] for row in primary if row["standing"] == CONFIRMATORY]
    return Section(
        name="contrasts",
        title="Differences between models",
        words=(
            "One contrast was declared as primary before training and is tested without "
            f"adjustment; its test is confirmatory {confirmatory[0]} alone."
            if confirmatory
            else "No primary contrast could be tested: all pairs are secondary.",
            "All other pairs belong to one of two families, modalities within an architecture and "
            "architectures within a modality, and are adjusted by Holm's method within the family "
            "and part; so are McNemar's tests of sensitivity and of specificity. What is not "
            "complete, or of unequal numbers of seeds, is not tested.",
            *interval_sentences(evaluation)[:1],
            "Sensitivity to patients without a modality: the same models on all patients that they "
            "(of a contrast both sides) scored, and on those alone who have image and clip."
            if complete
            else "",
        ),
        figures=("forest",),
        views=(
            View(
                name="primary", caption="Primary contrast", columns=columns,
                rows=primary, csv="comparisons.csv", notes=counted_reasons(primary),
            ),
            View(
                name="complete-primary",
                caption="Primary contrast without the patients who lack a modality (ΔAUC)",
                columns=beside, rows=[r for r in complete if r["what"] == PRIMARY_CONTRAST],
                csv="complete.csv",
            ),
            View(
                name="complete-cells",
                caption="AUC of cells without the patients who lack a modality",
                columns=beside, rows=[row for row in complete if row["what"] == CELL],
                csv="complete.csv", folded=True,
            ),
            View(
                name="contrasts-table", caption="All differences",
                columns=[words("family", facet=True), *columns, *adjusted], rows=rows,
                csv="comparisons.csv", notes=counted_reasons(rows), folded=True,
            ),
        ),
    )  # fmt: skip


def calibration(evaluation: Evaluation) -> Section:
    """Whether probabilities agree with rates, before and after recalibration."""
    rows, maps = rows_of(evaluation.tables.calibration), rows_of(evaluation.tables.recalibration)
    selected = {(each["architecture"], each["modality"]) for each in findings(evaluation)}
    columns = [
        *cells(), words("part", facet=True), words("state", "probabilities", facet=True),
        figure("mean_probability", "mean prediction"), figure("observed", "observed rate"),
        *(estimate(name, title, low=f"{name}_low", high=f"{name}_high", digits=digits)
          for name, title, digits in (
              ("observed_over_expected", "O/E", 2), ("intercept", "intercept", 2),
              ("slope", "slope", 2), ("brier", "Brier", 3), ("brier_scaled", "scaled Brier", 2),
              ("ici", "ICI", 3), ("e90", "E90", 2),
          )),
    ]  # fmt: skip
    return Section(
        name="calibration",
        title="Calibration",
        words=(
            "O/E: events observed by expected. Intercept (calibration in the large): 0 is right, "
            "below 0 predictions are too high. Slope: 1 is right, below 1 they are too extreme. "
            "ICI, E90: mean and 90th percentile of the distance of prediction and "
            "smoothed rate; even perfect predictions have one above 0 by chance, so 0 is in none "
            "of its intervals, and a small one may lie below its own. Weighting of the loss was "
            "undone before, by the protocol.",
            "Recalibrated: a logistic map (intercept and slope) of the score. Out-of-fold each "
            "fold is mapped by what was fitted on the other folds, which judges the recipe. The "
            "map to be used with a deployed model is fitted on all out-of-fold scores and kept in "
            "recalibration.json; the rows of the test set, once it is open, judge it. Every other "
            "figure of this report is of the probabilities as predicted.",
        ),
        figures=("calibration",),
        views=(
            View(
                narrow=True, name="calibration-selected",
                caption="Calibration of each modality's selected architecture (95 % CI)",
                columns=columns,
                rows=[row for row in rows if (row["architecture"], row["modality"]) in selected],
                csv="calibration.csv", notes=counted_reasons(rows),
            ),
            View(
                narrow=True, name="calibration-table", caption="Calibration of all cells (95 % CI)",
                columns=columns, rows=rows, csv="calibration.csv", folded=True,
            ),
            View(
                name="recalibration-table", caption="Recalibration maps",
                columns=[*cells(), words("applies_to", "applies to fold", facet=True),
                         people("fitted on patients (events)"),
                         figure("intercept"), figure("intercept_error", "SE"),
                         figure("slope"), figure("slope_error", "SE")],
                rows=maps, csv="recalibration.csv", folded=True, notes=counted_reasons(maps),
            ),
        ),
    )  # fmt: skip


def decision(evaluation: Evaluation) -> Section:
    """Net benefit at three risks, and the primary contrast over the declared range."""
    table = evaluation.tables.net_benefit
    rows: list[Row] = []
    names = ["architecture", "modality", "part"]
    for key, curve in table.groupby(names, sort=False):
        row: dict[str, Any] = dict(zip(names, key, strict=True))
        for risk in _RISKS:
            at_risk = curve["threshold"].astype(float).round(2) == risk
            for point in curve[at_risk].to_dict("records"):
                row |= {f"{name}_{risk}": point[name] for name in ("model", "low", "high")}
                row[f"all_{risk}"] = point["treat_all"]
        rows.append(row)
    columns = [*cells(), words("part", facet=True)]
    for risk in _RISKS:
        columns += [
            estimate(f"model_{risk}", f"at {risk:g} (95 % CI)", low=f"low_{risk}",
                     high=f"high_{risk}"),
            figure(f"all_{risk}", "all treated"),
        ]  # fmt: skip
    low, high = evaluation.sweep.analysis.net_benefit_range
    contrast = rows_of(evaluation.tables.net_benefit_contrast)
    shown: list[Row] = [
        {**row, "pair": pair(row), "where": _where(row)}
        for row in contrast
        if row["at"] == MEAN_OVER_RANGE or round(row["threshold"], 2) in _RISKS
    ]
    return Section(
        name="decision",
        title="Net benefit",
        words=(
            "Acting on no one has a net benefit of 0 at every risk. Intervals are of the mean over "
            "patients of what acting on each is worth, pointwise.",
            f"The range of risks {low:g} to {high:g} is that of the analysis "
            "(net_benefit_range): over it the primary contrast is averaged. Its confirmatory "
            "test is that of the AUC; this is secondary.",
        ),
        figures=("decision",),
        views=(
            View(
                name="net-benefit-contrast", caption="Primary contrast in net benefit",
                columns=[
                    words("part", facet=True), words("pair", "first − second"),
                    words("where", "risk"), people(),
                    Column("difference (95 % CI)", _difference, figure("difference").key),
                ],
                rows=shown, csv="net_benefit_contrast.csv", notes=counted_reasons(shown),
            ),
            View(
                narrow=True, name="decision-table", caption="Net benefit at three risks",
                columns=columns, rows=rows, csv="net_benefit.csv", folded=True,
            ),
        ),
    )  # fmt: skip


def _where(row: Row) -> str:
    if row["at"] == MEAN_OVER_RANGE:
        return f"mean over {row['threshold']:g} to {row['threshold_high']:g}"
    return f"{row['threshold']:g}"


def transfer(evaluation: Evaluation) -> Section:
    """Thresholds, and whether they fit the scores that they are applied to."""
    tables = evaluation.tables
    rows = rows_of(tables.scales)
    columns = [
        *cells(), words("part", facet=True), count("patients"), figure("mean"), figure("sd", "SD"),
        figure("q50", "median"), figure("threshold"), figure("called_positive", "called positive"),
    ]  # fmt: skip
    thresholds = [
        {**row, "frozen": "frozen at the opening" if row["part"] == "test" else "of this sweep"}
        for row in rows_of(tables.operating[tables.operating["threshold"].notna()])
    ]
    return Section(
        name="thresholds",
        title="Thresholds and their transfer",
        words=(
            "Models of different folds may score on different scales, so out-of-fold what is "
            "carried over is a quantile: the rule finds, on the other folds, the share of patients "
            "to call positive, and a fold is cut there among its own scores (table Folds). No "
            "label helps to choose the threshold of its own patient; the scores of its fold do.",
            "For the deployed model a threshold is a score, chosen on all out-of-fold scores and "
            "frozen to thresholds.json when the hold-out was first opened. It transfers only if "
            "both lie on one scale: compare the rows of a cell, whose labels are not needed.",
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


def _over_folds(rate: str) -> Column:
    """The range of a rate over folds: `0.62–0.91`."""
    low, high = (figure(f"{rate}_{end}_fold", digits=2) for end in ("lowest", "highest"))

    def text(row: Row) -> str:
        return low.text(row) if low.text(row) == "–" else f"{low.text(row)}–{high.text(row)}"

    return Column(f"{rate} over folds", text, low.key)


def _p(name: str, title: str) -> Column:
    def text(row: Row) -> str:
        return "–" if row.get(name) is None else bare_p(row[name])

    return Column(title, text, figure(name).key)


def _difference(row: Row) -> str:
    return "–" if row["difference"] is None else difference(row)
