"""`sweep.json`: the frozen list of a sweep's runs, and what was declared before training."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evaluation.errors import EvaluationError
from evaluation.records.analysis import Analysis, read_analysis
from evaluation.records.question import Question, read_question
from evaluation.records.schema import RUN_COLUMNS

FILE = "sweep.json"
FORMAT = 2
"""Raised when run ids are made in another way. 1: over all keys of `study:`."""


@dataclass(frozen=True, kw_only=True)
class NamedRun:
    """What tells a run from the others of its sweep.

    Attributes:
        run_id: Name of its folder.
        architecture: With the settings of further axes, as `resnet+pos_weight=1`.
        modality: `image`, `video` or `combined`.
        fold: `0`, `1`, … or `all`.
        seed: Of training.
    """

    run_id: str
    architecture: str
    modality: str
    fold: str
    seed: int

    @property
    def cell(self) -> tuple[str, str, str, int]:
        """Architecture, modality, fold and seed."""
        return self.architecture, self.modality, self.fold, self.seed


@dataclass(frozen=True, kw_only=True)
class ListedRun(NamedRun):
    """A run as the sweep lists it, whether or not it was started.

    Attributes:
        shas: `config_sha`, `split_sha` and `store_sha` that the id stands for.
        needs: Ids of the runs that must be done first.
    """

    shas: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Registered:
    """Where a sweep was entered when it began.

    Attributes:
        store: Folder of its store, absolute.
        entry: Hash of its entry in the store's ledger; a copy of the sweep has the same.
    """

    store: str
    entry: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The content of `sweep.json`.

    Attributes:
        name: Name of the sweep.
        runs: In the order in which they start.
        analysis: What was declared before training.
        question: What it asks, in the words of its field.
        declared: The same as it stands in the file; None for one that is yet to be written.
        registered: None where nobody is scored, and of sweeps older than the stores' ledgers.
        format: Of the run ids.
    """

    name: str
    runs: tuple[ListedRun, ...]
    analysis: Analysis = field(default_factory=Analysis)
    question: Question = field(default_factory=Question)
    declared: Mapping[str, Any] | None = None
    registered: Registered | None = None
    format: int = FORMAT

    @property
    def analysis_sha(self) -> str:
        """Hash of what was declared, as written: settings of later versions do not change it."""
        declared = asdict(self.analysis) if self.declared is None else self.declared
        return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of the file."""
        runs = []
        for run in self.runs:
            entry = asdict(run) | {"fold": int(run.fold) if run.fold.isdecimal() else run.fold}
            if not run.needs:
                del entry["needs"]
            runs.append(entry)
        declared = asdict(self.analysis) if self.declared is None else self.declared
        content: dict[str, Any] = {"format": self.format, "name": self.name, "analysis": declared}
        content["question"] = asdict(self.question)
        if self.registered:
            content["registered"] = asdict(self.registered)
        return json.dumps(content | {"runs": runs}, indent=1)


def read_listing(sweep_dir: Path) -> Listing:
    """Read the list of a sweep folder.

    Raises:
        EvaluationError: If there is none, or it is not what `ceus sweep` writes.
    """
    path = Path(sweep_dir) / FILE
    if not path.is_file():
        raise EvaluationError(
            f"folder must hold a sweep ({FILE}), got none ({sweep_dir}). Give the folder of a "
            "sweep, as runs/demo, or start it first."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        runs = tuple(_listed(entry) for entry in content["runs"])
        name, declared = str(content.get("name", path.parent.name)), content.get("analysis", {})
        asked = dict(content.get("question", {}))
        version = int(content.get("format", 1))
        entered = content.get("registered")
        registered = entered and Registered(str(entered["store"]), str(entered["entry"]))
        _require_harmless(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvaluationError(
            f"{FILE} must be the list that `ceus sweep` writes, got {type(error).__name__}: "
            f"{error} ({path}). Delete it and call the sweep again: the list is written anew, and "
            "runs that are done stay done."
        ) from error
    if not runs:
        raise EvaluationError(f"{FILE} must list runs, got none ({path}). Call the sweep again.")
    return Listing(
        name=name,
        runs=runs,
        analysis=read_analysis(declared),
        question=read_question(asked),
        declared=declared,
        registered=registered,
        format=version,
    )


def _listed(entry: Mapping[str, Any]) -> ListedRun:
    names: dict[str, Any] = {name: str(entry[name]) for name in RUN_COLUMNS}
    names["seed"] = int(entry["seed"])
    shas, needs = dict(entry.get("shas", {})), tuple(map(str, entry.get("needs", ())))
    for folder in (names["run_id"], *needs):
        if folder in ("", ".", "..") or "/" in folder:
            raise ValueError(f"a run_id that is no name of a folder, {folder!r}")
    for name in RUN_COLUMNS:
        _require_harmless(str(names[name]))
    return ListedRun(**names, shas=shas, needs=needs)


def _require_harmless(name: str) -> None:
    """Refuse a name that no sweep gives: it goes to terminals, pages and cards."""
    if not name.isprintable() or set('<>"`$') & set(name):
        raise ValueError(f"a name that no sweep gives, {name!r}")
