"""Which pretrained weights a configuration asks for, and where they lie."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.config.study import check_name
from experiments.errors import ConfigError


def encoders(node: Any) -> Iterator[dict[str, Any]]:
    """Every `class_path` and `init_args` under a node that asks for pretrained weights."""
    if isinstance(node, Mapping):
        arguments = node.get("init_args")
        if isinstance(arguments, Mapping) and arguments.get("pretrained", False) is not False:
            yield dict(node)
        for value in node.values():
            yield from encoders(value)


def file_of(name: str, folder: Path) -> Path:
    """Where the weights of a network lie in a folder that `ceus weights` filled.

    Raises:
        ConfigError: If its name could lead out of the folder.
    """
    check_name("name of a network with pretrained weights", str(name))
    return folder / f"{name}.safetensors"


def from_folder(config: Mapping[str, Any]) -> dict[str, Any]:
    """With `study.weights`: a file of that folder for every encoder that would download.

    Raises:
        ConfigError: If the folder lacks one.
    """
    folder = config["study"].get("weights")
    if folder is None:
        return dict(config)
    if not Path(folder).is_dir():
        raise ConfigError(
            f"weights must be a folder that ceus weights filled, got none ({folder}). Correct the "
            "path, or fetch them: ceus weights SWEEP --to FOLDER"
        )
    return {**config, "model": _placed(config["model"], Path(folder))}


def _placed(node: Any, folder: Path) -> Any:
    if not isinstance(node, Mapping):
        return node
    placed = {key: _placed(value, folder) for key, value in node.items()}
    if placed.get("pretrained") is True and "name" in placed:
        path = file_of(placed["name"], folder)
        if not path.is_file():
            raise ConfigError(
                f"weights must be a folder with {path.name}, got none there ({folder}). Fill it on "
                f"a machine with a network: ceus weights SWEEP --to {folder}"
            )
        placed["pretrained"] = str(path)
    return placed
