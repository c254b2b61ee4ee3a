"""How figures look: a journal's widths, colours for any colour vision, and files that do not vary.

Colours are Okabe & Ito's (jfly.uni-koeln.de/color). Each architecture has a line style and a marker
besides, each part of the data too, so that nothing is told by colour alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from math import isfinite
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
MARKERS = "os^Dv<>"
INK, FAINT, LINE = "#222222", "#767676", "#c8c8c8"

ONE_COLUMN, TWO_COLUMNS = 85.0, 180.0
"""Widths of the columns of Radiology and of Frontiers journals, mm."""
DPI = 350
"""Of PNG files; journals ask for 300 at least for figures with text."""

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.2,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "pdf.fonttype": 42,  # TrueType, embedded: what journals' checkers ask for
    "svg.fonttype": "path",
}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure and what it says.

    Attributes:
        name: Name of its files and of its place in the report.
        title: What it shows.
        figure: The figure.
        alt: What a reader who does not see it must know.
        caption: How it was made and how it is read.
    """

    name: str
    title: str
    figure: Figure
    alt: str
    caption: str

    def __post_init__(self) -> None:
        if engine := self.figure.get_layout_engine():
            engine.execute(self.figure)
        # The layout is found once, not again for every file; with an engine, matplotlib would
        # draw twice for each.
        self.figure.set_layout_engine(None)

    @cached_property
    def svg(self) -> str:
        """An SVG document; glyphs are outlines, so that no font is needed."""
        return self._saved("svg").decode()

    def saved(self, kind: str) -> bytes:
        """The figure for a paper: `svg`, `pdf` with its fonts, or `png` at DPI."""
        return self.svg.encode() if kind == "svg" else self._saved(kind)

    def _saved(self, kind: str) -> bytes:
        # Without dates and versions, so that the same sweep gives the same bytes.
        absent = {
            "svg": ("Date", "Creator"),
            "pdf": ("CreationDate", "Creator", "Producer"),
            "png": ("Software",),
        }
        file = BytesIO()
        with mpl.rc_context({**_RC, "svg.hashsalt": self.name}):
            self.figure.savefig(file, format=kind, dpi=DPI, metadata=dict.fromkeys(absent[kind]))
        return file.getvalue()


@contextmanager
def styled() -> Iterator[None]:
    """The settings under which figures are made."""
    with mpl.rc_context(_RC):
        yield


def panels(
    columns: Sequence[str], *, rows: int = 1, height_mm: float, share: bool = True
) -> tuple[Figure, list[list[Axes]]]:
    """A grid of panels with a title over each column: as wide as one column, or as two.

    With `share`, all panels have the same axes.
    """
    width = ONE_COLUMN if len(columns) == 1 else TWO_COLUMNS
    figure = Figure(figsize=(width / 25.4, height_mm / 25.4), layout="constrained")
    grid = figure.subplots(rows, len(columns), sharex=share, sharey=share, squeeze=False)
    for axes, title in zip(grid[0], columns, strict=True):
        axes.set_title(title, loc="left", fontweight="bold")
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, [list(row) for row in grid]


def of_style(index: int) -> dict[str, object]:
    """Colour and line style of the architecture of that place in the list."""
    return {"color": COLOURS[index % len(COLOURS)], "ls": LINES[index % len(LINES)]}


def below(figure: Figure, axes: Axes) -> None:
    """One legend under all panels, of the labelled artists of one of them."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=5, frameon=False,
            handlelength=3,
        )  # fmt: skip


def whisker(
    axes: Axes, y: float, ends: tuple[float, float, float], look: tuple[str, str, str]
) -> None:
    """An estimate with its interval; `look` is marker, colour and face of the marker."""
    shape, colour, face = look
    value, low, high = ends
    if isfinite(value):
        axes.plot([low, high], [y, y], color=colour, lw=1.3)
        axes.plot(value, y, shape, ms=4.2, mfc=face, mec=colour, mew=0.9)
