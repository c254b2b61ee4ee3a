"""The YAML files that configurations are composed of."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from experiments.errors import ConfigError

HERE = Path(__file__).parents[1] / "yaml"
GROUPS = ("modality", "architecture", "profile")  # in order of precedence, the last wins
ROOMS = ("study", "seed_everything", "model", "data", "trainer")


def shipped_names(group: str) -> list[str]:
    """Names of the shipped files: architectures, modalities, profiles, sweeps."""
    return sorted(path.stem for path in (HERE / group).glob("*.yaml"))


def file_of(group: str, name: str) -> Path:
    """The file that a name stands for: a shipped one, or the user's own at that path.

    Raises:
        ConfigError: If there is neither.
    """
    own, shipped = Path(name), HERE / group / f"{name}.yaml"
    if own.parts[-3:-1] in (("experiments", group), ("yaml", group)) and not _is_file(own):
        shipped = HERE / group / own.name  # where it lies, or lay before, in a checkout
    for path in (shipped, own):
        if _is_file(path):
            return path
    raise ConfigError(
        f"{group} must be one of {', '.join(shipped_names(group))} or the path of a YAML file, "
        f"got {name!r}. Choose one, or write your own after the files in {HERE / group}."
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def from_overrides(overrides: Sequence[str]) -> DictConfig:
    """The keys that `KEY=VALUE` set.

    Raises:
        ConfigError: If a value is not YAML.
    """
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"override values must be YAML, got {list(overrides)!r}: {reason}. Close brackets and "
            "quotes."
        ) from error


def load_yaml(path: Path) -> DictConfig:
    """Read a YAML file of keys, each version of it once a process.

    Raises:
        ConfigError: If it cannot be read, is not YAML, or holds no keys.
    """
    try:
        return _load_version(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, YAMLError) as error:
        where = " ".join(str(error).split())
        raise ConfigError(
            f"configuration must be a YAML file of keys, got {path}: {where}"
        ) from error


def dump_yaml(config: Mapping[str, Any]) -> str:
    """A configuration of plain values as YAML that `load_yaml` reads as the same values."""
    return str(yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Quotes what OmegaConf would take for a number, as 1e-4."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Every value in full, wherever else it stands."""
        return True


def _represent_text(dumper: Any, text: str) -> Any:
    try:
        float(text.replace("_", ""))
        style = "'"
    except ValueError:
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


@lru_cache(maxsize=64)
def _load_version(path: Path, version: int) -> DictConfig:  # noqa: ARG001
    loaded = OmegaConf.load(path)
    if not isinstance(loaded, DictConfig):
        raise ValueError(f"a {type(loaded).__name__} at its top")
    return loaded
