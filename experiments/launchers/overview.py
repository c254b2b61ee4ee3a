"""`ceus status`: what any sweep stands at, live or dead, from its folder alone."""

import statistics
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from evaluation.records.listing import ListedRun, read_listing
from evaluation.records.schema import STATES, repeat_of, within_repeat
from experiments.errors import ConfigError
from experiments.launchers.progress import figure
from experiments.launchers.slurm import queued
from experiments.run_folder.failures import duration
from experiments.run_folder.status import Status, state_of

_SHOWN = (*STATES[:-1], "queued", STATES[-1])  # SLURM's queue comes before `pending`
_STYLES = {"running": "cyan", "failed": "red", "killed": "red", "interrupted": "yellow"}
_REASONS = 5
"""Reasons shown without `--failed`; further ones are counted."""


@dataclass(frozen=True)
class _Listed:
    listed: ListedRun
    folder: Path
    status: Status
    is_queued: bool  # by SLURM

    @property
    def state(self) -> str:
        waits = self.is_queued and self.status.state not in ("done", "running")
        return "queued" if waits else self.status.state

    @property
    def row(self) -> tuple[str, str, str, str]:
        listed = self.listed
        repeat = str(repeat_of(listed.fold))
        return listed.architecture, listed.modality, repeat, str(listed.seed)


def overview(folder: Path, *, failed: bool = False, width: int = 80) -> RenderableType:
    """Every run that a sweep folder lists, as it stands now: a column a fold.

    Args:
        folder: Folder of a sweep, with `sweep.json`.
        failed: Show instead each run that did not end well, its reason, attempts and log.
        width: Columns of the terminal.

    Raises:
        EvaluationError: If the folder holds no sweep, or its list cannot be read.
        ConfigError: If a status cannot be read.
    """
    runs = _listed(folder)
    if failed:
        return Group(_summary(folder, runs), *_every_reason(runs))
    return Group(_summary(folder, runs), Text(), _grid(runs, width), *_common_reasons(runs, folder))


def print_overview(folder: Path, *, failed: bool = False) -> None:
    """Print `overview` as wide as the terminal is.

    Args:
        folder: Sweep folder, as runs/demo.
        failed: List what did not end well, why, and its log.
    """
    console = Console(highlight=False)
    console.print(overview(folder, failed=failed, width=console.width))


def _listed(folder: Path) -> list[_Listed]:
    runs = read_listing(folder).runs
    tasks = _queued(folder)
    return [
        _Listed(run, folder / run.run_id, state_of(folder / run.run_id), run.run_id in tasks)
        for run in runs
    ]


def _queued(folder: Path) -> Container[str]:
    try:
        return queued(folder)
    except ConfigError:  # no controller answers: the folders still tell what they know
        return ()


def _summary(folder: Path, runs: Sequence[_Listed]) -> Text:
    counts = Counter(run.state for run in runs)
    by_state = ", ".join(f"{counts[state]} {state}" for state in _SHOWN if counts[state])
    text = Text(f"sweep {folder.name}: {len(runs)} runs: {by_state}")
    seconds = [run.status.seconds for run in runs if run.status.state == "done"]
    if seconds:
        text.append(f"; a run takes {duration(statistics.median(seconds))}")
    return text


def _grid(runs: Sequence[_Listed], width: int) -> Table:
    folds = list(dict.fromkeys(within_repeat(run.listed.fold) for run in runs))
    by_row: dict[tuple[str, ...], dict[str, _Listed]] = {}
    for run in runs:
        by_row.setdefault(run.row, {})[within_repeat(run.listed.fold)] = run
    # What is the same throughout, as the only seed, is not shown.
    every = ("architecture", "modality", "repeat", "seed")
    shown = [i for i in range(4) if i < 2 or len({row[i] for row in by_row}) > 1]
    names = [every[i] for i in shown]
    left = sum(
        max(len(n), *(len(row[i]) for row in by_row)) + 2 for i, n in zip(shown, names, strict=True)
    )
    room = (width - left) // len(folds) - 2
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    for fold in folds:
        table.add_column(f"fold {fold}" if room >= 6 else fold, no_wrap=True)
    for row, run_by_fold in by_row.items():
        cells = (_cell(run_by_fold.get(fold), room) for fold in folds)
        table.add_row(*(row[i] for i in shown), *cells)
    return table


def _cell(run: _Listed | None, room: int) -> Text:
    """AUROC and time of a finished run, epoch of a running one, else its state; as fits."""
    if run is None:
        return Text("")
    state, status = run.state, run.status
    if state == "done":
        short, more = figure(status), f"{figure(status)} {duration(status.seconds)}"
    elif state == "running":
        short = f"{status.epoch}/{status.max_epochs or '?'}"
        more = f"{short} {figure(status)}"
    elif state == "pending":
        short = more = "."
    else:
        short, more = state[:6], state
    return Text(more if len(more) <= room else short, style=_STYLES.get(state, ""))


def _unwell(runs: Iterable[_Listed]) -> list[_Listed]:
    return [run for run in runs if run.state in ("failed", "killed", "interrupted")]


def _common_reasons(runs: Sequence[_Listed], folder: Path) -> list[RenderableType]:
    reasons = Counter((r.status.state, r.status.reason) for r in _unwell(runs))
    lines: list[RenderableType] = [
        Text(f"{count} {state}: {reason}", style=_STYLES[state], overflow="ellipsis", no_wrap=True)
        for (state, reason), count in reasons.most_common(_REASONS)
    ]
    if lines:
        more = len(reasons) - len(lines)
        also = f"{more} further reasons; " if more else ""
        lines = [Text(), *lines, Text(f"{also}all in full: ceus status {folder} --failed")]
    return lines


def _every_reason(runs: Sequence[_Listed]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for run in _unwell(runs):
        status = run.status
        lines += [
            Text(),
            Text(f"{status.state}: {run.listed.run_id}", style=_STYLES[status.state]),
            Text(f"  {status.reason}"),
        ]
        if status.note:
            lines.append(Text(f"  {status.note}"))
        when = f"attempt {status.attempts}, epoch {status.epoch}, {duration(status.seconds)}"
        lines.append(Text(f"  {when}; {run.folder / 'log.txt'}", overflow="fold"))
        lines += [
            Text(
                f"  attempt {before.get('attempt')}: {before.get('state')}: {before.get('reason')}"
            )
            for before in status.history
        ]
    return lines or [Text("No run failed, was killed or interrupted.")]
