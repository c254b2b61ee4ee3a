"""From YAML files and overrides to one resolved configuration with an id.

`base <- modality/* <- architecture/* <- profile/* <- dotted overrides`, merged and resolved by
OmegaConf to plain values. Nothing here imports torch, so a mistake is told in a second or two;
`experiments.training.build` holds the rest against the constructors.
"""

import copy
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from jsonargparse import ArgumentError, ArgumentParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from datamodules.store.folder import Store
from datamodules.store.splits import Split, load_split
from experiments.config.files import (
    GROUPS,
    HERE,
    ROOMS,
    file_of,
    load_yaml,
    shipped_names,
)
from experiments.config.identity import sha_of, what_counts
from experiments.config.warm_start import resolved
from experiments.errors import ConfigError

_CONSTRUCTORS = {
    "sizes",
    "image_encoder",
    "video_encoder",
    "train_sampling",
    "eval_sampling",
    "augment",
    "head",
}


@dataclass(frozen=True)
class Study:
    """The keys under `study:`, as `base.yaml` explains them one by one."""

    architecture: str
    modality: str
    fold: int | Literal["all"]
    seed: int
    store: Path
    split: str
    runs: Path
    sweep: str
    size: str
    sizes: dict[str, dict[str, Any]]
    image_encoder: dict[str, Any]
    video_encoder: dict[str, Any]
    image_size: int
    video_size: int
    num_frames: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    video_mean: tuple[float, float, float]
    video_std: tuple[float, float, float]
    encoder_lr: float
    head_lr: float
    batch_size: int
    eval_batch_size: int
    num_threads: int
    decode: Literal["auto", "cpu", "cuda"]
    cache: Literal["off", "disk", "ram", False]  # YAML reads a bare `off` as False
    cache_gb: float
    train_sampling: dict[str, Any]
    eval_sampling: dict[str, Any]
    augment: dict[str, Any] | None
    head: dict[str, Any]
    modality_dropout: float
    class_sampling: Literal["stratified", "balanced", "plain"]
    pos_weight: float | Literal["balanced"]
    layer_decay: float
    freeze_epochs: int
    channels_last: bool
    fused_optimizer: bool
    matmul_precision: Literal["highest", "high", "medium"]
    patience: int
    last_every: int
    stall_minutes: float | None
    wandb: bool
    warm_start: str | dict[Literal["image", "video"], str] | None = None
    ema_decay: float | None = None
    compile_backend: str | None = None


@dataclass(frozen=True)
class Run:
    """One cell x fold x seed, resolved.

    Attributes:
        run_id: `ARCHITECTURE-MODALITY-foldK-seedS-HASH8`; the same work has the same id.
        study: Our keys, checked.
        config: The whole resolved configuration, plain values only.
        shas: `config_sha`, `split_sha`, `store_sha`: what the id stands for.
    """

    run_id: str
    study: Study
    config: dict[str, Any]
    shas: dict[str, str]

    @property
    def folder(self) -> Path:
        """`RUNS/SWEEP/RUN_ID`."""
        return self.study.runs / self.study.sweep / self.run_id


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
    chosen: dict[str, str] = {}
    dotted: list[str] = []
    base = load_yaml(HERE / "base.yaml")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"override must be KEY=VALUE, got {override!r} (command line).")
        if key in GROUPS:
            chosen[key] = value
        else:
            dotted.append(f"{_full_key(key)}={value}")
    for group in ("architecture", "modality"):
        if group not in chosen:
            raise ConfigError(
                f"{group} must be given, got nothing (command line). "
                f"Add {group}=NAME with NAME one of {', '.join(shipped_names(group))}."
            )
    parts = [base, *(load_yaml(file_of(g, chosen[g])) for g in GROUPS if g in chosen)]
    try:
        config = OmegaConf.merge(*parts, OmegaConf.from_dotlist(dotted))
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"configuration must resolve, got: {reason} (key {error.full_key!r}). "
            "Check the override or the YAML file that sets this key."
        ) from error
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"override values must be YAML, got {dotted!r}: {reason}") from error
    return cast("dict[str, Any]", plain)


def open_cohort(store: Path, split: str) -> tuple[Store, Split]:
    """A store and a split of it; `DataError` if either is not there or not whole."""
    return Store(store), load_split(store, split)


def make_run(
    config: Mapping[str, Any],
    cohort: Callable[[Path, str], tuple[Store, Split]] = open_cohort,
) -> Run:
    """Check the `study:` keys and give the configuration its id.

    Args:
        config: As `compose` gives it.
        cohort: Opens store and split; a sweep gives one that remembers, for its runs share them.

    Raises:
        ConfigError: For an unknown or mistyped key under `study:`, an unknown top-level key, or
            settings that do not go together.
        DataError: If the store or the split is not there, or the fold is not in the split.
    """
    unknown = set(config) - set(ROOMS)
    if unknown:
        raise ConfigError(
            f"top-level keys must be of {', '.join(ROOMS)}, got {', '.join(sorted(unknown))}. "
            "Move your keys under one of these."
        )
    config = resolved(config)
    _check_balance(config)
    study = _check_study(config["study"])
    store, split = cohort(study.store, study.split)
    split.parts(study.fold)  # refuses a fold that is not there, before anything starts
    shas = {
        "config_sha": sha_of(what_counts(config)),
        "split_sha": split.sha,
        "store_sha": store.sha,
    }
    cell = f"{study.architecture}-{study.modality}-fold{study.fold}-seed{study.seed}"
    return Run(run_id=f"{cell}-{sha_of(shas)[:8]}", study=study, config=dict(config), shas=shas)


def _check_balance(config: Mapping[str, Any]) -> None:
    """Repeating positives and weighting them is one remedy twice (docs/design.md, Protocol)."""
    sampling = config["data"].get("init_args", {}).get("class_sampling")
    weight = config["model"].get("init_args", {}).get("pos_weight", 1)
    if sampling == "balanced" and weight != 1:
        raise ConfigError(
            f"pos_weight must be 1 where class_sampling is balanced, got {weight!r}: both at once "
            "would favour positives twice. Set pos_weight=1, or class_sampling=stratified."
        )


@cache
def _study_parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Study, "study", skip=_CONSTRUCTORS)
    return parser


def _check_study(settings: Mapping[str, Any]) -> Study:
    # Constructors named inside are not looked at here: that would import them, and torch.
    named: dict[str, Any] = {name: settings.get(name) for name in _CONSTRUCTORS}
    plain = {name: value for name, value in settings.items() if name not in named}
    try:
        parsed = _study_parser().parse_object({"study": copy.deepcopy(plain)})
    except ArgumentError as error:
        raise ConfigError(explain(error)) from error
    study = Study(**parsed.study.as_dict(), **named)
    at_least_one = ("batch_size", "eval_batch_size", "num_frames", "image_size", "video_size")
    for name in (*at_least_one, "last_every"):
        if getattr(study, name) < 1:
            raise ConfigError(
                f"study.{name} must be at least 1, got {getattr(study, name)!r}. Set {name}=..."
            )
    if study.stall_minutes is not None and study.stall_minutes <= 0:
        raise ConfigError(
            f"study.stall_minutes must be above 0 or null, got {study.stall_minutes!r}. "
            "Set stall_minutes=..."
        )
    return study


def explain(error: Exception) -> str:
    """What jsonargparse says of a configuration, as one sentence that names key and remedy."""
    text = " ".join(str(error).split())
    return f"configuration must fit the constructors it names: {text}"


def _full_key(key: str) -> str:
    first = key.partition(".")[0]
    if first in ROOMS:
        return key
    known = [field.name for field in fields(Study)]
    if first in known:
        return f"study.{key}"
    close = difflib.get_close_matches(first, [*known, *GROUPS, *ROOMS], n=3)
    hint = f"Did you mean {' or '.join(close)}?" if close else ""
    raise ConfigError(
        f"override key must start with one of {', '.join((*GROUPS, *ROOMS))} or be a key of "
        f"study:, got {key!r} (command line). {hint or 'See experiments/yaml/base.yaml.'}"
    )
