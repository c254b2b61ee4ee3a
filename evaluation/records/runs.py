"""Reading a sweep folder, and refusing one whose tables cannot be compared with each other."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from evaluation.errors import EvaluationError
from evaluation.files import read_parquet
from evaluation.records.analysis import Analysis
from evaluation.records.listing import ListedRun, Listing, NamedRun, read_listing
from evaluation.records.question import Question
from evaluation.records.schema import (
    PARTS,
    PREDICTION_COLUMNS,
    RUN_COLUMNS,
    STATES,
    State,
    repeat_of,
)


@dataclass(frozen=True, kw_only=True)
class Run(NamedRun):
    """One listed run and how it stands.

    Attributes:
        state: As its status says.
        reason: Why it failed or was interrupted; "" otherwise.
        predictions: Whether `predictions.parquet` of a run that is done is the file that it wrote,
            by the hash in its status; `unknown` where that has none, as before hashes were kept.
        analysis: Whether `analysis` in `sweep.json` is what it was when the run began; `unknown`
            where its status does not say.
    """

    state: State
    reason: str
    predictions: Literal["", "as written", "changed", "unknown"] = ""
    analysis: Literal["", "as declared", "changed", "unknown"] = ""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep folder as read: what was to be run, how it stands, and all predictions.

    Attributes:
        path: The folder.
        name: Of the sweep.
        runs: All listed runs, in the order of the list.
        predictions: Rows of all done runs (docs/design.md, "Predictions table") and a column
            `score`: the log-odds of the row's probability, at full precision.
        shas: `split_sha` and `store_sha`, the same in all done runs.
        environments: `environment.json` of each done run that has one, flat, by run_id.
        analysis: What was declared before training.
        question: What is asked, in the words of its field.
        listing: `sweep.json`.
    """

    path: Path
    name: str
    runs: tuple[Run, ...]
    predictions: pd.DataFrame
    shas: dict[str, str]
    environments: dict[str, dict[str, str]]
    analysis: Analysis
    question: Question
    listing: Listing

    @property
    def predictions_sha(self) -> str:
        """SHA-256 of the prediction tables of all done runs, one after the other."""
        files = hashlib.sha256()
        for run in self.runs:
            if run.state == "done":
                files.update((self.path / run.run_id / "predictions.parquet").read_bytes())
        return files.hexdigest()


def read_sweep(sweep_dir: Path) -> Sweep:
    """Read the runs that `sweep.json` lists and check that their tables belong together.

    Folders that are not listed are not looked at.

    Raises:
        EvaluationError: if the list or a table is missing or unreadable, a table breaks the schema
            or the protocol (a patient twice, in two parts or in two folds, a test label present),
            or runs disagree on labels, patients, split or store.
    """
    sweep_dir = Path(sweep_dir)
    listing = read_listing(sweep_dir)
    runs = tuple(_read_run(sweep_dir, run, listing.analysis_sha) for run in listing.runs)
    first_of_cell: dict[tuple[str, str, str, int], str] = {}
    for run in listing.runs:
        if (other := first_of_cell.setdefault(run.cell, run.run_id)) != run.run_id:
            raise EvaluationError(
                f"a sweep must list each architecture, modality, fold and seed once, got {other} "
                f"and {run.run_id} ({sweep_dir}). Runs that differ in another setting are not one "
                "model; give each its own sweep: ceus fit sweep=NAME ..."
            )
    done = [run for run in runs if run.state == "done"]
    tables = [_read_predictions(sweep_dir / run.run_id, run) for run in done]
    if not tables:
        states = ", ".join(f"{run.run_id} {run.state}" for run in runs[:3])
        raise EvaluationError(
            f"at least one run must be done, got 0 of {len(runs)} ({sweep_dir}: {states}, …). "
            "Run the sweep first; log.txt in a run's folder says why it failed."
        )
    predictions = pd.concat(tables, ignore_index=True)
    shas = {name: _single(predictions, name) for name in ("split_sha", "store_sha")}
    _check_labels(predictions)
    _check_folds(predictions)
    return Sweep(
        path=sweep_dir,
        name=listing.name,
        runs=runs,
        predictions=predictions,
        shas=shas,
        environments={
            run.run_id: _flat(_read_json(path, "Delete it; it is only for the record."))
            for run in done
            if (path := sweep_dir / run.run_id / "environment.json").exists()
        },
        analysis=listing.analysis,
        question=listing.question,
        listing=listing,
    )


def _read_run(sweep_dir: Path, run: ListedRun, analysis_sha: str) -> Run:
    path = sweep_dir / run.run_id / "status.json"
    again = "Delete the file to have the run done again."
    status = _read_json(path, again) if path.exists() else {"state": "pending"}
    state = status.get("state")
    if state not in STATES:
        raise EvaluationError(
            f"state must be one of {', '.join(STATES)}, got {state!r} ({path}). {again}"
        )
    ended_badly = state in ("failed", "interrupted", "killed")
    return Run(
        **{name: getattr(run, name) for name in RUN_COLUMNS},
        state=state,
        reason=str(status.get("reason") or "no reason recorded") if ended_badly else "",
        predictions=_compared(path.parent, status.get("predictions_sha"))
        if state == "done"
        else "",
        analysis="" if state == "pending" else _declared(status.get("analysis_sha"), analysis_sha),
    )


def _declared(recorded: object, now: str) -> Literal["as declared", "changed", "unknown"]:
    if recorded is None:
        return "unknown"
    return "as declared" if recorded == now else "changed"


def _compared(run_dir: Path, written: object) -> Literal["as written", "changed", "unknown"]:
    path = run_dir / "predictions.parquet"
    if written is None or not path.is_file():
        return "unknown"
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    return "as written" if sha == written else "changed"


def _read_predictions(run_dir: Path, run: Run) -> pd.DataFrame:
    path = run_dir / "predictions.parquet"
    redo = f"Delete {run_dir.name}/status.json and call the sweep again."

    def require(holds: bool, rule: str, actual: object) -> None:
        if not holds:
            raise EvaluationError(f"{rule}, got {actual} ({path}). {redo}")

    if not path.exists() and any(run_dir.glob("*.safetensors")):
        raise EvaluationError(
            f"runs to evaluate must have predictions, got a pretraining ({run_dir}). Its weights "
            "are for runs that start from them: evaluate the folder of those."
        )
    require(path.exists(), "a run that is done must have its predictions", "no file")
    try:
        table = read_parquet(path)
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"predictions must be a Parquet file ({path}: {error}). {redo}"
        ) from error
    missing = [name for name in PREDICTION_COLUMNS if name not in table]
    require(not missing, "predictions must have all columns", f"none named {', '.join(missing)}")
    table = table[list(PREDICTION_COLUMNS)].assign(fold=table["fold"].astype(str))
    for name in RUN_COLUMNS:
        others = set(table[name]) - {getattr(run, name)}
        require(not others, f"{name} must be {getattr(run, name)!r} as listed", others)
    parts = set(table["part"])
    require(parts <= set(PARTS), f"part must be one of {', '.join(PARTS)}", parts - set(PARTS))
    scored_out_of_fold = "oof" in parts
    require(
        scored_out_of_fold != (run.fold == "all"),
        "a run must have out-of-fold rows, unless its fold is all",
        f"fold {run.fold} with parts {', '.join(sorted(parts))}",
    )
    repeated = table["patient_id"].duplicated()
    require(
        not repeated.any(),
        "a patient must be in one part of a run, once",
        f"{repeated.sum()} rows too many, of {_some(table.loc[repeated, 'patient_id'])}",
    )
    logit = table["logit"].to_numpy(np.float64)
    require(bool(np.isfinite(logit).all()), "logit must be finite", "NaN or infinity")
    probability = table["probability"].to_numpy(np.float64)
    require(
        bool(((probability >= 0) & (probability <= 1)).all()),
        "probability must be in [0, 1]",
        "another value",
    )
    label = pd.to_numeric(table["label"]).to_numpy(np.float64, na_value=np.nan)
    test = (table["part"] == "test").to_numpy()
    require(bool(np.isin(label[~test], (0, 1)).all()), "label must be 0 or 1", "another value")
    require(
        bool(np.isnan(label[test]).all()), "labels of test rows must be empty (sealed)", "labels"
    )
    shift = _shift(logit, probability)
    off = np.abs(1 / (1 + np.exp(np.clip(shift - logit, -700, 700))) - probability).max()
    require(
        bool(off < 1e-4),
        "probability must be sigmoid(logit - c) with one c for the whole run",
        f"a row that is {off:.2g} off",
    )
    return table.assign(label=label, logit=logit, probability=probability, score=logit - shift)


def _shift(logit: np.ndarray, probability: np.ndarray) -> float:
    """The run's c in probability = sigmoid(logit - c), from the row where it is read best.

    The log-odds of a probability near 0 or 1 have lost their digits; `logit - c` has not. A run
    that is 0 or 1 throughout (a network after a few steps can be) tells no c: it is left out.
    """
    row = np.abs(probability - 0.5).argmin()
    p = probability[row]
    if not 1e-12 < p < 1 - 1e-12:
        return 0.0
    return float(logit[row] - np.log(p / (1 - p)))


def _single(predictions: pd.DataFrame, name: str) -> str:
    runs_by_sha: dict[str, set[str]] = {}
    for run_id, sha in predictions[["run_id", name]].drop_duplicates().itertuples(index=False):
        runs_by_sha.setdefault(str(sha), set()).add(run_id)
    if len(runs_by_sha) > 1:
        sha, runs = min(runs_by_sha.items(), key=lambda item: (len(item[1]), item[0]))
        raise EvaluationError(
            f"{name} must be the same in all runs, got {len(runs_by_sha)} values ({sha} in "
            f"{_some(runs)}). Results on another {name.removesuffix('_sha')} are another sweep; "
            "run these again."
        )
    return next(iter(runs_by_sha))


def _check_labels(predictions: pd.DataFrame) -> None:
    known = predictions[predictions["part"] != "test"]
    counts = known.groupby("patient_id")["label"].nunique()
    if (conflict := counts[counts > 1]).size:
        rows = known[known["patient_id"] == conflict.index[0]]
        runs = rows.groupby("label")["run_id"].first()
        raise EvaluationError(
            f"the label of a patient must be the same in all runs, got 0 and 1 "
            f"({_some(conflict.index)}; in {runs.iloc[0]} and {runs.iloc[1]}). "
            "The cohort changed between runs; run the sweep again."
        )
    tested = set(predictions.loc[predictions["part"] == "test", "patient_id"])
    if leaked := tested & set(known["patient_id"]):
        raise EvaluationError(
            f"hold-out patients must be in the test part of every run, got {len(leaked)} that "
            f"other runs train on or score ({_some(leaked)}). The split changed; run these again."
        )


def _check_folds(predictions: pd.DataFrame) -> None:
    """Seeds and architectures of a modality must have scored the same patients."""
    for part, by in (("oof", ["modality", "fold"]), ("test", ["modality"])):
        rows = predictions[predictions["part"] == part]
        first: dict[Any, tuple[str, frozenset[str]]] = {}
        for (*where, run_id), rows_of_run in rows.groupby([*by, "run_id"]):
            patients = frozenset(rows_of_run["patient_id"])
            other, expected = first.setdefault(tuple(where), (str(run_id), patients))
            if patients != expected:
                raise EvaluationError(
                    f"{part} patients of {' fold '.join(map(str, where))} must be the same in "
                    f"every run, got {len(expected)} in {other} and {len(patients)} in {run_id} "
                    f"(not in both: {_some(patients ^ expected)}). Run these again on one split."
                )
    scored = predictions[predictions["part"] == "oof"]
    folds = scored.groupby(["patient_id", scored["fold"].map(repeat_of)])["fold"].nunique()
    if (twice := folds[folds > 1]).size:
        raise EvaluationError(
            f"a patient must be out-of-fold in one fold, got {twice.iloc[0]} "
            f"({_some(twice.index.get_level_values(0))}). The folds overlap; make a new split."
        )


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EvaluationError(f"{path.name} must exist ({path}). {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path.name} must be JSON ({path}: {error}). {remedy}") from error
    if not isinstance(content, dict):
        raise EvaluationError(f"{path.name} must be a JSON object ({path}). {remedy}")
    return cast(dict[str, Any], content)


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value)
    return flat


def _some(names: Any, limit: int = 3) -> str:
    ordered = sorted(map(str, names))
    return ", ".join(ordered[:limit]) + (", …" if len(ordered) > limit else "")
