"""What a prediction says: on the terminal, as CSV and as JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from io import StringIO
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from datamodules.files import storing
from evaluation.files import csv_text, write_together
from evaluation.statistics.conformal import in_sets
from evaluation.tables.external import EXTERNAL, external_tables
from evaluation.tables.scores import sigmoid
from evaluation.text.external import external_sentences
from evaluation.text.format import number
from experiments.errors import ConfigError
from experiments.predicting.ensemble import Ensemble, Scored
from experiments.predicting.sets import CALIBRATED_ON, Cuts
from experiments.predicting.unlike import Finding

_CALLS = ("negative", "positive")


def require_rule(ensemble: Ensemble, rule: str) -> None:
    """Raises ConfigError unless the evaluation has an operating point of this name."""
    if rule not in ensemble.thresholds:
        raise ConfigError(
            f"rule must be one of {', '.join(map(repr, ensemble.thresholds))}, got {rule!r}. "
            "Operating points are declared before training, under analysis: in the sweep's file."
        )


@dataclass(frozen=True)
class Prediction:
    """New patients as the deployed model scores them.

    Attributes:
        ensemble: The model.
        scored: By each of its runs.
        items: Table of the new patients' store.
        findings: What is odd, by patient.
        rule: Operating point of the decision.
        cuts: Of the conformal sets, by level.
        left_out: What was not looked at, in words.
    """

    ensemble: Ensemble
    scored: tuple[Scored, ...]
    items: pd.DataFrame
    findings: Mapping[str, Sequence[Finding]]
    rule: str
    cuts: Cuts
    left_out: str = ""

    @property
    def name(self) -> str:
        """Of the cell."""
        return "-".join(self.ensemble.cell)

    @cached_property
    def by_seed(self) -> pd.DataFrame:
        """Log-odds by patient and seed."""
        seeds = zip(self.ensemble.seeds, self.scored, strict=True)
        return pd.DataFrame({seed: each.score for seed, each in seeds})

    def probability(self, log_odds: Any) -> Any:
        """Of log-odds, recalibrated where the sweep has a map."""
        ensemble = self.ensemble
        if ensemble.no_map:
            return sigmoid(log_odds)
        return sigmoid(ensemble.intercept + ensemble.slope * log_odds)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row a patient: those scored, and those who lack what the model sees."""
        scores = self.by_seed.mean(axis=1)
        spread = self.probability(self.by_seed.stack()).unstack()
        table = pd.DataFrame(
            {
                "probability": self.probability(scores),
                "lowest_seed": spread.min(axis=1),
                "highest_seed": spread.max(axis=1),
                "decision": self._calls(self.rule, scores),
                "threshold_probability": self._threshold_probability(self.rule),
                "as_predicted": sigmoid(scores),
                "score": scores,
                "score_sd": self.by_seed.std(axis=1),
                "seeds": self.by_seed.shape[1],
                "items": self.scored[0].items,
            }
        )
        for level, cuts in self.cuts.items():
            table[f"set_{level:g}"] = [
                ", ".join(name for name, held in zip(_CALLS, pair, strict=True) if held) or "none"
                for pair in zip(*in_sets(cuts, scores), strict=True)
            ]
        everyone = self.items.groupby("patient_id")
        table = table.reindex(sorted(everyone.groups)).rename_axis("patient_id")
        unscored = table["score"].isna()
        table["decision"] = table["decision"].mask(unscored, "not scored")
        if (labels := everyone["label"].first()).notna().any():
            table.insert(0, "label", labels)
        table["warnings"] = ["; ".join(map(str, self.warnings(each))) for each in table.index]
        files = everyone["warnings"].agg(lambda texts: "; ".join(filter(None, texts)))
        return table.assign(file_warnings=files).reset_index()

    def warnings(self, patient: str) -> list[Finding]:
        """What is odd about a patient."""
        found = list(self.findings.get(patient, ()))
        if patient not in self.by_seed.index:
            modality = self.ensemble.cell[1]
            found.insert(0, Finding("not scored", f"has nothing that a {modality} model sees", nan))
        return found

    def _calls(self, rule: str, scores: pd.Series) -> pd.Series:
        threshold = self.ensemble.thresholds[rule]
        names = [_CALLS[score >= threshold] for score in scores]
        return pd.Series("no threshold" if isnan(threshold) else names, index=scores.index)

    def _threshold_probability(self, rule: str) -> float:
        return float(self.probability(pd.Series([self.ensemble.thresholds[rule]]))[0])

    @property
    def tested(self) -> pd.DataFrame:
        """The rows of those who are the external test: scored, with a label."""
        if "label" not in self.table:
            return self.table[:0]
        return self.table[self.table["label"].notna() & self.table["score"].notna()]

    @cached_property
    def external(self) -> dict[str, pd.DataFrame]:
        """Tables of the external test; none without labelled patients."""
        known = self.tested
        if known.empty:
            return {}
        ensemble = self.ensemble
        return external_tables(
            ensemble.cell, known, analysis=ensemble.analysis, thresholds=ensemble.thresholds,
            intercept=ensemble.intercept, slope=ensemble.slope,
        )  # fmt: skip

    def notes(self) -> Iterator[str]:
        """What a reader should know of all these predictions."""
        ensemble = self.ensemble
        if ensemble.no_map:
            yield f"probabilities are as predicted, without recalibration: {ensemble.no_map}"
        if isnan(ensemble.thresholds[self.rule]):
            yield f"no decision: the sweep has no threshold for {self.rule}"
        if len(ensemble.runs) == 1:
            yield "one seed: its spread is not known"
        if ensemble.sealed:
            yield "the sweep's test set is sealed: out-of-fold figures alone tell how good this is"
        if self.cuts:
            yield f"sets of classes are calibrated on {CALIBRATED_ON}"
        if "label" in self.table and (left := int(self.table["label"].isna().sum())):
            yield f"{left} patients without a label are not in the external test"
        if self.left_out:
            yield self.left_out

    def content(self) -> dict[str, Any]:
        """All of it, of plain values."""
        ensemble = self.ensemble
        patients = []
        for row in self.table.to_dict("records"):
            patient = row["patient_id"]
            row["warnings"] = [asdict(each) for each in self.warnings(patient)]
            if patient in self.by_seed.index:
                own = self.by_seed.loc[patient]
                row["by_seed"] = {str(s): p for s, p in self.probability(own).items()}
                score = own.mean()
                row["decisions"] = {
                    rule: self._calls(rule, pd.Series([score]))[0] for rule in ensemble.thresholds
                }
            patients.append(row)
        return {
            "format": 1,
            "sweep": ensemble.sweep,
            "cell": self.name,
            "runs": ensemble.runs,
            **ensemble.shas,
            "prepared": ensemble.prepared,
            "score": "mean over seeds of the log-odds, the loss weight undone",
            "recalibration": {
                "intercept": ensemble.intercept,
                "slope": ensemble.slope,
                "reason": ensemble.no_map,
            },
            "rule": self.rule,
            "thresholds": {
                rule: {
                    "log_odds": threshold,
                    "probability": self._threshold_probability(rule),
                    "frozen": ensemble.frozen,
                }
                for rule, threshold in ensemble.thresholds.items()
            },
            "sets": {
                f"{level:g}": [asdict(each) for each in cuts] for level, cuts in self.cuts.items()
            },
            "notes": list(self.notes()),
            "patients": patients,
        }


def write(prediction: Prediction, to: Path, looks: Sequence[str] = ()) -> str:
    """Write predictions.csv, predictions.json and the external test; what the terminal shows.

    Args:
        prediction: What to write.
        to: Folder for it.
        looks: Sentences on looks at the same external patients before.

    Raises:
        StorageError: If the folder cannot be written.
    """
    contents: dict[str, str] = {
        "predictions.csv": csv_text(prediction.table),
        "predictions.json": json_text(prediction.content()),
    }
    sentences: list[str] = []
    if tables := prediction.external:
        analysis = prediction.ensemble.analysis
        sentences = list(external_sentences(tables, name=prediction.name, analysis=analysis))
        sentences += looks
        contents |= {f"{EXTERNAL}/{name}.csv": csv_text(table) for name, table in tables.items()}
        contents[f"{EXTERNAL}/{EXTERNAL}.json"] = json_text(
            {name: tables[name].to_dict("records") for name in tables} | {"words": sentences}
        )
        contents[f"{EXTERNAL}/{EXTERNAL}.txt"] = "".join(f"{text}\n" for text in sentences)
    with storing(to, "Predictions are written there; name another by --to."):
        for name in contents:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
        write_together({to / name: content for name, content in contents.items()})
        for stale in (to / EXTERNAL).glob("*") if not sentences else ():
            stale.unlink()  # of an earlier cohort
    return _shown(prediction, sentences, to)


def tell(text: str) -> None:
    """Say on the terminal what takes a while, beside what is printed."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def _shown(prediction: Prediction, sentences: Sequence[str], to: Path) -> str:
    file = StringIO()
    console = Console(file=file, width=80, color_system=None, highlight=False, markup=False)
    shown = Table(box=box.HORIZONTALS, padding=0, pad_edge=False, show_edge=False)
    for name in ("patient", "probability\n(seeds)", f"decision\n({prediction.rule})"):
        shown.add_column(name, overflow="fold")
    levels = [f"set_{level:g}" for level in prediction.cuts]
    for level in levels:
        shown.add_column(f"set at\n{level.removeprefix('set_')}")
    shown.add_column("warnings", justify="right")
    rows: list[dict[Any, Any]] = prediction.table.to_dict("records")
    for row in rows:
        ends = f"{number(row['lowest_seed'])}–{number(row['highest_seed'])}"
        shown.add_row(
            row["patient_id"],
            f"{number(row['probability'])} ({ends})",
            row["decision"],
            *("" if isinstance(row[level], float) else row[level] for level in levels),
            str(len(prediction.warnings(row["patient_id"])) or ""),
        )
    console.print(shown)
    for row in rows:
        for told in (
            *prediction.warnings(row["patient_id"]),
            *filter(None, [row["file_warnings"]]),
        ):
            console.print(f"{row['patient_id']}: {told}")
    for note in (*prediction.notes(), *sentences):
        console.print(f"– {note}")
    console.print(f"Predictions: {to / 'predictions.csv'}", soft_wrap=True)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def json_text(content: Any) -> str:
    """Of plain values; null where a number is undefined, text where it is infinite."""
    return json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not isfinite(value):
        return None if isnan(value) else str(value)
    return None if value is pd.NA else value
