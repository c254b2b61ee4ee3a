"""Figures of an evaluation, made from its tables alone; matplotlib is needed from here on.

Colours are Okabe & Ito's, told apart with any colour vision; lines and markers differ as well.
"""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.evaluate import Evaluation

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = "os^Dv"
_INK, _FAINT = "#222222", "#9a9a9a"


def comparison_figure(evaluation: "Evaluation") -> Figure:
    """Pooled out-of-fold AUC with DeLong's 95 % interval, architectures by modality.

    A hollow dot is a cell that is not complete; the dotted line is the mean over architectures.
    """
    cells, modalities = evaluation.tables.cells, evaluation.tables.modalities
    architectures = list(dict.fromkeys(cells["architecture"]))
    figure, panels = _panels(modalities["modality"], height=0.9 + 0.32 * len(architectures))
    means = modalities.set_index("modality")["pooled_auc"]
    lowest = np.nanmin([0.45, *cells["pooled_low"]])
    for colour, (axes, modality) in zip(COLOURS * 10, panels, strict=False):
        mine = cells[cells["modality"] == modality].set_index("architecture")
        axes.axvline(0.5, color=_FAINT, lw=0.8)
        mean = means[modality]
        if np.isfinite(mean):
            axes.axvline(mean, color=colour, lw=1, ls=":")
        for row, architecture in enumerate(architectures):
            if architecture not in mine.index or np.isnan(mine.loc[architecture, "pooled_auc"]):
                continue
            cell = mine.loc[architecture]
            axes.plot([cell["pooled_low"], cell["pooled_high"]], [row, row], color=colour, lw=1.8)
            face = colour if cell["complete"] else "white"
            axes.plot(cell["pooled_auc"], row, "o", ms=6, mfc=face, mec=colour)
        axes.set(xlim=(lowest - 0.02, 1.02), xlabel="AUC, pooled out-of-fold")
        axes.set_ylim(len(architectures) - 0.5, -0.5)
    panels[0][0].set_yticks(range(len(architectures)), architectures)
    return figure


def roc_figure(evaluation: "Evaluation") -> Figure:
    """Pooled out-of-fold ROC curves, one panel a modality, the architectures over each other."""
    tables = evaluation.tables
    figure, panels = _panels(tables.modalities["modality"], height=3.3)
    architectures = list(dict.fromkeys(tables.cells["architecture"]))
    pooled = tables.cells.set_index(["architecture", "modality"])["pooled_auc"]
    for axes, modality in panels:
        axes.plot([0, 1], [0, 1], color=_FAINT, lw=0.8)
        for index, architecture in enumerate(architectures):
            curve = _of_cell(tables.roc, architecture, modality)
            curve = curve[curve["part"] == "oof"]
            if curve.empty:
                continue
            axes.plot(
                1 - curve["specificity"],
                curve["sensitivity"],
                color=COLOURS[index % len(COLOURS)],
                ls=_LINES[index % len(_LINES)],
                lw=1.4,
                label=f"{architecture} {pooled[architecture, modality]:.3f}",
            )
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel="1 − specificity")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", fontsize=7, frameon=False, handlelength=2.6)
    panels[0][0].set_ylabel("sensitivity")
    return figure


def fold_figure(evaluation: "Evaluation") -> Figure:
    """The AUC of each fold and their mean, one panel a modality."""
    tables = evaluation.tables
    figure, panels = _panels(tables.modalities["modality"], height=2.6)
    architectures = list(dict.fromkeys(tables.cells["architecture"]))
    means = tables.cells.set_index(["architecture", "modality"])["fold_mean_auc"]
    for axes, modality in panels:
        axes.axhline(0.5, color=_FAINT, lw=0.8)
        for index, architecture in enumerate(architectures):
            if (architecture, modality) not in means.index:
                continue
            colour = COLOURS[index % len(COLOURS)]
            mean = means[architecture, modality]
            axes.plot([index - 0.3, index + 0.3], [mean, mean], color=_INK, lw=1.4)
            aucs = _of_cell(tables.folds, architecture, modality)["auc"].to_numpy(float)
            spread = np.linspace(-0.15, 0.15, aucs.size) if aucs.size > 1 else np.zeros(aucs.size)
            marker = _MARKERS[index % len(_MARKERS)]
            axes.plot(index + spread, aucs, marker, ls="", ms=4.5, color=colour, alpha=0.85)
        axes.set_xticks(range(len(architectures)), architectures, rotation=35, ha="right")
    panels[0][0].set_ylabel("AUC of a fold")
    return figure


def _of_cell(table: "pd.DataFrame", architecture: str, modality: str) -> "pd.DataFrame":
    return table[(table["architecture"] == architecture) & (table["modality"] == modality)]


def _panels(modalities: "pd.Series", *, height: float) -> tuple[Figure, list[tuple[Axes, str]]]:
    """One panel a modality side by side with shared axes, and nothing drawn that says nothing."""
    figure = Figure(figsize=(0.9 + 2.7 * len(modalities), height), layout="constrained")
    row = figure.subplots(1, len(modalities), sharex=True, sharey=True, squeeze=False)[0]
    for axes, modality in zip(row, modalities, strict=True):
        axes.set_title(modality, fontsize=10, loc="left", color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=_INK)
        axes.xaxis.label.set_size(8)
        axes.yaxis.label.set_size(8)
    return figure, list(zip(row, modalities, strict=True))
