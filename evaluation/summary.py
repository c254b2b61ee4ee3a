"""What was found, in the words of a reader's first screen."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.comparisons import PAIRED, PRIMARY
from evaluation.formatting import (
    caution_sentences,
    contrast_sentences,
    interval,
    is_deployed,
    number,
    p_value,
    seal_sentences,
    states,
)  # fmt: skip

if TYPE_CHECKING:
    from evaluation.evaluate import Evaluation


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The selected model of a modality in a line.

    Attributes:
        modality: Of the model.
        architecture: Its architecture, chosen by out-of-fold AUC.
        oof: Fold-mean out-of-fold AUC with its interval.
        test: Test AUC with its interval; "" while sealed.
    """

    modality: str
    architecture: str
    oof: str
    test: str


def headline(evaluation: "Evaluation") -> str:
    """The answer to the primary question in a sentence, on the test set where it is open."""
    table = evaluation.tables.comparisons
    primary = table[(table["family"] == PRIMARY) & (table["patients_used"] == PAIRED)]
    tested = primary[primary["p_value"].notna()].to_dict("records")
    if not tested:
        return contrast_sentences(evaluation)[0] if len(table) else "Nothing could be compared yet."
    row = tested[-1]
    a, b = (f"the {row[f'modality_{s}']} model ({row[f'architecture_{s}']})" for s in "ab")
    where = "on the test set" if row["part"] == "test" else "out-of-fold"
    if row["low"] > 0:
        found = f"{a} had a higher AUC than {b}"
    elif row["high"] < 0:
        found = f"{a} had a lower AUC than {b}"
    else:
        found = f"no difference of AUC between {a} and {b} was shown"
    ends = f"{number(row['low'])} to {number(row['high'])}"
    found = f"{found} {where}: difference {number(row['difference'])} (95 % CI {ends}), "
    return f"{found[0].upper()}{found[1:]}{p_value(row['p_value'])}."


def findings(evaluation: "Evaluation") -> list[Finding]:
    """The selected cell of each modality."""
    cells = evaluation.tables.cells
    test = evaluation.tables.test.set_index(["architecture", "modality"])
    found = []
    for cell in cells[cells["selected"]].to_dict("records"):
        held = test.loc[(cell["architecture"], cell["modality"])]
        opened = evaluation.seal.labels is not None
        found.append(
            Finding(
                modality=cell["modality"],
                architecture=cell["architecture"],
                oof=interval(cell["fold_mean_auc"], cell["fold_mean_low"], cell["fold_mean_high"]),
                test=interval(held["auc"], held["low"], held["high"]) if opened else "",
            )
        )
    return found


def said(evaluation: "Evaluation") -> list[str]:
    """What else a reader must know before any figure."""
    told = [f"Runs: {states(evaluation)}.", *seal_sentences(evaluation)]
    told += contrast_sentences(evaluation)
    told += caution_sentences(evaluation)
    if not evaluation.tables.cells["complete"].all():
        told.append("Cells with runs that are not done are marked, and left out of the means.")
    if not is_deployed(evaluation):
        told.append(
            "No deployed model (no runs of fold all): a test AUC can only be that of the ensemble "
            "of fold models, to which no threshold transfers, for averaging narrows the scores."
        )
    return told
