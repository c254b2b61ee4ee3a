"""Files that are old or new, never half-written, and nothing left beside them."""

import stat
from pathlib import Path

import pytest

from datamodules.files import TEMPORARY, replacing, sweep_up, write_atomic, write_once


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_take_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content, data in (("µ", "µ".encode()), (b"\0", b"\0")):
        write_atomic(path, content)
        assert path.read_bytes() == data
    assert names(tmp_path) == ["a.json"]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as file:
            file.write(b"half")
            (left,) = set(names(tmp_path)) - {"a.json"}
            assert left.endswith(TEMPORARY)
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_the_first_of_several_stays_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_once(path, b"first")
    write_once(path, b"second")
    assert path.read_bytes() == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["key"]


def test_sweeping_up_takes_only_what_was_being_written(tmp_path: Path) -> None:
    for name in (".a.json.7.tmp", "a.json", ".hidden", "kept.tmp"):
        (tmp_path / name).touch()
    sweep_up(tmp_path)
    assert names(tmp_path) == [".hidden", "a.json", "kept.tmp"]
