"""Faults of the machine are the machine's: no row is blamed, what is finished stays."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from datamodules.errors import StorageError
from datamodules.ingest.prepare import prepare
from datamodules.store.fill import fill_cache
from datamodules.store.folder import Store

KEPT = "What was finished is kept; the same command goes on from there."


@pytest.fixture
def table(write_cohort: Callable[..., Path], media: ModuleType) -> Path:
    """Six clips of 40 frames with noise, and a row without a file."""
    rows = [
        {"patient_id": f"p{n}", "label": n % 2, "modality": "ceus", "path": f"{n}.avi"}
        for n in range(7)
    ]
    path = write_cohort(rows)
    for n in range(6):
        media.write_video(
            path.parent / str(n),
            media.KINDS["mjpeg-avi"],
            frame=lambda number, n=n: media.numbered_frame(number + n, noise=60),
        )
    return path


def call(table: Path, store: Path, limit: Callable[[], None]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments", "prepare", table, store, "--canvas", "128"]
    return subprocess.run(
        [*map(str, command), "--skip-bad", "--workers", "1", "--as-is"],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=limit,
        check=False,
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path]
    if subprocess.run(options, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a disk")
    yield path
    subprocess.run(["umount", path], check=True)


def test_full_disk(table: Path, small_disk: Path) -> None:
    store = small_disk / "store"
    done = call(table, store, lambda: None)
    assert done.returncode == 2
    assert "error: folder must be writable, got 'No space left on device'" in done.stderr
    assert KEPT in done.stderr
    assert not store.exists()
    staging = small_disk / ".store.preparing"
    finished = {path.stem: path.stat().st_mtime_ns for path in staging.glob("*.json")}
    assert finished
    assert not [path for path in staging.iterdir() if path.stem not in finished]
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    done = call(table, store, lambda: None)
    assert done.returncode == 0, done.stderr
    assert set(finished) < set(Store(store).items["item_id"])
    assert len(Store(store).items) == 6
    assert not staging.exists()
    with_cache = shutil.disk_usage(small_disk)
    full = with_cache.used // 1024 + 60
    subprocess.run(["mount", "-o", f"remount,size={full}k", small_disk], check=True)
    fill_cache(store, size=64, progress=False)  # it takes what there is room for


def test_limit_of_file_size(table: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    store = tmp_path / "store"
    done = call(table, store, limit)
    assert done.returncode == 2
    assert "error: folder must be writable, got 'File too large'" in done.stderr
    assert not store.exists()
    assert not (tmp_path / ".store.preparing").exists()  # nothing was finished


def test_cache_on_a_disk_that_fails(table: Path, tmp_path: Path) -> None:
    store = prepare(table, tmp_path / "store", canvas=64, skip_bad=True, progress=False, workers=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(StorageError, match="cache must be written whole"):
            fill_cache(store, size=64, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    fill_cache(store, size=64, progress=False)


def test_workers_that_cannot_start_are_no_row_s_fault(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '--multiprocessing-fork' in sys.orig_argv: os._exit(1)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(StorageError, match="processes must be able to start"):
        prepare(table, tmp_path / "store", canvas=64, skip_bad=True, progress=False, workers=1)


def test_stopped_call_goes_on(table: Path, tmp_path: Path) -> None:
    store, staging = tmp_path / "store", tmp_path / ".store.preparing"
    command = [sys.executable, "-m", "experiments", "prepare", table, store, "--canvas", "128"]
    running = subprocess.Popen(
        [*map(str, command), "--skip-bad", "--workers", "1", "--as-is"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 60
    while not list(staging.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "Stopped. Call the same command again to go on." in said
    finished = {path.stem for path in staging.glob("*.json") if "-" not in path.stem}
    assert finished
    assert call(table, store, lambda: None).returncode == 0
    assert finished <= set(Store(store).items["item_id"])
    assert not staging.exists()


def test_facts_that_lack_some_are_no_facts(table: Path, tmp_path: Path) -> None:
    def again() -> Path:
        return prepare(
            table, tmp_path / "store", canvas=64, skip_bad=True, progress=False, workers=1
        )

    prepared = again() / "prepared.json"
    content = json.loads(prepared.read_text())
    for facts in content["items"].values():
        del facts["warnings"]
    prepared.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="list of what is prepared must be whole"):
        again()
    prepared.unlink()
    staging = tmp_path / ".store.preparing"
    staging.mkdir()
    (staging / f"{next(iter(content['items']))}.json").write_text("[]")
    (staging / "@eaDir").mkdir()
    (tmp_path / "store" / "items" / "@eaDir").mkdir()
    clip = next((tmp_path / "store" / "items").glob("*.h264"))
    clip.write_bytes(clip.read_bytes()[:-1])
    again()
    assert len(Store(tmp_path / "store").items) == 6
    assert (tmp_path / "store" / "items" / "@eaDir").is_dir()


@pytest.mark.parametrize("content", ["", '{"sources": {}, "items": {"a"', "[1]", '{"items": 3}'])
def test_damaged_list_of_what_is_prepared(table: Path, tmp_path: Path, content: str) -> None:
    def again() -> Path:
        return prepare(
            table, tmp_path / "store", canvas=64, skip_bad=True, progress=False, workers=1
        )

    store = again()
    (store / "prepared.json").write_text(content)
    with pytest.raises(ValueError, match=r"list of what is prepared must be whole, .*Delete it"):
        again()
    (store / "prepared.json").unlink()
    assert len(json.loads((again() / "prepared.json").read_text())["items"]) == 6
