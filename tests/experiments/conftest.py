"""Runs in processes of their own, forked from one server: its imports are paid once a file."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.store.splits import make_split
from experiments.config.compose import compose
from experiments.config.run import Run, make_run
from experiments.launchers.local import launch
from experiments.sweeps.expand import Sweep
from experiments.sweeps.file import LauncherSettings
from experiments.sweeps.freeze import freeze

OWN = Path(__file__).parent / "own"
Launch = Callable[[Run], int]


@pytest.fixture(autouse=True)
def own_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(OWN)


@pytest.fixture(scope="session")
def repeated(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store with its patients dealt twice into two folds."""
    path = tmp_path_factory.mktemp("repeated") / "store"
    shutil.copytree(store, path, ignore=shutil.ignore_patterns("splits", "ledger.jsonl"))
    make_split(path, num_folds=2, repeats=2)
    return path


@pytest.fixture
def make(store: Path, tmp_path: Path) -> Callable[..., Run]:
    """A run of the tiny network, its folder made: `make("trainer.max_epochs=3")`."""

    def prepared(*overrides: str) -> Run:
        common = [f"architecture={OWN / 'tiny.yaml'}", f"store={store}", f"runs={tmp_path}"]
        run = make_run(compose([*common, "modality=image", "wandb=false", *overrides]))
        freeze(Sweep("fit", run.folder.parent, (run,), LauncherSettings()), extend=True)
        return run

    return prepared


@pytest.fixture
def start() -> Launch:
    """Launch a run once; its exit code."""

    def once(run: Run) -> int:
        failed = launch([run], 1, LauncherSettings(parallel=1), before=lambda: None, needs={})
        return failed[0][1] if failed else 0

    return once
