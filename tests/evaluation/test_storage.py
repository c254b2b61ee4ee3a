"""Storage that is full, limited or read-only: one error, nothing half-written, and on it goes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_CALLS = """
call() { name=$1; shift; "$PYTHON" -P -m experiments "$@" > "$OUT/$name" 2>&1 < /dev/null
         echo "exit $?" >> "$OUT/$name"; find "$DISK" -name '*.tmp' >> "$OUT/left"; }
fill() { head -c 99999999 /dev/zero >> "$DISK/ballast" 2> /dev/null; }
evaluated() { find "$SWEEP/evaluation" -type f -exec sha256sum {} + | sort | sha256sum; }
"""
_FULL = """
mount -t tmpfs -o size=20m tmpfs "$DISK" && cp -r "$FROM"/* "$DISK" || exit 9
evaluated > "$OUT/before"
fill; truncate -s -200K "$DISK/ballast"
call full evaluate "$SWEEP"; evaluated > "$OUT/after"
fill
call split_full split "$DISK/store" --name other --folds 2
call unseal_full evaluate "$SWEEP" --unseal-test "$DISK/own" --reason because
ls -A "$DISK/store/splits" "$SWEEP" > "$OUT/files"
rm "$DISK/ballast"
call split split "$DISK/store" --name other --folds 2
call unseal evaluate "$SWEEP" --unseal-test "$DISK/own" --reason because
mount -o remount,ro "$DISK"
call read_only evaluate "$SWEEP"
call split_read_only split "$DISK/store" --name third --folds 2
call status_read_only status "$SWEEP"
"""
_LIMIT = """
cp -r "$FROM"/* "$DISK"
evaluated > "$OUT/before"
ulimit -S -f 4
call limit evaluate "$SWEEP"
evaluated > "$OUT/after"
"""


@pytest.fixture
def tight(tmp_path: Path, sweep_maker, store: Path):
    """Runs a script beside a sweep and two stores; what its calls said, by name."""
    source, out, disk = (tmp_path / name for name in ("from", "out", "disk"))
    for folder in (source, out, disk):
        folder.mkdir()
    sweep_maker(source / "trial", architectures=("alpha",), modalities=("image",)).write()
    (source / "store").rename(source / "own")
    (source / "trial" / "evaluation").mkdir()
    for name in ("report.html", "cells.csv"):  # of an evaluation before
        (source / "trial" / "evaluation" / name).write_text("old")
    shutil.copytree(store, source / "store")

    def run(script: str, *before: str) -> dict[str, str]:
        places = {"OUT": out, "DISK": disk, "FROM": source, "SWEEP": disk / "trial"}
        done = subprocess.run(
            [*before, "bash", "-c", _CALLS + script],
            env=os.environ
            | {name: str(path) for name, path in places.items()}
            | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
            check=False,
        )
        assert done.returncode == 0
        return {path.name: path.read_text() for path in out.iterdir()}

    return run


def refused(said: str, why: str) -> bool:
    error = rf"error: folder must be writable, got '{why}' \([^)]*\)\. [^\n]*\nexit 2\n"
    return bool(re.fullmatch(error, said)) and ".tmp" not in said


def test_a_full_and_a_read_only_disk(tight, tmp_path: Path) -> None:
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs the rights of root")
    said = tight(_FULL, "unshare", "-m")
    for name in ("full", "split_full"):
        assert refused(said[name], "No space left on device"), said[name]
    unsealing = said["unseal_full"]  # the store's ledger is the first to be written
    assert re.match(r"error: an opening must be entered .* got No space left", unsealing), unsealing
    assert unsealing.endswith("Make room, or get the right to write there.\nexit 2\n")
    assert said["after"] == said["before"]
    assert "other.json" not in said["files"]
    assert not {"unsealed.jsonl", "thresholds.json", "test_labels.parquet"} & set(
        said["files"].split()
    )
    assert said["split"].endswith("exit 0\n")
    assert "opened 1 time" in said["unseal"]
    assert said["unseal"].endswith("exit 0\n")
    for name in ("read_only", "split_read_only"):
        assert refused(said[name], "Read-only file system"), said[name]
    assert said["status_read_only"].endswith("exit 0\n")
    assert not said["left"]


def test_a_limit_on_the_size_of_files(tight) -> None:
    said = tight(_LIMIT)
    assert refused(said["limit"], "File too large"), said["limit"]
    assert said["after"] == said["before"]
    assert not said["left"]
