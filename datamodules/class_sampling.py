"""The order of an epoch's rows, so that every step and every process sees both classes."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
ClassSampling = Literal["stratified", "balanced", "plain"]
"""How the classes of training rows meet.

``stratified``: every row once an epoch, each step with the classes in the epoch's proportion.
``balanced``: rows of the rarer class repeat until both are equally many; then stratified.
``plain``: every row once an epoch, shuffled.
"""


def stratified_order(labels: IntArray, *, step: int, rng: np.random.Generator) -> IntArray:
    """Row numbers shuffled within the classes and spread over the steps of an epoch.

    Each step gets its share of the rarer class, rounded up or down by the draw, and at least one
    row of it where there are as many as steps (a last step of a single row aside). They stand first
    in their step: dealt in turn to processes, as :func:`datamodules.loader.training_batches`
    deals, each process gets its share of both classes. Nothing depends on the number of processes
    but through ``step``.

    Args:
        labels: 0 or 1 of each row, ``(N,)``.
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


def balanced_repeats(labels: IntArray, rng: np.random.Generator) -> IntArray:
    """Row numbers of the rarer class to be shown again, so that both classes are equally many.

    No row repeats once more than another by more than one; which do is drawn.

    Args:
        labels: 0 or 1 of each row, both present, ``(N,)``.
        rng: Source of chance.
    """
    counts = np.bincount(labels, minlength=2)
    few = rng.permutation(np.flatnonzero(labels == int(counts.argmin())))
    return np.resize(few, int(abs(counts[0] - counts[1])))
