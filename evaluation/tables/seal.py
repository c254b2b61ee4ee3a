"""Opening the hold-out set: its labels, the thresholds frozen before it, and who opened it when.

Each opening is entered in the ledger of the store, where it counts for every sweep over these
patients, and appends a line to `unsealed.jsonl` of the sweep. That line carries a hash of itself
and of the line before, and the labels carry the number of the opening: a changed line shows. Of a
folder that was copied, cleared or put back only the store's ledger tells.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.ledger import enter
from evaluation.errors import EvaluationError
from evaluation.files import read_parquet, write_together
from evaluation.records.holdout import Holdout, read_holdout, store_of
from evaluation.records.runs import Sweep, read_sweep
from evaluation.tables.operating import Thresholds, oof_thresholds
from evaluation.tables.scores import cell_scores

_LEDGER, _LABELS, _THRESHOLDS = "unsealed.jsonl", "test_labels.parquet", "thresholds.json"

_ENTRY = (
    "time", "reason", "predictions", "split_sha", "store_sha", "analysis_sha", "thresholds_sha",
    "labels_sha", "previous",
)  # fmt: skip
_ENTERED = ("reason", "split_sha", "analysis_sha", "thresholds_sha", "labels_sha", "unfinished")


@dataclass(frozen=True, kw_only=True)
class Seal:
    """What stands between the figures and the hold-out labels.

    Attributes:
        openings: Lines of the ledger as written, oldest first; none while sealed.
        elsewhere: Openings of this hold-out in the ledger of the store that this folder has no line
            of: by another sweep, or by a copy of this one, or before it was put back.
        holdout: What that ledger says; None where it is out of reach.
        problems: What does not agree with the record of the openings, each in a sentence that names
            it; none if all does.
        labels: 0/1 by hold-out patient; None while sealed.
        thresholds: Out-of-fold thresholds (log-odds) by (architecture, modality, rule), as frozen.
    """

    openings: tuple[dict[str, Any], ...] = ()
    elsewhere: tuple[dict[str, Any], ...] = ()
    holdout: Holdout | None = None
    problems: tuple[str, ...] = ()
    labels: Mapping[str, int] | None = None
    thresholds: Thresholds = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether the hold-out was opened once at most, here, and nothing was changed since."""
        return len(self.openings) <= 1 and not self.elsewhere and not self.problems


def unseal(sweep_dir: Path, store: Path, *, reason: str, unfinished: bool = False) -> None:
    """Open the hold-out: freeze the thresholds, record the opening, then copy the labels.

    Writes `thresholds.json` (each operating point over all out-of-fold patients, each cell), an
    entry in the ledger of the store, a line of `unsealed.jsonl` (time, reason, hashes of
    predictions, split, store, declared analysis, thresholds and labels, hash of the line before and
    of itself) and `test_labels.parquet` into the sweep folder, in this order, so that no label is
    there without its record.

    Args:
        sweep_dir: Sweep folder, with at least one run done.
        store: The store that the sweep was run on. Where it is a copy, and the one that the sweep
            names is there, the opening is entered in both.
        reason: Why it is opened; one sentence for the record.
        unfinished: Open it although runs are not done; recorded.

    Raises:
        EvaluationError: without a reason, while runs are not done, if the store is not the sweep's,
            lacks a label, or its ledger cannot be written.
    """
    sweep_dir, store = Path(sweep_dir), Path(store)
    if not reason.strip():
        raise EvaluationError(
            f"reason must be a sentence, got {reason!r}. Opening the test set is recorded: "
            "say why it is opened now."
        )
    sweep = read_sweep(sweep_dir)
    left = [run for run in sweep.runs if run.state != "done"]
    if left and not unfinished:
        raise EvaluationError(
            f"all runs must be done before the test set is opened, got {len(left)} of "
            f"{len(sweep.runs)} that are not ({left[0].run_id} {left[0].state}, …). Thresholds are "
            "frozen at the opening, from the runs done then. Finish the sweep, or open it all the "
            "same with --unfinished, which is recorded."
        )
    labels = _holdout_labels(sweep_dir, store)
    lines = _lines(sweep_dir)
    contents: dict[Path, str | bytes] = {}
    thresholds_sha = _file_sha(sweep_dir / _THRESHOLDS)
    if not lines:  # frozen at the first opening; later ones know the labels
        frozen = _frozen_thresholds(sweep)
        contents, thresholds_sha = {sweep_dir / _THRESHOLDS: frozen}, _sha(frozen.encode())
    table = labels.rename_axis("patient_id").rename("label").reset_index()
    buffer = BytesIO()
    # With the number of the opening, so that a ledger that lost its last line does not fit them.
    table.assign(opening=len(lines) + 1).to_parquet(buffer, index=False)
    entry: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "reason": " ".join(reason.split()),
        "predictions": _prediction_shas(sweep),
        **sweep.shas,
        "analysis_sha": sweep.listing.analysis_sha,
        "thresholds_sha": thresholds_sha,
        "labels_sha": _sha(buffer.getvalue()),
        "unfinished": len(left),
        "previous": _sha(lines[-1].encode()) if lines else None,
    }
    entry["entered"] = _enter(sweep, store, labels.index, entry)
    entry["sha"] = _entry_sha(entry)
    contents[sweep_dir / _LEDGER] = "".join(f"{line}\n" for line in (*lines, json.dumps(entry)))
    # All or, on a full disk, none: an opening that gave no labels would count as one.
    write_together(contents | {sweep_dir / _LABELS: buffer.getvalue()})


def _enter(
    sweep: Sweep, store: Path, patients: Iterable[str], opening: Mapping[str, Any]
) -> list[str]:
    """Enter an opening in the ledger of the store, and of the one that the sweep names."""
    registered = sweep.listing.registered
    facts = {
        "name": sweep.name,
        "sweep": registered.entry if registered else None,
        **{name: opening[name] for name in _ENTERED},
    }
    own = store_of(sweep.path, sweep.listing)
    stores = {each.resolve() for each in (store, own) if each}
    try:
        return [enter(each, "opening", patients, **facts) for each in sorted(stores)]
    except OSError as error:
        raise EvaluationError(
            f"an opening must be entered in the ledger of the store, got {error.strerror} "
            f"({error.filename}). Nothing was opened. Make room, or get the right to write there."
        ) from error


def read_seal(sweep: Sweep, store: Path | None = None, *, head: str = "") -> Seal:
    """The state of the seal, compared with what was recorded at the openings.

    Args:
        sweep: As read.
        store: Its store, if it is not where the sweep was run on it.
        head: A head of the store's ledger that was lodged elsewhere: it must be in it.

    Raises:
        EvaluationError: if labels are there without the record of an opening or are not those
            recorded, if the record cannot be read, or as `read_holdout`.
    """
    holdout = read_holdout(sweep, store, head=head)
    lines = _lines(sweep.path)
    labels_path, thresholds_path = sweep.path / _LABELS, sweep.path / _THRESHOLDS
    again = f"Delete {_LABELS} and open the test set by `ceus evaluate --unseal-test`."
    if not lines:
        if labels_path.exists():
            raise EvaluationError(
                f"{_LABELS} must come with {_LEDGER}, got no record ({sweep.path}). {again}"
            )
        return Seal(
            elsewhere=holdout.openings if holdout else (),
            holdout=holdout,
            problems=holdout.problems if holdout else (),
        )
    try:
        openings = tuple(
            entry | {key: entry[key] for key in (*_ENTRY, "sha")}
            for entry in map(json.loads, lines)
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvaluationError(
            f"{_LEDGER} must hold one opening a line, got {error!r} ({sweep.path}). "
            "It is a record: bring back the file as it was written."
        ) from error
    entered = {sha for opening in openings for sha in opening.get("entered", ())}
    seal = Seal(
        openings=openings,
        elsewhere=tuple(e for e in holdout.openings if e["sha"] not in entered) if holdout else (),
        holdout=holdout,
        problems=_problems(openings, lines, sweep, holdout),
    )
    if not labels_path.exists():
        return seal
    if _file_sha(labels_path) != openings[-1]["labels_sha"]:
        raise EvaluationError(
            f"{_LABELS} must be as recorded at the last opening, got another: they or {_LEDGER} "
            f"were changed ({sweep.path}). {again}"
        )
    labels = read_parquet(labels_path).set_index("patient_id")["label"]
    try:
        frozen = json.loads(thresholds_path.read_bytes()) if thresholds_path.exists() else []
        thresholds = {
            (row["architecture"], row["modality"], row["rule"]): float(row["threshold"])
            for row in frozen
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvaluationError(
            f"{_THRESHOLDS} must be as frozen when the test set was opened, got {error!r} "
            f"({sweep.path}). Bring back the file as it was written."
        ) from error
    return replace(
        seal,
        labels={str(patient): int(label) for patient, label in labels.items()},
        thresholds=thresholds,
    )


def _problems(
    openings: Sequence[dict[str, Any]], lines: Sequence[str], sweep: Sweep, holdout: Holdout | None
) -> tuple[str, ...]:
    """What does not agree with the record: a line, a prediction, the split, the thresholds."""
    problems, before = list(holdout.problems if holdout else ()), None
    known = {entry["sha"] for entry in holdout.ledger.entries} if holdout else set()
    for number, (opening, line) in enumerate(zip(openings, lines, strict=True), start=1):
        if opening["previous"] != before:
            problems.append(f"opening {number} does not follow the line before: a line was changed")
        elif opening["sha"] != _entry_sha(opening):
            problems.append(f"opening {number} is not as it was written: its line was changed")
        entered = opening.get("entered", ())
        if holdout and entered and not known.intersection(entered):
            problems.append(f"opening {number} is not in the ledger of the store: it was put back")
        before = _sha(line.encode())
    predictions = _prediction_shas(sweep)
    recorded: dict[str, str] = {}
    for opening in openings:
        recorded = opening["predictions"] | recorded
    differing = sorted(
        run for run in recorded.keys() | predictions if recorded.get(run) != predictions.get(run)
    )
    if differing:
        problems.append(f"predictions changed or added after an opening: {', '.join(differing)}")
    first = openings[0]
    for name, now, what in (
        ("split_sha", sweep.shas["split_sha"], "the split"),
        ("store_sha", sweep.shas["store_sha"], "the store"),
        ("analysis_sha", sweep.listing.analysis_sha, "the declared analysis in sweep.json"),
        ("thresholds_sha", _file_sha(sweep.path / _THRESHOLDS), _THRESHOLDS),
    ):
        if now != first[name]:
            problems.append(f"{what} changed after the first opening")
    return tuple(problems)


def _frozen_thresholds(sweep: Sweep) -> str:
    thresholds = oof_thresholds(cell_scores(sweep, None), sweep.analysis)
    names = ("architecture", "modality", "rule")
    rows = [dict(zip(names, key, strict=True)) | {"threshold": v} for key, v in thresholds.items()]
    return json.dumps(rows, indent=1)


def _holdout_labels(sweep_dir: Path, store: Path) -> pd.Series:
    tables = []
    for path, remedy in (
        (sweep_dir / "cohort.parquet", "The sweep writes it when it starts."),
        (store / "cohort.parquet", "Give the folder that `ceus prepare` wrote."),
    ):
        if not path.exists():
            raise EvaluationError(f"cohort.parquet must exist ({path}). {remedy}")
        try:
            table = read_parquet(path, columns=["item_id", "patient_id", "label"])
        except (OSError, ValueError) as error:
            raise EvaluationError(
                f"cohort.parquet must be readable ({path}: {error}). {remedy} Bring it back."
            ) from error
        tables.append(table.set_index("item_id").sort_index())
    sealed, full = tables
    full = full[full["label"].notna() | full.index.isin(sealed.index)]  # less what no study sees
    same = sealed.index.equals(full.index) and sealed["patient_id"].equals(full["patient_id"])
    known = sealed["label"].notna()
    if not same or not (sealed.loc[known, "label"] == full.loc[known, "label"]).all():
        raise EvaluationError(
            f"store must be the one the sweep was run on, got other items or labels ({store}). "
            "Its patients would be scored against foreign labels; give the right store."
        )
    labels = full[~known].groupby("patient_id")["label"].agg(["first", "nunique"])
    wrong = ~labels["first"].isin([0, 1]) | (labels["nunique"] != 1)
    if labels.empty or wrong.any():
        raise EvaluationError(
            f"store must have one label 0 or 1 for each hold-out patient, got {len(labels)} "
            f"patients, {int(wrong.sum())} of them without ({store}). Prepare the cohort again."
        )
    return labels["first"].astype(np.int8)


def _prediction_shas(sweep: Sweep) -> dict[str, str]:
    return {
        run.run_id: _sha((sweep.path / run.run_id / "predictions.parquet").read_bytes())
        for run in sweep.runs
        if run.state == "done"
    }


def _entry_sha(entry: Mapping[str, Any]) -> str:
    content = {key: value for key, value in entry.items() if key != "sha"}
    return _sha(json.dumps(content, sort_keys=True).encode())


def _lines(sweep_dir: Path) -> list[str]:
    path = sweep_dir / _LEDGER
    # What is no UTF-8 is no line of the record, and shows as one.
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_sha(path: Path) -> str | None:
    return _sha(path.read_bytes()) if path.exists() else None
