"""The live display of a sweep: a bar and a line a running run; on no terminal, a line an end."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.compose import Run
from experiments.errors import ConfigError
from experiments.slurm import Task, queued
from experiments.status import Status, is_locked, read_status


class Progress:
    """Runs done, failed and left, the figures of the running ones, and the time left.

    Args:
        done: Runs done before.
        total: Runs of the sweep.
    """

    def __init__(self, *, done: int, total: int) -> None:
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=2, transient=True)
        self._done, self._failed, self._total = done, 0, total
        self._left_at_start = total - done
        self._begun = time.monotonic()

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def ended(self, run: Run) -> None:
        """Say that a run ended, and how."""
        status = read_status(run.folder)
        good = status.state == "done"
        self._done, self._failed = self._done + good, self._failed + (not good)
        figures = f"inner AUROC {_figure(status)}" if good else f"failed: {status.reason}"
        self._console.print(
            f"[{self._done + self._failed}/{self._total}] {run.run_id}  {figures}  "
            f"{status.seconds:.0f} s",
            highlight=False,
            markup=False,
            style=None if good else "red",
        )

    def show(self, running: Sequence[Run]) -> None:
        """Redraw the live part."""
        if not self._console.is_terminal:
            return
        table = Table.grid(padding=(0, 2))
        for run in running:
            status = read_status(run.folder)
            table.add_row(
                run.run_id.rsplit("-", 1)[0],
                f"epoch {status.epoch}/{status.max_epochs or '?'}",
                f"inner AUROC {_figure(status)}",
            )
        ended = self._done + self._failed
        head = Text(
            f"{self._done} done, {self._failed} failed, {self._total - ended} left"
            f"{self._time_left()}"
        )
        bar = ProgressBar(total=self._total, completed=ended, width=60)
        self._live.update(Group(head, bar, table))

    def _time_left(self) -> str:
        ended = self._done + self._failed - (self._total - self._left_at_start)
        if not ended:
            return ""
        seconds = (time.monotonic() - self._begun) / ended * (self._left_at_start - ended)
        return f", about {seconds / 60:.0f} min to go"


def _queued(folder: Path) -> dict[str, Task]:
    try:
        return queued(folder)
    except ConfigError:  # no controller answers: the folders still tell what they know
        return {}


def _figure(status: Status) -> str:
    return "-" if status.inner_auroc is None else f"{status.inner_auroc:.3f}"


def status_table(folder: Path) -> Table:
    """Every run that a sweep folder lists, as it stands now.

    Raises:
        ConfigError: If the folder holds no sweep.
    """
    path = folder / "sweep.json"
    if not path.is_file():
        raise ConfigError(f"folder must hold a sweep (sweep.json), got {folder}. Start it first.")
    table = Table(title=f"sweep {folder.name}", box=None, pad_edge=False)
    for name in ("run", "state", "epoch", "inner AUROC", "time", "reason"):
        table.add_column(name, overflow="fold")
    tasks = _queued(folder)
    for entry in json.loads(path.read_text())["runs"]:
        status = read_status(folder / entry["run_id"])
        state: str = status.state
        reason = status.reason or ""
        if state == "running" and not is_locked(folder / entry["run_id"]):
            state = "killed"
        if state not in ("done", "running") and entry["run_id"] in tasks:
            state = "queued"
            reason = reason or tasks[entry["run_id"]].reason
        table.add_row(
            entry["run_id"].rsplit("-", 1)[0],
            state,
            f"{status.epoch}/{status.max_epochs}" if status.max_epochs else "",
            _figure(status),
            f"{status.seconds:.0f} s",
            reason,
        )
    return table
