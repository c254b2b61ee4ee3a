"""Runs that wait for others: a combined model that starts from the weights of unimodal ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.records.listing import FILE, read_listing
from experiments.errors import ConfigError
from experiments.run_folder.status import read_status, write_status


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
    listed = read_listing(folder.parent).runs if (folder.parent / FILE).is_file() else ()
    needs = next((run.needs for run in listed if run.run_id == folder.name), ())
    if reason := unmet(folder, needs):
        leave_waiting(folder, reason)
        raise ConfigError(
            f"all that a run needs must be done before it starts, got one that {reason} "
            f"({folder.name}). Call the sweep again."
        )


def leave_waiting(folder: Path, reason: str) -> None:
    """Set a run back to `pending` with the reason."""
    write_status(folder, replace(read_status(folder), state="pending", reason=reason))
