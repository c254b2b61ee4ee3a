"""The figure of the differences between cells."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.figures.cells import parts_of
from evaluation.figures.style import COLOURS, LINE, TWO_COLUMNS, Drawing, whisker
from evaluation.result import Evaluation
from evaluation.tables.comparisons import CONFIRMATORY, PAIRED, PRIMARY
from evaluation.text.format import PARTS, bare_p, difference, pair

_HEADING = "primary contrast"


def forest(evaluation: Evaluation) -> Drawing:
    """Paired differences, a row a pair: the primary contrast apart from the families."""
    table, parts = evaluation.tables.comparisons, parts_of(evaluation)
    paired = table[table["patients_used"] == PAIRED]
    places, labels, height = _places(paired)
    figure = Figure(figsize=(TWO_COLUMNS / 25.4, (16 + 3.5 * height) / 25.4))
    figure.set_layout_engine("constrained", w_pad=0.06)
    grid = figure.subplots(1, len(parts), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (part, name) in zip(grid, parts.items(), strict=True):
        axes.set_title(name, loc="left", fontweight="bold")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.axvline(0, color=LINE, lw=0.8)
        for row in paired[paired["part"] == part].to_dict("records"):
            at = places.get((row["family"], pair(row)))
            if at is None or np.isnan(row["difference"]):
                continue
            shape, colour, p = (
                ("D", COLOURS[1], row["p_value"])
                if row["family"] == PRIMARY
                else ("o", COLOURS[0], row["p_holm"])
            )
            look = shape, colour, colour if p < 0.05 else "white"
            whisker(axes, at, (row["difference"], row["low"], row["high"]), look)
            _beside(axes, at, bare_p(p))
        for at, text, is_heading in labels:
            if is_heading:
                heading = "p" if text == _HEADING else "p (Holm)"
                _beside(axes, at, heading, fontweight="bold")
        axes.set_xlabel("difference of AUC (95 % CI)")
    grid[0].set_yticks([at for at, _, _ in labels], [text for _, text, _ in labels], fontsize=6)
    for tick, (_, _, is_heading) in zip(grid[0].get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if is_heading else "normal")
    grid[0].set_ylim(height, -1)
    tested = paired[paired["p_value"].notna()]
    secondary = tested[tested["family"] != PRIMARY]
    primary = "; ".join(
        f"primary contrast, {PARTS[row['part']]} ({row['standing']}): {pair(row)} {difference(row)}"
        for row in tested[tested["family"] == PRIMARY].to_dict("records")
    )
    confirmatory = paired[(paired["family"] == PRIMARY) & (paired["standing"] == CONFIRMATORY)]
    methods = ", ".join(dict.fromkeys(paired.loc[paired["part"] == "oof", "method"]))
    part = "".join(PARTS[name] for name in confirmatory["part"])
    message = f"{primary[:1].upper()}{primary[1:]}" or "No primary contrast could be tested"
    return Drawing(
        name="forest",
        title="Paired differences of AUC",
        figure=figure,
        alt=f"{message}. Of {len(secondary)} other differences "
        f"{int((secondary['p_holm'] < 0.05).sum())} differ from 0 at 0.05 after Holm.",
        caption="Difference of AUC on the patients that both models scored, with its 95 % interval "
        f"(not adjusted). Out-of-fold: {methods}; test: DeLong. p: the "
        "primary contrast is tested alone"
        + (f", and its test is confirmatory {part} only" if part else "")
        + "; within each family p is adjusted by Holm's method. "
        "Filled: p < 0.05.",
    )


def _places(
    paired: pd.DataFrame,
) -> tuple[dict[tuple[str, str], float], list[tuple[float, str, bool]], float]:
    """Where each family's pairs stand, what stands beside each row, and the height of all.

    Labels are a height, a text and whether it is the heading of a family.
    """
    places: dict[tuple[str, str], float] = {}
    labels: list[tuple[float, str, bool]] = []
    y = 0.0
    for family, rows in paired.groupby("family", sort=False):
        labels.append((y, _HEADING if family == PRIMARY else str(family), True))
        for row in rows[rows["part"] == "oof"].to_dict("records"):
            y += 1
            places[str(family), pair(row)] = y
            labels.append((y, pair(row), False))
        y += 1.6
    return places, labels, y


def _beside(axes: Axes, at: float, text: str, **look: Any) -> None:
    """A text right of the panel, level with a row."""
    axes.annotate(
        text, (1.0, at), fontsize=5.5, xycoords=("axes fraction", "data"), va="center",
        annotation_clip=False, **look,
    )  # fmt: skip
