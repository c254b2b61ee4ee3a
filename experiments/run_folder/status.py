"""What a run folder says of its run: state, attempts, progress; written atomically."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from datamodules.files import write_atomic
from evaluation.records.schema import State
from experiments.errors import ConfigError
from experiments.run_folder.lock import is_locked

BEST = "best.ckpt"
"""In a run's folder checkpoints/: the weights that were scored."""


@dataclass(frozen=True)
class Status:
    """The content of `status.json`.

    Attributes:
        state: Where the run stands. `interrupted` is a run that was asked to stop (Ctrl-C,
            SIGTERM); `killed` one that ended without a word. In the file that one still says
            `running`, with nobody holding the lock: `state_of` tells them apart.
        reason: Why it failed, one line.
        note: What else a user should know of this attempt, one line: a checkpoint set aside.
        attempts: How often it was started.
        resumed: Epochs that this attempt took over from `last.ckpt`.
        epoch: Epochs finished.
        max_epochs: Epochs it may take at most.
        inner_auroc: Inner AUROC of the best epoch so far; None where undefined or not yet known.
        halvings: How often the micro-batch was halved since memory did not suffice.
        started: Unix time of this attempt's start.
        seconds: Wall time of this attempt so far.
        analysis_sha: Hash of the analysis that the sweep declared when the run first began.
        predictions_sha: SHA-256 of `predictions.parquet` as written; None until it is done.
        history: How the attempts before this one ended, the oldest first: `attempt, state, reason,
            note, resumed, epoch, started, seconds` of each.
    """

    state: State = "pending"
    reason: str | None = None
    note: str | None = None
    attempts: int = 0
    resumed: int = 0
    epoch: int = 0
    max_epochs: int | None = None
    inner_auroc: float | None = None
    halvings: int = 0
    started: float | None = None
    seconds: float = 0.0
    analysis_sha: str | None = None
    predictions_sha: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def next_attempt(before: Status, *, started: float, analysis_sha: str | None = None) -> Status:
    """The status of an attempt that starts, the one before it entered into the history.

    Args:
        before: As it was read by the holder of the lock: still `running` means it was killed.
        started: Unix time.
        analysis_sha: Of what the sweep declares now; what the first attempt found stays.
    """
    history = list(before.history)
    if before.attempts:
        state = "killed" if before.state == "running" else before.state
        reason = before.reason or ("ended without a word" if state == "killed" else None)
        kept = ("note", "resumed", "epoch", "started", "seconds")
        ended = {"attempt": before.attempts, "state": state, "reason": reason}
        history.append(ended | {name: getattr(before, name) for name in kept})
    return Status(
        state="running",
        attempts=before.attempts + 1,
        halvings=before.halvings,
        started=started,
        analysis_sha=before.analysis_sha if before.attempts else analysis_sha,
        history=history,
    )


def state_of(folder: Path) -> Status:
    """The status of a run folder, `killed` where it says `running` and no process holds it."""
    status = read_status(folder)
    if status.state == "running" and not is_locked(folder):
        status = read_status(folder)  # it may have ended between the two looks
        if status.state == "running":
            return replace(status, state="killed", reason="ended without a word; see log.txt")
    return status


def read_status(folder: Path) -> Status:
    """The status of a run folder; `pending` where none was written yet.

    Raises:
        ConfigError: If the file is not what `write_status` writes.
    """
    path = folder / "status.json"
    try:
        status = Status(**json.loads(path.read_text(encoding="utf-8")))
        for name, kind in get_type_hints(Status).items():
            if not _fits(getattr(status, name), kind):
                raise ValueError(f"{name} {getattr(status, name)!r}")
    except FileNotFoundError:
        return Status()
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"status must be readable, got {error} ({path}). Delete this file to run it again."
        ) from error
    return status


def write_status(folder: Path, status: Status) -> None:
    """Replace the status of a run folder in one step."""
    write_atomic(folder / "status.json", json.dumps(asdict(status), indent=1))


def _fits(value: object, kind: Any) -> bool:
    """Whether a value of a JSON file is of the type of its field."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    return isinstance(value, (int, float) if kind is float else origin or kind)
