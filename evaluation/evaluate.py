"""From a sweep folder to tables, CSV files and the report, using nothing but that folder."""

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

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

    def render(self, width: int = 80) -> str:
        """The comparison as text, `width` columns wide at most."""
        from evaluation.terminal import render

        return render(self, width)


def evaluate(sweep_dir: Path, *, out: Path | None = None) -> Evaluation:
    """Compute all tables of a sweep and write them, with the report.

    The same folder gives the same bytes again. Files: `cells.csv`, `folds.csv`, `modalities.csv`,
    `patients_oof.csv`, `roc.csv`, `test.csv`, `runs.csv`, `report.html`.

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
    for name, table in {
        "cells": tables.cells,
        "folds": tables.folds,
        "modalities": tables.modalities,
        "patients_oof": tables.patients,
        "roc": tables.roc,
        "test": tables.test,
        "runs": pd.DataFrame([asdict(run) for run in sweep.runs]),
    }.items():
        write_atomic(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    result = Evaluation(sweep=sweep, seal=seal, tables=tables, folder=folder)
    write_atomic(result.report, report_html(result))
    return result
