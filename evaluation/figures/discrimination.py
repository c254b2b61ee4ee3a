"""Figures of discrimination: AUCs of all cells, ROC curves, folds, differences between cells."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.figures.cells import (
    PARTS,
    architectures_of,
    curves_of,
    modalities_of,
    of_cell,
    part_panels,
    parts_of,
)  # fmt: skip
from evaluation.figures.style import (
    COLOURS,
    FAINT,
    INK,
    LINE,
    TWO_COLUMNS,
    Drawing,
    below,
    marker,
    panels,
)  # fmt: skip
from evaluation.result import Evaluation
from evaluation.tables.comparisons import PAIRED, PRIMARY
from evaluation.text.format import _PRIMARY, interval, number, p_value, pair


def comparison(evaluation: Evaluation) -> Drawing:
    """Fold-mean out-of-fold AUC of every cell, and the test AUC once it is open."""
    opened = evaluation.seal.labels is not None
    cells, modalities = evaluation.tables.cells, evaluation.tables.modalities
    ranked = cells.dropna(subset="fold_mean_auc").sort_values("fold_mean_auc", kind="stable")
    best = ranked.to_dict("records")[-1] if len(ranked) else None
    told = (
        f"The highest fold-mean out-of-fold AUC is that of {best['architecture']} "
        f"{best['modality']}, "
        f"{interval(best['fold_mean_auc'], best['fold_mean_low'], best['fold_mean_high'])}. "
        if best is not None
        else "No fold-mean AUC is defined. "
    )
    means = "; ".join(
        f"{row['modality']} {number(row['fold_mean_auc'])}" for row in modalities.to_dict("records")
    )
    return Drawing(
        name="comparison",
        title="AUC of each architecture and modality",
        figure=comparison_figure(evaluation),
        alt=f"{told}Means over architectures: {means}. All values are in the table Results.",
        caption="Circles: fold-mean out-of-fold AUC with LeDell's 95 % interval (hollow: not all "
        "runs done). "
        + ("Squares: test AUC with DeLong's 95 % interval. " if opened else "")
        + "Dotted: mean over architectures. Grey line: chance.",
    )


def comparison_figure(evaluation: Evaluation) -> Figure:
    """One panel a modality, one row an architecture."""
    tables, opened = evaluation.tables, evaluation.seal.labels is not None
    architectures, modalities = architectures_of(evaluation), modalities_of(evaluation)
    figure, (row,) = panels(modalities, height_mm=19 + 4 * opened + 6.5 * len(architectures))
    means = tables.modalities.set_index("modality")["fold_mean_auc"]
    lowest = np.nanmin([0.45, *tables.cells["fold_mean_low"], *tables.test["low"]])
    shift = 0.17 if opened else 0.0
    for colour, axes, modality in zip(COLOURS * 10, row, modalities, strict=False):
        axes.axvline(0.5, color=LINE, lw=0.8)
        if np.isfinite(means[modality]):
            axes.axvline(means[modality], color=colour, lw=0.9, ls=":")
        for at, architecture in enumerate(architectures):
            mine = of_cell(tables.cells, architecture, modality)
            if len(mine):
                cell = mine.iloc[0]
                face = colour if cell["complete"] else "white"
                ends = cell["fold_mean_auc"], cell["fold_mean_low"], cell["fold_mean_high"]
                _whisker(axes, at - shift, ends, ("o", colour, face))
            tested = of_cell(tables.test, architecture, modality)
            if opened and len(tested):
                test = tested.iloc[0]
                ends = test["auc"], test["low"], test["high"]
                face = FAINT if test["runs_done"] == test["runs_expected"] else "white"
                _whisker(axes, at + shift, ends, ("s", FAINT, face))
        axes.set(xlim=(lowest - 0.02, 1.02), xlabel="AUC (95 % CI)")
        axes.set_ylim(len(architectures) - 0.5, -0.5)
    row[0].set_yticks(range(len(architectures)), architectures)
    if opened:
        for shape, colour, name in (("o", COLOURS[0], "out-of-fold"), ("s", FAINT, "test")):
            row[0].plot([], [], shape, ms=4.2, color=colour, label=name)
        below(figure, row[0])
    return figure


def _whisker(
    axes: Axes, y: float, ends: tuple[float, float, float], look: tuple[str, str, str]
) -> None:
    """An estimate with its interval; `look` is marker, colour and face of the marker."""
    shape, colour, face = look
    value, low, high = ends
    if np.isfinite(value):
        axes.plot([low, high], [y, y], color=colour, lw=1.3)
        axes.plot(value, y, shape, ms=4.2, mfc=face, mec=colour, mew=0.9)


def roc(evaluation: Evaluation) -> Drawing:
    """ROC curves of all cells over each other, the selected ones with their bands."""
    tables = evaluation.tables
    picked = tables.cells[tables.cells["selected"]]
    areas = "; ".join(
        f"{cell['modality']} {cell['architecture']} {number(cell['pooled_auc'])}"
        for cell in picked.to_dict("records")
    )
    parts = parts_of(evaluation)
    return Drawing(
        name="roc",
        title="ROC curves",
        figure=roc_figure(evaluation),
        alt="ROC curves of all architectures, one panel a modality"
        + ("; upper row out-of-fold, lower row test" if len(parts) > 1 else "")
        + (f". Pooled out-of-fold areas of the selected ones: {areas}." if areas else "."),
        caption="Out-of-fold scores of all folds pooled into one curve (secondary: pooling mixes "
        "models of different folds). Band: pointwise 95 % band of the modality's selected "
        "architecture, by resampling patients within their class. In the legend the area.",
    )


def roc_figure(evaluation: Evaluation) -> Figure:
    """One column a modality; a row out-of-fold, and a row test once it is open."""
    tables = evaluation.tables
    figure, shown = part_panels(
        evaluation, height_mm=12, row_mm=58, x="1 − specificity", y="sensitivity"
    )
    areas = {
        "oof": tables.cells.set_index(["architecture", "modality"])["pooled_auc"],
        "test": tables.test.set_index(["architecture", "modality"])["auc"],
    }
    chosen = tables.cells[tables.cells["selected"]].set_index("modality")["architecture"]
    for axes, part, modality in shown:
        axes.plot([0, 1], [0, 1], color=LINE, lw=0.8)
        for architecture, curve, style in curves_of(evaluation, tables.roc, part, modality):
            if curve.empty:
                continue
            area = number(areas[part][architecture, modality])
            axes.plot(
                1 - curve["specificity"], curve["sensitivity"], **style,
                label=f"{architecture} {area}",
            )  # fmt: skip
            if chosen.get(modality) == architecture:
                band = of_cell(tables.roc_bands, architecture, modality, part=part)
                axes.fill_between(
                    1 - band["specificity"], band["low"], band["high"],
                    color=style["color"], alpha=0.14, lw=0,
                )  # fmt: skip
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", frameon=False, handlelength=2.8, borderpad=0)
    return figure


def folds(evaluation: Evaluation) -> Drawing:
    """How much the AUC of a fold varies."""
    spread = evaluation.tables.cells["fold_sd_auc"]
    told = (
        f"The SD over folds lies between {number(spread.min())} and {number(spread.max())}."
        if spread.notna().any()
        else "No spread over folds is defined."
    )
    return Drawing(
        name="folds",
        title="Spread over folds",
        figure=fold_figure(evaluation),
        alt=f"AUC of each fold, one panel a modality. {told}",
        caption="AUC within each fold (markers) and the mean over folds (bar). Grey line: chance.",
    )


def fold_figure(evaluation: Evaluation) -> Figure:
    """One panel a modality, the folds of each architecture beside each other."""
    tables = evaluation.tables
    architectures, modalities = architectures_of(evaluation), modalities_of(evaluation)
    figure, (row,) = panels(modalities, height_mm=58)
    for axes, modality in zip(row, modalities, strict=True):
        axes.axhline(0.5, color=LINE, lw=0.8)
        for index, architecture in enumerate(architectures):
            cell = of_cell(tables.cells, architecture, modality)
            if cell.empty:
                continue
            mean = cell["fold_mean_auc"].iloc[0]
            axes.plot([index - 0.3, index + 0.3], [mean, mean], color=INK, lw=1.2)
            aucs = of_cell(tables.folds, architecture, modality)["auc"].to_numpy(float)
            spread = np.linspace(-0.18, 0.18, aucs.size) if aucs.size > 1 else np.zeros(aucs.size)
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(index + spread, aucs, marker(index), ls="", ms=3.4, color=colour, alpha=0.85)
        axes.set_xticks(range(len(architectures)), architectures, rotation=35, ha="right")
    row[0].set_ylabel("AUC of a fold")
    return figure


def forest(evaluation: Evaluation) -> Drawing:
    """Paired differences: the primary contrast apart from the families."""
    table = evaluation.tables.comparisons
    paired = table[(table["patients_used"] == PAIRED) & table["p_value"].notna()]
    secondary = paired[paired["family"] != PRIMARY]
    below_5 = int((secondary["p_holm"] < 0.05).sum())
    first = paired[paired["family"] == PRIMARY].to_dict("records")
    told = "; ".join(
        f"primary contrast, {PARTS[row['part']]}: {pair(row)} "
        f"{number(row['difference'])} ({number(row['low'])} to {number(row['high'])})"
        for row in first
    )
    return Drawing(
        name="forest",
        title="Paired differences of AUC",
        figure=forest_figure(evaluation),
        alt=(f"{told[:1].upper()}{told[1:]}. " if told else "No primary contrast could be tested. ")
        + f"Of {len(secondary)} other differences {below_5} differ from 0 at 0.05 after Holm.",
        caption="Difference of AUC on the patients that both models scored, with its 95 % interval "
        "(not adjusted). Out-of-fold: influence curves of the fold mean; test: DeLong. p: the "
        "primary contrast is tested alone; within each family p is adjusted by Holm's method. "
        "Filled: p < 0.05.",
    )


def forest_figure(evaluation: Evaluation) -> Figure:
    """A row a pair, families below each other; a panel out-of-fold, and one test once open."""
    table, parts = evaluation.tables.comparisons, parts_of(evaluation)
    paired = table[table["patients_used"] == PAIRED]
    listed = [
        (family, [pair(row) for row in mine[mine["part"] == "oof"].to_dict("records")])
        for family, mine in paired.groupby("family", sort=False)
    ]
    places: dict[tuple[str, str], float] = {}
    labels: list[tuple[float, str, bool]] = []
    y = 0.0
    for family, pairs in listed:
        labels.append((y, _PRIMARY if family == PRIMARY else str(family), True))
        for name in pairs:
            y += 1
            places[str(family), name] = y
            labels.append((y, name, False))
        y += 1.6
    figure = Figure(figsize=(TWO_COLUMNS / 25.4, (16 + 3.5 * y) / 25.4))
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
            is_primary = row["family"] == PRIMARY
            colour = COLOURS[1] if is_primary else COLOURS[0]
            p = row["p_value"] if is_primary else row["p_holm"]
            face = colour if p < 0.05 else "white"
            ends = row["difference"], row["low"], row["high"]
            _whisker(axes, at, ends, ("D" if is_primary else "o", colour, face))
            axes.annotate(
                p_value(p).removeprefix("p = ").removeprefix("p "), (1.0, at), fontsize=5.5,
                xycoords=("axes fraction", "data"), va="center", annotation_clip=False,
            )  # fmt: skip
        for at, text, is_heading in labels:
            if is_heading:
                axes.annotate(
                    "p" if text == _PRIMARY else "p (Holm)", (1.0, at), fontsize=5.5,
                    xycoords=("axes fraction", "data"), va="center", annotation_clip=False,
                    fontweight="bold",
                )  # fmt: skip
        axes.set_xlabel("difference of AUC (95 % CI)")
    grid[0].set_yticks([at for at, _, _ in labels], [text for _, text, _ in labels], fontsize=6)
    for tick, (_, _, is_heading) in zip(grid[0].get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if is_heading else "normal")
    grid[0].set_ylim(y, -1)
    return figure
