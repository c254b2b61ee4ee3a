"""Differences between cells: the primary contrast, and families of all others after Holm.

A pair is compared on the patients that both sides scored; where a modality is missing for some,
the AUCs over all available patients stand beside it, with an interval and no test. What is not
complete, or of unequal numbers of seeds, is not compared: its figures would be those of the runs
that happen to be done. Where the patients were dealt into folds several times, both sides are
averaged over the partitions (`repeated_cv_test`); calls are those of the first.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from evaluation.records.analysis import MEAN, SELECTED, Analysis
from evaluation.statistics.auc_tests import AucTest, delong_test, overlapping_test
from evaluation.statistics.checks import undefined
from evaluation.statistics.cross_validated import cv_auc_test, cv_overlapping_test
from evaluation.statistics.proportions import holm, mcnemar
from evaluation.statistics.repeated import METHOD, repeated_cv_test
from evaluation.tables.operating import Thresholds, calls
from evaluation.tables.scores import SEALED, Cell, CellScores, partitions_of, progress

PRIMARY = "primary"

OF_MODALITIES = "modalities within an architecture"

OF_ARCHITECTURES = "architectures within a modality"

PAIRED, AVAILABLE = "paired", "all available"

CONFIRMATORY, SECONDARY = "confirmatory", "secondary"

EXPLORATORY = "exploratory: architectures chosen on the same patients"

COLUMNS = (
    "family", "part", "standing", "patients_used", "architecture_a", "modality_a",
    "architecture_b", "modality_b", "models_a", "models_b", "patients_a", "patients_b", "events_a",
    "events_b", "method", "auc_a", "auc_b", "difference", "low", "high", "z", "p_value",
    "family_size", "p_holm", "sensitivity_p", "sensitivity_p_holm", "specificity_p",
    "specificity_p_holm", "reason",
)  # fmt: skip
_TEST_FIELDS = ("auc_a", "auc_b", "difference", "low", "high", "z", "p_value", "reason")
_ADJUSTED = {name: f"{name}_holm" for name in ("sensitivity_p", "specificity_p")}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a contrast: a cell, or all cells of a modality, whose AUCs are averaged.

    Attributes:
        architecture: Name of the cell's, or MEAN.
        modality: What its models see.
        members: The cells; of one modality, so of the same patients.
    """

    architecture: str
    modality: str
    members: tuple[CellScores, ...]

    @property
    def cells(self) -> list[Cell]:
        """Names of the cells."""
        return [member.cell for member in self.members]


Contrast = tuple[Side, Side]


def select_architectures(cells: pd.DataFrame) -> dict[str, str]:
    """For each modality the architecture with the highest fold-mean out-of-fold AUC.

    Only complete cells are chosen from; of equal ones the first in the list.
    """
    usable = cells[cells["complete"] & cells["fold_mean_auc"].notna()]
    best = usable.sort_values("fold_mean_auc", ascending=False, kind="stable")
    return dict(best.groupby("modality", sort=False)["architecture"].first())


def primary_contrast(
    cells: list[CellScores], analysis: Analysis, selected: Mapping[str, str]
) -> Contrast | None:
    """The two sides of the primary contrast; None if none is declared or one is not there."""
    if analysis.primary is None:
        return None
    sides = []
    for modality in analysis.primary.modalities:
        name: str | None = analysis.primary.architecture
        if name == SELECTED:
            name = selected.get(modality)
        members = tuple(
            scores
            for scores in cells
            if scores.modality == modality and name in (MEAN, scores.architecture)
        )
        if name is None or not members:
            return None
        sides.append(Side(architecture=name, modality=modality, members=members))
    return sides[0], sides[1]


def compare(
    cells: list[CellScores], frozen: Thresholds, analysis: Analysis, primary: Contrast | None
) -> pd.DataFrame:
    """A row for each pair, part and set of patients; calls on the test set at frozen thresholds."""
    called = {
        (scores.cell, part): calls(scores, part, frozen)
        for scores in cells
        for part in ("oof", "test")
    }
    rows: list[dict[str, Any]] = []
    for family, sides in _pairs(cells, primary):
        names = {
            f"{what}_{name}": value
            for name, side in zip("ab", sides, strict=True)
            for what, value in (
                ("architecture", side.architecture),
                ("modality", side.modality),
                ("models", len(side.members)),
            )
        }
        for part in ("oof", "test"):
            where = {"family": family, "part": part, "standing": _standing(family, part, analysis)}
            a, b = ([called[cell, part] for cell in side.cells] for side in sides)
            why = untested(sides, a + b, part)
            for used, result in _of_pair(sides, a, b, part, why):
                rows.append(where | {"patients_used": used} | names | result)
    return _adjusted(pd.DataFrame(rows, columns=COLUMNS))


def _standing(family: str, part: str, analysis: Analysis) -> str:
    if family != PRIMARY or analysis.primary is None:
        return SECONDARY
    if analysis.primary.architecture == SELECTED and part == "oof":
        return EXPLORATORY
    return CONFIRMATORY if part == analysis.primary.part else SECONDARY


def _pairs(cells: list[CellScores], primary: Contrast | None) -> Iterator[tuple[str, Contrast]]:
    """Later in the list less earlier; a primary pair of two cells is in no family."""
    if primary:
        yield PRIMARY, primary
    by_cell = {scores.cell: scores for scores in cells}
    sides = {
        (name, modality): Side(architecture=name, modality=modality, members=(scores,))
        for (name, modality), scores in by_cell.items()
    }
    architectures, modalities = (list(dict.fromkeys(cell[i] for cell in by_cell)) for i in (0, 1))
    families = [
        (OF_MODALITIES, [[(name, m) for m in modalities] for name in architectures]),
        (OF_ARCHITECTURES, [[(name, m) for name in architectures] for m in modalities]),
    ]
    of_primary = [side.cells for side in primary or ()]
    for family, groups in families:
        for group in groups:
            for b, a in combinations([cell for cell in group if cell in sides], 2):
                if [a] not in of_primary or [b] not in of_primary:
                    yield family, (sides[a], sides[b])


def untested(sides: Contrast, tables: list[pd.DataFrame], part: str) -> str:
    """Why a contrast is not tested, or "" where it is."""
    members = [member for side in sides for member in side.members]
    if part == "test" and members[0].sealed:
        return SEALED
    unfinished = []
    for member in members:
        done, expected = progress(
            member.fold_runs if part == "oof" else member.tested_runs
        ).values()
        if done < expected:
            unfinished.append(f"{' '.join(member.cell)} {done} of {expected}")
    if unfinished:
        more = f" and {len(unfinished) - 3} more" if len(unfinished) > 3 else ""
        return f"not tested before all runs are done: {', '.join(unfinished[:3])}{more}"
    if part == "test" and len(sources := sorted({member.source for member in members})) > 1:
        return f"not tested, for the hold-out was scored by different means: {', '.join(sources)}"
    repeats = {", ".join(map(str, member.oof_by_repeat)) for member in members}
    if part == "oof" and len(repeats) > 1:
        return f"not tested, for the partitions differ: {'; '.join(sorted(repeats))}"
    by_repeat: list[Sequence[pd.DataFrame]] = [tables]
    if part == "oof":
        by_repeat += zip(*(member.oof_by_repeat.values() for member in members), strict=True)
    for of_members in by_repeat:
        seeds = {str(n) for table in of_members for n in table["seeds"].unique()}
        if len(seeds) > 1:
            return f"not tested, for the numbers of seeds differ: {', '.join(sorted(seeds))}"
    return ""


def _of_pair(
    members: Contrast, a: list[pd.DataFrame], b: list[pd.DataFrame], part: str, why: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a contrast: of the patients that both sides scored, and of all of either."""
    available = [_wide(tables) for tables in (a, b)]
    common = available[0].index.intersection(available[1].index)
    # Label and fold are the patient's own, checked when the sweep was read.
    paired = [wide.loc[common] for wide in available]
    method = METHOD if _are_repeated(members) else "influence curve of the fold mean"
    method = method if part == "oof" else "DeLong"
    known, scores_a, scores_b = paired[0], *map(_scores, paired)
    if why:
        test = undefined(AucTest, why)
    elif part == "oof":
        test = _repeated(members, common) or cv_auc_test(
            known["label"], scores_a, scores_b, known["fold"]
        )
    else:
        test = delong_test(known["label"], scores_a, scores_b)
    p_values = _mcnemar(*paired) if not why and len(a) == len(b) == 1 else {}
    yield PAIRED, _row(test, paired, method, why) | p_values
    if set(available[0].index) == set(available[1].index):
        return
    sides: list[Any] = [(wide.index, wide["label"], _scores(wide)) for wide in available]
    if why:
        test = undefined(AucTest, why)
    elif part == "oof":
        folds = ((*side, wide["fold"]) for side, wide in zip(sides, available, strict=True))
        test = _repeated(members) or cv_overlapping_test(*folds)
    else:
        test = overlapping_test(*sides)
    yield AVAILABLE, _row(test, available, method, why) | {"z": np.nan, "p_value": np.nan}


def _repeated(sides: Contrast, patients: Iterable[str] | None = None) -> AucTest | None:
    """The test over all partitions, of all patients or these; None where there is one."""
    if not _are_repeated(sides):
        return None
    return repeated_cv_test(*(partitions_of(side.members, patients) for side in sides))


def _are_repeated(sides: Contrast) -> bool:
    return len(sides[0].members[0].oof_by_repeat) > 1


def _wide(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Patients by what is known of them, and a column of scores for each model."""
    indexed = [table.set_index("patient_id") for table in tables]
    wide = indexed[0][["fold", "label", "call"]]
    for number, table in enumerate(indexed):
        wide = wide.join(table["score"].rename(f"score_{number}"), how="inner")
    return wide


def _scores(wide: pd.DataFrame) -> Any:
    return wide.filter(like="score_").to_numpy(np.float64).T


def _row(test: AucTest, sides: list[pd.DataFrame], method: str, why: str) -> dict[str, Any]:
    row: dict[str, Any] = {"method": method}
    for name, side in zip("ab", sides, strict=True):
        row[f"patients_{name}"] = len(side)
        row[f"events_{name}"] = None if why == SEALED else int(side["label"].sum())
    return row | {name: getattr(test, name) for name in _TEST_FIELDS}


def _mcnemar(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, float]:
    """Exact p-values of a difference in sensitivity and in specificity at Youden's threshold."""
    p_values = {}
    for name, label in (("sensitivity_p", 1), ("specificity_p", 0)):
        mine = a["label"] == label
        calls_a, calls_b = a.loc[mine, "call"], b.loc[mine, "call"]
        if calls_a.empty or calls_a.isna().any() or calls_b.isna().any():
            p_values[name] = np.nan
            continue
        right_a, right_b = calls_a == label, calls_b == label
        only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
        p_values[name] = mcnemar(only_a, only_b).p_exact
    return p_values


def _adjusted(table: pd.DataFrame) -> pd.DataFrame:
    """Holm within each family and part, over all its pairs, whether they could be tested or not.

    Differences of AUC, of sensitivity and of specificity are three questions, each adjusted alone.
    """
    table["family_size"] = pd.NA
    table[["p_holm", *_ADJUSTED.values()]] = np.nan
    table = table.astype(dict.fromkeys(_ADJUSTED, float))
    paired = table[table["patients_used"] == PAIRED]
    for (family, _), pairs in paired.groupby(["family", "part"]):
        table.loc[pairs.index, "family_size"] = len(pairs)
        if family != PRIMARY:
            for name, adjusted in {"p_value": "p_holm", **_ADJUSTED}.items():
                table.loc[pairs.index, adjusted] = holm(pairs[name], size=len(pairs))
    counts = ("events_a", "events_b", "family_size")
    return table.astype(dict.fromkeys(counts, "Int64"))
