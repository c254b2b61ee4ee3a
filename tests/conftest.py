"""One tiny cohort and its store, made once a session by the real phantom and the real prepare."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.ingest.prepare import prepare
from datamodules.phantom.make import PhantomPreset, make_phantom
from datamodules.store.splits import make_split
from experiments.processes import use_own_temporary_folder
from tests.orphans import end_with_this_process

ROOT = Path(__file__).parents[1]
end_with_this_process()
# What a killed test run leaves of W&B's folders and sockets, the next one removes; what tests wrote
# stays where pytest keeps it.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", use_own_temporary_folder())
# Two test processes share two cores.
torch.set_num_threads(1)
# A run's children must be as quiet and as single as a laptop without an account.
os.environ.setdefault("WANDB_MODE", "offline")


def asks_for_devices(expression: str) -> bool:
    """Whether `-m EXPRESSION` is `gpu`, or `gpu and ...`: tests on a device, and no others."""
    return re.fullmatch(r"gpu( and .*)?", expression) is not None


def pytest_configure(config: pytest.Config) -> None:
    """Hide the machine's GPUs: what tests expect is what a CPU gives, and they fork.

    Before anything asks for devices, and for the processes of tests, too.
    """
    assert not torch.cuda.is_initialized()
    if not asks_for_devices(config.getoption("markexpr")):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


TINY = PhantomPreset(
    patients=26,
    positives=12,
    image_auc=0.9,
    video_auc=0.95,
    clip_seconds=(2.0, 3.0),
    fps=(4, 6),
    clip_size=(64, 48),
    image_size=(64, 64),
    depth_mm=26.0,
    clip_depth_mm=26.0,
    time_scale=0.1,
)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cohort.csv of 26 phantom patients, clips of 2 to 3 s."""
    return make_phantom(
        tmp_path_factory.mktemp("phantom") / "cohort",
        seed=3,
        preset=TINY,
        workers=1,
        progress=False,
    )


@pytest.fixture(scope="session")
def store(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort prepared at 64 px, split into two folds; read only."""
    path = tmp_path_factory.mktemp("stores") / "store"
    prepare(cohort, path, canvas=64, as_is=True, progress=False, workers=1)
    make_split(path, num_folds=2)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's chromium, without a window."""
    found = shutil.which("chromium")
    if not found:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium must be installed in CI")
        pytest.skip("no chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync", "--no-first-run"],
        )  # fmt: skip
        yield started
        started.close()
