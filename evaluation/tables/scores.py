"""One score a patient: the mean over seeds of the log-odds, cell by cell and part by part.

A cell is an architecture × a modality.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from evaluation.records.runs import Run, Sweep
from evaluation.records.schema import repeat_of
from evaluation.statistics.repeated import Partition

DEPLOYED = "deployed model"

ENSEMBLE = "ensemble of fold models"

SEALED = "sealed"

Cell = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class CellScores:
    """The scores of a cell.

    Each table has a row a patient (and fold), sorted: fold, patient_id, label, seeds, score
    (log-odds), probability.

    Attributes:
        architecture: Name of the cell's architecture.
        modality: What its models see: `image`, `video` or `combined`.
        runs: Listed runs of the cell, done or not.
        oof_by_repeat: Out-of-fold scores of each listed partition, each patient once.
        models: The same of every seed by itself: repeat, fold, seed, patient_id, label, score.
        test: Scores of the hold-out by `source`; labels are NaN while it is sealed.
        source: DEPLOYED if the sweep lists runs on all development patients, else ENSEMBLE.
        train: Scores of the fold models on the patients that they were trained on.
        train_deployed: The same of the deployed model.
        sealed: Whether the labels of the hold-out are not known.
    """

    architecture: str
    modality: str
    runs: tuple[Run, ...]
    oof_by_repeat: Mapping[int, pd.DataFrame]
    models: pd.DataFrame
    test: pd.DataFrame
    source: str
    train: pd.DataFrame
    train_deployed: pd.DataFrame
    sealed: bool

    @property
    def oof(self) -> pd.DataFrame:
        """Out-of-fold scores of the first partition, of which calls, curves and calibration are."""
        return next(iter(self.oof_by_repeat.values()))

    @property
    def cell(self) -> Cell:
        """Architecture and modality."""
        return self.architecture, self.modality

    @property
    def name(self) -> dict[str, str]:
        """The columns that name the cell in a table."""
        return {"architecture": self.architecture, "modality": self.modality}

    @property
    def fold_runs(self) -> list[Run]:
        """Listed runs of a fold."""
        return [run for run in self.runs if run.fold != "all"]

    @property
    def tested_runs(self) -> list[Run]:
        """Listed runs that score the hold-out."""
        return [run for run in self.runs if run.fold == "all"] or list(self.runs)

    def parts(self) -> dict[str, pd.DataFrame]:
        """Scores with one model's threshold: out-of-fold and, of a deployed model, train and test.

        A threshold does not transfer to an ensemble of fold models: averaging narrows the scores.
        """
        if self.source != DEPLOYED:
            return {"oof": self.oof}
        return {"train": self.train_deployed, "oof": self.oof, "test": self.test}


def cell_scores(sweep: Sweep, test_labels: Mapping[str, int] | None) -> list[CellScores]:
    """The scores of each cell: architectures and modalities in the order of the list of runs.

    `test_labels` are 0/1 by patient of the hold-out; None while the test set is sealed.
    """
    runs: dict[Cell, list[Run]] = {}
    architectures, modalities = (
        list(dict.fromkeys(getattr(run, name) for run in sweep.runs))
        for name in ("architecture", "modality")
    )
    every = ((architecture, modality) for architecture in architectures for modality in modalities)
    for cell in every:
        listed = [run for run in sweep.runs if (run.architecture, run.modality) == cell]
        if listed:
            runs[cell] = listed
    parts = {part: _mean_over_seeds(sweep.predictions, part) for part in ("train", "oof", "test")}
    parts["model"] = _by_model(sweep.predictions)

    def scored(part: str, cell: Cell) -> pd.DataFrame:
        rows = of_cell(parts[part], *cell)
        return rows.drop(columns=["architecture", "modality"]).reset_index(drop=True)

    cells = []
    for cell, listed in runs.items():
        deployed = any(run.fold == "all" for run in listed)
        train = scored("train", cell)
        oof = scored("oof", cell)
        numbers = sorted({repeat_of(run.fold) for run in listed if run.fold != "all"})
        cells.append(
            CellScores(
                architecture=cell[0],
                modality=cell[1],
                runs=tuple(listed),
                oof_by_repeat={number: _in_repeat(oof, number) for number in numbers or [0]},
                models=scored("model", cell),
                test=_tested(scored("test", cell), deployed, test_labels),
                source=DEPLOYED if deployed else ENSEMBLE,
                train=train[train["fold"] != "all"],
                train_deployed=train[train["fold"] == "all"],
                sealed=test_labels is None,
            )
        )
    return cells


def of_cell(
    table: pd.DataFrame, architecture: str, modality: str, *, part: str | None = None
) -> pd.DataFrame:
    """The rows of a cell in any of the tables, and of a part."""
    chosen = (table["architecture"] == architecture) & (table["modality"] == modality)
    return table[chosen if part is None else chosen & (table["part"] == part)]


def partitions_of(
    members: Sequence[CellScores], patients: Iterable[str] | None = None
) -> list[Partition]:
    """The scored partitions of one or several cells, of the patients that all of them scored.

    Args:
        members: Cells, whose AUCs are averaged.
        patients: Of whom; all if not given.
    """
    found = []
    for repeat in members[0].oof_by_repeat:
        tables = [each.models[each.models["repeat"] == repeat] for each in members]
        by_seed = [t.pivot(index="patient_id", columns="seed", values="score") for t in tables]
        shared = sorted(
            set.intersection(*(set(wide.index) for wide in by_seed)).intersection(
                by_seed[0].index if patients is None else patients
            )
        )
        if not shared:
            continue
        scores = [wide.loc[shared].to_numpy(np.float64).T for wide in by_seed]
        if len({each.shape for each in scores}) > 1 or any(np.isnan(each).any() for each in scores):
            # Seeds that some folds lack cannot be drawn: their mean stands for them.
            scores = [np.nanmean(each, axis=0, keepdims=True) for each in scores]
        known = tables[0].drop_duplicates("patient_id").set_index("patient_id").loc[shared]
        found.append(
            Partition(
                patients=known.index.to_numpy(),
                labels=known["label"].to_numpy(),
                folds=known["fold"].to_numpy(),
                scores=np.stack(scores),
            )
        )
    return found


def progress(runs: list[Run]) -> dict[str, int]:
    """How many of the listed runs are done."""
    return {"runs_done": sum(run.state == "done" for run in runs), "runs_expected": len(runs)}


def sigmoid(score: pd.Series) -> pd.Series:
    """Probabilities of log-odds."""
    # Clipped where the probability is 0 or 1 in float64 anyway and exp would overflow.
    return pd.Series(1 / (1 + np.exp(-score.clip(-700, 700))))


def _mean_over_seeds(predictions: pd.DataFrame, part: str) -> pd.DataFrame:
    rows = predictions[predictions["part"] == part]
    groups = rows.groupby(["architecture", "modality", "fold", "patient_id"], sort=True)
    scores = groups.agg(
        label=("label", "first"), seeds=("seed", "nunique"), score=("score", "mean")
    )
    return scores.assign(probability=sigmoid(scores["score"])).reset_index()


def _by_model(predictions: pd.DataFrame) -> pd.DataFrame:
    rows = predictions[predictions["part"] == "oof"]
    columns = ["architecture", "modality", "fold", "seed", "patient_id", "label", "score"]
    rows = rows[columns].sort_values(columns[:5], kind="stable", ignore_index=True)
    return rows.assign(repeat=rows["fold"].map(repeat_of).astype(int))


def _in_repeat(table: pd.DataFrame, repeat: int) -> pd.DataFrame:
    """The rows of a partition, by the names of its folds."""
    return table[table["fold"].map(repeat_of) == repeat].reset_index(drop=True)


def _tested(
    rows: pd.DataFrame, deployed: bool, test_labels: Mapping[str, int] | None
) -> pd.DataFrame:
    if deployed:
        rows = rows[rows["fold"] == "all"]
    # `rows` are means over seeds, so a fold that lacks a seed weighs no less than another.
    groups = rows.groupby("patient_id", sort=True)
    scores = groups.agg(seeds=("seeds", "min"), score=("score", "mean")).reset_index()
    scores.insert(0, "fold", "all" if deployed else "mean")
    labels = [float((test_labels or {}).get(name, nan)) for name in scores["patient_id"]]
    scores.insert(2, "label", labels)
    return scores.assign(probability=sigmoid(scores["score"]))
