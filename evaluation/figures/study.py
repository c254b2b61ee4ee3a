"""Figures of the study itself: the flow of patients, and how training went."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from evaluation.figures.cells import architectures_of, modalities_of
from evaluation.figures.style import (
    FAINT,
    INK,
    TWO_COLUMNS,
    Drawing,
    below,
    of_style,
    panels,
)  # fmt: skip
from evaluation.result import Evaluation
from evaluation.tables.cohort import DEVELOPMENT, HOLDOUT
from evaluation.tables.scores import of_cell
from evaluation.text.format import number


def flow(evaluation: Evaluation) -> Drawing:
    """From the cohort table to the patients scored, as far as the folder knows."""
    boxes = _boxes(evaluation)
    lines = {name: text.count("\n") + 1 for name, text in boxes.items()}
    depth = max(lines[DEVELOPMENT], lines[HOLDOUT])
    scored = max(lines["scored_oof"], lines["scored_test"])
    tops = {"table": 0.0}
    first = max(lines["table"], lines["left_out"]) + 2.2
    tops[DEVELOPMENT] = tops[HOLDOUT] = first
    tops["scored_oof"] = tops["scored_test"] = first + depth + 2.2
    total = first + depth + 2.2 + scored + 1.2
    figure = Figure(figsize=(TWO_COLUMNS / 25.4, (4 + 3.6 * total) / 25.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(total, -0.4))
    axes.set_axis_off()
    left, right, width = 0.02, 0.52, 0.46
    for name, x in (
        ("table", left), ("left_out", right), (DEVELOPMENT, left), (HOLDOUT, right),
        ("scored_oof", left), ("scored_test", right),
    ):  # fmt: skip
        if boxes[name]:
            _box(axes, (x, tops.get(name, 0.0)), width, boxes[name])

    def bottom(name: str) -> float:
        return tops[name] + lines[name] + 0.7

    middle = left + width / 2, right + width / 2
    if boxes["left_out"]:
        _arrow(axes, (left + width, 0.9), (right, 0.9))
    bend = bottom("table") + 0.75 if lines["table"] >= lines["left_out"] else first - 0.75
    axes.plot([middle[0], middle[0]], [bottom("table"), bend], color=INK, lw=0.8)
    axes.plot([middle[0], middle[1]], [bend, bend], color=INK, lw=0.8)
    for x in middle:
        _arrow(axes, (x, bend), (x, first))
    for x, name in zip(middle, (DEVELOPMENT, HOLDOUT), strict=True):
        _arrow(axes, (x, bottom(name)), (x, tops["scored_oof"]))
    return Drawing(
        name="flow",
        title="Flow of patients",
        figure=figure,
        alt=". ".join(text.replace("\n", ", ") for text in boxes.values() if text) + ".",
        caption=f"Events: {evaluation.sweep.question.endpoint}. Counts are in the table Flow "
        "below.",
    )


def _boxes(evaluation: Evaluation) -> dict[str, str]:
    """The text of each box; "" where there is none."""
    flow = evaluation.tables.flow
    steps = {step: rows.to_dict("records") for step, rows in flow.groupby("step", sort=False)}
    boxes = {"table": "Cohort\nnot recorded in this folder", "left_out": ""}
    for row in steps.get("cohort table", ()):
        boxes["table"] = f"Cohort table\n{row['rows']} files of {row['patients']} patients"
    for row in steps.get("left out", ()):
        lines = [f"Left out: {row['rows']} files, {row['patients']} patients with none left"]
        lines += [
            f"{reason['rows']} × {reason['modality'] or 'file'}: {reason['reason']}"
            for reason in steps.get("reason", ())
        ]
        boxes["left_out"] = "\n".join(lines[:9] + (["…"] if len(lines) > 9 else []))
    for split, title, scored, scored_title in (
        (DEVELOPMENT, "Development", "scored_oof", "Scored out-of-fold"),
        (HOLDOUT, "Hold-out (test)", "scored_test", "Scored on the hold-out"),
    ):
        rows = {
            step: [row for row in steps.get(step, ()) if row["split"] == split]
            for step in ("split", "available", "scored")
        }
        lines = [title + "".join(f": {_people(row)}" for row in rows["split"])]
        lines += [f"{row['modality']}: {_people(row)}" for row in rows["available"]]
        boxes[split] = "\n".join(lines)
        lines = [f"{row['modality']} models: {_people(row)}" for row in rows["scored"]]
        boxes[scored] = "\n".join([scored_title, *lines])
    return boxes


def _people(row: Mapping[Any, Any]) -> str:
    events = "labels sealed" if pd.isna(row["events"]) else f"{row['events']} events"
    return f"{row['patients']} patients ({events})"


def _box(axes: Axes, corner: tuple[float, float], width: float, text: str) -> None:
    x, top = corner
    lines = text.count("\n") + 1
    axes.add_patch(Rectangle(corner, width, lines + 0.7, fc="white", ec=INK, lw=0.8))
    head, _, rest = text.partition("\n")
    axes.text(x + 0.012, top + 0.8, head, va="center", fontsize=7, fontweight="bold")
    for at, line in enumerate(rest.split("\n") if rest else ()):
        axes.text(x + 0.012, top + 1.8 + at, line, va="center", fontsize=6.6)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = {"arrowstyle": "-|>", "color": INK, "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=arrow | {"mutation_scale": 7})


def training(evaluation: Evaluation) -> Drawing | None:
    """Losses over the epochs, a column a modality; None where no run wrote any."""
    runs, modalities = evaluation.tables.training, modalities_of(evaluation)
    if runs.empty:
        return None
    watched = bool(runs["inner_bce"].notna().any())
    shown = [("train_loss", "training loss"), ("inner_bce", "inner-validation BCE")][: 1 + watched]
    figure, grid = panels(modalities, rows=len(shown), height_mm=10 + 44 * len(shown), share=False)
    for column, modality in enumerate(modalities):
        for index, architecture in enumerate(architectures_of(evaluation)):
            curves = of_cell(evaluation.study.curves, architecture, modality)
            if curves.empty:
                continue
            count = curves["run_id"].nunique()
            for row, (figures, _) in enumerate(shown):
                by_epoch = curves.dropna(subset=figures).groupby("epoch")[figures]
                median = by_epoch.median()[by_epoch.count() >= count / 2]
                axes = grid[row][column]
                axes.plot(
                    median.index + 1, median, **of_style(index), label=architecture,  # type: ignore[arg-type]
                )  # fmt: skip
            chosen = of_cell(runs, architecture, modality)
            if watched and chosen["inner_bce"].notna().any():
                at = chosen["chosen_epoch"].median(), chosen["inner_bce"].median()
                colour = of_style(index)["color"]
                grid[1][column].plot(*at, "o", ms=3.5, mfc="white", mec=colour)
        grid[-1][column].set_xlabel("epoch")
    for row, (_, name) in enumerate(shown):
        ends = [end for axes in grid[row] for end in axes.get_ylim()]
        for axes in grid[row]:
            axes.set_ylim(min(ends), max(ends))
            axes.grid(axis="y", color=FAINT, alpha=0.2, lw=0.5)
        grid[row][0].set_ylabel(name)
    below(figure, grid[0][0])
    return Drawing(
        name="training",
        title="Training curves",
        figure=figure,
        alt=f"Training loss {'and inner-validation cross-entropy ' * watched}over epochs, one "
        f"panel a modality. Runs trained {runs['epochs'].min()} to {runs['epochs'].max()} epochs "
        f"(median {number(runs['epochs'].median(), 0)}); the epoch kept lies between "
        f"{runs['chosen_epoch'].min()} and {runs['chosen_epoch'].max()}.",
        caption="Median over the runs of a cell, as far as half of them were trained: training "
        "loss (cross-entropy of batches)"
        + (
            "; lower row: patient-level cross-entropy of inner validation, whose lowest point "
            "chooses the checkpoint (marker: median over runs)."
            if watched
            else ". The end of the schedule is the model; no epoch was chosen."
        ),
    )
