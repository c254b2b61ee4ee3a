"""FFmpeg's libraries for torchcodec, where the system has none: those that PyAV brought."""

import ctypes.util
import os
import re
from importlib.util import find_spec
from pathlib import Path

_NAME = re.compile(r"(lib(?:av|sw)[a-z]+)-[0-9a-f]+\.so\.(\d+)[.\d]*")


def ffmpeg_environment() -> dict[str, str]:
    """What a process must be started with so that torchcodec finds FFmpeg; nothing if it does.

    PyAV's wheel holds the libraries under names of its own. Links in the user's cache folder have
    the names that torchcodec asks the loader for. The loader reads the variable as a process
    starts, hence not later; and PyAV has to be imported first, as it is wherever clips are read.
    """
    package = find_spec("av")
    if package is None or find_spec("torchcodec") is None or ctypes.util.find_library("avutil"):
        return {}
    libraries = Path(str(package.origin)).parents[1] / "av.libs"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    links, found = cache / "ceus" / "ffmpeg", {}
    for library in libraries.glob("lib*"):
        if parts := _NAME.fullmatch(library.name):
            found[f"{parts[1]}.so.{parts[2]}"] = library
    try:
        links.mkdir(parents=True, exist_ok=True)
        for name, library in found.items():
            _link(links / name, library)
    except OSError:  # a home that may not be written: clips are then decoded on the CPU
        return {}
    others = os.environ.get("LD_LIBRARY_PATH", "")
    if not found or str(links) in others.split(":"):
        return {}
    return {"LD_LIBRARY_PATH": f"{links}:{others}" if others else str(links)}


def _link(link: Path, library: Path) -> None:
    """Make a link, or turn one that leads elsewhere, without a moment in which there is none."""
    if link.is_symlink() and link.readlink() == library:
        return
    new = link.with_name(f".{link.name}-{os.getpid()}")
    new.symlink_to(library)
    new.replace(link)
