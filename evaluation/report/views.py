"""Tables of the report: which columns of which table, how they read, and by what they sort."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

import pandas as pd

from evaluation.text.format import counted, interval, number

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a view.

    Attributes:
        title: Its heading.
        text: What a row shows.
        key: What a row is sorted by; "" sorts last.
        is_text: Left-aligned words instead of figures.
        facet: Whether the reader may choose among its values.
    """

    title: str
    text: Callable[[Row], str]
    key: Callable[[Row], str | float]
    is_text: bool = False
    facet: bool = False


@dataclass(frozen=True, kw_only=True)
class View:
    """A table as the report shows it.

    Attributes:
        name: Name of its place in the page.
        caption: What it holds.
        columns: Its columns.
        rows: Its rows.
        csv: File beside the report that holds all of it; "" if none does.
        folded: Whether it is closed at first.
        notes: Below it.
        narrow: Whether intervals stand below their estimates, for it has many.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    csv: str = ""
    folded: bool = False
    notes: Sequence[str] = ()
    narrow: bool = False

    @property
    def filterable(self) -> bool:
        """Long enough to look something up in it."""
        return len(self.rows) > 9


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section.

    Attributes:
        name: Name of its place in the page.
        title: Its heading.
        words: Paragraphs.
        figures: Names of drawings, each shown if it was made.
        views: Tables.
    """

    name: str
    title: str
    words: Sequence[str] = ()
    figures: Sequence[str] = ()
    views: Sequence[View] = field(default_factory=tuple)


def rows_of(table: pd.DataFrame) -> list[Row]:
    """Rows with the names of the columns, None where nothing is known."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]


def words(name: str, title: str = "", *, facet: bool = False) -> Column:
    """A column of words."""

    def text(row: Row) -> str:
        return "" if row.get(name) is None else str(row[name])

    return Column(title or name.replace("_", " "), text, text, is_text=True, facet=facet)


def printed(name: str, title: str = "") -> Column:
    """A column of figures that are text already."""
    shown = words(name, title)
    return Column(shown.title, shown.text, shown.key)


def figure(name: str, title: str = "", digits: int = 3) -> Column:
    """A column of figures."""

    def text(row: Row) -> str:
        return number(_float(row, name), digits)

    return Column(title or name.replace("_", " "), text, _sorted_by(name))


def count(name: str, title: str = "") -> Column:
    """A column of counts."""

    def text(row: Row) -> str:
        return "–" if row.get(name) is None else f"{int(row[name])}"

    return Column(title or name.replace("_", " "), text, _sorted_by(name))


def estimate(
    name: str, title: str, *, low: str = "low", high: str = "high", digits: int = 3
) -> Column:
    """A column of figures with their intervals."""

    def text(row: Row) -> str:
        ends = (_float(row, key) for key in (name, low, high))
        if digits == 3:
            return interval(*ends)
        value, *rest = (number(end, digits) for end in ends)
        return value if rest[0] == "–" else f"{value} ({rest[0]}–{rest[1]})"

    return Column(title, text, _sorted_by(name))


def people(title: str = "patients (events)") -> Column:
    """Patients, with events in brackets where they are known."""

    def text(row: Row) -> str:
        if row["patients"] is None:
            return "–"
        events = row.get("events")
        return f"{row['patients']}" + ("" if events is None else f" ({events})")

    return Column(title, text, _sorted_by("patients"))


def cells(facet: bool = True) -> list[Column]:
    """The columns that name a cell."""
    return [words("architecture", facet=facet), words("modality", facet=facet)]


def counted_reasons(rows: Iterable[Row]) -> list[str]:
    """Each reason once, with the number of rows that it is given for."""
    counts = Counter(str(row["reason"]) for row in rows if row.get("reason"))
    return [f"{reason} ({counted(n, 'row')})" for reason, n in counts.items()]


def _sorted_by(name: str) -> Callable[[Row], str | float]:
    def key(row: Row) -> str | float:
        value = _float(row, name)
        return "" if isnan(value) else value

    return key


def _float(row: Row, name: str) -> float:
    value = row.get(name)
    return float("nan") if value is None else float(value)
