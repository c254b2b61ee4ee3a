"""Time of the paired DeLong test over the number of patients, beside its definition.

`python -m benchmarks.delong` prints medians of interleaved repeats. The definition compares every
positive with every negative, which is what a user would write first; it is timed at the smallest
size only, for its time and memory grow with the square.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation import delong_test

SIZES = (10_000, 100_000, 1_000_000)

Values = NDArray[Any]


@dataclass(frozen=True)
class Timing:
    """Median time of one way at one size.

    Attributes:
        way: "delong_test" or "by definition".
        patients: Patients, a quarter of them positive.
        seconds: Median over the repeats.
        repeats: How often it was done.
    """

    way: str
    patients: int
    seconds: float
    repeats: int


def time_delong(
    sizes: tuple[int, ...] = SIZES, *, repeats: int = 5, definition: bool = True, seed: int = 0
) -> list[Timing]:
    """Time the paired test of two correlated scores at each size.

    Args:
        sizes: Numbers of patients, the smallest first.
        repeats: Rounds over all sizes; the median is given.
        definition: Whether to time the definition too, at the smallest size.
        seed: Seed of the scores.
    """
    rng = np.random.default_rng(seed)
    jobs: dict[tuple[str, int], Callable[[], object]] = {}
    for size in sizes:
        labels = (np.arange(size) % 4 == 0).astype(np.int8)
        common = rng.normal(labels, 1.0)
        a, b = common + rng.normal(size=size), common + rng.normal(size=size)
        jobs["delong_test", size] = partial(delong_test, labels, a, b)
        if definition and size == sizes[0]:
            jobs["by definition", size] = partial(_by_definition, labels, a, b)
    seconds_by_job: dict[tuple[str, int], list[float]] = {key: [] for key in jobs}
    for _ in range(repeats):
        for key, job in jobs.items():
            begun = time.perf_counter()
            job()
            seconds_by_job[key].append(time.perf_counter() - begun)
    return [Timing(*key, median(seconds), repeats) for key, seconds in seconds_by_job.items()]


def _by_definition(y: Values, a: Values, b: Values) -> float:
    """The z of the same test from the full matrix of pairs, in blocks of positives."""
    positives = np.flatnonzero(y == 1)
    negatives = np.flatnonzero(y == 0)
    above = np.zeros((2, negatives.size))
    below = np.empty((2, positives.size))
    for which, x in enumerate((a, b)):
        for start in range(0, positives.size, 500):
            rows = positives[start : start + 500]
            difference = x[rows][:, None] - x[negatives][None, :]
            wins = (difference > 0) + 0.5 * (difference == 0)
            below[which, start : start + 500] = wins.mean(axis=1)
            above[which] += wins.sum(axis=0)
    above /= positives.size
    of_positives, of_negatives = below[0] - below[1], above[0] - above[1]
    variance = of_positives.var(ddof=1) / positives.size
    variance += of_negatives.var(ddof=1) / negatives.size
    return float(of_positives.mean() / np.sqrt(variance))


if __name__ == "__main__":
    for timing in time_delong():
        print(f"{timing.way:14} {timing.patients:>9,} patients {1e3 * timing.seconds:9.1f} ms")
