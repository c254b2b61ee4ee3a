"""How much an AUC varies from fold to fold and from seed to seed, and how much of it is chance."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from evaluation.auc import auc_interval
from evaluation.runs import Sweep

_RUN = ["architecture", "modality", "fold", "seed", "run_id"]
_LABELLED = ("train", "inner_val", "oof")


def run_aucs(sweep: Sweep) -> pd.DataFrame:
    """The AUC of every done run on each of its labelled parts, with DeLong's 95 % interval.

    Returns:
        A row a run and part (train, inner_val, oof): patients, events, auc, variance, low, high;
        NaN where undefined, with `reason` saying why. Train is apparent, inner_val chose the
        checkpoint.
    """
    rows: list[dict[str, Any]] = []
    known = sweep.predictions[sweep.predictions["part"].isin(_LABELLED)]
    for key, mine in known.groupby([*_RUN, "part"], sort=False):
        auc = asdict(auc_interval(mine["label"], mine["score"]))
        figures = {name: auc[name] for name in ("auc", "variance", "low", "high", "reason")}
        counts = {"patients": len(mine), "events": int(mine["label"].sum())}
        rows.append(dict(zip([*_RUN, "part"], key, strict=True)) | counts | figures)
    return pd.DataFrame(rows)


def auc_spread(runs: pd.DataFrame) -> pd.DataFrame:
    """How the out-of-fold AUCs of a cell's runs spread, and what chance alone would give.

    Bouthillier et al. 2021 (Proceedings of Machine Learning and Systems 3:747): the choice of
    patients moves a figure more than the seed does, and neither is to be read as the other.

    Args:
        runs: Of `run_aucs`.

    Returns:
        A row a cell: `folds` and `seeds` scored, `mean`, `sd_folds` (SD over folds of the mean over
        seeds), `sd_chance` (root mean of DeLong's variance: what folds of this few patients vary by
        if no fold is harder than another), `sd_seeds` (root mean over folds of the variance over
        seeds: training noise); NaN with one fold or one seed.
    """
    rows = []
    mine = runs[(runs["part"] == "oof") & runs["auc"].notna()]
    for (architecture, modality), cell in mine.groupby(["architecture", "modality"], sort=False):
        folds = cell.groupby("fold")["auc"]
        rows.append(
            {
                "architecture": architecture,
                "modality": modality,
                "folds": folds.ngroups,
                "seeds": cell["seed"].nunique(),
                "mean": folds.mean().mean(),
                "sd_folds": folds.mean().std(),
                "sd_chance": np.sqrt(cell.groupby("fold")["variance"].mean().mean()),
                "sd_seeds": np.sqrt(folds.var().mean()),
            }
        )
    columns = ("folds", "seeds", "mean", "sd_folds", "sd_chance", "sd_seeds")
    return pd.DataFrame(rows, columns=["architecture", "modality", *columns])
