"""Results as CSV: a spreadsheet computes none of it, and our own readers get the same back."""

import csv
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from evaluation import evaluate
from evaluation.files import csv_text, read_csv, write_atomic

COMPUTED = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "''=1")
TEXT = ("P001", "a=b", "'quoted'", "", "a-b", "−1", "'", "3-4", 'two "words", comma', "=")


def test_text_that_a_spreadsheet_would_compute_is_marked_and_read_back(tmp_path: Path) -> None:
    values = (*COMPUTED, *TEXT)
    table = pd.DataFrame(
        {"=id": values, "number": [-0.5] * len(values), "whole": range(-3, len(values) - 3)}
    )
    path = tmp_path / "table.csv"
    write_atomic(path, csv_text(table))
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["'=id", "number", "whole"]
    assert [row[0] for row in rows] == [*(f"'{c}" for c in COMPUTED), *TEXT[:-1], "'="]
    assert {row[1] for row in rows} == {"-0.5"}
    assert rows[0][2] == "-3"
    read = read_csv(path).fillna("")
    pd.testing.assert_frame_equal(read, table)


def test_numbers_beside_text_stay_numbers() -> None:
    mixed = pd.DataFrame({"n": range(4), "value": [-1, "-1", None, -0.25]})
    assert csv_text(mixed) == "n,value\n0,-1\n1,'-1\n2,\n3,-0.25\n"


def test_ids_of_a_sweep_are_no_formulas(sweep) -> None:
    made = sweep
    names = {"p001": "=HYPERLINK(1)", "p002": "+49", "p003": "-x", "p004": "@p", "p005": "'=a"}
    for run_id in made.run_ids():
        made.change(run_id, lambda table: table.replace({"patient_id": names}))
    cohort = pd.read_parquet(made.path / "cohort.parquet").replace({"patient_id": names})
    cohort.to_parquet(made.path / "cohort.parquet", index=False)
    result = evaluate(made.path)
    with (result.folder / "patients.csv").open(newline="", encoding="utf-8") as file:
        ids = {row["patient_id"] for row in csv.DictReader(file)}
    assert {f"'{name}" for name in names.values()} < ids
    assert not {name for name in ids if name[:1] in "=+-@"}
    read = read_csv(result.folder / "patients.csv")
    assert list(read["patient_id"]) == list(result.tables.patients["patient_id"])


@pytest.mark.parametrize("limit", [0, 1000])
def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, limit: int
) -> None:
    path = tmp_path / "report.html"
    write_atomic(path, "old")
    child = os.fork()  # whose limit does not bind the tests
    if not child:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            write_atomic(path, "x" * 5000)
        except OSError as error:
            os._exit(0 if error.filename == str(path) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(
    tmp_path: Path,
) -> None:
    """Killed with all files written and none in its place; another writes all the while."""
    write = (
        "import os, signal, sys; from pathlib import Path; from evaluation import files\n"
        "def stop(*_):\n"
        "    print('there', flush=True); {then}\n"
        "Path.replace = stop\n"
        "files.write_together({Path(sys.argv[1]) / name: 'x' for name in ('a.csv', 'b.csv')})\n"
    )
    killed = write.replace("{then}", "os.kill(os.getpid(), signal.SIGKILL)")
    waiting = write.replace("{then}", "sys.stdin.read()")
    dead = subprocess.run([sys.executable, "-c", killed, tmp_path], check=False, timeout=60)
    assert dead.returncode == -signal.SIGKILL
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 2
    assert all(name.endswith(".tmp") for name in left)
    with subprocess.Popen(
        [sys.executable, "-c", waiting, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as alive:
        assert alive.stdin is not None
        assert alive.stdout is not None
        alive.stdout.readline()
        own = {path.name for path in tmp_path.iterdir()}
        assert len(own) == 2
        assert not own & left, "of the dead one nothing is left"
        foreign = tmp_path / ".a.csv.elsewhere-1.tmp"
        foreign.write_text("of another machine")
        write_atomic(tmp_path / "c.csv", "new")
        assert {path.name for path in tmp_path.iterdir()} == {*own, "c.csv", foreign.name}
        alive.kill()
    write_atomic(tmp_path / "c.csv", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"c.csv", foreign.name}
