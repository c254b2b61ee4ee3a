"""The figure of how predictions move from model to model."""

import pandas as pd

from evaluation.figures.cells import modalities_of
from evaluation.figures.style import COLOURS, LINE, Drawing, panels
from evaluation.result import Evaluation
from evaluation.tables.scores import of_cell
from evaluation.text.format import ends


def instability(evaluation: Evaluation) -> Drawing | None:
    """Predictions of each model against their mean, a panel a modality; None of one model."""
    tables = evaluation.tables
    if tables.instability.empty:
        return None
    modalities = [m for m in modalities_of(evaluation) if m in set(tables.instability["modality"])]
    figure, (row,) = panels(modalities, height_mm=66)
    told = []
    for axes, modality in zip(row, modalities, strict=True):
        mine = tables.instability[tables.instability["modality"] == modality]
        selected = evaluation.selected
        chosen = selected.loc[selected["modality"] == modality, "architecture"]
        architecture = next(iter(chosen), mine["architecture"].iloc[0])
        points: pd.DataFrame = of_cell(tables.instability_models, architecture, modality)
        axes.set_title(f"{modality}, {architecture}", loc="left", fontweight="bold")
        axes.plot([0, 1], [0, 1], color=LINE, lw=0.8)
        axes.plot(
            points["mean_probability"], points["probability"], "o", ms=1.8, mew=0, alpha=0.4,
            color=COLOURS[0], rasterized=True,
        )  # fmt: skip
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel="mean prediction")
        of_patients = of_cell(mine, architecture, modality)["mape"]
        told.append(f"{modality} ({architecture}) {of_patients.mean():.3f}")
    row[0].set_ylabel("prediction of a model")
    return Drawing(
        name="instability",
        title="Prediction instability",
        figure=figure,
        alt="Out-of-fold predictions of each model over their mean, one panel a modality. Mean "
        f"absolute prediction error: {'; '.join(told)}. Of single patients, over all cells, "
        f"between {ends(tables.instability['mape'])}.",
        caption="A point is a patient as one model, of one seed and partition, predicts them out "
        "of fold, over the mean of such models. On the grey diagonal they agree; the wider the "
        "cloud, the less is the prediction of a patient that of the patient alone.",
    )
