"""Figures of discrimination: AUCs of all cells, ROC curves, folds."""

import numpy as np
from matplotlib.axes import Axes

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
    MARKERS,
    Drawing,
    below,
    panels,
    whisker,
)
from evaluation.result import Evaluation
from evaluation.tables.scores import of_cell
from evaluation.text.format import ends, estimate, number
from evaluation.text.sentences import interval_name


def comparison(evaluation: Evaluation) -> Drawing:
    """AUC of every cell, out-of-fold and once open on the test set: a row an architecture."""
    opened = evaluation.seal.labels is not None
    tables, modalities = evaluation.tables, modalities_of(evaluation)
    count = len(architectures_of(evaluation))
    figure, (row,) = panels(modalities, height_mm=19 + 4 * opened + 6.5 * count)
    lowest = np.nanmin([0.45, *tables.cells["fold_mean_low"], *tables.test["low"]])
    for colour, axes, modality in zip(COLOURS * 10, row, modalities, strict=False):
        _compare(axes, evaluation, modality, colour)
        axes.set(xlim=(lowest - 0.02, 1.02), xlabel="AUC (95 % CI)")
        axes.set_ylim(count - 0.5, -0.5)
    row[0].set_yticks(range(count), architectures_of(evaluation))
    if opened:
        for shape, colour, name in (("o", COLOURS[0], "out-of-fold"), ("s", FAINT, "test")):
            row[0].plot([], [], shape, ms=4.2, color=colour, label=name)
        below(figure, row[0])
    ranked = tables.cells.dropna(subset="fold_mean_auc")
    ranked = ranked.sort_values("fold_mean_auc", kind="stable")
    message = "No fold-mean AUC is defined. "
    for best in ranked[-1:].to_dict("records"):
        message = (
            f"The highest fold-mean out-of-fold AUC is that of {best['architecture']} "
            f"{best['modality']}, {estimate(best, 'fold_mean_')}. "
        )
    means = "; ".join(
        f"{mean['modality']} {number(mean['fold_mean_auc'])}"
        for mean in tables.modalities.to_dict("records")
    )
    return Drawing(
        name="comparison",
        title="AUC of each architecture and modality",
        figure=figure,
        alt=f"{message}Means over architectures: {means}. All values are in the table Results.",
        caption=f"Circles: fold-mean out-of-fold AUC with its {interval_name(evaluation)} 95 % "
        "interval (hollow: not all runs done). "
        + ("Squares: test AUC with DeLong's 95 % interval. " if opened else "")
        + "Dotted: mean over architectures. Grey line: chance.",
    )


def _compare(axes: Axes, evaluation: Evaluation, modality: str, colour: str) -> None:
    """The panel of a modality."""
    tables, opened = evaluation.tables, evaluation.seal.labels is not None
    shift = 0.17 if opened else 0.0
    mean = tables.modalities.set_index("modality")["fold_mean_auc"][modality]
    axes.axvline(0.5, color=LINE, lw=0.8)
    if np.isfinite(mean):
        axes.axvline(mean, color=colour, lw=0.9, ls=":")
    for at, architecture in enumerate(architectures_of(evaluation)):
        for cell in of_cell(tables.cells, architecture, modality).to_dict("records"):
            face = colour if cell["complete"] else "white"
            auc = cell["fold_mean_auc"], cell["fold_mean_low"], cell["fold_mean_high"]
            whisker(axes, at - shift, auc, ("o", colour, face))
        for test in of_cell(tables.test, architecture, modality).to_dict("records"):
            if opened:
                face = FAINT if test["runs_done"] == test["runs_expected"] else "white"
                auc = test["auc"], test["low"], test["high"]
                whisker(axes, at + shift, auc, ("s", FAINT, face))


def roc(evaluation: Evaluation) -> Drawing:
    """ROC curves of all cells, the selected ones with their bands; a row a part."""
    tables = evaluation.tables
    figure, shown = part_panels(
        evaluation, height_mm=12, row_mm=58, x="1 − specificity", y="sensitivity"
    )
    areas = {
        "oof": tables.cells.set_index(["architecture", "modality"])["pooled_auc"],
        "test": tables.test.set_index(["architecture", "modality"])["auc"],
    }
    selected = evaluation.selected
    banded = dict(zip(selected["modality"], selected["architecture"], strict=True))
    for axes, part, modality in shown:
        axes.plot([0, 1], [0, 1], color=LINE, lw=0.8)
        for architecture, curve, style in curves_of(evaluation, tables.roc, part, modality):
            if curve.empty:
                continue
            area = number(areas[part][architecture, modality])
            axes.plot(
                1 - curve["specificity"], curve["sensitivity"], **style,
                label=f"{architecture} {area}",
            )  # fmt: skip
            if banded.get(modality) == architecture:
                band = of_cell(tables.roc_bands, architecture, modality, part=part)
                axes.fill_between(
                    1 - band["specificity"], band["low"], band["high"],
                    color=style["color"], alpha=0.14, lw=0,
                )  # fmt: skip
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", frameon=False, handlelength=2.8, borderpad=0)
    of_selected = "; ".join(
        f"{cell['modality']} {cell['architecture']} {number(cell['pooled_auc'])}"
        for cell in selected.to_dict("records")
    )
    return Drawing(
        name="roc",
        title="ROC curves",
        figure=figure,
        alt="ROC curves of all architectures, one panel a modality"
        + ("; upper row out-of-fold, lower row test" if len(parts_of(evaluation)) > 1 else "")
        + (f". Pooled out-of-fold areas of the selected ones: {of_selected}" if of_selected else "")
        + ".",
        caption="Out-of-fold scores of all folds pooled into one curve (secondary: pooling mixes "
        "models of different folds). Band: pointwise 95 % band of the modality's selected "
        "architecture, by resampling patients within their class. In the legend the area.",
    )


def folds(evaluation: Evaluation) -> Drawing:
    """The folds of each architecture beside each other: how much an AUC varies."""
    tables, architectures = evaluation.tables, architectures_of(evaluation)
    modalities = modalities_of(evaluation)
    figure, (row,) = panels(modalities, height_mm=58)
    for axes, modality in zip(row, modalities, strict=True):
        axes.axhline(0.5, color=LINE, lw=0.8)
        for index, architecture in enumerate(architectures):
            cell = of_cell(tables.cells, architecture, modality)
            if cell.empty:
                continue
            mean = cell["fold_mean_auc"].iloc[0]
            axes.plot([index - 0.3, index + 0.3], [mean, mean], color=INK, lw=1.2)
            aucs = of_cell(tables.folds, architecture, modality)["auc"].to_numpy(float)
            places = np.linspace(-0.18, 0.18, aucs.size) if aucs.size > 1 else np.zeros(aucs.size)
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            axes.plot(index + places, aucs, marker, ls="", ms=3.4, color=colour, alpha=0.85)
        axes.set_xticks(range(len(architectures)), architectures, rotation=35, ha="right")
    row[0].set_ylabel("AUC of a fold")
    spread = tables.cells["fold_sd_auc"]
    message = (
        f"The SD over folds lies between {ends(spread)}."
        if spread.notna().any()
        else "No spread over folds is defined."
    )
    return Drawing(
        name="folds",
        title="Spread over folds",
        figure=figure,
        alt=f"AUC of each fold, one panel a modality. {message}",
        caption="AUC within each fold (markers) and the mean over folds (bar). Grey line: chance.",
    )
