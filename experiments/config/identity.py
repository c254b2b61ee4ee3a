"""What of a configuration changes the result, and so the run's id."""

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

# What may differ between two runs that are the same work: devices, workers, paths, logging, how
# frames are decoded and kept.
_NOT_IN_ID = {
    "study": {
        "store",
        "runs",
        "sweep",
        "sizes",
        "num_threads",
        "decode",
        "cache",
        "cache_gb",
        "last_every",
        "stall_minutes",
        "wandb",
    },
    "data": {"store", "num_threads", "decode", "cache", "cache_gb"},
    "trainer": {
        "accelerator",
        "devices",
        "num_nodes",
        "strategy",
        "default_root_dir",
        "enable_progress_bar",
        "enable_model_summary",
        "log_every_n_steps",
    },
}


def what_counts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that changes the result, and so the run's id."""
    counts = copy.deepcopy(dict(config))
    for room, names in _NOT_IN_ID.items():
        settings = counts.get(room, {})
        for name in names:
            settings.pop(name, None)
            settings.get("init_args", {}).pop(name, None)
    # A run that this one starts from counts by its id, not by where it lies.
    start = counts["study"].get("warm_start")
    if isinstance(start, Mapping):
        counts["study"]["warm_start"] = {name: Path(run).name for name, run in start.items()}
    if counts["study"]["modality"] != "combined":
        counts["study"]["warm_start"] = None
    # A path that names weights stands for their content, not for where they lie.
    return cast("dict[str, Any]", _weights_by_content(counts))


def _weights_by_content(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: hashlib.sha256(Path(value).read_bytes()).hexdigest()
            if key == "pretrained" and isinstance(value, str) and Path(value).is_file()
            else _weights_by_content(value)
            for key, value in node.items()
        }
    return [_weights_by_content(value) for value in node] if isinstance(node, list) else node


def sha_of(value: Any) -> str:
    """SHA-256 of a value of plain types, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
