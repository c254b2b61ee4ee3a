"""The rows of the table a user brings, and what is wrong with them."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules.errors import DataError

_KEPT_DIGITS = 15  # of a number in a spreadsheet


@dataclass(frozen=True)
class Row:
    """One usable row.

    Attributes:
        line: Number in the file, the header being 1.
        name: `path` as it is written in the table.
        path: The file, resolved.
        label: 0 or 1; None for a patient who serves pretraining only.
        crop: x, y, width, height in pixels of the file's frames.
        panel: Which panel to keep, of `PANELS`, or "".
        fps: Frames per second to take in place of the file's own.
        split: "train", "test" or "".
        arrival_s: Seconds from the first frame to the arrival of contrast, as a person saw it.
        masks: Pictures of where the lesion is, and the parenchyma: none, the first, or both.
        covariates: The named columns, as text.
    """

    line: int
    patient_id: str
    label: int | None
    modality: str
    name: str
    path: Path
    crop: tuple[int, int, int, int] | None
    panel: str
    fps: float | None
    split: str
    arrival_s: float | None
    masks: tuple[Path, ...]
    covariates: Mapping[str, str]

    def problem(self, reason: str) -> "Problem":
        """That this row is not usable, and why."""
        return Problem(self.line, self.patient_id, self.name, reason, self.modality)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row; `reason` names neither file nor patient, other rows by line."""

    line: int
    patient_id: str
    name: str
    reason: str
    modality: str


@dataclass(frozen=True)
class Cohort:
    """The rows of a table that are usable so far, and the problems of the others."""

    path: Path
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]
    has_split: bool

    def without(self, problems: Iterable[Problem]) -> "Cohort":
        """The cohort with further rows found bad."""
        collected = sorted((*self.problems, *problems), key=lambda problem: problem.line)
        bad = {problem.line for problem in collected}
        rows = tuple(row for row in self.rows if row.line not in bad)
        return replace(self, rows=rows, problems=tuple(collected))

    @property
    def lost(self) -> list[str]:
        """Patients of bad rows that have no other row, sorted."""
        remaining = {row.patient_id for row in self.rows}
        return sorted({problem.patient_id for problem in self.problems} - remaining - {""})

    def describe_problems(self) -> str:
        """Every problem in a line of its own, then the patients with nothing left."""
        lines = [
            f"  line {p.line}: {_printable(p.name) or '(no path)'}: {p.reason}"
            for p in self.problems
        ]
        lost = [_printable(patient_id) for patient_id in self.lost]
        if lost:
            lines.append(f"  patients with no item left: {', '.join(lost)}")
        return "\n".join(lines)

    def raise_problems(self) -> None:
        """Raises one DataError that lists every problem, if there is any."""
        if not self.problems:
            return
        bad = len({problem.line for problem in self.problems})
        raise DataError(
            f"every row must describe a usable file, got {bad} bad of {bad + len(self.rows)} "
            f"({self.path}):\n{self.describe_problems()}\n"
            "The store is as it was. Correct these rows, or leave them out with --skip-bad."
        )


def find_twins(rows: Sequence[Row]) -> list[Problem]:
    """Every row of ids that differ by no more than a slip of the keyboard, or of a spreadsheet.

    One patient under two ids would be in training and in hold-out at once.
    """
    lines_of: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        lines_of[_without_slips(row.patient_id)].setdefault(row.patient_id, row.line)
    problems = []
    for row in rows:
        lines = lines_of[_without_slips(row.patient_id)].values()
        if len(lines) > 1:
            reason = (
                "patient_id must be written in one way only, got others that differ by case, "
                f"leading zeros, spaces, dashes or width (lines {' and '.join(map(str, lines))})"
            )
            problems.append(row.problem(reason))
    return problems


def find_rounded(rows: Sequence[Row]) -> list[Problem]:
    """Every row of ids of over 15 digits, if all of them have zeros there: a spreadsheet's doing.

    It keeps 15 digits of a number: several patients may have one id.
    """
    tails = {
        row.patient_id: row.patient_id[_KEPT_DIGITS:]
        for row in rows
        if row.patient_id.isdecimal() and len(row.patient_id) > _KEPT_DIGITS
    }
    zeros = "".join(tails.values())
    if len(zeros) < 2 or set(zeros) != {"0"}:
        return []
    reason = (
        f"patient_id must be as it was given, got zeros after {_KEPT_DIGITS} digits in all that "
        "are longer: a spreadsheet rounds such numbers; format its column as text"
    )
    return [row.problem(reason) for row in rows if row.patient_id in tails]


def _without_slips(patient_id: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", patient_id).casefold())
    text = re.sub(r'^=?["\']+|["\']+$', "", text)  # a spreadsheet's marks of text
    letters = (
        "-"
        if unicodedata.category(letter) == "Pd" or letter in "_\u2212"
        else str(unicodedata.decimal(letter, letter))
        for letter in text
        if not letter.isspace()
    )
    text = "".join(letters)
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"(?<=\d)\.0+$", "", text)  # a number with the decimals of one
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def _printable(text: str) -> str:
    """Text that does nothing to a terminal."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def find_conflicts(rows: Sequence[Row], field: str) -> list[Problem]:
    """Every row of each patient whose rows differ in `field`: which is right is not known."""
    lines_of: dict[str, dict[object, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        lines_of[row.patient_id][getattr(row, field)].append(row.line)
    problems = []
    for row in rows:
        values = lines_of[row.patient_id]
        if len(values) > 1:
            got = " and ".join(f"{value!r} (line {lines[0]})" for value, lines in values.items())
            reason = f"{field} must be the same in all rows of a patient, got {got}"
            problems.append(row.problem(reason))
    return problems


def find_repeats(source: Mapping[int, str], rows: Sequence[Row]) -> list[Problem]:
    """Rows that bring again what another row brings.

    The same source twice for one patient, with the same crop and modality, is a duplicate: the
    later row is bad. The same source for two patients would put one examination on both sides of a
    split: every such row is bad.

    Args:
        source: Line -> what tells its source, a path or a hash.
        rows: The rows.
    """
    owners: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        owners[source[row.line]].setdefault(row.patient_id, row.line)
    first: dict[object, int] = {}
    problems = []
    for row in rows:
        patients = owners[source[row.line]]
        earlier = first.setdefault(
            (source[row.line], row.patient_id, row.crop, row.modality), row.line
        )
        if len(patients) > 1:
            lines = " and ".join(str(line) for line in patients.values())
            reason = f"file must belong to one patient, got the same for several (lines {lines})"
        elif earlier != row.line:
            reason = f"row must not be a duplicate, got the file of line {earlier} again"
        else:
            continue
        problems.append(row.problem(reason))
    return problems
