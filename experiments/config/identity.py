"""What of a configuration changes the result: by sections, less where and how it is computed."""

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

SECTIONS = ("model", "data", "trainer", "seed_everything")
"""Counted as they stand, less `_ELSEWHERE`."""

PROTOCOL = (
    "finetune",
    "selection",
    "warm_start",
    "freeze_epochs",
    "ema_decay",
    "matmul_precision",
    "patience",
)
"""Keys of `study:` that are counted: code reads them while a run is trained."""

# Devices, workers, paths, logging, how frames are decoded and kept: the same work all the same.
_ELSEWHERE = {
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
_INNERMOST = re.compile(r"\$\{([^${}]+)\}")


def what_counts(config: Mapping[str, Any], *, weights: bool = True) -> dict[str, Any]:
    """The part of a resolved configuration that changes the result, and so the run's id.

    Weights named by a path count by their content, a run to start from by its id.

    Args:
        config: The configuration.
        weights: Whether they count: without them it is the same wherever they are by now.
    """
    study = {key: config["study"].get(key) for key in PROTOCOL}
    if isinstance(start := study["warm_start"], Mapping):
        study["warm_start"] = {name: Path(run).name for name, run in start.items()}
    if config["study"]["modality"] != "combined":
        study["warm_start"] = None
    sha = _file_sha if weights else _any_file
    counted: dict[str, Any] = _weights_by_content(_sections(config) | {"study": study}, sha)
    return counted


def sha_of(value: Any) -> str:
    """SHA-256 of a value of plain types, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def matters(key: str, config: DictConfig) -> bool:
    """Whether a setting has a say in the result of a configuration.

    Args:
        key: Dotted path of the setting, as `study.head` or `model.init_args.pos_weight`.
        config: Not resolved: its `${...}` tell where a key of `study:` is placed.
    """
    section, *names = key.split(".")
    if section != "study":
        return next(n for n in names if n != "init_args") not in _ELSEWHERE.get(section, ())
    if names[0] in PROTOCOL:
        return names[0] != "warm_start" or config.study.modality == "combined"
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return names[0] in set(_placed(_sections(plain), config))


def _sections(config: Mapping[str, Any]) -> dict[str, Any]:
    counted = {name: copy.deepcopy(config[name]) for name in SECTIONS if name in config}
    for section, names in _ELSEWHERE.items():
        settings = counted.get(section) or {}
        for name in names:
            settings.pop(name, None)
            if isinstance(arguments := settings.get("init_args"), dict):
                arguments.pop(name, None)
    dealt = (counted.get("data") or {}).get("init_args")
    # The first partition is what a fold was before there were others, and `all` is of none.
    if isinstance(dealt, dict) and not (dealt.get("repeat") and isinstance(dealt.get("fold"), int)):
        dealt.pop("repeat", None)
    return counted


def _placed(node: Any, config: DictConfig) -> Iterator[str]:
    """Keys of `study:` that a node's `${...}` lead to, directly or through each other."""
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _placed(value, config)
    elif isinstance(node, str):
        text = node
        while reference := _INNERMOST.search(text):
            path = reference[1]
            if path.startswith("study."):
                yield path.split(".")[1]
            yield from _placed(_raw(config, path), config)
            value = OmegaConf.select(config, path)
            text = text.replace(reference[0], "" if OmegaConf.is_config(value) else str(value))


def _raw(config: DictConfig, path: str) -> Any:
    """What stands at a path, its own `${...}` left as they are."""
    parent, _, name = path.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    plain: Any = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else {}
    return plain.get(name) if isinstance(plain, dict) else None


def _weights_by_content(node: Any, sha: Callable[[str], str]) -> Any:
    if isinstance(node, dict):
        return {
            key: sha(value)
            if key == "pretrained" and isinstance(value, str)
            else _weights_by_content(value, sha)
            for key, value in node.items()
        }
    return [_weights_by_content(value, sha) for value in node] if isinstance(node, list) else node


def _any_file(name: str) -> str:  # noqa: ARG001
    return "a file"


def _file_sha(name: str) -> str:
    path = Path(name)
    return (
        _sha_of_version(path, path.stat().st_mtime_ns, path.stat().st_size)
        if path.is_file()
        else name
    )


@lru_cache(maxsize=64)
def _sha_of_version(path: Path, modified: int, size: int) -> str:  # noqa: ARG001
    return hashlib.sha256(path.read_bytes()).hexdigest()
