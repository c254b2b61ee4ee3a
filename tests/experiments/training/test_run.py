"""Runs and sweeps as real processes, with a user's own package for networks."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.ledger import read_ledger
from datamodules.store.splits import load_split
from evaluation import compute, render, unseal
from evaluation.records.listing import FORMAT, read_listing
from evaluation.records.schema import CELL, PARTS, PREDICTION_COLUMNS, RUN_SHAS, STATES, State
from experiments.config.compose import compose
from experiments.config.run import load_run, make_run
from experiments.errors import ConfigError
from experiments.launchers.slurm import queued
from experiments.run_folder.status import read_status, write_status
from experiments.sweeps.expand import Sweep, expand
from experiments.sweeps.file import read_sweep
from experiments.sweeps.freeze import freeze
from experiments.training.execute import execute
from tests import command

OWN = Path(__file__).parents[1] / "own"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(OWN), "COLUMNS": "80"}


def ceus_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    process = begun(*arguments)
    out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def begun(*arguments: str | Path) -> "subprocess.Popen[str]":
    called = [sys.executable, "-m", "experiments", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(called, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)


def ceus(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return command.ceus(*arguments, packages=OWN)


def cell(store: Path, runs: Path, *overrides: str) -> list[str]:
    return [
        f"architecture={OWN / 'tiny.yaml'}",
        f"store={store}",
        f"runs={runs}",
        "trainer.max_epochs=2",
        *overrides,
    ]


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep of six tiny runs, done by the command line, and what that printed."""
    runs = tmp_path_factory.mktemp("runs")
    result = ceus("sweep", OWN / "tiny_sweep.yaml", *cell(store, runs), "--evaluate")
    assert result.returncode == 0, result.stderr
    return runs / "tiny", result.stdout


def test_a_sweep_runs_all_and_prints_the_comparison(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    assert "6 done, 0 failed, 0 left" in printed
    assert str(folder) in printed
    assert "report.html" in printed
    assert max(map(len, printed.splitlines())) <= 200


def apart(sweep: Path, store: Path, to: Path) -> tuple[Path, Path]:
    """Copies of a sweep and of its store that know each other and nobody else."""
    folder, own = to / sweep.name, to / "store"
    shutil.copytree(sweep, folder)
    shutil.copytree(store, own)
    listing = json.loads((folder / "sweep.json").read_text())
    listing["registered"]["store"] = str(own)
    (folder / "sweep.json").write_text(json.dumps(listing))
    return folder, own


def tables_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "evaluation").glob("*.csv")}


def test_tables_need_neither_store_nor_checkpoints_nor_wandb(
    finished: tuple[Path, str], store: Path, tmp_path: Path
) -> None:
    bare, reach = apart(finished[0], store, tmp_path)
    shutil.rmtree(reach)
    shutil.rmtree(bare / "evaluation")
    for run in bare.glob("*/predictions.parquet"):
        for name in ("checkpoints", "wandb"):
            shutil.rmtree(run.parent / name)
        (run.parent / "config.yaml").unlink()
    written = tables_of(finished[0])
    assert len(written) > 10
    found = compute(bare).tables
    for name, table in ((field.name, getattr(found, field.name)) for field in fields(found)):
        assert table.to_csv(index=False, lineterminator="\n").encode() == written[f"{name}.csv"]


def test_opening_the_test_set_again_shows_in_the_exit_code(
    finished: tuple[Path, str], store: Path, tmp_path: Path
) -> None:
    folder, store = apart(finished[0], store, tmp_path)
    without = ceus("evaluate", folder, "--unseal-test")
    assert without.returncode == 2
    assert "reason must be a sentence" in without.stderr
    unseal(folder, store, reason="final analysis")
    first = compute(folder)
    assert first.exit_code == 0
    assert "opened 1 time" in render(first)
    again = ceus("evaluate", folder, "--unseal-test", store, "--reason", "another look")
    assert again.returncode == 3
    assert "opened 2 times" in again.stdout
    store.rename(tmp_path / "moved")
    lost = ceus("evaluate", folder, "--unseal-test", "--reason", "again")
    assert lost.returncode == 2
    assert "Give the store: --unseal-test STORE" in lost.stderr


def test_a_sweep_is_known_to_its_store_and_its_analysis_to_its_runs(
    finished: tuple[Path, str], store: Path, tmp_path: Path
) -> None:
    folder, store = apart(finished[0], store, tmp_path)
    listing = json.loads((folder / "sweep.json").read_text())
    ledger = read_ledger(store)
    assert ledger
    entry = next(e for e in ledger.entries if e["sha"] == listing["registered"]["entry"])
    assert (entry["kind"], entry["name"], entry["split"]) == ("sweep", "tiny", "default")
    holdout = load_split(store, "default").holdout
    assert set(entry["holdout"]) == ledger.hashes(holdout)
    sealed = ceus("evaluate", folder, "--head", ledger.head)
    assert sealed.returncode == 0, sealed.stderr
    assert "its store's ledger has no opening" in " ".join(sealed.stdout.split())
    assert f"Ledger head: {ledger.head}" in sealed.stdout
    assert "not recorded" not in sealed.stdout
    # Another hold-out would train on this one, and another analysis was not declared.
    other = ceus("split", store, "--name", "b", "--folds", "2", "--seed", "1")
    assert other.returncode == 2
    assert "of split 'default'" in other.stderr
    marked = ("--overlap-reason", "a pilot")
    assert (
        ceus("split", store, "--name", "b", "--folds", "2", "--seed", "1", *marked).returncode == 0
    )
    listing["analysis"]["sensitivity"] = 0.95
    (folder / "sweep.json").write_text(json.dumps(listing))
    edited = ceus("evaluate", folder)
    assert edited.returncode == 3
    assert "The declared analysis in sweep.json is not the one with which" in edited.stdout
    assert "a pilot" in (folder / "evaluation" / "report.html").read_text()


def test_a_run_folder_holds_what_it_must(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    for entry in json.loads((folder / "sweep.json").read_text())["runs"]:
        run = folder / entry["run_id"]
        assert read_status(run).state == "done"
        for name in (
            "config.yaml",
            "predictions.parquet",
            "metrics.csv",
            "environment.json",
            "log.txt",
        ):
            assert (run / name).stat().st_size, name
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["best.ckpt"]
        best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        assert {value.dtype for value in best.values()} == {torch.float32}
        assert list((run / "wandb").rglob("*.wandb"))
        metrics = pd.read_csv(run / "metrics.csv")
        assert {"inner_bce", "inner_auroc", "train_loss"} <= set(metrics)


def test_the_folder_is_as_the_schema_says(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    listing = read_listing(folder)
    assert listing.to_json() == (folder / "sweep.json").read_text()
    assert (listing.name, listing.format, len(listing.runs)) == ("tiny", FORMAT, 6)
    for run in listing.runs:
        assert tuple(run.shas) == RUN_SHAS
        assert read_status(folder / run.run_id).state in STATES
        table = pd.read_parquet(folder / run.run_id / "predictions.parquet")
        assert tuple(table) == PREDICTION_COLUMNS
        assert set(table["part"]) <= set(PARTS)
        assert {tuple(row) for row in table[list(CELL)].itertuples(index=False)} == {run.cell}
        assert (table[list(RUN_SHAS)] == pd.Series(run.shas)).all(axis=None)


@pytest.mark.parametrize("state", [state for state in STATES if state != "done"])
def test_a_sweep_with_a_run_in_any_state_is_evaluated(
    finished: tuple[Path, str], tmp_path: Path, state: State
) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "tiny"))
    run = read_listing(folder).runs[0]
    status = read_status(folder / run.run_id)
    write_status(folder / run.run_id, replace(status, state=state, reason="stopped by Ctrl-C"))
    evaluated = compute(folder)
    assert f"5 done, 1 {state}" in render(evaluated)
    row = evaluated.tables.runs.set_index("run_id").loc[run.run_id]
    assert row["state"] == state
    assert row["reason"] == ("stopped by Ctrl-C" if state not in ("running", "pending") else "")


def test_a_list_cut_off_is_one_error_everywhere_and_can_be_written_anew(
    finished: tuple[Path, str], store: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "tiny"))
    path = folder / "sweep.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    again = ("sweep", OWN / "tiny_sweep.yaml", *cell(store, tmp_path))
    warm = [*cell(store, tmp_path), "modality=combined", f"warm_start={folder}"]
    for arguments in (
        ("status", folder),
        ("evaluate", folder),
        ("wandb-sync", folder),
        ("dashboard", folder),
        ("fit", *warm),
        again,
    ):
        told = ceus(*arguments)
        assert told.returncode == 2, arguments
        assert "sweep.json must be the list that `ceus sweep` writes" in told.stderr
        assert str(path) in told.stderr
        assert "Traceback" not in told.stderr
    path.unlink()
    assert ceus(*again).returncode == 0
    lists = [json.loads(text) for text in (path.read_text(), whole)]
    entries = [each.pop("registered")["entry"] for each in lists]
    assert lists[0] == lists[1]
    assert entries[0] != entries[1]  # it begins anew for the store


@pytest.mark.parametrize(
    "name", ["sweep.json", "RUN/status.json", "RUN/config.yaml", "STORE/split"]
)
def test_a_damaged_file_is_one_error_that_names_it(
    finished: tuple[Path, str], store: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "tiny"))
    own_store = Path(shutil.copytree(store, tmp_path / "store"))
    run = read_listing(folder).runs[0]
    places = {"RUN": folder / run.run_id, "STORE": own_store / "splits"}
    first, _, last = name.partition("/")
    path = places[first] / last.replace("split", "default.json") if last else folder / name
    whole = path.read_bytes()
    sweep = ("sweep", OWN / "tiny_sweep.yaml", *cell(own_store, tmp_path))
    reads = {
        "sweep.json": [("status", folder), ("evaluate", folder), sweep],
        "RUN/status.json": [("status", folder), ("evaluate", folder), sweep],
        "RUN/config.yaml": [("evaluate", folder), sweep],
        "STORE/split": [("split", own_store, "--folds", "2"), sweep],
    }
    for damaged in (b"", whole[: len(whole) // 2], b"\x00\xff\x80", b"null", b"[" * 5000):
        path.write_bytes(damaged)
        for arguments in reads[name]:
            told = ceus(*arguments)
            assert told.returncode == 2, (damaged[:20], arguments, told.stdout, told.stderr)
            assert told.stderr.startswith("error: "), told.stderr
            assert str(path) in told.stderr
            assert "Traceback" not in told.stderr
    path.write_bytes(whole)
    assert ceus(*sweep).returncode == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"[]"])
def test_what_was_printed_last_is_made_anew_where_it_is_damaged(
    finished: tuple[Path, str], store: Path, tmp_path: Path, content: bytes
) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "tiny"))
    path = folder / "evaluation" / "latest.json"
    whole = path.read_bytes()
    path.write_bytes(content)
    again = ceus("sweep", OWN / "tiny_sweep.yaml", *cell(store, tmp_path), "--evaluate")
    assert again.returncode == 0, again.stderr
    assert path.read_bytes() != content
    assert len(path.read_bytes()) == len(whole) + len(str(tmp_path)) - len(str(finished[0].parent))


@pytest.mark.parametrize("content", [b"", b'{"runs"', b"[{}]", b"7"])
def test_a_damaged_list_of_jobs_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "slurm" / "jobs.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"jobs\.json must be as the sweep wrote it"):
        queued(tmp_path)


def test_a_run_keeps_the_hash_of_its_predictions_and_evaluate_compares(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "tiny"))
    first, second = (folder / run.run_id for run in read_listing(folder).runs[:2])
    path = first / "predictions.parquet"
    assert read_status(first).predictions_sha == hashlib.sha256(path.read_bytes()).hexdigest()
    table = pd.read_parquet(path)  # moved by one constant, logit and probability alike
    table["logit"] += 0.5
    table["probability"] = 1 / (1 + np.exp(-table["logit"]))
    table.to_parquet(path, index=False)
    told = ceus("evaluate", folder)
    assert told.returncode == 3, told.stderr
    assert f"Predictions changed since their run ended: {first.name}." in unwrapped(told.stdout)
    assert first.name in (folder / "evaluation" / "report.html").read_text()
    shutil.copy(finished[0] / first.name / path.name, path)
    status = json.loads((second / "status.json").read_text())
    del status["predictions_sha"]  # a run of before
    (second / "status.json").write_text(json.dumps(status))
    told = ceus("evaluate", folder)
    assert told.returncode == 0
    assert "1 run kept no hash of the predictions" in unwrapped(told.stdout)


def unwrapped(text: str) -> str:
    return " ".join(text.split()).replace("- ", "-")


def test_predictions_have_each_patient_once_and_sealed_labels_empty(
    finished: tuple[Path, str],
) -> None:
    folder, _ = finished
    tables = [pd.read_parquet(path) for path in folder.glob("*/predictions.parquet")]
    assert len(tables) == 6
    for table in tables:
        assert set(table["part"]) == {"train", "inner_val", "oof", "test"}
        assert not table.duplicated(["part", "patient_id"]).any()
        sealed = table["part"] == "test"
        assert table.loc[sealed, "label"].isna().all()
        assert table.loc[~sealed, "label"].isin([0, 1]).all()
        assert table["probability"].between(0, 1).all()
    image = pd.concat(t for t in tables if t["modality"].iloc[0] == "image")
    oof = image[image["part"] == "oof"]
    assert oof["patient_id"].is_unique
    assert set(oof["patient_id"]).isdisjoint(image.loc[image["part"] == "test", "patient_id"])


def test_a_finished_sweep_does_nothing_again(finished: tuple[Path, str], store: Path) -> None:
    folder, _ = finished

    def stamps() -> dict[Path, int]:  # but for the sweep's lock, whose time is its heartbeat
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path: path.stat().st_mtime_ns for path in files if path != folder / ".lock"}

    before = stamps()
    begun = time.monotonic()
    again = ceus_process("sweep", OWN / "tiny_sweep.yaml", *cell(store, folder.parent))
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - begun < 25
    assert stamps() == before


def test_status_shows_every_run(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    shown = ceus("status", folder)
    assert shown.returncode == 0, shown.stderr
    assert "6 runs: 6 done" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_a_failed_run_is_recorded_and_the_rest_go_on(store: Path, tmp_path: Path) -> None:
    failing = "study.video_encoder.init_args.fail=true"
    narrowed = cell(store, tmp_path, "fold=0", failing, "launcher.parallel=1")
    result = ceus("sweep", OWN / "tiny_sweep.yaml", *narrowed)
    assert result.returncode == 1, result.stderr
    assert "1 done, 2 failed, 0 left" in result.stdout
    assert result.stdout.count("RuntimeError: this encoder was told to fail") == 2
    (failed,) = (tmp_path / "tiny").glob("tiny-video-*")
    assert "Traceback" in (failed / "log.txt").read_text()


def test_one_fit_with_a_lightning_module_of_the_users(store: Path, tmp_path: Path) -> None:
    own = ["model.class_path=own_package.OwnClassifier", "model.init_args.temperature=2.0"]
    result = ceus("fit", *cell(store, tmp_path, "modality=image", *own))
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "fit").glob("tiny-image-fold0-seed0-*")
    assert str(run) in result.stdout
    assert len(pd.read_parquet(run / "predictions.parquet"))


def content(sweep: Sweep) -> dict[Path, tuple[bytes, int]]:
    """Content and time of writing of every file of the finished runs."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for run in sweep.runs
        if read_status(run.folder).state == "done"
        for path in run.folder.rglob("*")
        if path.is_file()
    }


def holder(sweep: Sweep) -> int | None:
    """The process that has one of the runs under way."""
    locks = {(run.folder / ".lock") for run in sweep.runs if (run.folder / ".lock").is_file()}
    inodes = {str(path.stat().st_ino) for path in locks}
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].split(":")[2] in inodes:
            return int(fields[4])
    return None


@pytest.mark.chaos
@pytest.mark.timeout(900)  # six times the start of a sweep, each some seconds of imports
def test_a_sweep_killed_at_any_moment_ends_as_if_undisturbed(store: Path, tmp_path: Path) -> None:
    # One run at a time in both: with other threads for each, the last digits are others.
    calm = cell(store, tmp_path / "calm", "launcher.parallel=1")
    assert ceus_process("sweep", OWN / "tiny_sweep.yaml", *calm, "--evaluate").returncode == 0
    narrowed = cell(store, tmp_path, "launcher.parallel=1")
    sweep = expand(read_sweep(OWN / "tiny_sweep.yaml", narrowed))
    called = [sys.executable, "-m", "experiments", "sweep", OWN / "tiny_sweep.yaml", *narrowed]
    moments = random.Random(0)
    before: dict[Path, tuple[bytes, int]] = {}
    process: subprocess.Popen[bytes] | None = None
    victims = ["run", "run", "sweep", "run", "run", "sweep"]
    try:
        while victims:
            if process is None or process.poll() is not None:
                process = subprocess.Popen(called, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
            pid = holder(sweep)
            if pid is None:
                time.sleep(0.01)
                continue
            time.sleep(moments.uniform(0, 1.0))
            victim = victims.pop(0)
            with contextlib.suppress(ProcessLookupError):  # a run may be over before its turn
                os.kill(process.pid if victim == "sweep" else pid, signal.SIGKILL)
            if victim == "sweep":
                process.wait()
            deadline = time.monotonic() + 60
            # None outlives its sweep: its lock would keep the run from being done again.
            while holder(sweep) == pid or (victim == "sweep" and holder(sweep)):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            now = content(sweep)
            assert now.items() >= before.items()
            before = now
    finally:
        if process is not None:
            process.kill()
            process.wait()
    result = ceus_process("sweep", OWN / "tiny_sweep.yaml", *narrowed, "--evaluate")
    assert "6 done, 0 failed, 0 left" in result.stdout, result.stderr
    assert content(sweep).items() >= before.items()
    assert tables_of(tmp_path / "tiny") == tables_of(tmp_path / "calm" / "tiny")
    assert sum(read_status(run.folder).attempts for run in sweep.runs) > len(sweep.runs)


def test_two_sweeps_at_once_share_the_runs(store: Path, tmp_path: Path) -> None:
    # Longer than it takes the second to find that they are not done.
    long = ("trainer.max_epochs=30", "patience=30")
    common = cell(store, tmp_path, "wandb=false", "fold=0", "launcher.parallel=1", *long)
    called = ["sweep", OWN / "tiny_sweep.yaml", *common]
    sweep = expand(read_sweep(OWN / "tiny_sweep.yaml", common))
    with begun(*called) as first:
        while holder(sweep) is None:
            assert first.poll() is None
            time.sleep(0.01)
        second = ceus(*called)
        told = [first.communicate()[1], second.stderr]
    assert [first.returncode, second.returncode] == [0, 0], told
    assert any("left to another process" in errors for errors in told)
    folders = [path.parent for path in (tmp_path / "tiny").glob("*/predictions.parquet")]
    assert len(folders) == 3
    for folder in folders:
        status = read_status(folder)
        assert (status.state, status.attempts, status.history) == ("done", 1, [])


def test_a_run_of_two_processes_ends_as_one_of_one_does(
    finished: tuple[Path, str], store: Path, tmp_path: Path
) -> None:
    two = ["trainer.devices=2", "trainer.accelerator=cpu", "batch_size=4", "wandb=false"]
    result = ceus("fit", *cell(store, tmp_path, "modality=image", *two))
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "fit").glob("tiny-image-fold0-seed0-*")
    (alone,) = finished[0].glob("tiny-image-fold0-seed0-*")  # of batches of 8
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    tables = [pd.read_parquet(folder / "predictions.parquet") for folder in (alone, run)]
    keys = ["part", "patient_id", "label", "n_items"]
    pd.testing.assert_frame_equal(tables[0][keys], tables[1][keys])
    assert (tables[0]["logit"] - tables[1]["logit"]).abs().max() < 1e-5


def prepared_run(store: Path, runs: Path, *overrides: str) -> Path:
    run = make_run(compose(cell(store, runs, "modality=image", "wandb=false", *overrides)))
    freeze(Sweep("fit", run.folder.parent, (run,), None))  # type: ignore[arg-type]
    return run.folder


def test_rows_that_are_none_are_refused(store: Path, tmp_path: Path) -> None:
    folder = prepared_run(store, tmp_path, "model.class_path=own_package.WrongRows")
    with pytest.raises(ConfigError, match="predict_step of WrongRows must give the columns"):
        execute(folder)
    assert read_status(folder).state == "failed"
    assert "predict_step of WrongRows" in str(read_status(folder).reason)


def test_a_run_without_an_epoch_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs must be at least 1, got 0"):
        prepared_run(store, tmp_path, "trainer.max_epochs=0")


def test_an_edited_config_is_refused(store: Path, tmp_path: Path) -> None:
    folder = prepared_run(store, tmp_path)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 2", "max_epochs: 3"))
    with pytest.raises(ConfigError, match=r"config\.yaml must be the one its run was named for"):
        load_run(folder)
    with pytest.raises(ConfigError, match=r"config\.yaml must be .* got an edited one"):
        prepared_run(store, tmp_path)
    config.unlink()
    with pytest.raises(ConfigError, match=r"run folder must hold config\.yaml"):
        load_run(folder)
