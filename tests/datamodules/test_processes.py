"""Killed outright, a call leaves no process behind."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

POOL = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from datamodules.processes import end_with_parent
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("forkserver"), end_with_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""
PHANTOM = """
import multiprocessing, sys, threading, time
from datamodules.phantom.make import make_phantom

def tell():
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.01)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)

if __name__ == "__main__":
    threading.Thread(target=tell, daemon=True).start()
    make_phantom(sys.argv[1], patients=400, workers=2, progress=False)
"""


@pytest.mark.parametrize("code", [POOL, PHANTOM], ids=["a pool", "a phantom's"])
def test_workers_end_with_their_parent(code: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(code)
    call = subprocess.Popen(
        [sys.executable, script, tmp_path / "out"], stdout=subprocess.PIPE, text=True
    )
    assert call.stdout is not None
    workers = call.stdout.readline().split()
    assert workers
    call.kill()
    call.wait()
    call.stdout.close()  # whom it left behind would hold it open
    deadline = time.monotonic() + 20
    while left := [worker for worker in workers if is_there(worker)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def is_there(process: str) -> bool:
    """Whether it runs; who ended and was not asked for is not there."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
