"""Figures of an evaluation, made from its tables alone; matplotlib is needed from here on."""

from evaluation.figures.discrimination import (
    comparison,
    comparison_figure,
    fold_figure,
    folds,
    forest,
    forest_figure,
    roc,
    roc_figure,
)  # fmt: skip
from evaluation.figures.probabilities import (
    calibration,
    calibration_figure,
    confusion,
    confusion_figure,
    decision,
    decision_figure,
    scale_figure,
    scales,
)  # fmt: skip
from evaluation.figures.study import flow, flow_figure, training, training_figure
from evaluation.figures.style import COLOURS, Drawing, styled
from evaluation.result import Evaluation

__all__ = [
    "COLOURS",
    "Drawing",
    "calibration_figure",
    "comparison_figure",
    "confusion_figure",
    "decision_figure",
    "drawings",
    "flow_figure",
    "fold_figure",
    "forest_figure",
    "roc_figure",
    "scale_figure",
    "training_figure",
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
        if curves := training(evaluation):
            made.append(curves)
    return {drawing.name: drawing for drawing in made}
