"""The list of runs as frozen in `sweep.json`; in what a later call differs from it."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from datamodules.store.folder import Store
from datamodules.store.splits import Split
from evaluation.records.analysis import read_analysis
from experiments.config.compose import Run, open_cohort
from experiments.config.files import load_yaml
from experiments.config.identity import what_counts
from experiments.config.variants import CELL
from experiments.errors import ConfigError
from experiments.run_folder.files import write_atomic
from experiments.run_folder.lock import run_lock
from experiments.run_folder.status import read_status
from experiments.sweeps.expand import Sweep


def run_difference(runs: Sequence[Run], frozen: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """What the runs differ in: cells, or within the first common cell the settings.

    Args:
        runs: Of the sweep as it is now.
        frozen: Entries of the list in the sweep's folder.
        folder: The sweep's folder.
    """
    by_cell = {tuple(str(entry[k]) for k in CELL): entry for entry in frozen}
    mine = {tuple(str(getattr(run.study, k)) for k in CELL): run for run in runs}
    added, removed = sorted(mine.keys() - by_cell), sorted(by_cell.keys() - mine)
    told = []
    for word, cells in (("new", added), ("missing", removed)):
        if cells:
            told.append(f"{len(cells)} {word} (first {'-'.join(cells[0])})")
    for cell, run in mine.items():
        entry = by_cell.get(cell)
        if entry and entry["run_id"] != run.run_id:
            told.append(f"{'-'.join(cell)} changed: {_changes(folder, entry, run)}")
            break
    return "; ".join(told)


def analysis_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Settings of the analysis that changed."""
    return ", ".join(f"{k} {before[k]!r} -> {after[k]!r}" for k in before if before[k] != after[k])


def _changes(folder: Path, entry: Mapping[str, Any], run: Run) -> str:
    for name, word in (("store_sha", "the store"), ("split_sha", "the split")):
        if entry["shas"][name] != run.shas[name]:
            return word
    config = folder / entry["run_id"] / "config.yaml"
    if not config.is_file():
        return "its settings"
    before = _flat(OmegaConf.to_container(OmegaConf.load(config)))
    after = _flat(run.config)
    keys = [k for k in sorted(before.keys() | after) if before.get(k) != after.get(k)]
    shown = [f"{k} {before.get(k)!r} -> {after.get(k)!r}" for k in keys if ".sizes." not in k]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        k: v
        for key, sub in node.items()
        for k, v in _flat(sub, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def freeze(sweep: Sweep, *, extend: bool = False) -> None:
    """Write the list of runs, their folders and the sealed cohort; refuse a differing sweep.

    Args:
        sweep: What `load_sweep` gave.
        extend: Add the runs that are new to a sweep frozen before.

    Raises:
        ConfigError: If the folder holds a sweep of other runs and `extend` is not set.
    """
    for _ in range(100):  # another sweep that freezes takes an instant
        with run_lock(sweep.folder) as free:
            if free:
                _freeze(sweep, extend=extend)
                return
        time.sleep(0.1)
    raise ConfigError(
        f"sweep must be frozen by one process at a time, got another that does not end "
        f"({sweep.folder}). End it, and call again."
    )


def _freeze(sweep: Sweep, *, extend: bool) -> None:
    path = sweep.folder / "sweep.json"
    listed = [_entry(run, sweep.needs.get(run.run_id, ())) for run in sweep.runs]
    analysis = asdict(sweep.analysis)
    if path.is_file():
        listing = json.loads(path.read_text())
        frozen = listing["runs"]
        before = read_analysis(listing.get("analysis", {}))
        if before != sweep.analysis:
            raise ConfigError(
                f"analysis must be the one frozen in {path} before training, got "
                f"{analysis_difference(asdict(before), analysis)}. Undo the change, or give the "
                "sweep another name=."
            )
        old, new = ({entry["run_id"] for entry in entries} for entries in (frozen, listed))
        if old == new:
            _make_folders(sweep)
            return
        if not extend:
            difference = run_difference(sweep.runs, frozen, sweep.folder)
            raise ConfigError(
                f"sweep must be the one frozen in {path}, got {difference}. "
                "Give it another name=, undo the change, or add runs with --extend."
            )
        listed = [*frozen, *(entry for entry in listed if entry["run_id"] not in old)]
    _make_folders(sweep)
    _write_cohort(sweep)
    content = {"name": sweep.name, "analysis": analysis, "runs": listed}
    write_atomic(path, json.dumps(content, indent=1))


def _entry(run: Run, needs: Sequence[str]) -> dict[str, Any]:
    study = run.study
    entry = {"run_id": run.run_id, **{k: getattr(study, k) for k in CELL}, "shas": run.shas}
    return entry | ({"needs": list(needs)} if needs else {})


def _make_folders(sweep: Sweep) -> None:
    for run in sweep.runs:
        config = run.folder / "config.yaml"
        run.folder.mkdir(parents=True, exist_ok=True)
        text = OmegaConf.to_yaml(OmegaConf.create(run.config))
        before = config.read_text() if config.is_file() else None
        if before not in (None, text):
            _check_unedited(run, config)
        # Rewritten for a run not yet done: what is not in the id (store path, threads) may change.
        if before is None or (before != text and read_status(run.folder).state != "done"):
            write_atomic(config, text)


def _check_unedited(run: Run, path: Path) -> None:
    """Refuse a config.yaml in a run folder that would be another run by now."""
    try:
        found = _counted(load_yaml(path))
        same = found == _counted(OmegaConf.create(run.config))
    except (KeyError, TypeError):
        same = False
    if not same:
        raise ConfigError(
            f"config.yaml must be the one its run was named for, got an edited one ({path}). "
            "Undo the edit, or set your change on the command line or in the sweep and give it "
            "another name=."
        )


def _counted(config: Any) -> Any:
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return what_counts(plain)


def _write_cohort(sweep: Sweep) -> None:
    study = sweep.runs[0].study
    store, split = open_cohort(study.store, study.split)
    cohort, holdout = store.items.copy(), split.holdout
    cohort["label"] = cohort["label"].astype("Int8").mask(cohort["patient_id"].isin(holdout))
    write_atomic(sweep.folder / "cohort.parquet", cohort.to_parquet(index=False))
    _write_design(sweep, store, split)


def _write_design(sweep: Sweep, store: Store, split: Split) -> None:
    """What the report tells of store and split, so that it needs neither; no patient is named."""
    content: dict[str, Any] = {
        "canvas": store.canvas,
        "split": {"name": split.name, "seed": split.seed, **split.scheme},
    }
    for name in ("skipped", "quality"):
        path = store.path / f"{name}.csv"
        if path.is_file():
            write_atomic(sweep.folder / path.name, path.read_bytes())
    write_atomic(sweep.folder / "design.json", json.dumps(content, indent=1))
