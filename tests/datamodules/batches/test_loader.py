import gc
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from datamodules.batches.loader import RowLoader, collate
from datamodules.batches.plan import evaluation_batches, training_batches


def reading_threads() -> int:
    return sum(thread.name.startswith("ceus-read") for thread in threading.enumerate())


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def read(rows: list[int], epoch: int) -> dict[str, object]:
    time.sleep(0.002 * (rows[0] // 4 % 3))  # batches end in another order than they start
    return {"row": rows, "epoch": torch.tensor([epoch] * len(rows))}


def loader(num_threads: int, *, num_rows: int = 23, **changes: object) -> RowLoader:
    plan = [list(range(start, min(start + 4, num_rows))) for start in range(0, num_rows, 4)]
    settings: dict = {"plan": lambda _: plan, "read": read, "num_threads": num_threads}
    return RowLoader(**settings | changes)


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_batches_come_in_order_and_threads_end(num_threads: int) -> None:
    rows = loader(num_threads)
    assert len(rows) == 6
    for epoch in range(3):
        rows.sampler.set_epoch(epoch)
        batches = list(rows)
        assert [row for batch in batches for row in batch["row"]] == list(range(23))
        assert all((batch["epoch"] == epoch).all() for batch in batches)
    assert wait_until(lambda: reading_threads() == 0)


def test_samples_become_a_batch() -> None:
    batch = collate([{"id": str(i), "frames": torch.full((2, 3), i)} for i in range(4)])
    assert batch["id"] == ["0", "1", "2", "3"]
    assert batch["frames"].shape == (4, 2, 3)
    assert batch["frames"][:, 1, 2].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("num_threads", [0, 2])
def test_batches_pass_the_stage_in_order_on_the_consumers_thread(num_threads: int) -> None:
    seen = []

    def stage(batch: dict) -> dict:
        seen.append((batch["row"][0], threading.current_thread()))
        return batch | {"staged": True}

    assert all(batch["staged"] for batch in loader(num_threads, stage=stage))
    assert seen == [(row, threading.current_thread()) for row in range(0, 23, 4)]


def test_threads_end_without_coming_back_for_the_end() -> None:
    # Lightning takes len(loader) batches and never sees StopIteration.
    rows = loader(2)
    iterator = iter(rows)
    for _ in range(len(rows)):
        next(iterator)
    assert wait_until(lambda: reading_threads() == 0)


def test_threads_end_when_the_iterator_is_dropped() -> None:
    for _ in range(5):
        for batch in loader(2):
            assert batch["row"] == [0, 1, 2, 3]
            break
    gc.collect()
    assert wait_until(lambda: reading_threads() == 0)


def test_iterating_starts_nothing_before_the_first_batch() -> None:
    # Lightning calls iter() to see whether it can, and set_epoch() only afterwards.
    rows = loader(2)
    iterator = iter(rows)
    assert reading_threads() == 0
    rows.set_epoch(5)
    assert next(iterator)["epoch"][0] == 5


@pytest.mark.parametrize(("num_threads", "ahead"), [(1, 2), (2, 2), (4, 4)])
def test_reading_ahead_is_bounded(num_threads: int, ahead: int) -> None:
    started: list[list[int]] = []

    def note(rows: list[int], epoch: int) -> dict[str, object]:
        started.append(rows)
        return {"row": rows}

    iterator = iter(loader(num_threads, num_rows=400, read=note))
    next(iterator)
    assert wait_until(lambda: len(started) == 1 + ahead)  # the batch handed out, and those
    time.sleep(0.1)
    assert len(started) == 1 + ahead
    next(iterator)
    assert wait_until(lambda: len(started) == 2 + ahead)


def test_the_next_epoch_is_begun_before_it_is_asked_for() -> None:
    started: list[tuple[int, int]] = []

    def note(rows: list[int], epoch: int) -> dict[str, object]:
        started.append((epoch, rows[0]))
        return {"row": rows, "epoch": epoch}

    rows = loader(2, read=note, epochs=True)
    for epoch in (0, 1, 5):  # the last is not the one that was begun
        rows.set_epoch(epoch)
        iterator = iter(rows)
        batches = [next(iterator) for _ in range(len(rows))]
        assert [batch["row"][0] for batch in batches] == list(range(0, 23, 4))
        assert {batch["epoch"] for batch in batches} == {epoch}
        assert wait_until(lambda epoch=epoch: started.count((epoch + 1, 4)) == 1)
    assert wait_until(lambda: reading_threads() == 0)
    assert started.count((1, 0)) == 1  # what was begun was used
    assert len(started) == 3 * 6 + 2 + 2


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_an_error_reaches_the_consumer_with_its_rows(num_threads: int) -> None:
    def fail(rows: list[int], epoch: int) -> dict[str, object]:
        if 9 in rows:
            raise ValueError("no frames")
        return {"row": rows}

    rows = loader(num_threads, read=fail)
    iterator = iter(rows)
    assert next(iterator)["row"] + next(iterator)["row"] == list(range(8))
    with pytest.raises(ValueError, match="no frames") as caught:
        next(iterator)
    assert caught.value.__notes__ == ["while reading [8, 9, 10, 11] in epoch 0"]
    assert wait_until(lambda: reading_threads() == 0)


@pytest.mark.parametrize("num_rows", [2, 3, 7, 8, 9, 16, 17, 18, 31])
@pytest.mark.parametrize(("world", "batch_size"), [(1, 8), (2, 4), (4, 2), (3, 3)])
def test_processes_share_an_epoch(num_rows: int, world: int, batch_size: int) -> None:
    order = np.random.default_rng(0).permutation(num_rows)
    shares = [
        training_batches(order, batch_size=batch_size, rank=rank, world=world)
        for rank in range(world)
    ]
    sizes = {tuple(len(rows) for rows, _ in share) for share in shares}
    assert len(sizes) == 1, "every rank has the same number of batches of the same sizes"
    assert min(sizes.pop()) >= 2
    size = world * batch_size
    alone = [order[start : start + size] for start in range(0, num_rows, size)]
    if len(alone) > 1 and len(alone[-1]) == 1:
        alone.pop()  # a single left-over row is dropped
    assert len(shares[0]) == len(alone)
    losses = np.random.default_rng(1).random(num_rows)
    for step, expected in zip(zip(*shares, strict=True), alone, strict=True):
        counted = [row for rows, weights in step for row in rows[weights > 0]]
        assert sorted(counted) == sorted(expected), "each row of the step counts once"
        mean = np.mean([(losses[rows] * weights).mean() for rows, weights in step])
        assert mean == pytest.approx(losses[expected].mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("num_rows", "batch_size", "world", "expected"),
    [
        (1, 8, 1, [[0, 0]]),  # the only row is not dropped
        (1, 1, 1, [[0]]),
        (3, 1, 2, [[0]]),  # the left-over row is dropped
        (3, 1, 1, [[0], [1], [2]]),  # rows on their own, if that is what was asked for
        (6, 2, 2, [[0, 2], [4, 0]]),
    ],
)
def test_single_rows(num_rows: int, batch_size: int, world: int, expected: list[list[int]]) -> None:
    batches = training_batches(np.arange(num_rows), batch_size=batch_size, rank=0, world=world)
    assert [rows.tolist() for rows, _ in batches] == expected


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_has_each_row_once_but_for_idle_processes(num_rows: int, world: int) -> None:
    shares = [
        [
            int(row)
            for batch in evaluation_batches(num_rows, batch_size=2, rank=rank, world=world)
            for row in batch
        ]
        for rank in range(world)
    ]
    assert all(shares), "Lightning skips the loop, and its hooks, of a rank without batches"
    busy = shares[:num_rows]
    assert sorted(row for share in busy for row in share) == list(range(num_rows))
    assert all(share == list(range(rank, num_rows, world)) for rank, share in enumerate(busy))
    assert all(len(share) == 1 for share in shares[num_rows:])
