"""One SLURM cluster a session; absent only where nothing could be tested, and never in CI."""

import os
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import cluster as started
from tests.slurm.cluster import missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    """The environment in which sbatch and squeue mean a cluster of this test session."""
    if lacking := missing():
        message = f"needs SLURM: apt install slurm-wlm munge (no {', '.join(lacking)})"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with started() as environment:
        yield environment
