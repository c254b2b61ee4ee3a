"""The cohort table: what is accepted, and that every fault is listed by line and file."""

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
        "split": "test",
    }  # fmt: skip
    table = cohort(row)
    checked = read_cohort(table, covariates=["age"])
    assert checked.problems == ()
    assert checked.rows == (
        Row(2, "p1", 0, "ceus", "a.png", table.parent.resolve() / "a.png", (1, 2, 30, 40), "left",
            12.5, "test", 8.5, {"age": "41"}),
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
        ({"split": "val"}, "split must be 'train' or 'test' or '', got 'val'"),
    ],
)
def test_bad_rows(cohort: Write, tmp_path: Path, change: dict[str, str], reason: str) -> None:
    path = cohort({**GOOD, **change}, {**GOOD, "patient_id": "p2", "path": "b.png"})
    (tmp_path / "outside.png").write_bytes(b"x")
    (path.parent / "link.png").symlink_to(tmp_path / "outside.png")
    (path.parent / "empty.png").touch()
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
        ("patient_id,label,modality,path\nM\xfcller,1,image,a\n", r"cohort must be a CSV in UTF-8"),
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
