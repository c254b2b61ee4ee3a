"""Patients seen by many models: who is hard, how runs vary, where models agree."""

from dataclasses import asdict
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd

from evaluation.records.runs import Sweep
from evaluation.statistics.auc import auc_interval, placements
from evaluation.statistics.checks import one_class
from evaluation.statistics.kappa import Kappa, cohen_kappa, stratified_spearman

_RUN = ["architecture", "modality", "fold", "seed", "run_id"]
_MODEL = ["architecture", "modality", "part", "fold"]
_LABELLED = ("train", "inner_val", "oof")


def concordance(
    patients: pd.DataFrame, *, between: Literal["modality", "architecture"] = "modality"
) -> pd.DataFrame:
    """Agreement of each two modalities of an architecture, or two architectures of a modality.

    Args:
        patients: Rows of `Tables.patients`; those without a label are left out.
        between: What differs within a pair.

    Returns:
        A row a part and pair (`a`, `b`) within the other (`within`), on the patients that both
        scored: `patients`, counts of who is called right at Youden's threshold (`both_right`,
        `only_a`, `only_b`, `both_wrong`; NA without calls), the fields of `cohen_kappa` of the
        calls, and `spearman`, the rank correlation of the scores within fold and class.
    """
    other = "architecture" if between == "modality" else "modality"
    known = patients[patients["label"].notna()]
    rows: list[dict[str, Any]] = []
    for (part, within), scored in known.groupby(["part", other], sort=False):
        sides = dict(iter(scored.groupby(between, sort=False)))
        for (a, table_a), (b, table_b) in combinations(sides.items(), 2):
            both = table_a.merge(table_b, on=["patient_id", "label", "fold"], suffixes=("_a", "_b"))
            rows.append({"part": part, "within": within, "a": a, "b": b} | _pair(both))
    counts = ["both_right", "only_a", "only_b", "both_wrong"]
    columns = ["part", "within", "a", "b", "patients", *counts, *Kappa.__annotations__, "spearman"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(counts, "Int64"))


def _pair(both: pd.DataFrame) -> dict[str, Any]:
    called = both.dropna(subset=["call_a", "call_b"])
    right_a, right_b = (called[side] == called["label"] for side in ("call_a", "call_b"))
    counts = {
        "both_right": int((right_a & right_b).sum()),
        "only_a": int((right_a & ~right_b).sum()),
        "only_b": int((~right_a & right_b).sum()),
        "both_wrong": int((~right_a & ~right_b).sum()),
    }
    kappa = cohen_kappa(called["call_a"].astype(int), called["call_b"].astype(int))
    strata = both["fold"] + " " + both["label"].astype(str)
    return {
        "patients": len(both),
        **(counts if len(called) else {}),
        **asdict(kappa),
        "spearman": stratified_spearman(both["score_a"], both["score_b"], strata),
    }


def run_aucs(sweep: Sweep) -> pd.DataFrame:
    """The AUC of every done run on each of its labelled parts, with DeLong's 95 % interval.

    Returns:
        A row a run and part (train, inner_val, oof): patients, events, auc, variance, low, high;
        NaN where undefined, with `reason` saying why. Train is apparent, inner_val chose the
        checkpoint.
    """
    rows: list[dict[str, Any]] = []
    known = sweep.predictions[sweep.predictions["part"].isin(_LABELLED)]
    for key, scored in known.groupby([*_RUN, "part"], sort=False):
        auc = asdict(auc_interval(scored["label"], scored["score"]))
        figures = {name: auc[name] for name in ("auc", "variance", "low", "high", "reason")}
        counts = {"patients": len(scored), "events": int(scored["label"].sum())}
        rows.append(dict(zip([*_RUN, "part"], key, strict=True)) | counts | figures)
    return pd.DataFrame(rows)


def auc_spread(runs: pd.DataFrame) -> pd.DataFrame:
    """How the out-of-fold AUCs of a cell's runs spread, and what chance alone would give.

    Bouthillier et al. 2021 (Proceedings of Machine Learning and Systems 3:747): the choice of
    patients moves a figure more than the seed does, and neither is to be read as the other.

    Args:
        runs: Rows of `run_aucs`.

    Returns:
        A row a cell: `folds` and `seeds` scored, `mean`, `sd_folds` (SD over folds of the mean over
        seeds), `sd_chance` (root mean of DeLong's variance: what folds of this few patients vary by
        if no fold is harder than another), `sd_seeds` (root mean over folds of the variance over
        seeds: training noise); NaN with one fold or one seed.
    """
    rows = []
    defined = runs[(runs["part"] == "oof") & runs["auc"].notna()]
    for (architecture, modality), cell in defined.groupby(["architecture", "modality"], sort=False):
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
    for _, scored in known.groupby(_MODEL, sort=False):
        y, x = scored["label"].to_numpy() == 1, scored["score"].to_numpy(np.float64)
        if not one_class(y):
            below, above = placements(x[y], x[~y])
            shares[scored.index[y]], shares[scored.index[~y]] = 1 - below, 1 - above
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
    difficulty = (
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
    return difficulty.sort_values(order, ascending=[False, False, True], ignore_index=True)
