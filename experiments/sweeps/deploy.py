"""Which cells of a sweep are trained once more on all development patients (fold `all`)."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.records.listing import FILE, read_listing
from evaluation.statistics.auc import auc_interval
from experiments.run_folder.status import read_status
from experiments.sweeps.expand import Sweep, expand
from experiments.sweeps.file import SweepFile


def with_deployed(file: SweepFile, sweep: Sweep) -> Sweep:
    """A sweep and the runs of fold `all` that its `deploy` asks for.

    Those that are listed in the sweep's folder stay whatever later results say; others are chosen
    when all runs of `sweep` are done.
    """
    if file.deploy == "none":
        return sweep
    cells = _listed(sweep.folder) or _best(sweep)
    if not cells:
        return sweep
    every = expand(replace(file, axes={**file.axes, "fold": ["all"]}))
    wanted = {
        run.run_id for run in every.runs if (run.study.architecture, run.study.modality) in cells
    }
    wanted |= {need for run_id in wanted for need in every.needs.get(run_id, ())}
    there = {run.run_id for run in sweep.runs}
    added = tuple(run for run in every.runs if run.run_id in wanted - there)
    needs = {run.run_id: every.needs[run.run_id] for run in added if run.run_id in every.needs}
    return replace(sweep, runs=(*sweep.runs, *added), needs={**sweep.needs, **needs})


def deployed_after(file: SweepFile, folds: Sweep, sweep: Sweep) -> Sweep | None:
    """`sweep` and the runs that `with_deployed` adds to `folds` only now, said aloud; else None."""
    later = with_deployed(file, folds)
    added = later.runs[len(sweep.runs) :]
    if not added:
        return None
    named = ", ".join(dict.fromkeys(f"{r.study.architecture} {r.study.modality}" for r in added))
    print(f"to deploy, best out of fold: {named}; trained on all development patients")
    return later


def oof_auc(run: Path) -> float:
    """AUC of a finished run over its out-of-fold patients.

    Raises:
        OSError, KeyError, ValueError: For a prediction table that is not there or not whole.
    """
    table = pd.read_parquet(
        run / "predictions.parquet", columns=["part", "label", "logit"], use_threads=False
    )
    scored = table[table["part"] == "oof"]
    return auc_interval(scored["label"].to_numpy(int), scored["logit"].to_numpy()).auc


def _listed(folder: Path) -> set[tuple[str, str]]:
    if not (folder / FILE).is_file():
        return set()
    return {(r.architecture, r.modality) for r in read_listing(folder).runs if r.fold == "all"}


def _best(sweep: Sweep) -> set[tuple[str, str]]:
    """Of each modality the architecture with the highest mean AUC out of fold; none before the end.

    Of equal ones the first in the list.
    """
    aucs = defaultdict[str, defaultdict[str, list[float]]](lambda: defaultdict(list))
    for run in sweep.runs:
        if read_status(run.folder).state != "done":
            return set()
        try:
            aucs[run.study.modality][run.study.architecture].append(oof_auc(run.folder))
        except (OSError, KeyError, ValueError):
            return set()  # evaluation says what is wrong with it
    return {
        (max(of, key=lambda name: np.mean(of[name])), modality) for modality, of in aucs.items()
    }
