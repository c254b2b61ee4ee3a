"""How sure is the order of the models: ranks over bootstrap cohorts."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluation.errors import EvaluationError
from evaluation.statistics.checks import Floats, normal_quantile
from evaluation.statistics.cross_validated import fold_reasons
from evaluation.statistics.selection import resampled_aucs

_COLUMNS = (
    "architecture", "modality", "auc", "rank", "auc_low", "auc_high", "rank_low", "rank_high",
    "p_first",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The order of cells, and how often it would be another.

    Attributes:
        cells: One row a cell, best first: `architecture`, `modality`, `auc` (fold mean), `rank`,
            `auc_low` and `auc_high`, `rank_low` and `rank_high` (percentile intervals over the
            bootstrap cohorts), `p_first` (share of them in which it is first).
        probabilities: (cells, cells): of each cell, in the same order, the probability of each
            rank, first to last; rows and columns sum to 1.
        patients: Patients that all cells scored, the ranking's own.
        reason: Why there is no ranking; "" if there is.
    """

    cells: pd.DataFrame
    probabilities: Floats
    patients: int
    reason: str


def rank_cells(
    patients: pd.DataFrame, *, draws: int = 2_000, level: float = 0.95, seed: int = 0
) -> Ranking:
    """Rank cells by the mean of their folds' AUCs, with the uncertainty of the ranks.

    All cells are scored on the same patients, drawn with replacement within fold and class (Hall &
    Miller 2009, Annals of Statistics 37:3929, on what a bootstrap says of a ranking; Wiesenfarth et
    al. 2021, Scientific Reports 11:2369, on showing it). It is the uncertainty of the patients
    alone: the models are as trained, another seed could change their order too.

    Args:
        patients: Rows of `Tables.patients` of one part; cells with no patients are not in it.
        draws: Bootstrap cohorts.
        level: Coverage of the percentile intervals, in (0, 1).
        seed: Seed of the draws and of breaking ties.

    Raises:
        EvaluationError: rows of several parts, or a wrong level.
    """
    normal_quantile(level)
    parts = patients["part"].unique()
    if len(parts) > 1:
        raise EvaluationError(
            f"patients must be of one part, got {', '.join(parts)}. "
            "Rank out-of-fold and test figures apart."
        )
    scores = patients[patients["label"].notna()].pivot(
        index=["fold", "patient_id", "label"], columns=["architecture", "modality"], values="score"
    )
    scores = scores.dropna().reset_index(["fold", "label"])
    cells = [name for name in scores.columns if name[1]]
    x, y = scores[cells].to_numpy(np.float64), scores["label"].to_numpy() == 1
    fold = scores["fold"].to_numpy()
    reason = fold_reasons(y, fold)[0]
    if reason:
        empty = pd.DataFrame(columns=list(_COLUMNS))
        return Ranking(
            cells=empty, probabilities=np.empty((0, 0)), patients=len(scores), reason=reason
        )
    rng = np.random.default_rng(seed)
    observed, drawn = resampled_aucs(y, x.T, fold, draws=draws, seed=rng)
    order = np.argsort(-observed, kind="stable")
    drawn = drawn[:, order]
    # Equal AUCs, to rounding, are put in an order at random.
    ranks = np.lexsort((rng.random(drawn.shape), -drawn.round(12))).argsort(axis=1)
    probabilities = np.stack([(ranks == rank).mean(axis=0) for rank in range(len(cells))], axis=1)
    ends = ((1 - level) / 2, (1 + level) / 2)
    low, high = np.quantile(drawn, ends, axis=0)
    rank_low, rank_high = np.quantile(ranks + 1, ends, axis=0, method="inverted_cdf")
    table = pd.DataFrame([cells[i] for i in order], columns=["architecture", "modality"])
    table = table.assign(
        auc=observed[order],
        rank=pd.Series(-observed[order].round(12)).rank(method="min").astype(int),
        auc_low=low,
        auc_high=high,
        rank_low=rank_low.astype(int),
        rank_high=rank_high.astype(int),
        p_first=probabilities[:, 0],
    )
    return Ranking(cells=table, probabilities=probabilities, patients=len(scores), reason="")
