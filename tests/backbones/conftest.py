"""One thread: these networks are too small to share out."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Where real pretrained weights lie, beside the real data; may not exist."""
    data = os.environ.get("CEUS_REAL_DATA")
    shared = Path(data).parent if data else Path(__file__).parents[3] / "shared"
    return shared / "weights"
