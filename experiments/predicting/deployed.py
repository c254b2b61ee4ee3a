"""What a sweep deploys of a cell: models, threshold and recalibration map that belong together."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

from evaluation.files import read_csv
from evaluation.records.listing import FILE
from evaluation.records.runs import Run, Sweep, read_sweep
from evaluation.tables.operating import Thresholds, oof_thresholds
from evaluation.tables.scores import CellScores, cell_scores
from evaluation.tables.seal import Seal, read_seal
from evaluation.text.recalibration import FILE as RECALIBRATION
from experiments.errors import ConfigError
from experiments.predicting.ensemble import Ensemble
from experiments.run_folder.status import BEST


@dataclass(frozen=True)
class Deployed:
    """A cell's deployed model.

    Attributes:
        sweep: Its sweep, as read.
        seal: State of the sweep's hold-out.
        scores: The cell's scores in the sweep.
        runs: Runs of fold `all`, one a seed.
        intercept: Of the recalibration map of log-odds; NaN where there is none.
        slope: Of the same.
        no_map: Why there is none; "" if there is.
    """

    sweep: Sweep
    seal: Seal
    scores: CellScores
    runs: tuple[Run, ...]
    intercept: float
    slope: float
    no_map: str

    @cached_property
    def thresholds(self) -> Thresholds:
        """By (architecture, modality, rule): as frozen, or as an opening would freeze them now."""
        own = oof_thresholds([self.scores], self.sweep.analysis)
        return {key: self.seal.thresholds.get(key, value) for key, value in own.items()}

    @cached_property
    def ensemble(self) -> Ensemble:
        """All that a prediction needs of it besides the networks."""
        return Ensemble(
            sweep=self.sweep.name,
            cell=self.scores.cell,
            runs=tuple(run.run_id for run in self.runs),
            seeds=tuple(run.seed for run in self.runs),
            shas={**self.sweep.shas, "predictions_sha": self.sweep.predictions_sha},
            prepared=self.prepared,
            intercept=self.intercept,
            slope=self.slope,
            no_map=self.no_map,
            thresholds={rule: value for (*_, rule), value in self.thresholds.items()},
            frozen=bool(self.seal.thresholds),
            sealed=not self.seal.labels,
            analysis=self.sweep.analysis,
        )

    def checkpoint_sha(self, run: Run) -> str:
        """Of the checkpoint that a run's predictions were made with."""
        table = self.sweep.predictions
        (sha,) = set(table.loc[table["run_id"] == run.run_id, "checkpoint_sha"])
        return str(sha)

    @cached_property
    def prepared(self) -> dict[str, Any]:
        """How the sweep's store was prepared: `canvas` and `as_is` of `ceus prepare`.

        Raises:
            ConfigError: If the sweep's folder does not say it, or the store was of another format.
        """
        from datamodules.store.folder import STORE_FORMAT

        path = self.sweep.path / "design.json"
        try:
            design = json.loads(path.read_text(encoding="utf-8"))
            canvas, as_is = int(design["canvas"]), design.get("as_is")
            if as_is is None:  # prepared before it was recorded: each item tells it
                methods = read_csv(self.sweep.path / "quality.csv")["crop_method"]
                as_is = bool((methods == "as is").any())
            written = int(design.get("store_format", STORE_FORMAT))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"design.json of a sweep must say how its store was prepared, got {error!r} "
                f"({path}). Call the sweep again, which writes it."
            ) from error
        if written != STORE_FORMAT:
            raise ConfigError(
                f"store of the sweep must be of format {STORE_FORMAT}, as this version prepares "
                f"files, got {written} ({path}). Predict with the version that the sweep was run "
                "with, or run the sweep again on a store prepared anew."
            )
        return {"canvas": canvas, "as_is": bool(as_is)}


def find_deployed(folder: Path, cell: str) -> Deployed:
    """The deployed model of a cell, with all that it takes to use it.

    Args:
        folder: Sweep folder.
        cell: ARCHITECTURE-MODALITY.

    Raises:
        ConfigError: If there is no such cell, it has no deployed model, runs of it are not done or
            changed since, or the evaluation's recalibration map is not of its predictions.
        EvaluationError: as `read_sweep` and `read_seal`.
    """
    sweep = read_sweep(Path(folder))
    seal = read_seal(sweep)
    cells = {"-".join(each.cell): each for each in cell_scores(sweep, seal.labels)}
    if cell not in cells:
        raise ConfigError(
            f"cell must be one of {', '.join(cells)}, got {cell!r} ({folder}). Give an "
            "architecture and a modality of this sweep."
        )
    scores = cells[cell]
    runs = tuple(run for run in scores.runs if run.fold == "all")
    if not runs:
        folds = ", ".join(sorted({run.fold for run in scores.runs}))
        raise ConfigError(
            f"a cell must have runs of fold all to predict with, got folds {folds} ({cell} in "
            f"{folder}). Add `all` to the axis fold in the sweep's YAML file, train it by "
            "`ceus sweep FILE --extend`, then `ceus evaluate` its folder."
        )
    for run in scores.runs:
        if run.state != "done":
            reason = f": {run.reason}" if run.reason else ""
            raise ConfigError(
                "all runs of a cell must be done, for its threshold is of all folds, got "
                f"{run.run_id} {run.state}{reason} ({folder}). Call the sweep again."
            )
        if run.predictions == "changed":
            raise ConfigError(
                "predictions of a cell's runs must be as their run wrote them, got changed ones "
                f"({folder / run.run_id}). Bring the file back, or delete the run's status.json "
                "and call the sweep again."
            )
    found = _map_of(sweep, scores)
    has_map = found["intercept"] is not None
    return Deployed(
        sweep=sweep,
        seal=seal,
        scores=scores,
        runs=runs,
        intercept=float(found["intercept"]) if has_map else nan,
        slope=float(found["slope"]) if has_map else nan,
        no_map="" if has_map else str(found["reason"]),
    )


def checkpoint_of(deployed: Deployed, run: Run) -> Path:
    """The checkpoint of a run, being the one that its predictions were made with.

    Raises:
        ConfigError: If it is not there, or another.
    """
    path = deployed.sweep.path / run.run_id / "checkpoints" / BEST
    expected = deployed.checkpoint_sha(run)
    try:
        got = hashlib.sha256(path.read_bytes()).hexdigest()
        shown = got[:16]
    except OSError as error:
        got, shown = "", str(error.strerror)
    if got != expected:
        raise ConfigError(
            f"checkpoint must be the one that the run's predictions were made with, got "
            f"{shown} ({path}). Bring it back, or delete the run's status.json and call the "
            "sweep again."
        )
    return path


def _map_of(sweep: Sweep, scores: CellScores) -> dict[str, Any]:
    """The cell's entry in the evaluation's file of maps."""
    path = sweep.path / "evaluation" / RECALIBRATION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fits = content["predictions_sha"] == sweep.predictions_sha
        (entry,) = (
            each
            for each in content["maps"]
            if (each["architecture"], each["modality"]) == scores.cell
        )
        complete = {"intercept", "slope", "reason"} <= entry.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fits, complete, what = False, False, "none" if isinstance(error, OSError) else repr(error)
    else:
        what = "one of other predictions" if not fits else "one without its map"
    if not (fits and complete):
        raise ConfigError(
            f"{RECALIBRATION} must be that of the sweep's predictions in {FILE}, got {what} "
            f"({path}). Make it: ceus evaluate {sweep.path}"
        )
    return dict(entry)
