"""Checks that end in every way but well."""

import os
import subprocess
import time
from pathlib import Path

from experiments.doctor.finding import Finding


def well(name: str) -> list[Finding]:
    return [Finding(name, "pass", "as it should")]


def hang(pids: Path) -> list[Finding]:
    child = subprocess.Popen(["sleep", "600"])
    pids.write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)
    return []


def crash() -> list[Finding]:
    os.abort()


def fail() -> list[Finding]:
    raise ZeroDivisionError("by\nnothing")
