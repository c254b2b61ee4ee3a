"""The table a user brings: one row a file, checked as far as a table can be."""

import csv
import math
import os
import re
import sys
import unicodedata
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

from datamodules.errors import DataError
from datamodules.ingest.cohort import (
    Cohort,
    Problem,
    Row,
    find_conflicts,
    find_repeats,
    find_rounded,
    find_twins,
)
from datamodules.ingest.readers.clip import FASTEST, SLOWEST
from datamodules.store.columns import ITEM_COLUMNS

MODALITIES = ("image", "ceus")
PANELS = ("left", "right", "top", "bottom")
_REQUIRED = ("patient_id", "label", "modality", "path")
_OPTIONAL = ("split", "crop", "panel", "fps", "arrival_s", "mask")

_MOST_MASKS = 2
_MAX_ROWS, _MAX_BYTES = 200_000, 2**28  # of a table: more is another file

# Letters that show nothing, besides those of the category Cf.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\ufe00-\ufe0f\uffa0]")
# What spreadsheets make of long numbers, and of values that they do not understand.
_SPOILT = re.compile(r"\d([.,]\d+)?E\+\d+|#\S*[!?]|#N/?[AV]|#+", re.IGNORECASE)
_NOTHING = {"nan", "nat", "<na>", "null", "none", "n/a", "na", "unknown", ".", "-", "?"}

# A covariate must not replace one of the store's own columns.
_RESERVED = {*_REQUIRED, *_OPTIONAL, *ITEM_COLUMNS}


def read_cohort(path: Path, *, covariates: Sequence[str] = (), root: Path | None = None) -> Cohort:
    """Reads and checks a cohort table; the files themselves are only looked for.

    Args:
        path: CSV in UTF-8, separated by commas, its columns in any order: `patient_id`, `label`
            (0/1, one a patient; empty: for pretraining only), `modality` (image, ceus), `path`
            (relative to the table's folder and inside it; for a clip also a folder of numbered
            frames); optionally `crop` ("x,y,w,h"), `panel` (left, right, top, bottom), `fps` (in
            place of the file's own), `split` (train, test, empty; one a patient), `arrival_s`
            (seconds), `mask` (a picture of where the lesion is in a clip's frames, or two separated
            by `;`, the second of its parenchyma). Others are not read unless named in `covariates`.
        covariates: Further columns to keep.
        root: Folder that `path` is relative to and inside of, if not the table's own.

    Raises:
        DataError: If the table itself cannot be used. Bad rows are collected in
            `Cohort.problems` instead.
    """
    path = Path(path)
    columns, records = _read_table(path, covariates)
    rows: list[Row] = []
    problems: list[Problem] = []
    for line, record in records:
        try:
            rows.append(_read_row(line, record, root or path.parent, covariates))
        except _BadRowError as bad:
            patient, name = record.get("patient_id") or "", record.get("path") or ""
            modality = (record.get("modality") or "").strip()
            known_modality = modality if modality in MODALITIES else ""
            patient = _visible(patient)
            problems.append(Problem(line, patient, name.strip(), str(bad), known_modality))
    problems += find_twins(rows) + find_rounded(rows)
    problems += find_conflicts(rows, "label") + find_conflicts(rows, "split")
    # By name here; the contents are compared once they are hashed.
    problems += find_repeats({row.line: str(row.path) for row in rows}, rows)
    cohort = Cohort(path, tuple(rows), (), "split" in columns)
    return cohort.without(problems)


class _BadRowError(Exception):
    """The reason why one row is not usable."""


def _read_table(
    path: Path, covariates: Sequence[str]
) -> tuple[Collection[str], list[tuple[int, dict[str, str]]]]:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(0, "a pipe or device")
        size = path.stat().st_size
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            columns = [_visible(name) for name in next(reader, [])] if size <= _MAX_BYTES else []
            filled = ((reader.line_num, fields) for fields in reader if any(map(str.strip, fields)))
            table = list(islice(filled, _MAX_ROWS + 1)) if columns else []
    except (OSError, RuntimeError) as error:
        text = getattr(error, "strerror", "a loop of links")
        raise DataError(
            f"cohort must be a readable file, got {text} ({path}). Name a cohort.csv."
        ) from error
    except UnicodeDecodeError as error:
        wide = error.object[:2] in {b"\xff\xfe", b"\xfe\xff"}
        guess = "UTF-16" if wide else "Windows-1252 or Latin-1"
        raise DataError(
            f"cohort must be a CSV in UTF-8, got {error}: it looks like {guess} ({path}). Save it "
            "as CSV UTF-8."
        ) from error
    except csv.Error as error:
        raise DataError(
            f"cohort must be a CSV in UTF-8, got {error} (line {reader.line_num} of {path}). "
            "Correct it there, or save the table as CSV UTF-8."
        ) from error
    if size > _MAX_BYTES or len(table) > _MAX_ROWS:
        raise DataError(
            f"cohort must have at most {_MAX_ROWS} rows and {_MAX_BYTES >> 20} MiB, got more "
            f"({path}). Is it the right file?"
        )
    reserved = sorted(set(covariates) & _RESERVED)
    if reserved:
        raise DataError(
            f"covariates must be other columns than the store's own, got {reserved} ({path}). "
            "Rename the column."
        )
    missing = [name for name in (*_REQUIRED, *covariates) if name not in columns]
    if missing:
        raise DataError(
            f"cohort must have the columns {', '.join((*_REQUIRED, *covariates))}, got "
            f"{columns}: {', '.join(missing)} missing ({path}). Add the column, as label with "
            "nothing in it where it is not known. Columns are separated by commas."
        )
    read = [name for name in columns if name in {*_REQUIRED, *_OPTIONAL, *covariates}]
    if len(set(read)) < len(read):
        raise DataError(
            f"columns must have different names, got {read} ({path}). Rename or remove one."
        )
    if not table:
        raise DataError(f"cohort must have rows, got none ({path}). Add one row for each file.")
    records = []
    for line, fields in table:
        record = dict(zip(columns, fields, strict=False))
        if len(fields) != len(columns):
            record["_fields"] = (
                f"row must have {len(columns)} fields, got {len(fields)}; a crop needs quotes"
            )
        if any("\n" in field or "\r" in field for field in fields):
            record["_fields"] = (
                "row must be in one line, got quotes that open in one and close in another, with "
                "all rows between"
            )
        records.append((line, record))
    return columns, records


def _read_row(line: int, record: dict[str, str], root: Path, covariates: Sequence[str]) -> Row:
    if "_fields" in record:
        raise _BadRowError(record["_fields"])
    value = {name: text.strip() for name, text in record.items()}
    _check_one_of("label", value["label"], ("0", "1", ""))
    _check_one_of("modality", value["modality"], MODALITIES)
    split = value.get("split", "")
    _check_one_of("split", split, ("train", "test", ""))
    if not value["label"] and split == "test":
        raise _BadRowError("label must be given in the test set, got nothing")
    _check_one_of("panel", value.get("panel", ""), (*PANELS, ""))
    return Row(
        line=line,
        patient_id=_read_id(value["patient_id"]),
        label=int(value["label"]) if value["label"] else None,
        modality=value["modality"],
        name=value["path"],
        path=_find_file(root, value["path"], folder=value["modality"] == "ceus"),
        crop=_parse_crop(value.get("crop", "")),
        panel=value.get("panel", ""),
        fps=_parse_number(
            value.get("fps", ""),
            f"fps must be {SLOWEST} to {FASTEST:g} frames per second, not the time of one",
            least=SLOWEST,
            most=FASTEST,
        ),
        split=split,
        arrival_s=_parse_number(value.get("arrival_s", ""), "arrival_s must be seconds >= 0"),
        masks=_find_masks(root, value.get("mask", ""), value["modality"]),
        covariates={name: value[name] for name in covariates},
    )


def _visible(text: str) -> str:
    """Text without what nobody sees in it: one form of each letter, single spaces, no marks."""
    text = _INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf").strip()
    return re.sub(r"[^\S\x00-\x1f\x7f-\x9f]+", " ", text)


def _read_id(text: str) -> str:
    patient_id = _visible(text)
    if not patient_id:
        raise _BadRowError("patient_id must be given, got nothing")
    if patient_id.casefold() in _NOTHING:
        raise _BadRowError("patient_id must be given, got a word for nothing, as NA or unknown")
    if not patient_id.isprintable():
        code = next(ord(letter) for letter in patient_id if not letter.isprintable())
        raise _BadRowError(f"patient_id must be of printable letters, got U+{code:04X} in it")
    if _SPOILT.fullmatch(patient_id):
        raise _BadRowError(
            "patient_id must be as it was given, got what a spreadsheet makes of a long number or "
            "of an error; format its column as text"
        )
    return patient_id


def _check_one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise _BadRowError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


def _find_file(root: Path, name: str, *, folder: bool) -> Path:
    """The file, or where it may be one the folder of numbered frames."""
    if not name or "\0" in name:
        raise _BadRowError("path must name a file, got nothing")
    root = root.resolve()
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise _BadRowError(
                "path must lie in the cohort's folder, links followed, got one outside"
            )
        if not path.exists():
            raise _BadRowError("file must exist, got none")
        if folder and path.is_dir():
            _check_folder(root, path)
            return path
        if not path.is_file():
            raise _BadRowError("path must name a file, got a folder, pipe or device")
        if not path.stat().st_size:
            raise _BadRowError("file must hold data, got an empty one")
    except (OSError, RuntimeError) as error:
        text = getattr(error, "strerror", "a loop of links")
        raise _BadRowError(f"path must lead to a file, got {text}") from error
    return path


def _find_masks(root: Path, text: str, modality: str) -> tuple[Path, ...]:
    names = [name.strip() for name in text.split(";")] if text else []
    if names and modality != "ceus":
        raise _BadRowError("mask must be of a clip, got one of an image; leave it empty")
    if len(names) > _MOST_MASKS:
        raise _BadRowError(
            f"mask must be of the lesion, or of lesion; parenchyma, got {len(names)} files"
        )
    try:
        return tuple(_find_file(root, name, folder=False) for name in names)
    except _BadRowError as bad:
        raise _BadRowError(f"mask: {bad}") from None


def _check_folder(root: Path, folder: Path) -> None:
    """That what is in a folder can be opened without a wait, and lies in the cohort's folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
                raise _BadRowError(
                    "links in a folder of frames must lead to files in the cohort's folder, got "
                    "one that leads outside"
                )
            if not (entry.is_file() or entry.is_dir()):
                raise _BadRowError(
                    "folder must hold files, got a pipe, a device or a link that leads nowhere"
                )


def _parse_crop(text: str) -> tuple[int, int, int, int] | None:
    if not text:
        return None
    parts = text.split(",")
    try:
        x, y, w, h = (int(part) for part in parts)
    except ValueError:
        raise _BadRowError(f"crop must be x,y,w,h in whole pixels, got {text!r}") from None
    if x < 0 or y < 0 or w < 1 or h < 1:
        raise _BadRowError(f"crop must have x, y >= 0 and w, h >= 1, got {text!r}")
    return x, y, w, h


def _parse_number(
    text: str, rule: str, *, least: float = 0, most: float = sys.float_info.max
) -> float | None:
    """A finite number in a range; None where nothing is given."""
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise _BadRowError(f"{rule}, got {text!r}")
    return number
