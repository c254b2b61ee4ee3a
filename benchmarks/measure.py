"""Timing cases in turn, and the tables made of it.

Cases are interleaved: a round runs each once, so that whatever else the machine does falls on all
of them alike. Ratios are medians over rounds of the ratio within a round.
"""

import gc
import multiprocessing
import platform
import resource
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What one call cost: seconds of CPU (all threads and ended children), and of wall clock."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Section:
    """One benchmark's part of RESULTS.md.

    Attributes:
        title: Its heading.
        about: What was timed, in a sentence or two.
        columns: Heads of the table.
        rows: Cells, as text.
        targets: What was aimed for, and what was found.
        skipped: What was left out, and why.
    """

    title: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    targets: Sequence[str] = field(default=())
    skipped: Sequence[str] = field(default=())

    def markdown(self) -> str:
        """The section as Markdown, heading included."""
        lines = [f"## {self.title}", "", self.about, ""]
        lines += [f"| {' | '.join(self.columns)} |", "|" + " --- |" * len(self.columns)]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        for items in (self.targets, [f"Not run: {text}" for text in self.skipped]):
            lines += ["", *(f"- {item}" for item in items)] if items else []
        return "\n".join(lines) + "\n"


class Timings:
    """Costs by case and round.

    Attributes:
        costs: Case to its costs, one a round.
    """

    def __init__(self, costs: Mapping[str, Sequence[Cost]]) -> None:
        self.costs = costs

    def cpu(self, case: str) -> float:
        """Median CPU seconds."""
        return statistics.median(cost.cpu for cost in self.costs[case])

    def wall(self, case: str) -> float:
        """Median wall seconds."""
        return statistics.median(cost.wall for cost in self.costs[case])

    def ratio(self, case: str, other: str) -> float:
        """Median over rounds of the CPU that `case` took over what `other` did in that round."""
        pairs = zip(self.costs[case], self.costs[other], strict=True)
        return statistics.median(a.cpu / b.cpu for a, b in pairs)

    def wall_ratio(self, case: str, other: str) -> float:
        """The same of wall clock."""
        pairs = zip(self.costs[case], self.costs[other], strict=True)
        return statistics.median(a.wall / b.wall for a, b in pairs)


def interleave(cases: Mapping[str, Callable[[], object]], *, rounds: int) -> Timings:
    """Runs every case once in each round, after a round that does not count."""
    costs: dict[str, list[Cost]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            gc.collect()
            cost = once(case)
            if number:
                costs[name].append(cost)
    return Timings(costs)


def once(case: Callable[[], object]) -> Cost:
    """Runs a case."""
    before, start = _cpu(), time.perf_counter()
    case()
    return Cost(_cpu() - before, time.perf_counter() - start)


def _cpu() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


class PeakMemory:
    """Most memory of this process and its children while the block ran, over what it had before.

    Attributes:
        mib: MiB; pages that processes share count once (PSS).
    """

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        self._before, self._peak = memory_mib(), 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.mib = max(0.0, self._peak - self._before)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self._peak = max(self._peak, memory_mib())


def memory_mib() -> float:
    """Memory of this process and its children, MiB; pages that they share count once."""
    pids = ["self", *(child.pid for child in multiprocessing.active_children())]
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:  # just ended
            continue
        total += int(text.split("\nPss:")[1].split()[0])
    return total / 1024


def machine() -> str:
    """The machine in words that fit any like it."""
    info = Path("/proc/cpuinfo").read_text()
    model = next(
        (line.split(":")[1].strip() for line in info.splitlines() if "model name" in line),
        platform.machine(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return (
        f"{multiprocessing.cpu_count()} cores ({model}), {memory:.0f} GiB memory, no GPU used, "
        f"{platform.system()}, Python {platform.python_version()}"
    )


def verdict(
    text: str, value: float, *, least: float | None = None, most: float | None = None
) -> str:
    """A target as a line: what it is, what was found, whether it holds."""
    holds = (least is None or value >= least) and (most is None or value <= most)
    bound = f"at least {least:g}" if least is not None else f"at most {most:g}"
    return f"{text}: {value:.3g}, target {bound} – {'held' if holds else '**not held**'}"
