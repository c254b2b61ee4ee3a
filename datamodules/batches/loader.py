"""Batches in order, read ahead by threads of this process.

Threads, not the worker processes of torch's DataLoader: decord gives up the interpreter lock while
it decodes, CUDA contexts and open readers do not survive a fork, and handing frames from process
to process costs copies.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Sample = dict[str, Any]
Batch = dict[str, Any]
_AHEAD = 2
"""Batches in reading, at least, beyond the one handed out: a ring of three slots."""


class RowLoader:
    """Iterates over batches of rows, each batch read by `read`.

    Lightning takes it as it is: it has a length, and `loader.sampler.set_epoch` as
    `Trainer.fit` calls it. Iterating starts nothing until the first batch is asked for.
    The threads end with the last batch, or when the iterator is dropped.

    Args:
        plan: The rows of each batch in an epoch: `plan(epoch)`, always as many batches.
        read: Reads the rows of a batch of an epoch on any thread: `read(rows, epoch)`.
        num_threads: Reading threads, each at a batch of its own; 0 reads when a batch is asked for.
        stage: What to do with batches on their way to the consumer, on its thread.
        epochs: Whether another epoch follows each: its first batches are then read while the last
            of this one is in use and validation runs, and no epoch begins with a wait.
    """

    batch_sampler = None
    """Lightning asks for it where there is a `sampler`."""

    def __init__(
        self,
        *,
        plan: Callable[[int], Sequence[Sequence[Any]]],
        read: Callable[[Sequence[Any], int], Batch],
        num_threads: int,
        stage: Callable[[Batch], Batch] | None = None,
        epochs: bool = False,
    ) -> None:
        self._plan = plan
        self._read = read
        self._num_threads = num_threads
        self._stage = stage or (lambda batch: batch)
        self._epochs = epochs and num_threads > 0
        self._begun: tuple[int, deque[Future[Batch]]] = (-1, deque())
        self._epoch = 0
        self._length = len(plan(0))

    @property
    def sampler(self) -> "RowLoader":
        """The object whose `set_epoch` Lightning calls."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration: order, pairs, windows, augmentation."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._epoch
        read = partial(_read_named, self._read, epoch=epoch)
        plan = self._plan(epoch)
        if self._num_threads == 0:
            for rows in plan:
                yield self._stage(read(rows))
            return
        begun_epoch, begun = self._begun
        pending = begun if begun_epoch == epoch else deque()
        self._begun = (-1, deque())
        pool = self._pool()
        try:
            for rows in plan[len(pending) :]:
                pending.append(pool.submit(read, rows))
                if len(pending) > self._ahead:
                    yield self._stage(pending.popleft().result())
            # Nothing is left to hand out: threads end with their last batch. Lightning stops at
            # the last batch and does not come back for StopIteration.
            pool.shutdown(wait=False)
            while pending:
                if len(pending) == 1 and self._epochs:
                    self._begin(epoch + 1)
                yield self._stage(pending.popleft().result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, epoch: int) -> None:
        """Start to read the first batches of an epoch; the threads end with them."""
        pool = self._pool()
        read = partial(_read_named, self._read, epoch=epoch)
        plan = self._plan(epoch)[: self._ahead]
        self._begun = (epoch, deque(pool.submit(read, rows) for rows in plan))
        pool.shutdown(wait=False)

    @property
    def _ahead(self) -> int:
        return max(_AHEAD, self._num_threads)

    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._num_threads, thread_name_prefix="ceus-read")


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of the same keys as a batch: tensors are stacked, everything else becomes a list."""
    columns = {key: [sample[key] for sample in samples] for key in samples[0]}
    return {
        key: torch.stack(values) if isinstance(values[0], torch.Tensor) else values
        for key, values in columns.items()
    }


def _read_named(
    read: Callable[[Sequence[Any], int], Batch], rows: Sequence[Any], *, epoch: int
) -> Batch:
    try:
        return read(rows, epoch)
    except Exception as error:
        error.add_note(f"while reading {list(rows)} in epoch {epoch}")
        raise
