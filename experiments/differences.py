"""In what a sweep differs from the one that its folder holds, in words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.compose import Run
from experiments.variants import CELL


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
