"""The store's ledger: appended to by one at a time, and what was changed in it shows."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.ledger import LEDGER, enter, read_ledger


def filled(store: Path) -> list[str]:
    return [enter(store, "sweep", ["p1", "p2"], name=f"sweep {n}") for n in range(3)]


def test_entries_are_chained_and_name_nobody(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) is None
    assert read_ledger(tmp_path / "none") is None
    shas = filled(tmp_path)
    ledger = read_ledger(tmp_path)
    assert ledger
    assert [entry["sha"] for entry in ledger.entries[1:]] == shas
    assert (ledger.head, ledger.problems) == (shas[-1], ())
    assert set(ledger.entries[1]["holdout"]) == ledger.hashes(["p1", "p2"])
    assert ledger.hashes(["p3"]).isdisjoint(ledger.entries[1]["holdout"])
    assert "p1" not in (tmp_path / LEDGER).read_text()
    other = tmp_path / "other"
    other.mkdir()
    filled(other)
    assert (foreign := read_ledger(other))
    assert foreign.hashes(["p1"]) != ledger.hashes(["p1"])


def changed(lines: list[str]) -> list[str]:
    return [*lines[:2], lines[2].replace("sweep 1", "sweep x"), lines[3]]


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (changed, ["line 3 is not as it was written", "line 4 does not follow"]),
        (lambda lines: [*lines[:2], *lines[3:]], ["line 3 does not follow"]),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], ["line 2 ", "line 3 ", "line 4 "]),
        (lambda lines: lines[1:], ["line 1 does not follow"]),
        (lambda lines: [*lines[:3], lines[3][:40]], ["line 4 cannot be read"]),
        (lambda lines: [*lines[:3], "[1]\n"], ["line 4 cannot be read"]),
    ],
)
def test_what_was_changed_shows_and_goes_on_showing(
    tmp_path: Path, edit: Callable[[list[str]], list[str]], told: list[str]
) -> None:
    filled(tmp_path)
    path = tmp_path / LEDGER
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))
    for _ in range(2):
        ledger = read_ledger(tmp_path)
        assert ledger
        assert len(ledger.problems) == len(told)
        assert all(p.startswith(t) for p, t in zip(ledger.problems, told, strict=True))
        last = enter(tmp_path, "opening", ["p1"])
    assert (after := read_ledger(tmp_path))
    assert after.head == last


def test_writers_at_once_each_leave_a_line(tmp_path: Path) -> None:
    code = "import sys; from datamodules.ledger import enter; enter(sys.argv[1], 'sweep', ['p'])"
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path]) for _ in range(6)]
    assert [writer.wait() for writer in writers] == [0] * 6
    ledger = read_ledger(tmp_path)
    assert ledger
    assert (len(ledger.entries), ledger.problems) == (7, ())


def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    filled(tmp_path)
    before = (tmp_path / LEDGER).read_bytes()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 30, len(before) + 30))
        try:
            enter(tmp_path, "sweep", ["p1"])
        except OSError as error:
            os._exit(0 if error.filename == str(tmp_path / LEDGER) else 3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / LEDGER).read_bytes() == before
    assert json.loads(before.splitlines()[-1])["name"] == "sweep 2"
