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
"""Batches in reading beyond the one handed out."""


class RowLoader:
    """Iterates over batches of rows, each row read by ``read``.

    Lightning takes it as it is: it has a length, and ``loader.sampler.set_epoch`` as
    ``Trainer.fit`` calls it. Iterating starts nothing until the first batch is asked for.
    The threads end with the last batch, or when the iterator is dropped.

    Args:
        plan: The rows of each batch in an epoch: ``plan(epoch)``, always as many batches.
        read: Reads one row of an epoch on any thread: ``read(row, epoch)``. All samples have the
            same keys; tensors are stacked, everything else becomes a list.
        num_threads: Reading threads; 0 reads when a batch is asked for.
    """

    batch_sampler = None
    """Lightning asks for it where there is a ``sampler``."""

    def __init__(
        self,
        *,
        plan: Callable[[int], Sequence[Sequence[Any]]],
        read: Callable[[Any, int], Sample],
        num_threads: int,
    ) -> None:
        self._plan = plan
        self._read = read
        self._num_threads = num_threads
        self._epoch = 0
        self._length = len(plan(0))
        self._pin = torch.cuda.is_available()

    @property
    def sampler(self) -> "RowLoader":
        """The object whose ``set_epoch`` Lightning calls."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration: order, pairs, windows, augmentation."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        read = partial(_read_named, self._read, epoch=self._epoch)
        plan = self._plan(self._epoch)
        if self._num_threads == 0:
            for rows in plan:
                yield self._collate([read(row) for row in rows])
            return
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="ceus-read")
        pending: deque[list[Future[Sample]]] = deque()
        try:
            for rows in plan:
                pending.append([pool.submit(read, row) for row in rows])
                if len(pending) > _AHEAD:
                    yield self._collate([future.result() for future in pending.popleft()])
            # Nothing is left to hand out: threads end with their last row. Lightning stops at the
            # last batch and does not come back for StopIteration.
            pool.shutdown(wait=False)
            while pending:
                yield self._collate([future.result() for future in pending.popleft()])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _collate(self, samples: Sequence[Sample]) -> Batch:
        batch: Batch = {}
        for key, first in samples[0].items():
            values = [sample[key] for sample in samples]
            if not isinstance(first, torch.Tensor):
                batch[key] = values
                continue
            if first.ndim == 4:  # frames keep the reader's memory order, which stack() would undo
                stacked = torch.cat(values).view(len(values), *first.shape)
            else:
                stacked = torch.stack(values)
            batch[key] = stacked.pin_memory() if self._pin else stacked
        return batch


def _read_named(read: Callable[[Any, int], Sample], row: Any, *, epoch: int) -> Sample:
    try:
        return read(row, epoch)
    except Exception as error:
        error.add_note(f"while reading {row} in epoch {epoch}")
        raise


def training_batches(order: IntArray, *, batch_size: int, rank: int, world: int) -> list[IntArray]:
    """One rank's share of a shuffled epoch.

    Step ``s`` of all ranks together is ``order[s × G : (s + 1) × G]`` with ``G = batch_size ×
    world``, so 2 ranks × 4 see what 1 × 8 sees. Every rank gets as many batches of as many rows:
    the last step is filled by wrapping around to the epoch's start, to at least two rows a rank
    (batch norm needs two); a single left-over row is dropped, unless it is the only one.

    Args:
        order: The epoch's row numbers in their shuffled order, 1 or more.
        batch_size: Rows per batch and rank.
        rank: This process, 0 to ``world - 1``.
        world: Number of processes.
    """
    step = batch_size * world
    end = len(order) // step * step
    batches = [order[start + rank * batch_size :][:batch_size] for start in range(0, end, step)]
    rest = order[end:]
    if len(rest) > 1 or (len(rest) == 1 and not batches):
        share = max(-(-len(rest) // world), min(2, batch_size))
        filled = np.resize(np.concatenate([rest, order]), share * world)
        batches.append(filled[rank * share :][:share])
    return batches


def evaluation_batches(num_rows: int, *, batch_size: int, rank: int, world: int) -> list[IntArray]:
    """One rank's share of a part, in order: rows ``rank, rank + world, ...``, nothing filled up.

    A rank without a row of its own repeats one: Lightning skips the loop of a rank that has no
    batches, hooks and all, and the others would wait for it for ever. Who gathers drops repeats by
    ``row_key``.

    Args:
        num_rows: Rows of the part, 1 or more.
        batch_size: Rows per batch.
        rank: This process, 0 to ``world - 1``.
        world: Number of processes.
    """
    rows = np.arange(rank % num_rows, num_rows, world)
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
