"""W&B beside real runs: servers that fail, patients that must not leak, uploads, dashboards."""

import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb

from datamodules.ingest.prepare import prepare
from datamodules.store.pseudonyms import KEY_FILE, Pseudonyms
from datamodules.store.splits import load_split, make_split
from evaluation import compute, unseal
from experiments.cli import main
from experiments.config.compose import compose
from experiments.config.run import make_run
from experiments.config.variants import compose_cells
from experiments.errors import ConfigError
from experiments.launchers.local import _child
from experiments.processes import warm_server
from experiments.run_folder.status import read_status
from experiments.sweeps.expand import Sweep
from experiments.sweeps.file import LauncherSettings
from experiments.sweeps.freeze import freeze
from experiments.tracking.dashboard import make_dashboard, sweep_figures
from experiments.tracking.logger import without_paths
from experiments.tracking.wandb_run import identity
from tests.experiments.wandb_server import Server, serve

OWN = Path(__file__).parents[1] / "own"
KEY = "a" * 40
INIT, FINISH = 2.0, 2.0
# What W&B adds to its timeouts before it gives up, and a process's turn on two busy cores.
SLACK = 12.0
CANARIES = ("CANARYpatient", "CANARYfile", "CANARYtown", "CANARYstore", "CANARYruns", "CANARYhome",
            "CANARYuser", "CANARYhost")  # fmt: skip
MACHINE = {"USER": "CANARYuser", "LOGNAME": "CANARYuser", "USERNAME": "CANARYuser",
           "HOSTNAME": "CANARYhost", "HOST": "CANARYhost"}  # fmt: skip
FAILING = ("refuses", "hangs", "broken", "keyless")
"""The server cannot be reached when the run begins; "dies" and "full" fail later."""


@dataclass
class Tracked:
    """A run that came to its end, its server, and the processes it left."""

    folder: Path
    server: Server
    left_over: list[int]

    @property
    def sweep(self) -> Path:
        return self.folder.parent

    @property
    def warnings(self) -> list[str]:
        lines = (self.folder / "log.txt").read_text().splitlines()
        return [line for line in lines if "W&B" in line or "wandb: " in line]


@pytest.fixture(scope="module")
def store(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of the cohort, with canaries for all that could name somebody."""
    root = tmp_path_factory.mktemp("tracking")
    (root / "raw").mkdir()
    with cohort.open() as file:
        rows = [row for row in csv.DictReader(file) if row["modality"] == "image"]
    named = []
    for number, row in enumerate(rows):
        name = f"CANARYfile{number}.png"
        shutil.copy(cohort.parent / row["path"], root / "raw" / name)
        patient = f"CANARYpatient{row['patient_id']}"
        named.append([patient, row["label"], "image", name, "CANARYtown"])
    with (root / "raw" / "cohort.csv").open("w") as file:
        csv.writer(file).writerows([["patient_id", "label", "modality", "path", "town"], *named])
    path = root / "CANARYstore"
    prepare(root / "raw" / "cohort.csv", path, canvas=64, as_is=True, covariates=["town"],
            progress=False, workers=1)  # fmt: skip
    make_split(path, num_folds=2)
    return path


def made(store: Path, sweep: str, *overrides: str) -> Path:
    run = make_run(
        compose([f"architecture={OWN / 'tiny.yaml'}", "modality=image", f"store={store}",
                 f"runs={store.parent / 'CANARYruns'}", f"sweep={sweep}",
                 "trainer.max_epochs=2", *overrides])
    )  # fmt: skip
    freeze(Sweep(sweep, run.folder.parent, (run,), LauncherSettings()))
    return run.folder


def services_of(pid: int) -> list[int]:
    """W&B's service processes that were started by a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"wandb-core" in words[0] and str(pid).encode() in words:
            found.append(int(path.parent.name))
    return found


@pytest.fixture(scope="module")
def tracked(store: Path) -> Iterator[dict[str, Tracked]]:
    """A run beside each kind of server, all at once; the offline one is called twice."""
    home = store.parent / "CANARYhome"
    home.mkdir()
    damaged = Path(shutil.copytree(store, store.parent / "CANARYstore-damaged"))
    oof = load_split(damaged, "default").folds[0].oof[0]
    items = pd.read_parquet(damaged / "cohort.parquet").set_index("patient_id")["item_id"]
    (damaged / "items" / f"{items[oof]}.png").write_bytes(b"not a picture")
    context = warm_server()
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(OWN)
        patch.setenv("PYTHONPATH", str(OWN))
        servers = {
            kind: stack.enter_context(serve(kind))
            for kind in ("good", "hangs", "broken", "dies", "full")
        }
        nobody = Server("refuses", url="http://127.0.0.1:9")
        servers |= {"refuses": nobody, "keyless": nobody, "offline": nobody, "damaged": nobody}

        def start(kind: str, folder: Path) -> Any:
            offline = kind in {"offline", "damaged"}
            environment = MACHINE | {
                "HOME": str(home),
                "PYTHONPATH": str(OWN),
                "WANDB_MODE": "offline" if offline else "online",
                "WANDB_BASE_URL": servers[kind].url,
                "WANDB_API_KEY": "" if kind == "keyless" else KEY,
                # Where the server answers it may take its time: all of these share two cores.
                "WANDB_INIT_TIMEOUT": str(INIT if kind not in {"good", "dies", "full"} else 60),
                "WANDB_FINISH_TIMEOUT": str(60 if kind == "good" else FINISH),
            }
            process = context.Process(target=_child, args=(folder, 1, environment))
            process.start()
            return process

        folders = {k: made(damaged if k == "damaged" else store, k) for k in servers}
        first = start("offline", folders["offline"])
        processes = {kind: start(kind, folders[kind]) for kind in servers if kind != "offline"}
        first.join()
        shutil.rmtree(folders["offline"] / "checkpoints")
        (folders["offline"] / "status.json").unlink()  # a run that is done is not done again
        processes["offline"] = start("offline", folders["offline"])
        done = {}
        for kind, process in processes.items():
            process.join()
            assert process.exitcode == (2 if kind == "damaged" else 0), kind
            deadline = time.monotonic() + 15
            while services_of(process.pid) and time.monotonic() < deadline:
                time.sleep(0.1)
            done[kind] = Tracked(folders[kind], servers[kind], services_of(process.pid))
        yield done


def read_all(folder: Path) -> dict[str, bytes]:
    """Every byte under a folder, link targets and what is compressed included."""
    found = {}
    for path in folder.rglob("*"):
        found[f"{path} (link)"] = bytes(path.readlink()) if path.is_symlink() else b""
        if path.is_file():
            found[str(path)] = path.read_bytes()
    return {name: unpacked(content) for name, content in found.items()}


def unpacked(content: bytes) -> bytes:
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def leaks(content: dict[str, bytes], needles: tuple[str, ...]) -> list[tuple[str, str]]:
    return [
        (name, needle)
        for name, data in content.items()
        for needle in needles
        for coding in ("utf-8", "utf-16-le", "utf-16-be")
        if needle.encode(coding) in data
    ]


@pytest.mark.parametrize("kind", ["offline", "good", *FAILING, "dies", "full"])
def test_a_run_is_done_whatever_its_server_does(tracked: dict[str, Tracked], kind: str) -> None:
    run = tracked[kind]
    assert read_status(run.folder).state == "done"
    assert len(pd.read_parquet(run.folder / "predictions.parquet"))
    assert len(run.warnings) == (kind not in {"offline", "good"}), run.warnings
    assert not run.left_over
    added = read_status(run.folder).seconds - read_status(tracked["good"].folder).seconds
    assert added < INIT + FINISH + SLACK


@pytest.mark.parametrize("kind", FAILING)
def test_a_run_without_a_server_is_tracked_offline(tracked: dict[str, Tracked], kind: str) -> None:
    (folder,) = (tracked[kind].folder / "wandb").iterdir()
    assert folder.name.startswith("offline-run-")
    assert "tracked offline" in tracked[kind].warnings[0]


def test_online_history_config_and_tables_arrive(tracked: dict[str, Tracked], store: Path) -> None:
    run = tracked["good"]
    server, name = run.server, run.folder.name
    logged = set().union(*server.history[name])
    assert {"inner_bce", "inner_auroc", "train_loss", "rows_per_second", "steps_per_second",
            "lr-AdamW/pg1"} <= logged  # fmt: skip
    upsert = server.runs[name]
    assert (upsert["groupName"], upsert["jobType"]) == ("good", "image")
    assert set(upsert["tags"]) == {"tiny", "fold0"}
    config = {k: v["value"] for k, v in json.loads(upsert["config"]).items()}
    assert config["study"]["store"] == config["study"]["runs"] == "(path)"
    assert config["trainer"]["max_epochs"] == 2
    assert config["environment"]["packages"]["torch"]
    assert set(config["_wandb"]["visualize"]) == {"oof_roc", "oof_confusion"}
    (table,) = [v for k, v in server.files[name].items() if "/oof_" in k and "roc" not in k
                and "confusion" not in k]  # fmt: skip
    table = json.loads(table)
    assert table["columns"] == ["patient", "label", "probability", "fold"]
    oof = load_split(store, "default").folds[0].oof
    assert {row[0] for row in table["data"]} == {Pseudonyms(store).of(p) for p in oof}
    assert server.summary[name]["oof_patients"] == len(oof)
    assert server.exits[name] == 0
    (mark,) = run.folder.glob("wandb/run-*/*.synced")
    assert mark.name == f"run-{name}.wandb.synced"


@pytest.mark.parametrize("kind", ["dies", "full"])
def test_data_that_did_not_arrive_is_kept_for_later(tracked: dict[str, Tracked], kind: str) -> None:
    assert not list(tracked[kind].folder.glob("wandb/*/*.synced"))
    assert list(tracked[kind].folder.glob("wandb/run-*/*.wandb"))


def test_nothing_that_names_a_patient_a_place_or_a_machine_is_handed_to_wandb(
    tracked: dict[str, Tracked], store: Path
) -> None:
    content: dict[str, bytes] = {}
    for kind, run in tracked.items():
        under = read_all(run.folder / "wandb")
        assert any(run.folder.name.encode() in data for data in under.values())
        content |= {f"{kind}: {name.removeprefix(str(run.folder))}": data
                    for name, data in under.items()}  # fmt: skip
        sent = enumerate(run.server.bodies)
        content |= {f"{kind}: request {number}": unpacked(body) for number, body in sent}
    assert leaks(content, CANARIES) == []
    split, patients = load_split(store, "default"), Pseudonyms(store)
    sealed = tuple(patients.of(patient) for patient in split.holdout)
    assert leaks(content, sealed) == []
    assert leaks(content, tuple(patients.of(patient) for patient in split.folds[0].oof))
    key = (store / KEY_FILE).read_bytes()
    assert leaks(content, (key.hex(),)) == []
    assert not any(key in data for data in content.values())
    raw = {"table": pd.read_parquet(store / "cohort.parquet").to_csv().encode()}
    assert {needle for _, needle in leaks(raw, CANARIES)} == {"CANARYpatient", "CANARYtown"}


def test_logs_carry_hashes_that_can_be_looked_up(
    tracked: dict[str, Tracked], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in tracked.values():
        for name in ("log.txt", "metrics.csv", "status.json", "environment.json"):
            text = (run.folder / name).read_text() if (run.folder / name).is_file() else ""
            assert "CANARYpatient" not in text, (run.folder, name)
    run = tracked["damaged"]
    assert read_status(run.folder).state == "failed"
    log = (run.folder / "log.txt").read_text()
    oof = load_split(store, "default").folds[0].oof[0]
    patient_hash = Pseudonyms(store.parent / "CANARYstore-damaged").of(oof)
    assert f"patient_id='{patient_hash}'" in log
    assert f"ceus patient {store.parent / 'CANARYstore-damaged'} HASH names one" in log
    assert called("patient", store.parent / "CANARYstore-damaged", patient_hash) == 0
    assert capsys.readouterr().out.split() == [patient_hash, oof]


def called(*arguments: str | Path) -> int:
    """Exit code of `ceus` in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(str(ended.value.code))


def ceus(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    process = begun(*arguments, **environment)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def begun(*arguments: str | Path, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "experiments", *map(str, arguments)]
    pipe = subprocess.PIPE
    variables = os.environ | {"WANDB_API_KEY": KEY, "COLUMNS": "80"} | environment
    return subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=pipe,
                            stderr=pipe, text=True)  # fmt: skip


def test_wandb_sync_uploads_each_call_of_a_run_once(
    tracked: dict[str, Tracked], tmp_path: Path
) -> None:
    run = tracked["offline"]
    sweep = Path(shutil.copytree(run.sweep, tmp_path / "offline"))
    assert len(list(sweep.glob("*/wandb/offline-run-*"))) == 2
    with serve("good") as server:
        first = ceus("wandb-sync", sweep, WANDB_BASE_URL=server.url)
        assert first.returncode == 0, first.stdout + first.stderr
        assert first.stdout.splitlines() == [f"{run.folder.name}: uploaded"]
        history = server.history[run.folder.name]
        assert [line["_step"] for line in history] == list(range(len(history)))
        assert [line.get("inner_bce") is not None for line in history].count(True) == 4
        assert leaks({"sent": b"\0".join(map(unpacked, server.bodies))}, CANARIES) == []
        sent = len(server.bodies)
        again = ceus("wandb-sync", sweep, WANDB_BASE_URL=server.url)
        assert again.stdout.splitlines() == [f"{run.folder.name}: already uploaded"]
        assert (again.returncode, len(server.bodies)) == (0, sent)


def test_wandb_sync_tells_what_failed(
    tracked: dict[str, Tracked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps = {
        kind: Path(shutil.copytree(tracked[kind].sweep, tmp_path / kind))
        for kind in ("refuses", "hangs", "keyless", "damaged")
    }
    with serve("full") as full, serve("dies") as dies, serve("good") as good:
        told = {
            name: (process.communicate(), process.returncode)
            for name, process in {
                "refused": begun("wandb-sync", sweeps["refuses"], WANDB_BASE_URL=full.url),
                "slow": begun(
                    "wandb-sync", sweeps["hangs"], "--seconds", "5", WANDB_BASE_URL=dies.url
                ),
                "nobody": begun(
                    "wandb-sync", sweeps["keyless"], WANDB_API_KEY="", HOME=str(tmp_path)
                ),
                "broke": begun("wandb-sync", sweeps["damaged"], WANDB_BASE_URL=good.url),
            }.items()
        }
    for name, code, message in (
        ("refused", 1, "uploading data"),
        ("slow", 1, "failed: not uploaded after 5 s"),
        ("nobody", 2, "W&B must be reachable with an account, got: No API key"),
        ("broke", 0, f"{tracked['damaged'].folder.name}: uploaded"),
    ):
        (stdout, stderr), returned = told[name]
        assert returned == code, (name, stdout, stderr)
        assert message in stdout + stderr
    assert called("wandb-sync", tmp_path) == 2
    assert "folder must hold a sweep (sweep.json), got none" in capsys.readouterr().err
    marked = [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.synced")]
    assert marked == ["damaged"]
    assert good.exits == {tracked["damaged"].folder.name: 1}


@pytest.fixture
def sweep(tracked: dict[str, Tracked], tmp_path: Path) -> Path:
    """A copy of a sweep that was tracked offline, all tracking of it taken away."""
    copy = Path(shutil.copytree(tracked["offline"].sweep, tmp_path / "offline"))
    for folder in copy.glob("*/wandb"):
        shutil.rmtree(folder)
    return copy


@pytest.fixture
def to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Server], None]]:
    """Points W&B in this process at a server; its service process ends with the test."""
    for name, value in {"WANDB_MODE": "offline", "WANDB_ENTITY": "", "WANDB_API_KEY": KEY,
                        "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false",
                        "WANDB_FINISH_TIMEOUT": "5", "WANDB_PROJECT": "mine"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield lambda server: monkeypatch.setenv("WANDB_BASE_URL", server.url)
    wandb.teardown()


def test_a_dashboard_is_written_offline(
    sweep: Path, to: Callable[[Server], None], capsys: pytest.CaptureFixture[str]
) -> None:
    to(Server("refuses", url="http://127.0.0.1:9"))
    assert called("dashboard", sweep, "--project", "mine") == 0
    written = sweep / "dashboard.json"
    assert capsys.readouterr().out == f"dashboard: {written}\n"
    for shown in ("oof_auroc", "inner_bce", "auc_intervals", "wandb/area-under-curve/v0", "cells"):
        assert f'"{shown}"' in written.read_text()
    under = read_all(sweep / "wandb")
    assert leaks(under, CANARIES) == []
    names = " ".join(under)
    for table in ("cells_", "folds_", "auc_", "roc_"):
        assert f"/media/table/{table}" in names
    assert "/media/images/auc_intervals_" in names


def test_a_dashboard_is_created_once_and_then_brought_up_to_date(
    sweep: Path, to: Callable[[Server], None]
) -> None:
    with serve("good") as server:
        to(server)
        definitions = []
        for call in range(2):
            made = make_dashboard(sweep, online=True)
            definitions.append(json.loads(made.file.read_text()))
            assert [url.startswith(f"{server.url}/team/mine") for url in made.urls] == [True, True]
            workspace, report = server.views[2 * call :]
            assert (workspace["type"], report["type"]) == ("project-view", "runs")
            assert (workspace["entityName"], workspace["projectName"]) == ("team", "mine")
        assert [view.get("id") for view in server.views] == [None, None, "view1", "view2"]
        assert definitions[0] | {"online": 0} == definitions[1] | {"online": 0}
        (evaluation,) = server.runs.values()
        assert (evaluation["jobType"], evaluation["groupName"]) == ("evaluation", "offline")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("full", "W&B must take the evaluation, got: the server refused data"),
        ("viewless", r"W&B must accept the dashboard, got: .*\(entity team, project mine\)"),
    ],
)
def test_a_dashboard_that_wandb_refuses_is_an_error(
    sweep: Path, to: Callable[[Server], None], kind: str, message: str
) -> None:
    with serve(kind) as server:
        to(server)
        with pytest.raises(ConfigError, match=message):
            make_dashboard(sweep, online=True)


def test_the_hold_out_is_not_shown_after_it_was_opened_either(sweep: Path, store: Path) -> None:
    before = sweep_figures(compute(sweep))
    unseal(sweep, store, reason="to see that W&B does not")
    opened = compute(sweep)
    assert opened.tables.test["auc"].notna().all()
    after = sweep_figures(opened)
    assert after.summary == before.summary
    assert set(after.charts) == set(before.charts) == {"cells", "folds", "auc", "roc"}
    for key, chart in after.charts.items():
        pd.testing.assert_frame_equal(chart.table, before.charts[key].table)


def test_a_configuration_goes_without_paths(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.touch()
    config = {
        "study": {"store": "stores", "fold": 0, "mean": [0.5, 0.5]},
        "model": {"pretrained": str(weights), "home": "~\\weights", "name": "resnet50.a1_in1k"},
        "off": None,
    }
    assert without_paths(config) == {
        "study": {"store": "(path)", "fold": 0, "mean": [0.5, 0.5]},
        "model": {"pretrained": "(path)", "home": "(path)", "name": "resnet50.a1_in1k"},
        "off": None,
    }


def test_a_cell_named_for_a_path_does_not_tell_it(tmp_path: Path) -> None:
    cell = {"architecture": str(OWN / "tiny.yaml"), "modality": "image", "fold": 0,
            "image_encoder.init_args.pretrained": f"{tmp_path}/CANARYfile.pt"}  # fmt: skip
    (named,) = (c["study"]["architecture"] for c in compose_cells([], [cell]))
    assert re.fullmatch(r"tiny\+pretrained=path~[0-9a-f]{4}", named)


def test_a_long_id_is_shortened_and_stays_apart() -> None:
    short = identity("demo", "image", "resnet-image-fold0-seed0-12345678")
    assert short["id"] == short["name"]
    one, other = (
        identity("demo", "image", f"{'x' * 70}-{end}") for end in ("abcdef12", "12abcdef")
    )
    assert len(one["id"]) == len(other["id"]) == 64
    assert one["id"] != other["id"]
    assert one["id"].endswith("-abcdef12")
