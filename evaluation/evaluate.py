"""From a sweep folder to its evaluation folder."""

from dataclasses import fields
from pathlib import Path

from evaluation.files import csv_text, write_together
from evaluation.result import Evaluation, compute
from evaluation.tables.make import Tables

_KINDS = ("svg", "pdf", "png")


def evaluate(
    sweep_dir: Path,
    *,
    out: Path | None = None,
    store: Path | None = None,
    head: str = "",
    figures: bool = False,
) -> Evaluation:
    """Compute all tables of a sweep and write them, with report, figures and checklists.

    The same folder and ledger of its store give the same bytes again: `report.html`, each table of
    `Tables` as a CSV file of its name, `recalibration.json` (the maps to be applied to deployed
    models), `figures/` (SVG; PDF and PNG where asked for), `checklists/` (CSV) and, where a
    deployed model is done, `model_card.md`.

    Args:
        sweep_dir: Sweep folder (docs/design.md, Sweep folder).
        out: Where to write; `SWEEP_DIR/evaluation` if not given.
        store: As `compute`.
        head: As `compute`.
        figures: Write figures as PDF and PNG, too; a folder that has some gets them anew anyway.

    Raises:
        EvaluationError: as `compute`.
    """
    from evaluation.checklists import as_csv, fill
    from evaluation.figures import drawings
    from evaluation.report import report_html
    from evaluation.text.model_card import model_card
    from evaluation.text.recalibration import FILE, recalibration_json

    result = compute(sweep_dir, out=out, store=store, head=head)
    drawn, checklists = drawings(result), fill(result)
    contents: dict[str, str | bytes] = _csv_files(result.tables)
    kinds = _KINDS if figures or any(result.folder.glob("figures/*.pdf")) else _KINDS[:1]
    for drawing in drawn.values():
        contents |= {f"figures/{drawing.name}.{kind}": drawing.saved(kind) for kind in kinds}
    contents |= {f"checklists/{name}.csv": as_csv(items) for name, items in checklists.items()}
    if card := model_card(result):
        contents["model_card.md"] = card
    contents[FILE] = recalibration_json(result)
    contents[result.report.name] = report_html(result, drawn, checklists)
    files = {result.folder / name: content for name, content in contents.items()}
    for folder in {path.parent for path in files}:
        folder.mkdir(parents=True, exist_ok=True)
    write_together(files)
    return result


def _csv_files(tables: Tables) -> dict[str, str | bytes]:
    return {f"{field.name}.csv": csv_text(getattr(tables, field.name)) for field in fields(tables)}
