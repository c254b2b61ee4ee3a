"""Figures of the probabilities: calibration, net benefit, scales of the scores, calls."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.figures.cells import (
    architectures_of,
    curves_of,
    modalities_of,
    part_panels,
    parts_of,
)
from evaluation.figures.style import (
    COLOURS,
    FAINT,
    INK,
    LINE,
    TWO_COLUMNS,
    Drawing,
    below,
    panels,
)  # fmt: skip
from evaluation.result import Evaluation
from evaluation.tables.curves import AS_PREDICTED, RECALIBRATED
from evaluation.tables.operating import YOUDEN
from evaluation.tables.scores import of_cell
from evaluation.text.format import PARTS, ends


def calibration(evaluation: Evaluation) -> Drawing:
    """Smoothed event rate over the predicted probability; two rows a part, as predicted first."""
    rows = {
        f"{part} {state}": f"\n{name}, {state}"
        for part, name in parts_of(evaluation).items()
        for state in (AS_PREDICTED, RECALIBRATED)
    }
    figure, shown = part_panels(
        evaluation, height_mm=22, row_mm=43, x="predicted probability", y="observed rate",
        rows=rows,
    )  # fmt: skip
    table, curves = evaluation.tables.calibration, evaluation.tables.calibration_curves
    for axes, row, modality in shown:
        part, _, state = row.partition(" ")
        axes.plot([0, 1], [0, 1], color=LINE, lw=0.8)
        of_state = curves[curves["state"] == state]
        for architecture, curve, style in curves_of(evaluation, of_state, part, modality):
            observed = curve["observed"].clip(0, 1)
            axes.plot(curve["probability"], observed, **style, label=architecture)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    below(figure, shown[0][0])
    oof = table[table["part"] == "oof"]
    smoothers = ", ".join(sorted(set(table["smoother"])))
    message = ""
    for state in (AS_PREDICTED, RECALIBRATED):
        mine = oof[oof["state"] == state]
        if mine["slope"].notna().any():
            message += (
                f" Out-of-fold, {state}, slopes lie between {ends(mine['slope'], 2)} (1 is right), "
                f"the integrated calibration index between {ends(mine['ici'])}."
            )
    return Drawing(
        name="calibration",
        title="Calibration",
        figure=figure,
        alt=f"Smoothed event rate over predicted probability, one panel a modality.{message}",
        caption=f"Observed rate smoothed by {smoothers} (span 0.75), drawn where predictions "
        "occur. On the grey diagonal prediction and rate agree; below it predictions are too high. "
        "Recalibrated: out-of-fold, each fold by the map fitted on the other folds; test, by the "
        "map fitted on all out-of-fold scores.",
    )


def decision(evaluation: Evaluation) -> Drawing:
    """Net benefit over the risk at which one would act; a row a part."""
    figure, shown = part_panels(
        evaluation, height_mm=16, row_mm=48, x="risk at which one would act", y="net benefit"
    )
    table = evaluation.tables.net_benefit
    top = max(0.05, float(np.nanmax([0.0, *table["model"], *table["treat_all"]])))
    selected = evaluation.tables.cells[evaluation.tables.cells["selected"]]
    banded = set(zip(selected["architecture"], selected["modality"], strict=True))
    low, high = evaluation.sweep.analysis.net_benefit_range
    for axes, part, modality in shown:
        axes.axvspan(low, high, color=LINE, alpha=0.25, lw=0)
        axes.axhline(0, color=FAINT, lw=0.9)
        everyone = table[(table["part"] == part) & (table["modality"] == modality)]
        everyone = everyone.drop_duplicates("threshold")
        axes.plot(everyone["threshold"], everyone["treat_all"], color=FAINT, lw=0.9)
        for architecture, curve, style in curves_of(evaluation, table, part, modality):
            axes.plot(curve["threshold"], curve["model"], **style, label=architecture)
            if (architecture, modality) in banded:
                axes.fill_between(
                    curve["threshold"].astype(float), curve["low"].astype(float),
                    curve["high"].astype(float), color=style["color"], alpha=0.14, lw=0,
                )  # fmt: skip
        axes.set(xlim=(0, 1), ylim=(-0.3 * top, 1.1 * top))
    below(figure, shown[0][0])
    oof = table[table["part"] == "oof"]
    useful = oof[oof["model"] > oof[["treat_all", "treat_none"]].max(axis=1) + 0.005]
    message = (
        "Models exceed both treating all and treating none by more than 0.005 at risks between "
        f"{ends(useful['threshold'], 2)}."
        if len(useful)
        else "No model exceeds both treating all and treating none by more than 0.005."
    )
    return Drawing(
        name="decision",
        title="Decision curves",
        figure=figure,
        alt=f"Net benefit over threshold risk, one panel a modality, out-of-fold. {message}",
        caption="Net benefit: true positives less false positives weighted by the odds of the "
        "threshold, per patient. A model is of use where its curve is above both grey ones: "
        "solid, acting on everyone; zero, acting on no one. Band: pointwise 95 % interval of the "
        "modality's selected architecture. Grey field: the declared range of risks.",
    )


def scales(evaluation: Evaluation) -> Drawing:
    """Where scores lie in each part, with the threshold: did it transfer?"""
    architectures, modalities = architectures_of(evaluation), modalities_of(evaluation)
    figure, (row,) = panels(modalities, height_mm=24 + 9 * len(architectures))
    looks = {"train": ("x", FAINT, -0.25), "oof": ("o", COLOURS[0], 0.0)}
    looks["test"] = ("s", COLOURS[1], 0.25)
    for axes, modality in zip(row, modalities, strict=True):
        for index, architecture in enumerate(architectures):
            parts = of_cell(evaluation.tables.scales, architecture, modality)
            for scale in parts.to_dict("records"):
                shape, colour, shift = looks[scale["part"]]
                at = index + shift
                axes.plot([scale["q05"], scale["q95"]], [at, at], color=colour, lw=0.8)
                axes.plot([scale["q25"], scale["q75"]], [at, at], color=colour, lw=2.2)
                axes.plot(scale["q50"], at, shape, ms=3.8, mfc="white", mec=colour, mew=1)
            if len(parts) and np.isfinite(cut := parts["threshold"].iloc[0]):
                axes.plot([cut, cut], [index - 0.42, index + 0.42], color=INK, lw=1.3)
        axes.set_xlabel("score (log-odds)")
        axes.set_ylim(len(architectures) - 0.5, -0.5)
    row[0].set_yticks(range(len(architectures)), architectures)
    names = {"train": "training patients", "oof": "out-of-fold", "test": "hold-out"}
    for part in sorted(set(evaluation.tables.scales["part"]), key=list(names).index):
        name, (shape, colour, _) = names[part], looks[part]
        row[0].plot([], [], shape, ms=3.8, ls="-", mfc="white", color=colour, label=name)
    below(figure, row[0])
    table = evaluation.tables.scales.pivot_table(
        index=["architecture", "modality"], columns="part", values="called_positive", sort=False
    )
    message = ""
    if {"oof", "test"} <= set(table) and (apart := table["test"] - table["oof"]).notna().any():
        message = (
            " The share called positive on the hold-out less that out-of-fold lies between "
            f"{ends(apart, 2)}."
        )
    return Drawing(
        name="scales",
        title="Scale of the scores",
        figure=figure,
        alt=f"Scores (log-odds) of each cell and part with the threshold.{message}",
        caption="Thin line: 5th to 95th percentile; thick: quartiles; marker: median. Circle: "
        "out-of-fold; square: deployed model on the hold-out; cross: deployed model on its own "
        "training patients. Bar: Youden's threshold over all out-of-fold scores. If out-of-fold "
        "and hold-out lie apart, the threshold did not transfer. No label is used.",
    )


def confusion(evaluation: Evaluation, part: str) -> Drawing:
    """2 × 2 tables at Youden's threshold, architectures beside, modalities below each other."""
    architectures, modalities = architectures_of(evaluation), modalities_of(evaluation)
    question = evaluation.sweep.question
    size = TWO_COLUMNS / 25.4, (10 + 21 * len(modalities)) / 25.4
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(modalities), len(architectures), squeeze=False)
    table = evaluation.tables.operating
    table = table[(table["part"] == part) & (table["rule"] == YOUDEN)]
    for i, modality in enumerate(modalities):
        for j, architecture in enumerate(architectures):
            axes = grid[i][j]
            if i == 0:
                axes.set_title(architecture, fontweight="bold")
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
            axes.set_xticks((0, 1), ("called −", "called +") if i == len(modalities) - 1 else ())
            axes.set_yticks((0, 1), (question.negative, question.positive) if j == 0 else ())
            if j == 0:
                axes.set_ylabel(modality, fontweight="bold")
            _count(axes, of_cell(table, architecture, modality))
            axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5))
    message = (
        f"Sensitivity lies between {ends(table['sensitivity'], 2)}, specificity between "
        f"{ends(table['specificity'], 2)}."
        if table["sensitivity"].notna().any()
        else "None is defined."
    )
    cut = (
        "each fold at the quantile that the other folds choose"
        if part == "oof"
        else "the threshold over all out-of-fold patients, frozen when the test set was opened"
    )
    return Drawing(
        name=f"confusion_{part}",
        title=f"Confusion matrices, {PARTS[part]}",
        figure=figure,
        alt=f"Counts of calls by label for each cell, {PARTS[part]}. {message}",
        caption=f"Patients at Youden's threshold: {cut}. Shade: share of the row, the patients of "
        "that label.",
    )


def _count(axes: Axes, calls: pd.DataFrame) -> None:
    """The 2 × 2 table of a cell, or a dash where it is undefined."""
    if calls.empty or calls["tp"].isna().any():
        axes.text(0.5, 0.5, "–", ha="center", va="center")
        return
    row = calls.iloc[0]
    counts = np.array([[row["tn"], row["fp"]], [row["fn"], row["tp"]]], dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Not imshow: that is a bitmap inside the vector files.
    edges = (-0.5, 0.5, 1.5)
    axes.pcolormesh(edges, edges, shares, cmap="Blues", vmin=0, vmax=1.4)
    for (y, x), count in np.ndenumerate(counts):
        axes.text(x, y, f"{count:.0f}", ha="center", va="center", fontsize=7.5)
