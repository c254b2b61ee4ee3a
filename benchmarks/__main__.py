"""`python -m benchmarks [NAME ...]`: runs them, and writes their sections of RESULTS.md."""

import argparse
import importlib.metadata
import inspect
import os
import sys
import time
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.measure import Section, machine
from experiments.ffmpeg import ffmpeg_environment

BENCHMARKS = (
    "readers", "loaders", "cached", "needs", "preparing", "training", "sweeping", "scale",
    "learning",
)  # fmt: skip
RESULTS = Path(__file__).with_name("RESULTS.md")
_PACKAGES = ("torch", "decord", "torchcodec", "av", "opencv-python-headless")


def main() -> None:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--folder", type=Path, default=Path("data/bench"), help="of its clips")
    parser.add_argument("--no-write", action="store_true", help="only print")
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"NAME must be of {', '.join(BENCHMARKS)}, got {', '.join(sorted(unknown))}")
    if needed := ffmpeg_environment():  # of torchcodec, read by the loader as a process starts
        os.execve(sys.executable, sys.orig_argv, os.environ | needed)
    torch.set_num_threads(1)  # as in each run of a sweep: threads are for reading
    for name in options.names or BENCHMARKS:
        start = time.perf_counter()
        module = import_module(f"benchmarks.{name}")
        # Those that take long run in part where nobody asked for them by name.
        short = not options.names and "part" in inspect.signature(module.run).parameters
        section = module.run(options.folder, part=True) if short else module.run(options.folder)
        text = section.markdown() + f"\n`python -m benchmarks {name}`, {_when(start)}\n"
        print(text)
        if not options.no_write:
            write(RESULTS, section, text)


def write(path: Path, section: Section, text: str) -> None:
    """Puts a section into the file, in place of the one of its title."""
    before = path.read_text() if path.exists() else ""
    parts = {part.splitlines()[0]: f"## {part}" for part in before.split("\n## ")[1:]}
    parts[section.title] = text
    head = (
        "# How fast\n\nMade by `make bench`. Each section is one interleaved run: medians, and "
        f"ratios within rounds. Machine of the last run: {machine()}; {_versions()}.\n"
    )
    path.write_text("\n".join([head, *(part.rstrip() + "\n" for part in parts.values())]))


def _when(start: float) -> str:
    return f"{time.strftime('%Y-%m-%d')}, {time.perf_counter() - start:.0f} s"


def _versions() -> str:
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(versions)


if __name__ == "__main__":
    main()
