"""The processes that prepare items, and what is done when one of them dies."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.errors import DataError
from datamodules.ingest.task import Outcome, Task, running_marker, start_worker


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
            DataError: If the machine has no shared memory for them.
        """
        if self._pool is None:
            # Not fork: it might inherit threads mid-lock. Not forkserver: a process has one, and
            # the sweep that prepares first needs it to have imported torch.
            try:
                self._pool = ProcessPoolExecutor(
                    self._count, mp_context=get_context("spawn"), initializer=start_worker
                )
            except OSError as error:  # of its semaphores
                raise DataError(
                    "shared memory (/dev/shm) must be writable for the processes that prepare, "
                    f"got {error.strerror!r}. Mount it for writing and with room, in a "
                    "container by --shm-size or --ipc=host, and call the same command again."
                ) from error
        try:
            for future in as_completed([self._pool.submit(work, task) for task in tasks]):
                yield future.result()
        except BrokenProcessPool:
            self.__exit__()
            raise


def run_all(
    work: Callable[[Task], Outcome], tasks: Sequence[Task], pool: Workers, *, label: str
) -> Iterator[Outcome]:
    """Runs tasks in worker processes; a decoder that crashes or hangs costs its own row only.

    Shows a progress bar if it has a label.
    """
    pending = {
        task.line: task
        for task in sorted(tasks, key=lambda task: task.path.stat().st_size, reverse=True)
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
                    yield outcome
            except BrokenProcessPool:
                if alone is None:
                    suspects = [
                        line
                        for line, task in pending.items()
                        if running_marker(task.staging, line).exists()
                    ] or list(pending)
                else:
                    del pending[alone]
                    display.advance(bar)
                    yield Outcome(
                        alone, reason="file must decode, got a crash or a standstill of the decoder"
                    )
