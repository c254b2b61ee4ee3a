"""The cohort table: what is accepted, and that every fault is listed by line and file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import DataError
from datamodules.ingest.cohort import Row, find_repeats
from datamodules.ingest.cohort_file import read_cohort

Write = Callable[..., Path]
GOOD = {"patient_id": "p1", "label": "1", "modality": "image", "path": "a.png"}


@pytest.fixture
def cohort(write_cohort: Write) -> Write:
    """Writes rows, and a non-empty file for each of a.png, b.png, c.png."""

    def write(*rows: dict[str, Any]) -> Path:
        path = write_cohort(rows)
        for name in ("a.png", "b.png", "c.png"):
            (path.parent / name).write_bytes(b"x")
        return path

    return write


def test_reads_any_order_and_only_known_columns(cohort: Write) -> None:
    row = {
        "name": "Jane", "path": " a.png ", "label": 0, "age": 41, "modality": "ceus",
        "patient_id": "p1", "crop": "1,2,30,40", "panel": "left", "fps": "12.5", "arrival_s": "8.5",
        "split": "test", "mask": "b.png; a.png",
    }  # fmt: skip
    table = cohort(row)
    root = table.parent.resolve()
    checked = read_cohort(table, covariates=["age"])
    assert checked.problems == ()
    assert checked.rows == (
        Row(2, "p1", 0, "ceus", "a.png", root / "a.png", (1, 2, 30, 40), "left", 12.5, "test", 8.5,
            (root / "b.png", root / "a.png"), {"age": "41"}),
    )  # fmt: skip
    assert checked.has_split


def test_byte_order_mark_and_blank_lines(cohort: Write) -> None:
    path = cohort(GOOD)
    path.write_text("\ufeffpatient_id,label,modality,path\n\np1,1,image,a.png\n", encoding="utf-8")
    assert [row.line for row in read_cohort(path).rows] == [3]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"patient_id": ""}, "patient_id must be given"),
        ({"label": "2"}, "label must be '0' or '1' or '', got '2'"),
        ({"modality": "mri"}, "modality must be 'image' or 'ceus', got 'mri'"),
        ({"path": ""}, "path must name a file"),
        ({"path": "no.png"}, "file must exist"),
        ({"path": "."}, "path must name a file, got a folder"),
        ({"path": "../x.png"}, "path must lie in the cohort's folder"),
        ({"path": "/etc/passwd"}, "path must lie in the cohort's folder"),
        ({"path": "link.png"}, "path must lie in the cohort's folder"),
        ({"path": "empty.png"}, "file must hold data, got an empty one"),
        ({"crop": "1,2,3"}, "crop must be x,y,w,h in whole pixels"),
        ({"crop": "1,2,0,4"}, "crop must have"),
        ({"arrival_s": "soon"}, "arrival_s must be seconds >= 0"),
        ({"arrival_s": "-1"}, "arrival_s must be seconds >= 0"),
        ({"arrival_s": "inf"}, "arrival_s must be seconds >= 0"),
        (
            {"fps": "0.04"},
            "fps must be 0.1 to 1000 frames per second, not the time of one, got '0.",
        ),
        ({"fps": "25000"}, "fps must be 0.1 to 1000 frames per second"),
        ({"fps": "nan"}, "fps must be 0.1 to 1000 frames per second"),
        ({"path": "x" * 300}, "path must lead to a file, got File name too long"),
        ({"path": "loop.png"}, "path must lead to a file, got a loop of links"),
        ({"path": "pipe.png"}, "path must name a file, got a folder, pipe or device"),
        ({"path": "nowhere.png"}, "file must exist"),
        ({"patient_id": "1.67683E+15"}, "patient_id must be as it was given, got what a spread"),
        ({"patient_id": "1,67683e+15"}, "patient_id must be as it was given, got what a spread"),
        ({"patient_id": "#NAME?"}, "patient_id must be as it was given, got what a spreadsheet"),
        ({"patient_id": "#####"}, "patient_id must be as it was given, got what a spreadsheet"),
        ({"patient_id": "NaN"}, "patient_id must be given, got a word for nothing"),
        ({"patient_id": "\u200b"}, "patient_id must be given, got nothing"),
        ({"patient_id": "p\x001"}, "patient_id must be of printable letters, got U+0000 in it"),
        ({"patient_id": "p\t1"}, "patient_id must be of printable letters, got U+0009 in it"),
        ({"patient_id": "p\x1b[2J"}, "patient_id must be of printable letters, got U+001B in it"),
        ({"patient_id": "p\x9b2J"}, "patient_id must be of printable letters, got U+009B in it"),
        ({"split": "val"}, "split must be 'train' or 'test' or '', got 'val'"),
    ],
)
def test_bad_rows(cohort: Write, tmp_path: Path, change: dict[str, str], reason: str) -> None:
    path = cohort({**GOOD, **change}, {**GOOD, "patient_id": "p2", "path": "b.png"})
    (tmp_path / "outside.png").write_bytes(b"x")
    (path.parent / "link.png").symlink_to(tmp_path / "outside.png")
    (path.parent / "empty.png").touch()
    (path.parent / "loop.png").symlink_to("loop.png")
    (path.parent / "nowhere.png").symlink_to("gone.png")
    os.mkfifo(path.parent / "pipe.png")
    checked = read_cohort(path)
    assert [row.line for row in checked.rows] == [3]
    (problem,) = checked.problems
    assert problem.line == 2
    assert problem.reason.startswith(reason)


def test_wrong_number_of_fields(cohort: Write) -> None:
    path = cohort(GOOD)
    path.write_text("patient_id,label,modality,path,crop\np1,1,image,a.png,1,2,3,4\n")
    (problem,) = read_cohort(path).problems
    assert problem.reason == "row must have 5 fields, got 8; a crop needs quotes"


@pytest.mark.parametrize(("field", "values"), [("label", "01"), ("split", ["train", "test"])])
def test_conflict_inside_a_patient_takes_all_its_rows(
    cohort: Write, field: str, values: list[str]
) -> None:
    rows = [{**GOOD, field: values[0]}, {**GOOD, "path": "b.png", field: values[1]},
            {**GOOD, "patient_id": "p2", "path": "c.png"}]  # fmt: skip
    checked = read_cohort(cohort(*rows))
    assert [row.patient_id for row in checked.rows] == ["p2"]
    assert [problem.line for problem in checked.problems] == [2, 3]
    assert f"{field} must be the same in all rows of a patient" in checked.problems[0].reason
    assert "(line 2)" in checked.problems[0].reason
    assert "patients with no item left: p1" in checked.describe_problems()


def test_repeats(cohort: Write) -> None:
    row = dict(GOOD, crop="")
    checked = read_cohort(cohort(row, row, {**row, "crop": "0,0,9,9"}))
    assert [problem.line for problem in checked.problems] == [3]
    assert "got the file of line 2 again" in checked.problems[0].reason
    checked = read_cohort(cohort(row, {**row, "patient_id": "p2", "path": "./a.png"}))
    assert [problem.line for problem in checked.problems] == [2, 3]
    assert "file must belong to one patient" in checked.problems[0].reason
    assert find_repeats({2: "same"}, checked.rows) == []


def test_one_error_lists_all(cohort: Write) -> None:
    rows = [{**GOOD, "label": "x"}, {**GOOD, "path": "no.png"}, GOOD]
    checked = read_cohort(cohort(*rows))
    with pytest.raises(DataError, match=r"got 2 bad of 3") as raised:
        checked.raise_problems()
    assert "line 2: a.png: label must be" in str(raised.value)
    assert "line 3: no.png: file must exist" in str(raised.value)
    assert "--skip-bad" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("patient_id;label;modality;path\n", r"patient_id, label, modality, path missing"),
        ("patient_id,label,modality,path\n", r"cohort must have rows, got none"),
        ("", r"missing \("),
        ("patient_id,label,modality,path,path\np,1,image,a,a\n", r"different names"),
        ('patient_id,label,modality,path\n"p,1\n', r"cohort must be a CSV in UTF-8"),
        ("patient_id,label,modality,path\nM\xfcller,1,image,a\n", r"UTF-8, .* Windows-1252 or La"),
        ("\xff\xfep\0a\0", r"cohort must be a CSV in UTF-8, .* it looks like UTF-16"),
    ],
)
def test_unusable_table(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "cohort.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=match):
        read_cohort(path)


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cohort must be a readable file, got No such file"):
        read_cohort(tmp_path / "none.csv")


def test_covariates_are_there_and_not_the_stores_own(cohort: Write) -> None:
    with pytest.raises(DataError, match=r"age missing"):
        read_cohort(cohort(GOOD), covariates=["age"])
    with pytest.raises(DataError, match=r"covariates must be other columns .*'label'"):
        read_cohort(cohort(GOOD), covariates=["label"])


SAME = [
    ("P001", "p001"),
    ("001", "1"),
    ("P01", "P1"),
    ("A-007-2", "A-7-2"),
    ("\uff30\uff11", "P1"),
    ("\u0661", "1"),
    ("P 1", "P1"),
    ("P\u20131", "P-1"),
    ("17", "17.0"),
    ("STRASSE", "stra\u00dfe"),
]
DIFFERENT = [("P10", "P1"), ("100", "10"), ("P1", "P-1"), ("M\u00fcller", "Muller"), ("0", "00a")]


@pytest.mark.parametrize(("one", "other"), [*SAME, *DIFFERENT])
def test_one_patient_under_two_ids(cohort: Write, one: str, other: str) -> None:
    names = ("a.png", "b.png", "c.png")
    rows = [
        {**GOOD, "patient_id": patient_id, "path": name}
        for patient_id, name in zip((one, other, "another"), names, strict=True)
    ]
    checked = read_cohort(cohort(*rows))
    if (one, other) in SAME:
        assert [problem.line for problem in checked.problems] == [2, 3]
        assert "in one way only, got others that differ by case" in checked.problems[0].reason
        assert "(lines 2 and 3)" in checked.problems[0].reason
        assert [row.patient_id for row in checked.rows] == ["another"]
    else:
        assert checked.problems == ()


@pytest.mark.parametrize(
    "written",
    [
        "p 1\u200b", "\ufeffp 1", "p\u00a01", "p  1", "p\u2003 1", " p 1\t", "p\u00ad 1",
        "p\u2060 1", "\u202ap 1\u202c", "p 1\ufe0f",
    ],
)  # fmt: skip
def test_what_nobody_sees_makes_no_other_patient(cohort: Write, written: str) -> None:
    rows = [{**GOOD, "patient_id": "p 1"}, {**GOOD, "patient_id": written, "path": "b.png"}]
    checked = read_cohort(cohort(*rows))
    assert [row.patient_id for row in checked.rows] == ["p 1", "p 1"]


def test_two_forms_of_a_letter_are_one_patient(cohort: Write) -> None:
    rows = [
        {**GOOD, "patient_id": "M\u00fcller"},
        {**GOOD, "patient_id": "Mu\u0308ller", "path": "b.png"},
    ]
    assert {row.patient_id for row in read_cohort(cohort(*rows)).rows} == {"M\u00fcller"}


@pytest.mark.parametrize(
    ("ids", "bad"),
    [
        (("1676830000000000", "1676840000000000"), [2, 3]),
        (("1676834567891230", "1676845678912341"), []),
        (("16768300000000000", "7"), [2]),
        (("167683000000000", "167684000000000"), []),
    ],
)
def test_numbers_that_a_spreadsheet_rounded(
    cohort: Write, ids: tuple[str, str], bad: list[int]
) -> None:
    rows = [
        {**GOOD, "patient_id": patient_id, "path": name}
        for patient_id, name in zip(ids, ("a.png", "b.png"), strict=True)
    ]
    problems = read_cohort(cohort(*rows)).problems
    assert [problem.line for problem in problems] == bad
    assert all("got zeros after 15 digits" in problem.reason for problem in problems)


def test_an_id_of_two_lines(cohort: Write) -> None:
    (problem,) = read_cohort(cohort({**GOOD, "patient_id": "p\n1"})).problems
    assert problem.reason.startswith("row must be in one line, got quotes that open in one")


def test_a_quote_that_swallows_rows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    path.write_text(
        'patient_id,label,modality,path,note\na,0,image,a.png,"5 cm\nb,1,image,b.png,"\n'
    )
    (problem,) = read_cohort(path).problems
    assert "with all rows between" in problem.reason


def test_only_columns_that_are_read_must_differ(cohort: Write) -> None:
    path = cohort({**GOOD})
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{head},,,note,note", *(f"{row},,,," for row in rows)]))
    assert not read_cohort(path).problems


@pytest.mark.parametrize(
    "twins",
    [("'001", "001"), ('="001"', "1"), ("p\u22121", "p-1"), ("P1.0", "P1"), ("1,234", "1234"),
     ("p_1", "p-1")],
)  # fmt: skip
def test_more_twins(cohort: Write, twins: tuple[str, str]) -> None:
    rows = [
        {**GOOD, "patient_id": patient_id, "path": name}
        for patient_id, name in zip(twins, ("a.png", "b.png"), strict=True)
    ]
    problems = read_cohort(cohort(*rows)).problems
    assert [problem.line for problem in problems] == [2, 3]


@pytest.mark.parametrize("patient_id", ["NA", "unknown", ".", "?"])
def test_words_for_nothing_are_no_patient(cohort: Write, patient_id: str) -> None:
    (problem,) = read_cohort(cohort({**GOOD, "patient_id": patient_id})).problems
    assert "got a word for nothing" in problem.reason


def test_what_is_shown_does_nothing_to_a_terminal(cohort: Write) -> None:
    rows = [{**GOOD, "patient_id": "p\x1b[2J", "path": "a\x1b]0;.png"}]
    text = read_cohort(cohort(*rows)).describe_problems()
    assert "\x1b" not in text
    assert r"a\x1b]0;.png" in text
    assert r"no item left: p\x1b[2J" in text


def test_a_table_is_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    path.write_text("patient_id,label,modality,path\n" + "p,1,image,a.png\n" * 200_001)
    with pytest.raises(DataError, match=r"at most 200000 rows and 256 MiB, got more"):
        read_cohort(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"must be a readable file, got a pipe or device"):
        read_cohort(path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(DataError, match=r"must be a readable file, got Too many levels|a loop"):
        read_cohort(path)
