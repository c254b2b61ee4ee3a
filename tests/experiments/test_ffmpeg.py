"""PyAV's FFmpeg under the names that torchcodec asks for."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import experiments.ffmpeg as subject
from experiments.ffmpeg import ffmpeg_environment


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, on a machine with torchcodec and without FFmpeg."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(subject.ctypes.util, "find_library", lambda _: None)
    monkeypatch.setattr(subject, "find_spec", lambda _: find_spec("av"))
    return tmp_path / "ceus" / "ffmpeg"


def test_a_new_process_finds_pyavs_libraries_by_their_usual_names(
    links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links.mkdir(parents=True)
    (links / "libavutil.so.60").symlink_to("of/another/version")
    settings = ffmpeg_environment()
    assert settings == {"LD_LIBRARY_PATH": str(links)}
    assert {path.name.split(".")[0] for path in links.iterdir()} >= {
        "libavcodec", "libavdevice", "libavfilter", "libavformat", "libavutil", "libswresample",
        "libswscale",
    }  # fmt: skip
    names = sorted(path.name for path in links.iterdir())
    code = (
        "import av, ctypes, sys\n"
        "for name in sys.argv[1:]: ctypes.CDLL(name)\n"
        "maps = open('/proc/self/maps').read()\n"
        "assert 'libavcodec.so' not in maps and 'libavcodec-' in maps"  # one copy, PyAV's own
    )
    subprocess.run([sys.executable, "-c", code, *names], env=os.environ | settings, check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/somewhere:{links}")
    assert ffmpeg_environment() == {}
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere")
    assert ffmpeg_environment() == {"LD_LIBRARY_PATH": f"{links}:/somewhere"}


def test_nothing_is_done_where_nothing_is_needed(
    links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (links.parent.parent / "ceus").write_text("in the way")  # as a home that cannot be written
    assert ffmpeg_environment() == {}
    monkeypatch.setattr(subject.ctypes.util, "find_library", lambda _: "libavutil.so.59")
    assert ffmpeg_environment() == {}
    monkeypatch.undo()
    monkeypatch.setattr(subject, "find_spec", lambda _: None)
    assert ffmpeg_environment() == {}


@pytest.mark.skipif(find_spec("torchcodec") is None, reason="torchcodec is not installed")
def test_torchcodec_decodes_by_them() -> None:
    code = (
        "import torch\n"
        "from datamodules.store.decode import Torchcodec, probe\n"
        "reason = probe(Torchcodec(torch.device('cpu')))\n"
        "assert not reason, reason"
    )
    environment = os.environ | ffmpeg_environment()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
