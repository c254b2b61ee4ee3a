"""In what a sweep differs from the one that its folder holds, in words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from evaluation.records.listing import ListedRun
from experiments.config.files import load_yaml
from experiments.config.run import Run


def run_difference(runs: Sequence[ListedRun], frozen: Sequence[ListedRun]) -> str:
    """Which cells are new or missing; "" if both have the same."""
    cells, frozen_cells = (
        {"-".join(map(str, run.cell)) for run in listed} for listed in (runs, frozen)
    )
    differences = {"new": cells - frozen_cells, "missing": frozen_cells - cells}
    return "; ".join(
        f"{len(names)} {word} (first {min(names)})" for word, names in differences.items() if names
    )


def setting_difference(run: Run, frozen: ListedRun) -> str:
    """What changed in the run of a cell since it was frozen: store, split, or settings."""
    for name, word in (("store_sha", "the store"), ("split_sha", "the split")):
        if frozen.shas[name] != run.shas[name]:
            return word
    config = run.folder.parent / frozen.run_id / "config.yaml"
    if not config.is_file():
        return "its settings"
    before = dict(_flat(OmegaConf.to_container(load_yaml(config))))
    after = dict(_flat(run.config))
    changes = [
        f"{key} {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after)
        if before.get(key) != after.get(key) and ".sizes." not in key
    ]
    return ", ".join(changes[:5]) + (f" and {len(changes) - 5} more" if len(changes) > 5 else "")


def analysis_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Settings of the analysis that changed."""
    return ", ".join(f"{k} {before[k]!r} -> {after[k]!r}" for k in before if before[k] != after[k])


def _flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield path, node
        return
    for key, child in node.items():
        yield from _flat(child, f"{path}.{key}" if path else str(key))
