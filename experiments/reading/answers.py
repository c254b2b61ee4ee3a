"""Answers that readers downloaded from a page of `ceus reader`, read and checked."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from evaluation.tables.readers import PASSES
from experiments.errors import ConfigError
from experiments.reading.page import FORMAT, Facts, Part

_AGAIN = "Download it again from the page."


@dataclass(frozen=True)
class Answers:
    """What one reader answered.

    Attributes:
        path: The file.
        reader: The reader's code.
        facts: Of the page.
        patients: Hashes of all whom the page shows, sorted.
        rows: `patient`, `pass`, `confidence`, `seconds` of each answer.
    """

    path: Path
    reader: str
    facts: Facts
    patients: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]


def read_all(paths: Sequence[Path]) -> list[Answers]:
    """The answers of several readers at one page.

    Raises:
        ConfigError: If a file is not one of a page, two are of different pages, or of one reader.
    """
    found = [_read(path) for path in paths]
    first = found[0]
    by_name: dict[str, Answers] = {}
    for each in found:
        if (each.facts, each.patients) != (first.facts, first.patients):
            raise ConfigError(
                f"answers must all be of one page, got those of two ({first.path} and "
                f"{each.path}: {_unlike(first, each)}). Compare readers of the same page."
            )
        other = by_name.setdefault(each.reader.casefold(), each)
        if other is not each:
            raise ConfigError(
                f"each reader must be there once, got {each.reader!r} twice ({other.path} and "
                f"{each.path}). Leave the older file out; two readers who chose one code are told "
                "apart by another in the file."
            )
    return found


def _unlike(a: Answers, b: Answers) -> str:
    for name, value in vars(a.facts).items():
        other = getattr(b.facts, name)
        if value != other:
            return f"{name} {str(value)[:16]} and {str(other)[:16]}"
    return "other patients"


def _read(path: Path) -> Answers:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        facts = Facts(**content["page"])
        reader, patients, given = content["reader"], content["patients"], content["answers"]
        rows = tuple(
            {key: row[key] for key in ("patient", "pass", "confidence", "seconds")} for row in given
        )
        names = tuple(sorted(map(str, patients)))
        reader = " ".join(str(reader).split())
    except OSError as error:
        raise ConfigError(
            f"answers must be a readable file, got {error.strerror} ({path}). Name the JSON that "
            "a reader downloaded."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"answers must be the JSON that a page of ceus reader wrote, got "
            f"{type(error).__name__}: {error} ({path}). {_AGAIN}"
        ) from error

    def require(holds: bool, rule: str, got: object) -> None:
        if not holds:
            raise ConfigError(f"{rule}, got {got} ({path}). {_AGAIN}")

    require(facts.format == FORMAT, f"format of answers must be {FORMAT}", repr(facts.format))
    require(facts.part in get_args(Part), "part of a page must be oof or test", repr(facts.part))
    require(bool(reader) and reader.isprintable(), "reader must have a code", repr(reader))
    require(
        len(set(names)) == facts.patients,
        f"answers must list the {facts.patients} patients of their page",
        len(set(names)),
    )
    seen = set()
    for row in rows:
        patient, which, confidence, seconds = row.values()
        require(which in PASSES, f"pass must be {' or '.join(PASSES)}", repr(which))
        require(patient in names, "answers must be for patients of their page", repr(patient))
        require(
            type(confidence) is int and 0 <= confidence <= 100,
            "confidence must be a whole number from 0 to 100",
            repr(confidence),
        )
        require(
            type(seconds) in (int, float) and isfinite(seconds) and seconds >= 0,
            "seconds must be a number from 0",
            repr(seconds),
        )
        require(
            (patient, which) not in seen,
            "a patient must be answered once a pass",
            f"{patient} twice in pass {which!r}",
        )
        seen.add((patient, which))
    require(bool(rows), "answers must hold some", "none")
    return Answers(path, reader, facts, names, rows)


def as_table(answers: Sequence[Answers]) -> pd.DataFrame:
    """A row an answer: reader, patient (hash), pass, confidence, seconds."""
    return pd.DataFrame([{"reader": each.reader, **row} for each in answers for row in each.rows])


def unfinished(answers: Sequence[Answers]) -> list[str]:
    """Passes that are not complete, a line each."""
    lines = []
    for each in answers:
        for which in PASSES:
            count = sum(row["pass"] == which for row in each.rows)
            if count < len(each.patients):
                lines.append(
                    f"warning: reader {each.reader} answered {count} of {len(each.patients)} "
                    f"patients {which} the models ({each.path}): left out of differences"
                )
    return lines
