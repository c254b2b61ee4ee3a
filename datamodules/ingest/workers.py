"""The processes that prepare items, and what is done when one of them dies."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.errors import StorageError
from datamodules.ingest.task import GO_ON, Outcome, Task, running_marker
from datamodules.processes import end_with_parent

_log = logging.getLogger(__name__)


class Workers:
    """Processes that do tasks: started when needed, kept for the next call, anew after a crash."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def run(self, work: Callable[[Task], Outcome], tasks: Sequence[Task]) -> Iterator[Outcome]:
        """What comes of the tasks, as it comes.

        Raises:
            BrokenProcessPool: If a process ended.
        """
        try:
            pool = self._pool = self._pool or self._start()
            for future in as_completed([pool.submit(work, task) for task in tasks]):
                yield future.result()
        except (BrokenProcessPool, BrokenPipeError) as error:  # the latter: before it listened
            self.__exit__()
            raise BrokenProcessPool from error

    def _start(self) -> ProcessPoolExecutor:
        try:
            # Not fork: it might inherit threads mid-lock. Not forkserver: a process has one, and
            # the sweep that prepares first needs it to have imported torch.
            return ProcessPoolExecutor(
                self._count, mp_context=get_context("spawn"), initializer=end_with_parent
            )
        except OSError as error:
            raise StorageError(
                "shared memory (/dev/shm) must be writable for the processes that prepare, got "
                f"{error.strerror!r}. Mount it for writing and with room, in a container by "
                "--shm-size or --ipc=host, and call the same command again."
            ) from error


def run_all(
    work: Callable[[Task], Outcome], tasks: Sequence[Task], pool: Workers, *, label: str
) -> Iterator[Outcome]:
    """Runs tasks in worker processes; a decoder that crashes or hangs costs its own row only.

    Shows a progress bar if it has a label.
    """
    pending = {
        task.line: task for task in sorted(tasks, key=lambda task: _bytes(task.path), reverse=True)
    }
    suspects: list[int] = []
    columns = [
        TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn("files"),
        TimeRemainingColumn(),
    ]  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=not (label and tasks)) as display:
        bar = display.add_task("", total=len(tasks))
        while pending:
            alone = suspects.pop() if suspects else None
            batch = list(pending.values()) if alone is None else [pending[alone]]
            try:
                for outcome in pool.run(work, batch):
                    del pending[outcome.line]
                    display.advance(bar)
                    if outcome.trace:
                        _log.debug("line %d: %s", outcome.line, outcome.trace)
                    yield outcome
            except BrokenProcessPool:
                markers = {line: running_marker(pending[line].staging, line) for line in pending}
                at_work = [line for line, marker in markers.items() if marker.exists()]
                if not at_work:  # no file did it
                    raise StorageError(
                        "processes must be able to start, got one that ended at once. Is there too "
                        "little memory (ulimit -v)? Try --workers 1. A script that prepares does "
                        f'so under `if __name__ == "__main__":`. {GO_ON}'
                    ) from None
                for line in at_work:
                    markers[line].unlink()
                if alone is None:
                    suspects = at_work
                    continue
                del pending[alone]
                display.advance(bar)
                reason = "file must decode, got a crash or a standstill of the decoder"
                yield Outcome(alone, reason=reason)


def _bytes(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
