"""`ceus doctor`: each check where what it looks for is really so."""

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from docs.pictures import draw_doctor
from experiments.doctor import machine
from experiments.doctor.cohort import reading, whole
from experiments.doctor.devices import decoder, gpus, runs_on, tflops
from experiments.doctor.finding import Finding, ask
from experiments.doctor.needs import count, count_all
from experiments.doctor.page import exit_code, gpu_check, page
from experiments.doctor.study import Reading, pace
from experiments.sweeps.file import LauncherSettings, SlurmSettings
from tests.command import ceus
from tests.experiments.tracking.test_tracking import KEY
from tests.experiments.wandb_server import serve

ROOT = Path(__file__).parents[3]
OWN = Path(__file__).parents[1] / "own"
SLURM = LauncherSettings(kind="slurm", slurm=SlurmSettings(partition="gpu"))


def states(findings: Sequence[Finding]) -> list[str]:
    assert all(finding.remedy for finding in findings if finding.state != "pass")
    return [finding.state for finding in findings]


def only(findings: Sequence[Finding], state: str, *words: str) -> Finding:
    """The one finding, which says these words."""
    (finding,) = findings
    assert states(findings) == [state], finding
    assert all(word in f"{finding.found} {finding.remedy}" for word in words), finding
    return finding


def in_python(code: str, *before: str, **environment: str) -> Any:
    """What code that prints JSON finds in a fresh process."""
    done = subprocess.run(
        [*before, sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Processes of their own


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_check_that_hangs_ends_in_its_time_with_all_it_started(tmp_path: Path) -> None:
    ask("warm", "doctor_checks:well", "x", seconds=200, remedy="")  # the imports are no check's
    begun = time.monotonic()
    pids = tmp_path / "pids"
    only(ask("x", "doctor_checks:hang", pids, seconds=5, remedy="Do y."), "fail", "in 5 s", "Do y.")
    assert time.monotonic() - begun < 20
    started = list(map(int, pids.read_text().split()))
    while not all(map(gone, started)):
        assert time.monotonic() - begun < 30
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("check", "arguments", "state", "words"),
    [
        ("well", ["x"], "pass", ["as it should"]),
        ("crash", [], "warn", ["exit code -6", "Do y."]),
        ("fail", [], "warn", ["ZeroDivisionError: by nothing", "report"]),
        ("absent", [], "warn", ["AttributeError", "report"]),
    ],
)
def test_however_a_check_ends_there_is_a_finding(
    check: str, arguments: list[str], state: str, words: list[str]
) -> None:
    told = ask("x", f"doctor_checks:{check}", *arguments, seconds=200, remedy="Do y.", state="warn")
    assert only(told, state, *words).name == "x"


# Packages and limits


def test_packages_that_are_installed_fit() -> None:
    only(machine.packages(), "pass", "torch ", "lightning ")
    only(machine.python(), "pass", "3.")


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("torch", "2.5.1", ["ceus 0.1.0 needs torch>=2.6, 2.5.1 is", "torchvision 0"]),
        ("torchvision", "0.1", ["needs torchvision>=0.21, 0.1 is installed"]),
        ("timm", "1.0.1", ["needs timm>=1.0.20"]),
        ("multidict", "1", ["needs multidict"]),  # of what a package needs that ceus needs
    ],
)
def test_a_pair_that_does_not_fit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str, words: list[str]
) -> None:
    folder = tmp_path / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    only(machine.packages(), "fail", *words, "constraints.txt")


def test_few_open_files_are_told() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
    try:
        only(machine.limits(), "warn", "300 at once", "ulimit -n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert machine.limits()[0].state == "pass"


@pytest.mark.parametrize(("size", "state"), [("64m", "warn"), ("2g", "pass")])
def test_shared_memory_as_a_container_gives_it(size: str, state: str) -> None:
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a disk")
    code = (
        "import json; from experiments.doctor.machine import shared_memory as f\n"
        "print(json.dumps([[x.state, x.found, x.remedy] for x in f()]))"
    )
    ((told, found, remedy),) = in_python(code, *command)
    assert (told, bool(remedy)) == (state, state == "warn")
    assert found == ("67 MB free" if state == "warn" else "2.1 GB free")


@pytest.mark.parametrize(
    ("count", "given", "state"), [(0, "1", "pass"), (8, "2", "warn"), (1, "1", "warn")]
)
def test_cores_are_those_of_this_process(
    monkeypatch: pytest.MonkeyPatch, count: int, given: str, state: str
) -> None:
    monkeypatch.setenv("CEUS_CORES", given)
    only(machine.processors(count), state, f"{min(int(given), os.cpu_count() or 1)} of the")


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a disk")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_disk_with_room_is_left_as_it_was(tmp_path: Path) -> None:
    not_there = tmp_path / "a" / "b"
    only(machine.disk("runs", not_there, 1e6, True), "pass", "MB/s", "1 MB needed")
    only(machine.disk("runs", tmp_path, 1e18, True), "fail", "1000000000 GB needed", "runs=")
    assert not list(tmp_path.iterdir())


def test_a_small_a_full_and_a_read_only_disk(small_disk: Path) -> None:
    only(machine.disk("runs", small_disk, 0, True), "warn", "1 MB free", "Make room")
    ballast = small_disk / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass
    only(machine.disk("runs", small_disk, 5e6, True), "fail", "No space left", "5 MB needed")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    only(machine.disk("runs", small_disk, 0, True), "fail", "Read-only")
    only(machine.disk("store", small_disk, 0, False), "warn", "Read-only")


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        only(machine.disk("runs", tmp_path, 0, True), "fail", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# W&B and SLURM


@pytest.mark.parametrize(
    ("name", "value", "state", "words"),
    [
        ("WANDB_MODE", "offline", "pass", "offline"),
        ("WANDB_MODE", "disabled", "pass", "disabled"),
        ("WANDB_MODE", "ofline", "fail", "WANDB_MODE must be"),
        ("WANDB_PROJECT", "a/b", "fail", "WANDB_PROJECT must be"),
    ],
)
def test_variables_of_wandb(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, state: str, words: str
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://nowhere.invalid")  # offline nobody is asked
    monkeypatch.setenv(name, value)
    only(machine.tracking(), state, words)


@pytest.mark.parametrize(
    ("kind", "key", "state", "words"),
    [
        ("good", KEY, "pass", "takes the key"),
        ("good", "", "warn", "wandb login"),
        ("broken", KEY, "warn", "WANDB_MODE=offline"),
        ("hangs", KEY, "warn", "WANDB_MODE=offline"),
    ],
)
def test_a_server_of_wandb(tmp_path: Path, kind: str, key: str, state: str, words: str) -> None:
    code = (
        "import json; from experiments.doctor import machine\n"
        "machine._WANDB_SECONDS = 2\n"
        "print(json.dumps([[x.state, x.found, x.remedy] for x in machine.tracking()]))"
    )
    with serve(kind) as server:
        own = {"WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "HOME": str(tmp_path)}
        ((told, found, remedy),) = in_python(code, **own, WANDB_API_KEY=key)
    assert told == state, found
    assert words in f"{found} {remedy}"
    assert not key or key not in found


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Programs that stand alone on PATH, each with its script."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def put(**scripts: str) -> None:
        for name, script in scripts.items():
            path = tmp_path / "bin" / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)

    return put


def test_without_slurm_a_sweep_that_wants_it_is_told(commands: Callable[..., None]) -> None:
    only(machine.slurm(LauncherSettings()), "pass", "this machine")
    only(machine.slurm(SLURM), "fail", "no sbatch", "login node")


@pytest.mark.parametrize(
    ("sinfo", "local", "queue", "words"),
    [
        ("echo gpu; echo cpu; echo gpu", "pass", "pass", "partitions cpu, gpu"),
        ("echo cpu", "pass", "fail", "none is called gpu"),
        ("echo 'no such host' >&2; exit 1", "pass", "fail", "no such host"),
    ],
)
def test_a_cluster_is_asked(
    commands: Callable[..., None], sinfo: str, local: str, queue: str, words: str
) -> None:
    commands(sbatch="exit 1", sinfo=sinfo)
    only(machine.slurm(LauncherSettings()), local)
    only(machine.slurm(SLURM), queue, words)


# Devices


def test_without_a_gpu_it_is_told_and_the_rest_goes_on() -> None:
    only(gpus(), "warn", "none that this process may use", "demo")
    only(decoder(), "pass", "PyAV on the CPU")
    assert 1e-4 < tflops() < 1e3


@pytest.mark.skipif(shutil.which("cc") is None, reason="a C compiler makes the library")
@pytest.mark.parametrize(
    ("visible", "state", "words"),
    [("", "warn", "the driver has 2"), ("0,1", "fail", "Install|Update driver 580.1")],
)
def test_gpus_of_the_driver_that_nobody_can_use(
    tmp_path: Path, visible: str, state: str, words: str
) -> None:
    from tests.experiments.test_gpus import NVML, build

    build(tmp_path, NVML % {"init": 0}, "libnvidia-ml.so.1")
    code = (
        "import json; from experiments.doctor.devices import gpus\n"
        "print(json.dumps([[x.state, x.found, x.remedy] for x in gpus()]))"
    )
    own = {"LD_LIBRARY_PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": visible}
    ((told, found, remedy),) = in_python(code, **own)
    assert told == state
    assert any(word in f"{found} {remedy}" for word in words.split("|")), (found, remedy)


@pytest.mark.parametrize(
    ("capability", "built_for", "fits"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 9), ["sm_80", "sm_86"], True),
        ((8, 0), ["sm_86", "sm_90"], False),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((12, 0), ["sm_100", "sm_90a"], False),
        ((9, 0), ["sm_90a"], True),
        ((12, 1), ["sm_120"], True),
        ((6, 1), [], False),
    ],
)
def test_which_gpu_a_torch_has_code_for(
    capability: tuple[int, int], built_for: list[str], fits: bool
) -> None:
    assert runs_on(capability, built_for) == fits


# Store and sweep


def test_a_store_that_is_whole_and_one_that_nobody_had_time_for(store: Path) -> None:
    only(whole(store, 60), "pass", "of 26 patients, all as they were written")
    only(whole(store, 0), "warn", "0 were read in 0 s")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", [".h264", ".idx", ".png"])
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_a_damaged_item_is_named(
    store: Path, tmp_path: Path, suffix: str, damage: Callable[[Path], None]
) -> None:
    copied = tmp_path / "store"
    shutil.copytree(store, copied)
    path = min((copied / "items").glob(f"*{suffix}"))
    damage(path)
    only(whole(copied, 60), "fail", "not as they were written", path.stem, "ceus prepare")


def test_what_is_no_store_says_so(tmp_path: Path) -> None:
    only(whole(tmp_path / "none", 60), "fail", "store must be a folder", "ceus prepare")
    only(whole(tmp_path, 60), "fail", "store must hold a store.json")


@pytest.mark.parametrize(
    ("cache", "limit", "kept"),
    [("auto", 50, True), ("off", 50, False), ("auto", 0, False), ("ram", 50, True)],
)
def test_a_store_is_read_at_some_rate(store: Path, cache: str, limit: float, kept: bool) -> None:
    was_cached = (store / "cache").exists()  # by a run of another test
    study = {"store": store, "num_frames": 4, "video_size": 32, "decode": "auto"}
    found = reading(study | {"cache": cache, "cache_gb": limit})
    assert found.decoded > 1
    assert found.cached is not None
    assert found.cached > 1
    assert found.kept is kept
    assert found.needed % (32 * 32 * 3) == 0
    name = hashlib.sha256(str(store.resolve()).encode()).hexdigest()[:8]
    assert not list(Path("/dev/shm").glob(f"ceus-*-{name}-*"))
    assert (store / "cache").exists() == was_cached


@pytest.mark.parametrize(
    ("eats", "decoded", "cached", "kept", "state", "words"),
    [
        (10, 20, 600.0, False, "pass", ["20/s decoded", "the readers wait"]),
        (154, 20, 600.0, True, "pass", ["600/s from the cache", "after the first epoch"]),
        (154, 20, 600.0, False, "warn", ["the network waits", "16 cores", "7 GB"]),
        (1391, 20, 600.0, True, "warn", ["the network waits", "5 cores."]),
        (154, 20, None, True, "warn", ["the network waits", "16 cores."]),
    ],
)
def test_who_waits_for_whom(
    monkeypatch: pytest.MonkeyPatch, eats: float, decoded: float, cached: float | None, kept: bool,
    state: str, words: list[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("CEUS_CORES", "2")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    read = Reading(decoded, cached, needed=7 * 10**9, kept=kept)
    only([pace("resnet", eats, read, gpus=1)], state, "on 1 GPU", *words)


def test_an_encoder_is_counted_as_its_authors_did() -> None:
    """ResNet-50: 25.6 million parameters, 2.0 of them in the classifier; 4.1 GMAC."""
    encoder = {
        "class_path": "backbones.TimmImageEncoder",
        "init_args": {"name": "resnet50", "pretrained": True, "image_size": 224},
    }
    need = count(encoder, (3, 224, 224))
    assert need.parameters == pytest.approx(23.5e6, rel=0.01)
    assert need.tflop == pytest.approx(2 * 4.09e-3, rel=0.01)
    assert need.kept > 3 * 224 * 224 * 2
    broken = {"class_path": "backbones.Nothing"}
    assert str(count_all({"x": (broken, (3, 8, 8))})["x"]).startswith("ArgumentError: ")


# The command


def wide(text: str) -> int:
    return max(map(len, text.splitlines()))


def test_a_store_and_its_sweep_on_one_page(store: Path, tmp_path: Path) -> None:
    was_cached = (store / "cache").exists()  # by a run of another test
    sweep = [f"architecture={OWN / 'tiny.yaml'}", "modality=combined", f"runs={tmp_path / 'runs'}"]
    told = ceus("doctor", store, "--sweep", "demo", *sweep, packages=OWN)
    assert told.returncode == 1, told.stdout + told.stderr  # there is no GPU
    assert wide(told.stdout) <= 80
    flat = " ".join(told.stdout.split())
    for words in ("26 patients, all as they were written", "demo: 2 runs of 1 cells",
                  "pace: tiny", "disk: runs", "disk: store", "warn GPUs"):  # fmt: skip
        assert words in flat, told.stdout
    assert not (tmp_path / "runs").exists()
    assert (store / "cache").exists() == was_cached


def test_json_says_the_same(store: Path, tmp_path: Path) -> None:
    copied = tmp_path / "store"
    shutil.copytree(store, copied)
    flip(min((copied / "items").glob("*.png")))
    told = ceus("doctor", copied, "--json", packages=OWN)
    assert told.returncode == 2, told.stderr
    content = json.loads(told.stdout)
    assert set(content) == {"exit_code", "checks"}
    assert content["exit_code"] == 2
    for check in content["checks"]:
        assert set(check) == {"name", "state", "found", "remedy"}
        assert check["state"] in ("pass", "warn", "fail")
        assert check["name"]
        assert check["found"]
        assert check["state"] == "pass" or check["remedy"]
    failed = [check["name"] for check in content["checks"] if check["state"] == "fail"]
    assert failed == ["store"]


def test_what_ails_the_sweep_takes_no_other_check(tmp_path: Path) -> None:
    told = ceus("doctor", "--sweep", "demo", f"store={tmp_path}", "batch_size=0", "--json")
    checks = {check["name"]: check for check in json.loads(told.stdout)["checks"]}
    assert told.returncode == 2
    assert checks["store"]["state"] == "fail"
    told = ceus("doctor", "--sweep", "nothing", "--json")
    checks = {check["name"]: check for check in json.loads(told.stdout)["checks"]}
    assert checks["sweep"]["state"] == "fail"
    assert checks["Python"]["state"] == checks["W&B"]["state"] == "pass"
    told = ceus("doctor", "batch_size=[1,", "--json")  # whatever reading it raises
    checks = {check["name"]: check for check in json.loads(told.stdout)["checks"]}
    assert checks["sweep"]["state"] == "fail"


def test_under_a_limit_of_memory_the_page_is_there(tmp_path: Path) -> None:
    size = 3 * 10**9
    done = subprocess.run(
        [sys.executable, "-P", "-m", "experiments", "doctor", "--json"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)), check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    checks = {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}
    assert checks["memory limit"] == checks["decoder"] == "fail"
    assert checks["packages"] == "pass"


@pytest.mark.parametrize(
    ("found", "code"),
    [(["pass"], 0), (["pass", "warn", "pass"], 1), (["fail", "warn"], 2), (["pass", "fail"], 2)],
)
def test_the_exit_code_is_the_worst(found: list[Any], code: int) -> None:
    assert exit_code([Finding("x", state, "y", "z") for state in found]) == code


def test_the_page_has_80_columns_whatever_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    findings = [Finding("n" * 60, "fail", "f" * 300, "r" * 300), Finding("a", "pass", "[b] é")]
    Console(width=80).print(page(findings))
    printed = capsys.readouterr().out
    assert wide(printed) <= 80
    assert printed.count("f" * 10)
    assert "[b] é" in printed


def test_the_picture_of_the_docs_names_no_machine(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    found.write_text(json.dumps({"checks": [vars(Finding("cores", "warn", "2 of 4", "More."))]}))
    drawn = draw_doctor(found, tmp_path / "x.svg").read_text()
    assert "2&#160;of&#160;4" in drawn
    committed = (ROOT / "docs" / "doctor.svg").read_text()
    assert "pace:&#160;swin" in committed
    for svg in (drawn, committed):
        urls = set(re.findall(r"https?://[^\s\"')]+", svg))
        assert urls <= {"http://www.w3.org/2000/svg", "https://www.textualize.io"}
        assert not re.search(r"/(tmp|home|work|root|usr)/", svg)


def test_the_gpu_check_is_done_and_told_in_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    only([gpu_check(tmp_path)], "warn", "there is no GPU")
    steps = ("nccl", "resume", "--device", "cpu", "--seconds", "0")
    only([gpu_check(tmp_path, *steps)], "warn", "2 skipped", str(tmp_path))
    only([gpu_check(tmp_path, "nothing")], "fail", "no step ended")
    assert list(tmp_path.glob("*.json"))
    out, err = capfd.readouterr()
    assert "nccl" in err
    assert not out
