"""From YAML files and overrides to one resolved configuration.

`base <- modality/* <- architecture/* <- profile/* <- dotted overrides`, merged and resolved by
OmegaConf to plain values. Nothing here imports torch, so a mistake is told in a second or two;
`experiments.training.build` holds the rest against the constructors.
"""

from collections.abc import Sequence
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config.files import GROUPS, HERE, file_of, from_overrides, load_yaml, shipped_names
from experiments.config.study import full_key
from experiments.errors import ConfigError


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """Merge the YAML files that `overrides` name, and then the overrides themselves.

    Args:
        overrides: `KEY=VALUE` each, the value read as YAML. `architecture`, `modality` and
            `profile` choose a file of that folder, or the file at that path. Other keys are
            dotted paths (`trainer.max_epochs=3`); those of `study:` may go without `study.`.

    Returns:
        The configuration as plain dicts, lists and scalars, every `${...}` resolved.

    Raises:
        ConfigError: For a key, a value or a file that is not there or not allowed.
    """
    try:
        plain = OmegaConf.to_container(merge(overrides), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise _unresolved(error) from error
    return cast("dict[str, Any]", plain)


def merge(overrides: Sequence[str]) -> DictConfig:
    """As `compose`, with every `${...}` left as it is."""
    chosen: dict[str, str] = {}
    dotted: list[str] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"override must be KEY=VALUE, got {override!r} (command line).")
        if key in GROUPS:
            chosen[key] = value
        else:
            dotted.append(f"{full_key(key)}={value}")
    for group in ("architecture", "modality"):
        if group not in chosen:
            raise ConfigError(
                f"{group} must be given, got nothing (command line). "
                f"Add {group}=NAME with NAME one of {', '.join(shipped_names(group))}."
            )
    files = [HERE / "base.yaml", *(file_of(g, chosen[g]) for g in GROUPS if g in chosen)]
    try:
        return OmegaConf.merge(*map(load_yaml, files), from_overrides(dotted))  # type: ignore[return-value]
    except (OmegaConfBaseException, TypeError) as error:  # TypeError: a list onto a mapping
        raise _unresolved(error) from error


def _unresolved(error: OmegaConfBaseException | TypeError) -> ConfigError:
    reason = str(error).splitlines()[0]
    where = f" (key {error.full_key!r})" if isinstance(error, OmegaConfBaseException) else ""
    return ConfigError(
        f"configuration must resolve, got: {reason}{where}. "
        "Check the override or the YAML file that sets this key."
    )
