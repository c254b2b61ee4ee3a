"""From a sweep folder to tables, CSV files and the report, using nothing but that folder."""

from dataclasses import dataclass, fields
from pathlib import Path

from evaluation.files import write_atomic
from evaluation.runs import Sweep, read_sweep
from evaluation.seal import Seal, read_seal
from evaluation.tables import Tables, make_tables


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The outcome of `evaluate`.

    Attributes:
        sweep: What was read.
        seal: State of the hold-out.
        tables: All numbers.
        folder: Where the CSV files and the report are.
    """

    sweep: Sweep
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


def evaluate(sweep_dir: Path, *, out: Path | None = None) -> Evaluation:
    """Compute all tables of a sweep and write them, with the report.

    The same folder gives the same bytes again: `report.html`, and each table of `Tables` as a CSV
    file of its name.

    Args:
        sweep_dir: Sweep folder (DESIGN, run directory).
        out: Where to write; `SWEEP_DIR/evaluation` if not given.

    Raises:
        EvaluationError: as `read_sweep` and `read_seal`.
    """
    from evaluation.report import report_html

    sweep = read_sweep(Path(sweep_dir))
    seal = read_seal(sweep)
    tables = make_tables(sweep, test_labels=seal.labels, test_thresholds=seal.thresholds)
    folder = Path(out) if out else sweep.path / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    for field in fields(tables):
        csv = getattr(tables, field.name).to_csv(index=False, lineterminator="\n")
        write_atomic(folder / f"{field.name}.csv", csv)
    result = Evaluation(sweep=sweep, seal=seal, tables=tables, folder=folder)
    write_atomic(result.report, report_html(result))
    return result
