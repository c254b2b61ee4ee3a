"""What an evaluation is: the sweep, its seal and its tables."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from evaluation.records.runs import Sweep, read_sweep
from evaluation.records.study import Study, read_study
from evaluation.tables.make import Tables, make_tables
from evaluation.tables.seal import Seal, read_seal


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
    def selected(self) -> pd.DataFrame:
        """The row of `cells` of each modality's selected architecture, in the modalities' order."""
        cells = self.tables.cells
        chosen = cells[cells["selected"]].set_index("modality", drop=False)
        order = [name for name in self.tables.modalities["modality"] if name in chosen.index]
        return chosen.loc[order].reset_index(drop=True)

    @property
    def repeats(self) -> int:
        """How often the patients were dealt into folds."""
        return int(self.tables.cells["repeats"].max())

    @property
    def exit_code(self) -> int:
        """0, or 3 when the hold-out was opened again or elsewhere, or something changed since.

        Likewise when predictions are not those that their run wrote, or the analysis is not the one
        that was declared when it began.
        """
        changed = any("changed" in (run.predictions, run.analysis) for run in self.sweep.runs)
        return 3 if changed or not self.seal.sound else 0


def compute(
    sweep_dir: Path, *, out: Path | None = None, store: Path | None = None, head: str = ""
) -> Evaluation:
    """All tables of a sweep, without writing anything.

    Args:
        sweep_dir: Sweep folder (docs/design.md, Sweep folder).
        out: Where `evaluate` is to write; `SWEEP_DIR/evaluation` if not given.
        store: The sweep's store, if it is not where the sweep was run on it; of it only the ledger
            is read.
        head: A head of the store's ledger that was lodged elsewhere: it must be in it.

    Raises:
        EvaluationError: as `read_sweep`, `read_study` and `read_seal`.
    """
    sweep = read_sweep(Path(sweep_dir))
    study, seal = read_study(sweep), read_seal(sweep, store, head=head)
    tables = make_tables(
        sweep, study=study, test_labels=seal.labels, test_thresholds=seal.thresholds
    )
    folder = Path(out) if out else sweep.path / "evaluation"
    return Evaluation(sweep=sweep, study=study, seal=seal, tables=tables, folder=folder)
