"""Runs that wait for others: a combined model that starts from the weights of unimodal ones."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from experiments.compose import Run
from experiments.errors import ConfigError
from experiments.status import read_status, write_status


def waves(runs: Sequence[Run], needs: Mapping[str, Sequence[str]]) -> list[list[Run]]:
    """Part runs so that each comes in a later wave than those of them that it needs.

    Args:
        runs: In order; a need that is not among them makes nothing wait.
        needs: For a run's id the ids that must be done first.

    Raises:
        ConfigError: If runs wait for each other.
    """
    left, parted = list(runs), list[list[Run]]()
    while left:
        waiting = {run.run_id for run in left}
        wave = [run for run in left if not waiting.intersection(needs.get(run.run_id, ()))]
        if not wave:
            raise ConfigError(
                f"needs of a run must not lead back to it, got {', '.join(sorted(waiting)[:3])} "
                "waiting for each other. Correct what they start from."
            )
        parted.append(wave)
        left = [run for run in left if run not in wave]
    return parted


def take_ready(queue: list[Run], needs: Mapping[str, Sequence[str]]) -> Run | None:
    """Take the first run out of a queue whose needs are done; None if there is none."""
    for run in queue:
        if unmet(run.folder, needs.get(run.run_id, ())) is None:
            queue.remove(run)
            return run
    return None


def unmet(folder: Path, needs: Sequence[str]) -> str | None:
    """Which need of a run is not done, and why, in one line; None if all are done."""
    for name in needs:
        status = read_status(folder.parent / name)
        if status.state != "done":
            why = f": {status.reason}" if status.reason else ""
            return f"waits for {name}, which is {status.state}{why}"
    return None


def check_needs(folder: Path) -> None:
    """Refuse to start a run before what it needs, as the sweep's list says, is done.

    The run stays `pending` with the reason in its status.

    Raises:
        ConfigError: Naming the need.
    """
    path = folder.parent / "sweep.json"
    entries = json.loads(path.read_text())["runs"] if path.is_file() else []
    needs = next((e.get("needs", ()) for e in entries if e["run_id"] == folder.name), ())
    if reason := unmet(folder, needs):
        leave_waiting(folder, reason)
        raise ConfigError(
            f"all that a run needs must be done before it starts, got one that {reason} "
            f"({folder.name}). Call the sweep again."
        )


def leave_waiting(folder: Path, reason: str) -> None:
    """Set a run back to `pending` with the reason."""
    write_status(folder, replace(read_status(folder), state="pending", reason=reason))
