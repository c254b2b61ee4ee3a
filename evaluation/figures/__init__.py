"""Figures of an evaluation, made from its tables alone; matplotlib is needed from here on."""

from matplotlib.figure import Figure

from evaluation.figures.differences import forest
from evaluation.figures.discrimination import comparison, folds, roc
from evaluation.figures.probabilities import calibration, confusion, decision, scales
from evaluation.figures.stability import instability
from evaluation.figures.study import flow, training
from evaluation.figures.style import COLOURS, Drawing, styled
from evaluation.result import Evaluation

__all__ = [
    "COLOURS",
    "Drawing",
    "calibration",
    "comparison",
    "comparison_figure",
    "confusion",
    "decision",
    "drawings",
    "flow",
    "folds",
    "forest",
    "instability",
    "roc",
    "scales",
    "training",
]


def drawings(evaluation: Evaluation) -> dict[str, Drawing]:
    """Every figure of the report, by name, as far as the sweep has what it shows."""
    with styled():
        made = [comparison(evaluation), flow(evaluation), roc(evaluation), folds(evaluation)]
        if not evaluation.tables.comparisons.empty:
            made.append(forest(evaluation))
        made += [calibration(evaluation), decision(evaluation), scales(evaluation)]
        parts = ("oof",) if evaluation.seal.labels is None else ("oof", "test")
        made += [confusion(evaluation, part) for part in parts]
        if moved := instability(evaluation):
            made.append(moved)
        if curves := training(evaluation):
            made.append(curves)
    return {drawing.name: drawing for drawing in made}


def comparison_figure(evaluation: Evaluation) -> Figure:
    """The figure of `comparison` alone."""
    return comparison(evaluation).figure
