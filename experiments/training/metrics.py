"""`metrics.csv`: what a run logged, one row a step, whole at any moment and over a resume."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from datamodules.files import write_atomic

_WRITE_SECONDS = 5.0
"""Least time between two writings by `save`, which Lightning calls at every step."""


class MetricsCsv(Logger):
    """Keeps the rows of a run and writes them all in one step.

    Lightning's CSVLogger deletes the file of an earlier attempt, and appends in place. Here the
    rows travel in `last.ckpt`: a resumed run takes up those of the epochs it does not repeat, so
    none is lost and none is there twice.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / "metrics.csv"
        self._rows: dict[int, dict[str, float]] = {}
        self._is_new = False
        self._written = -_WRITE_SECONDS

    @property
    def name(self) -> str:
        """Name of the run."""
        return self._path.parent.name

    @property
    def version(self) -> str:
        """Empty: a run folder has one file."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self._path.parent)

    @property
    def rows(self) -> list[dict[str, float]]:
        """All rows in order, each with its `step`; plain values."""
        return [{"step": step, **row} for step, row in sorted(self._rows.items())]

    def restore(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Start from the rows of an earlier attempt."""
        self._rows = {
            int(row["step"]): {k: v for k, v in row.items() if k != "step"} for row in rows
        }
        self._is_new = True

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add figures to the row of a step."""
        at = len(self._rows) if step is None else int(step)
        row = self._rows.setdefault(at, {})
        row.update({name: float(value) for name, value in metrics.items()})
        self._is_new = True

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    def save(self) -> None:
        """Write, if there is something new and the last writing is some seconds ago."""
        if time.monotonic() - self._written >= _WRITE_SECONDS:
            self.write()

    def finalize(self, status: str) -> None:  # noqa: ARG002
        """Write what is new."""
        self.write()

    @rank_zero_only
    def write(self) -> None:
        """Write all rows, if there is something new."""
        if not self._is_new:
            return
        names = {name for row in self._rows.values() for name in row} - {"epoch"}
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, ["epoch", "step", *sorted(names)], lineterminator="\n")
        table.writeheader()
        table.writerows(
            {**row, "epoch": int(row["epoch"])} if "epoch" in row else row for row in self.rows
        )
        write_atomic(self._path, text.getvalue())
        self._is_new, self._written = False, time.monotonic()
