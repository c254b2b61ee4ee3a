"""How many CPU cores this process may use."""

import os

LIMIT = "CEUS_CORES"
"""Environment variable by which who starts several processes tells each its share."""


def cores() -> int:
    """Cores of this process: those it may run on, and no more than it was given, 1 or more.

    A container or `taskset` limits the first; the second is a run's share of a sweep's machine, or
    what SLURM was asked for a task.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    given = (os.environ.get(name, "") for name in (LIMIT, "SLURM_CPUS_PER_TASK"))
    return max(1, min([allowed, *(int(value) for value in given if value.isdigit())]))
