"""Which rows make which batch, for each process: stratified, balanced or plain."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


def training_batches(
    order: IntArray, *, batch_size: int, rank: int, world: int
) -> list[tuple[IntArray, FloatArray]]:
    """One rank's share of a shuffled epoch: row numbers of each batch, and weights of their losses.

    Step `s` of all ranks together is `order[s × G : (s + 1) × G]` with `G = batch_size ×
    world`, dealt in turn, so 2 ranks × 4 see what 1 × 8 sees. Every rank gets as many batches of
    as many rows, for ranks wait for each other: the last step is filled with rows of the epoch's
    start, to at least two rows a rank (batch norm needs two). Those weigh 0 and the others so much
    more that the mean over all ranks is that of the step's own rows; elsewhere all weigh 1. A
    single left-over row is dropped, unless it is the only one.

    Args:
        order: The epoch's row numbers in their shuffled order, 1 or more.
        batch_size: Rows per batch and rank.
        rank: This process, 0 to `world - 1`.
        world: Number of processes.
    """
    step = batch_size * world
    end = len(order) // step * step
    rest = order[end:]
    steps = [order[start : start + step] for start in range(0, end, step)]
    weights = [np.ones(step, dtype=np.float32) for _ in steps]
    if len(rest) > 1 or (len(rest) == 1 and not steps):
        size = max(-(-len(rest) // world), min(2, batch_size)) * world
        steps.append(np.resize(np.concatenate([rest, order]), size))
        is_own = np.arange(size) < len(rest)
        weights.append((is_own * (size / len(rest))).astype(np.float32))
    return [(s[rank::world], w[rank::world]) for s, w in zip(steps, weights, strict=True)]


def evaluation_batches(num_rows: int, *, batch_size: int, rank: int, world: int) -> list[IntArray]:
    """One rank's share of a part, in order: rows `rank, rank + world, ...`, nothing filled up.

    A rank without a row of its own repeats one: Lightning skips the loop of a rank that has no
    batches, hooks and all, and the others would wait for it for ever. Who gathers drops repeats by
    `row_key`.

    Args:
        num_rows: Rows of the part, 1 or more.
        batch_size: Rows per batch.
        rank: This process, 0 to `world - 1`.
        world: Number of processes.
    """
    rows = np.arange(rank % num_rows, num_rows, world)
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


ClassSampling = Literal["stratified", "balanced", "plain"]
"""How the classes of training rows meet.

`stratified`: every row once an epoch, each step with the classes in the epoch's proportion.
`balanced`: rows of the rarer class repeat until both are equally many; then stratified.
`plain`: every row once an epoch, shuffled.
"""


def stratified_order(labels: IntArray, *, step: int, rng: np.random.Generator) -> IntArray:
    """Row numbers shuffled within the classes and spread over the steps of an epoch.

    Each step gets its share of the rarer class, rounded up or down by the draw, and at least one
    row of it where there are as many as steps (a last step of a single row aside). They stand first
    in their step: dealt in turn to processes, as `datamodules.batches.plan.training_batches`
    deals, each process gets its share of both classes. Nothing depends on the number of processes
    but through `step`.

    Args:
        labels: 0 or 1 of each row, `(N,)`.
        step: Rows of all processes together in a step, 1 or more.
        rng: Source of chance.
    """
    n = len(labels)
    rarer = int(2 * labels.sum() <= n)
    few = rng.permutation(np.flatnonzero(labels == rarer))
    many = rng.permutation(np.flatnonzero(labels != rarer))
    ends = np.append(np.arange(step, n, step), n)
    # Rows of the rarer class up to each step's end: the exact share, rounded by one common draw.
    upto = np.minimum(np.floor(ends * len(few) / n + rng.random()).astype(np.int64), len(few))
    if len(few) >= len(ends) and n % step != 1:
        upto = np.minimum(upto, len(few) - np.arange(len(ends))[::-1])
    starts_few, starts = np.append(0, upto[:-1]), np.append(0, ends[:-1])
    parts = [
        part
        for f0, f1, s0, s1 in zip(starts_few, upto, starts, ends, strict=True)
        for part in (few[f0:f1], many[s0 - f0 : s1 - f1])
    ]
    return np.concatenate(parts)


def patient_weights(patients: Sequence[str], labels: IntArray, *, balanced: bool) -> FloatArray:
    """By how much each row of an epoch counts in the loss, `(N,)`, 1 in the mean.

    Patients count alike, however many rows they have: who was filmed eight times is one patient in
    what is scored, too.

    Args:
        patients: Whose each row is, `N`.
        labels: 0 or 1 of each row, `(N,)`.
        balanced: Whether the two classes count alike, too.
    """
    rows_of = Counter(patients)
    weights: NDArray[np.float64] = np.array([1 / rows_of[patient] for patient in patients])
    if balanced:
        weights /= np.bincount(labels, weights)[labels]
    return np.asarray(weights / weights.mean(), np.float32)


def balanced_repeats(labels: IntArray, rng: np.random.Generator) -> IntArray:
    """Row numbers of the rarer class to be shown again, so that both classes are equally many.

    No row repeats once more than another by more than one; which do is drawn.

    Args:
        labels: 0 or 1 of each row, both present, `(N,)`.
        rng: Source of chance.
    """
    counts = np.bincount(labels, minlength=2)
    few = rng.permutation(np.flatnonzero(labels == int(counts.argmin())))
    return np.resize(few, int(abs(counts[0] - counts[1])))
