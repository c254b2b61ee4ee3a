"""Sweeps through a real SLURM: a cluster of two nodes on this machine."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from experiments.errors import ConfigError
from experiments.launchers.follow import follow
from experiments.launchers.slurm import queued, submit
from experiments.run_folder.lock import is_locked
from experiments.run_folder.status import read_status
from experiments.sweeps.expand import Sweep, expand, pending
from experiments.sweeps.file import read_sweep
from experiments.sweeps.freeze import freeze
from tests.command import ceus

OWN = Path(__file__).parents[1] / "experiments" / "own"
SWEEP = OWN / "tiny_sweep.yaml"
pytestmark = pytest.mark.slurm


@pytest.fixture(autouse=True)
def own_cluster(cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(OWN))
    monkeypatch.syspath_prepend(OWN)


def settings(store: Path, runs: Path, *overrides: str) -> list[str]:
    return [
        f"architecture={OWN / 'tiny.yaml'}",
        f"store={store}",
        f"runs={runs}",
        "wandb=false",
        "patience=1000",
        "launcher.kind=slurm",
        "launcher.slurm.gres=null",
        *overrides,
    ]


def sweep(store: Path, runs: Path, *overrides: str) -> Sweep:
    return expand(read_sweep(SWEEP, settings(store, runs, *overrides)))


def scontrol(*arguments: str) -> str:
    return subprocess.run(
        ["scontrol", *arguments], capture_output=True, text=True, check=True
    ).stdout


def until(holds: Callable[[], object], log: Path, seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            told = [p.read_text() for p in [log / "log.txt", *log.parent.glob("slurm/*.log")]]
            pytest.fail("\n".join(told))
        time.sleep(0.1)


def test_a_sweep_goes_through_the_queue_and_what_was_lost_is_done_again(
    store: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "some runs"
    narrowed = ["modality=image", "trainer.max_epochs=12"]
    both = sweep(store, runs, *narrowed)
    after = sweep(store, runs, "modality=video", "fold=0", "trainer.max_epochs=2")
    first, second, third = *both.runs, *after.runs
    made = replace(both, runs=(first, second, third), needs={third.run_id: (first.run_id,)})
    freeze(made)

    jobs = submit(made, pending(made))
    assert [job.runs for job in jobs] == [(first.run_id, second.run_id), (third.run_id,)]
    tasks = queued(made.folder)
    assert set(tasks) == {run.run_id for run in made.runs}
    assert f"Dependency=afterany:{jobs[0].job_id}" in scontrol("show", "job", str(jobs[1].job_id))
    assert submit(made, pending(made)) == []
    (made.folder / "slurm" / "jobs.json").write_text(
        (made.folder / "slurm" / "jobs.json").read_text().replace(f'"{jobs[0].job_id}"', "null")
    )
    # By the script, for the answer of sbatch is lost. Whether a task waits changes between looks.
    found = {run: (task.job, task.number) for run, task in queued(made.folder).items()}
    assert found == {run: (task.job, task.number) for run, task in tasks.items()}
    told, grid = ceus("status", made.folder).stdout.split("\n\n")
    assert "queued" in told
    assert grid.count("queued") + grid.count("running") == 3

    until(lambda: read_status(second.folder).epoch, second.folder)
    task = tasks[second.run_id]
    subprocess.run(["scancel", f"{task.job}_{task.number}"], check=True)
    until(lambda: second.run_id not in queued(made.folder), second.folder)
    assert read_status(second.folder).state != "done"
    assert [job.runs for job in submit(made, pending(made))] == [(second.run_id,)]

    assert follow(made) == []
    assert {read_status(run.folder).state for run in made.runs} == {"done"}
    assert [read_status(run.folder).attempts for run in made.runs] == [1, 2, 1]
    assert read_status(second.folder).resumed > 0
    ended = (first.folder / "predictions.parquet").stat().st_mtime
    assert float(read_status(third.folder).started or 0) >= ended
    assert submit(made, pending(made)) == []


def test_a_run_on_two_nodes_goes_back_into_the_queue_near_its_time_limit(
    store: Path, tmp_path: Path
) -> None:
    command = ["sweep", SWEEP]
    command += settings(store, tmp_path, "modality=image", "fold=0", "trainer.max_epochs=12")
    command += ["launcher.slurm.nodes=2", "launcher.slurm.hours=0.5"]
    # The nodes' names are the test cluster's own: nobody can look them up.
    command += ["launcher.slurm.setup=[export MASTER_ADDR=127.0.0.1]"]
    called = ceus(*command)
    assert called.returncode == 0, called.stderr
    assert "1 runs submitted, 0 were in the queue" in called.stdout
    (run,) = (tmp_path / "tiny").glob("tiny-image-*")
    until(lambda: read_status(run).epoch, run)
    (task,) = queued(run.parent).values()
    # What SLURM does before the time limit: the signal, to the script alone.
    job = f"{task.job}_{task.number}"
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], check=True)
    until(lambda: not is_locked(run), run)

    again = ceus(*command, "--wait")
    assert again.returncode == 0, again.stderr
    assert "0 runs submitted, 1 were in the queue" in again.stdout
    assert "1 done, 0 failed, 0 left" in again.stdout
    status = read_status(run)
    assert status.attempts == 2
    assert status.resumed > 0, "what was trained before the limit was trained again"
    assert pd.read_json(run / "environment.json", typ="series")["processes"] == 2
    assert "goes back into the queue" in next((run.parent / "slurm").glob("*_0.log")).read_text()
    assert (run / "log-node1.txt").is_file()


def test_what_sbatch_refuses_is_one_error_and_leaves_nothing(store: Path, tmp_path: Path) -> None:
    made = sweep(store, tmp_path, "modality=image", "launcher.slurm.partition=gpus")
    freeze(made)
    with pytest.raises(ConfigError, match=r"sbatch must accept.*invalid partition.*001\.sbatch"):
        submit(made, made.runs)
    assert not list((made.folder / "slurm").glob("*.sbatch"))
    assert queued(made.folder) == {}


def test_a_later_refusal_tells_what_was_queued_before(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A limit of the cluster's on jobs, in front of its own sbatch.
    limited = tmp_path / "bin" / "sbatch"
    limited.parent.mkdir()
    limited.write_text(
        '#!/bin/sh\ncase "$*" in *002.sbatch) echo QOSMaxSubmitJobPerUserLimit >&2; exit 1;; esac\n'
        f'exec {shutil.which("sbatch")} "$@"\n'
    )
    limited.chmod(0o755)
    made = sweep(store, tmp_path, "launcher.slurm.sbatch=[--hold]")
    freeze(made)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(limited.parent), prepend=os.pathsep)
        with pytest.raises(
            ConfigError, match=r"got: QOSMaxSubmit.*Before that 5 runs were queued: \d+\."
        ):
            submit(made, made.runs)
    left = set(queued(made.folder))
    assert left == {run.run_id for run in made.runs[:5]}
    (job,) = submit(made, made.runs)
    assert job.runs == (made.runs[5].run_id,)
    jobs = {task.job for task in queued(made.folder).values()}
    subprocess.run(["scancel", *jobs], check=True)


def test_arrays_are_as_large_as_the_cluster_allows_and_throttled_together(
    store: Path, tmp_path: Path
) -> None:
    made = sweep(store, tmp_path, "launcher.parallel=2", "launcher.slurm.sbatch=[--hold]")
    freeze(made)
    try:
        jobs = submit(made, made.runs)
        assert [len(job.runs) for job in jobs] == [5, 1]
        tasks = queued(made.folder)
        assert len(tasks) == 6
        shown = scontrol("show", "job", str(jobs[1].job_id))
        assert f"Dependency=afterany:{jobs[0].job_id}" in shown
        assert "ArrayTaskThrottle=2" in shown
    finally:
        subprocess.run(["scancel", *(str(job.job_id) for job in jobs)], check=True)
