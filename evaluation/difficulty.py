"""Which patients are hard: how each is ranked against the other class, cell by cell."""

import numpy as np
import pandas as pd

from evaluation.auc import placements
from evaluation.checks import one_class

_MODEL = ["architecture", "modality", "part", "fold"]


def misranked(patients: pd.DataFrame) -> pd.DataFrame:
    """For each patient of each cell, the share of the other class ranked on the wrong side of it.

    That is 1 less its placement value (DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837):
    0 is right, 0.5 what chance gives, 1 as wrong as can be. Patients are ranked within their fold,
    for the folds' scores come from models of their own; the mean over either class of a fold is 1
    less the fold's AUC.

    Args:
        patients: Rows of `Tables.patients`.

    Returns:
        The rows whose label is known, with two columns more: `misranked`, in [0, 1], ties counting
        one half, NaN where the fold lacks a class; `residual`, |label - probability|, in [0, 1].
    """
    known = patients[patients["label"].notna()].reset_index(drop=True)
    shares = pd.Series(np.nan, index=known.index)
    for _, mine in known.groupby(_MODEL, sort=False):
        y, x = mine["label"].to_numpy() == 1, mine["score"].to_numpy(np.float64)
        if not one_class(y):
            below, above = placements(x[y], x[~y])
            shares[mine.index[y]], shares[mine.index[~y]] = 1 - below, 1 - above
    residual = (known["label"] - known["probability"]).abs()
    return known.assign(misranked=shares, residual=residual)


def patient_difficulty(patients: pd.DataFrame) -> pd.DataFrame:
    """How hard each patient is over all cells that scored it, hardest first.

    Hard for every cell: the label may be wrong, or the sign not in the pictures. Hard for one
    modality only: the other one holds what this one lacks.

    Args:
        patients: Rows of `Tables.patients`.

    Returns:
        A row a patient and part: `cells` that scored it, mean and SD over them of `misranked`
        (see there), mean `residual`, and `called_wrong`, the share of its calls at Youden's
        threshold that are wrong (NaN without a call).
    """
    table = misranked(patients)
    wrong = (table["call"] != table["label"]).astype("Float64").mask(table["call"].isna())
    found = (
        table.assign(wrong=wrong.astype(float).to_numpy())
        .groupby(["part", "patient_id"], as_index=False)
        .agg(
            label=("label", "first"),
            fold=("fold", "first"),
            cells=("score", "size"),
            misranked=("misranked", "mean"),
            misranked_sd=("misranked", "std"),
            residual=("residual", "mean"),
            called_wrong=("wrong", "mean"),
        )
    )
    order = ["misranked", "residual", "patient_id"]
    return found.sort_values(order, ascending=[False, False, True], ignore_index=True)
