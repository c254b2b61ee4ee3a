"""From a sweep folder to tables, CSV files and the report, using nothing but that folder."""

from dataclasses import dataclass, fields
from pathlib import Path

from evaluation.files import write_atomic
from evaluation.runs import Sweep, read_sweep
from evaluation.seal import Seal, read_seal
from evaluation.study import Study, read_study
from evaluation.tables import Tables, make_tables


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The outcome of `evaluate`.

    Attributes:
        sweep: What was read.
        study: What the folder tells of the study besides predictions.
        seal: State of the hold-out.
        tables: All numbers.
        folder: Where the CSV files and the report are.
    """

    sweep: Sweep
    study: Study
    seal: Seal
    tables: Tables
    folder: Path

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / "report.html"

    @property
    def exit_code(self) -> int:
        """0, or 3 when the hold-out was opened again or something was changed since."""
        return 0 if self.seal.sound else 3

    def render(self, width: int = 80) -> str:
        """The comparison as text, `width` columns wide at most."""
        from evaluation.terminal import render

        return render(self, width)


def compute(sweep_dir: Path, *, out: Path | None = None) -> Evaluation:
    """All tables of a sweep, without writing anything.

    Args:
        sweep_dir: Sweep folder (DESIGN, run directory).
        out: Where `evaluate` is to write; `SWEEP_DIR/evaluation` if not given.

    Raises:
        EvaluationError: as `read_sweep`, `read_study` and `read_seal`.
    """
    sweep = read_sweep(Path(sweep_dir))
    study, seal = read_study(sweep), read_seal(sweep)
    tables = make_tables(
        sweep, study=study, test_labels=seal.labels, test_thresholds=seal.thresholds
    )
    folder = Path(out) if out else sweep.path / "evaluation"
    return Evaluation(sweep=sweep, study=study, seal=seal, tables=tables, folder=folder)


def evaluate(sweep_dir: Path, *, out: Path | None = None) -> Evaluation:
    """Compute all tables of a sweep and write them, with report, figures and checklists.

    The same folder gives the same bytes again: `report.html`, each table of `Tables` as a CSV file
    of its name, `figures/` (SVG, PDF, PNG), `checklists/` (CSV) and, where a deployed model is
    done, `model_card.md`.

    Args:
        sweep_dir: Sweep folder (DESIGN, run directory).
        out: Where to write; `SWEEP_DIR/evaluation` if not given.

    Raises:
        EvaluationError: as `compute`.
    """
    from evaluation.checklists import as_csv, fill
    from evaluation.figures import drawings
    from evaluation.model_card import model_card
    from evaluation.report import report_html

    result = compute(sweep_dir, out=out)
    made, checklists = drawings(result), fill(result)
    contents: dict[str, str | bytes] = _csv_files(result.tables)
    for drawing in made.values():
        contents |= {f"figures/{name}": content for name, content in drawing.files().items()}
    contents |= {f"checklists/{name}.csv": as_csv(items) for name, items in checklists.items()}
    if card := model_card(result):
        contents["model_card.md"] = card
    contents[result.report.name] = report_html(result, made, checklists)
    for name, content in contents.items():
        path = result.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    return result


def _csv_files(tables: Tables) -> dict[str, str | bytes]:
    return {
        f"{field.name}.csv": getattr(tables, field.name).to_csv(index=False, lineterminator="\n")
        for field in fields(tables)
    }
