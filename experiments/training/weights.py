"""Pretrained weights: looked at once before the first run, or fetched for other machines."""

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from backbones.errors import EncoderError
from datamodules.files import write_atomic
from experiments.config.weights import encoders, file_of
from experiments.errors import ConfigError
from experiments.training.trial import instantiate


def check_weights(configs: Iterable[Mapping[str, Any]]) -> None:
    """Build every encoder that asks for pretrained weights, once each, and let it go.

    What is downloaded stays in the library's own cache, where the runs find it.

    Raises:
        ConfigError: For the first whose weights cannot be had or do not fit, naming all that ask
            for a download.
    """
    wanted = _distinct(configs)
    for node in wanted:
        try:
            instantiate(nn.Module, node)
        except (EncoderError, OSError) as error:
            more = sorted({n["init_args"]["name"] for n in wanted if _downloads(n)})
            also = f" Downloads that this needs: {', '.join(more)}." if _downloads(node) else ""
            raise ConfigError(f"{str(error).rstrip()}{also}") from error


def fetch_weights(configs: Iterable[Mapping[str, Any]], folder: Path) -> Iterator[tuple[Path, str]]:
    """Bring what these configurations would download into a folder, for `weights=FOLDER`.

    Args:
        configs: Resolved configurations.
        folder: Made if it is not there. What it holds already is left.

    Returns:
        Each file, and what became of it.

    Raises:
        ConfigError: If one cannot be had; those before it are there.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--to must be a folder, got a file ({folder}). Name another.")
    for node in filter(_downloads, _distinct(configs)):
        folder.mkdir(parents=True, exist_ok=True)
        name = node["init_args"]["name"]
        path = file_of(name, folder)
        if path.is_file():
            yield path, "was there"
            continue
        module, _, kind = node["class_path"].rpartition(".")
        published = getattr(getattr(import_module(module), kind), "published", None)
        if published is None:
            raise ConfigError(
                f"encoder must have published(name) to be fetched, got {node['class_path']}. "
                f"Put its weights into {path} yourself."
            )
        try:
            state = published(name)
        except EncoderError as error:
            raise ConfigError(str(error)) from error
        write_atomic(path, save({key: v.detach().clone().contiguous() for key, v in state.items()}))
        yield path, f"{path.stat().st_size / 1e6:.0f} MB"


def _distinct(configs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    nodes = [node for config in configs for node in encoders(config["model"])]
    return list({json.dumps(node, sort_keys=True, default=str): node for node in nodes}.values())


def _downloads(node: Mapping[str, Any]) -> bool:
    arguments = node["init_args"]
    return arguments["pretrained"] is True and "name" in arguments
