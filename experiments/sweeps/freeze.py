"""The list of runs frozen in `sweep.json`, their folders, and the cohort without sealed labels."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from datamodules.files import storing, write_atomic
from datamodules.ledger import enter
from datamodules.store.folder import Store
from datamodules.store.splits import Split
from evaluation.records.analysis import MEAN
from evaluation.records.listing import FILE, FORMAT, ListedRun, Listing, Registered, read_listing
from experiments.config.files import dump_yaml, load_yaml
from experiments.config.identity import what_counts
from experiments.config.pretraining import is_pretraining
from experiments.config.run import Run, open_cohort
from experiments.errors import ConfigError
from experiments.run_folder.lock import run_lock
from experiments.run_folder.status import read_status
from experiments.sweeps.differences import analysis_difference, run_difference, setting_difference
from experiments.sweeps.expand import Sweep


def freeze(sweep: Sweep, *, extend: bool = False) -> None:
    """Write the list of runs, their folders and the sealed cohort; refuse a differing sweep.

    Args:
        sweep: As `expand` gave it.
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
    path = sweep.folder / FILE
    frozen = None
    runs = tuple(_listed(run, sweep.needs.get(run.run_id, ())) for run in sweep.runs)
    if path.is_file():
        frozen = read_listing(sweep.folder)
        _check_same_kind(sweep, frozen, path)
        run_ids, frozen_ids = ({run.run_id for run in each} for each in (runs, frozen.runs))
        if run_ids == frozen_ids:
            _make_folders(sweep)
            return
        if not extend:
            raise ConfigError(
                f"sweep must be the one frozen in {path}, got {_difference(sweep, runs, frozen)}. "
                "Give it another name=, undo the change, or add runs with --extend."
            )
        _check_primary_members(sweep, frozen, path)
        # In the order of the axes where they hold all of them, which tables and figures follow.
        if not frozen_ids <= run_ids:
            runs = (*frozen.runs, *(run for run in runs if run.run_id not in frozen_ids))
    _make_folders(sweep)
    _write_cohort(sweep)
    listing = Listing(
        name=sweep.name,
        runs=runs,
        analysis=sweep.analysis,
        question=sweep.question,
        declared=frozen.declared if frozen else None,
        registered=frozen.registered if frozen else None,
    )
    if listing.registered is None:
        listing = replace(listing, registered=_register(sweep, listing))
    write_atomic(path, listing.to_json())


def _register(sweep: Sweep, listing: Listing) -> Registered | None:
    """Enter a sweep into the ledger of its store, before it is listed anywhere."""
    study = sweep.runs[0].study
    if is_pretraining(sweep.runs[0].config):
        return None  # nobody is scored
    store, split = open_cohort(study.store, study.split)
    with storing(store.path, "A sweep is entered in the store's ledger when it begins."):
        entry = enter(
            store.path,
            "sweep",
            split.holdout,
            name=sweep.name,
            split=split.name,
            split_sha=split.sha,
            analysis_sha=listing.analysis_sha,
        )
    return Registered(str(store.path.absolute()), entry)


def _check_same_kind(sweep: Sweep, frozen: Listing, path: Path) -> None:
    if frozen.format != FORMAT:
        raise ConfigError(
            f"{FILE} must be of format {FORMAT}, got {frozen.format} ({path}): runs were named in "
            "another way then. `ceus evaluate` reads them; to train more, give the sweep another "
            "name=."
        )
    for what in ("analysis", "question"):
        before, now = asdict(getattr(frozen, what)), asdict(getattr(sweep, what))
        if before == now:
            continue
        difference = analysis_difference(before, now)
        raise ConfigError(
            f"{what} must be the one frozen in {path} before training, got {difference}. Undo "
            "the change, or give the sweep another name=."
        )


def _check_primary_members(sweep: Sweep, frozen: Listing, path: Path) -> None:
    """Refuse an architecture more in a primary mean over architectures once there are results."""
    primary = frozen.analysis.primary
    if primary is None or primary.architecture != MEAN:
        return
    known = {(run.architecture, run.modality) for run in frozen.runs}
    done = [
        run.modality
        for run in frozen.runs
        if run.modality in primary.modalities
        and read_status(sweep.folder / run.run_id).state == "done"
    ]
    cells = {(run.study.architecture, run.study.modality) for run in sweep.runs}
    # A modality without results may still get the architectures that there are.
    free = {name for name, _ in known} if done else {name for name, _ in cells}
    added = sorted(
        (name, modality)
        for name, modality in cells - known
        if modality in primary.modalities and (modality in done or name not in free)
    )
    if added:
        named = ", ".join(" ".join(cell) for cell in added[:3])
        raise ConfigError(
            "primary contrast must be the mean over the architectures that were listed before "
            f"there were results, got {len(added)} more ({named}) after {len(done)} runs were done "
            f"({path}). Give these a sweep of their own: another name=."
        )


def _difference(sweep: Sweep, runs: Sequence[ListedRun], frozen: Listing) -> str:
    """Cells that come or go, and what changed in the first that stays."""
    parts = [run_difference(runs, frozen.runs)]
    frozen_by_cell = {run.cell: run for run in frozen.runs}
    for run, listed in zip(sweep.runs, runs, strict=True):
        before = frozen_by_cell.get(listed.cell)
        if before and before.run_id != run.run_id:
            cell = "-".join(map(str, listed.cell))
            parts.append(f"{cell} changed: {setting_difference(run, before)}")
            break
    return "; ".join(filter(None, parts))


def _listed(run: Run, needs: Sequence[str]) -> ListedRun:
    study = run.study
    return ListedRun(
        run_id=run.run_id,
        architecture=study.architecture,
        modality=study.modality,
        fold=study.fold_name,
        seed=study.seed,
        shas=run.shas,
        needs=tuple(needs),
    )


def _make_folders(sweep: Sweep) -> None:
    for run in sweep.runs:
        config = run.folder / "config.yaml"
        run.folder.mkdir(parents=True, exist_ok=True)
        text = dump_yaml(run.config)
        before = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None
        if before not in (None, text):
            _check_unedited(run, config)
        # Rewritten for a run not yet done: what is not in the id (store path, threads) may change.
        if before is None or (before != text and read_status(run.folder).state != "done"):
            write_atomic(config, text)


def _check_unedited(run: Run, path: Path) -> None:
    """Refuse a config.yaml in a run folder that would be another run by now."""
    try:
        same = _counted(load_yaml(path)) == _counted(OmegaConf.create(run.config))
    except (KeyError, TypeError):
        same = False
    if not same:
        raise ConfigError(
            f"config.yaml must be the one its run was named for, got an edited one ({path}). "
            "Undo the edit, or set your change on the command line or in the sweep and give it "
            "another name=. Cut off or damaged: delete it, it is written anew."
        )


def _counted(config: Any) -> Any:
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return what_counts(plain, weights=False)  # those of the id, wherever they were then


def _write_cohort(sweep: Sweep) -> None:
    study = sweep.runs[0].study
    if is_pretraining(sweep.runs[0].config):
        return  # nobody is scored
    store, split = open_cohort(study.store, study.split)
    cohort, holdout = store.items.copy(), split.holdout
    cohort["label"] = cohort["label"].astype("Int8").mask(cohort["patient_id"].isin(holdout))
    write_atomic(sweep.folder / "cohort.parquet", cohort.to_parquet(index=False))
    _write_design(sweep, store, split)


def _write_design(sweep: Sweep, store: Store, split: Split) -> None:
    """What the report tells of store and split, so that it needs neither; no patient is named."""
    content: dict[str, Any] = {
        "canvas": store.canvas,
        "store_format": store.format,
        "as_is": store.as_is,
        "covariates": list(store.covariates),
        "split": {"name": split.name, "seed": split.seed, **split.scheme},
    }
    if split.overlap_reason:
        content["split"]["overlap_reason"] = split.overlap_reason
    for name in ("skipped", "quality"):
        path = store.path / f"{name}.csv"
        if path.is_file():
            write_atomic(sweep.folder / path.name, path.read_bytes())
    write_atomic(sweep.folder / "design.json", json.dumps(content, indent=1))
