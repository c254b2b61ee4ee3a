"""The live display of a sweep: a bar and a line a running run; on no terminal, a line an end."""

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.launchers.order import Startable
from experiments.launchers.so_far import so_far
from experiments.run_folder.status import Status, read_status


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
        self._so_far = ""

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

    def ended(self, run: Startable) -> None:
        """Say that a run ended, and how."""
        status = read_status(run.folder)
        good = status.state == "done"
        self._done, self._failed = self._done + good, self._failed + (not good)
        figures = "done" if status.inner_auroc is None else f"inner AUROC {figure(status)}"
        if not good:
            figures = f"{status.state}: {status.reason}"
        self._console.print(
            f"[{self._done + self._failed}/{self._total}] {run.run_id}  {figures}  "
            f"{status.seconds:.0f} s",
            highlight=False,
            markup=False,
            style=None if good else "red",
        )
        if status.note:
            self.say(f"  {status.note}")
        if good and (line := so_far(run.folder.parent, run.architecture)) != self._so_far:
            self._so_far = line
            self.say(line)

    def elsewhere(self, run: Startable) -> None:
        """Say that another process has a run under way, or has done it."""
        self._total -= 1
        self._left_at_start -= 1
        self.say(f"{run.run_id} is left to another process, which holds it or has done it")

    def say(self, text: str) -> None:
        """Print a line above the live part."""
        self._console.print(text, highlight=False, markup=False)

    def show(self, running: Sequence[Startable]) -> None:
        """Redraw the live part."""
        if not self._console.is_terminal:
            return
        table = Table.grid(padding=(0, 2))
        for run in running:
            status = read_status(run.folder)
            table.add_row(
                run.run_id.rsplit("-", 1)[0],
                f"epoch {status.epoch}/{status.max_epochs or '?'}",
                f"inner AUROC {figure(status)}",
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


def figure(status: Status) -> str:
    """The best inner AUROC so far, or a dash."""
    return "-" if status.inner_auroc is None else f"{status.inner_auroc:.3f}"
