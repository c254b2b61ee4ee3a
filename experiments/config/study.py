"""The keys of `study:` that code reads; `experiments/yaml/base.yaml` explains each.

Every other key of `study:` is read by YAML only: it is placed into the arguments of a model or a
datamodule by `${study.KEY}`, whose constructor checks it.
"""

import copy
import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from datamodules.names import RULE, is_name
from evaluation.records.schema import fold_name
from experiments.config.files import GROUPS, HERE, ROOMS, load_yaml
from experiments.errors import ConfigError


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("batch_size", "eval_batch_size", "num_frames", "image_size", "video_size", "last_every"),
        (lambda value: isinstance(value, int) and value >= 1, "at least 1, a whole number"),
    ),
    **dict.fromkeys(
        ("modality_dropout", "unimodal_loss"),
        (lambda value: _is_number(value) and 0 <= value <= 1, "in [0, 1]"),
    ),
    "seed": (lambda value: isinstance(value, int) and 0 <= value < 2**32, "0 to 2^32 - 1"),
    "cache": (
        lambda value: value is False or value in ("auto", "off", "disk", "ram"),
        "auto, off, disk or ram",
    ),
    "cache_gb": (lambda value: _is_number(value) and value >= 0, "0 or more"),
}
"""Of keys that only YAML reads: what runs of another modality, too, or `--plan` should refuse."""

_AXES = re.compile(r"[A-Za-z0-9_.+=~-]*")
"""What `experiments.config.variants` adds to the name of an architecture."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What identifies a run, where it lies, and how its training is begun, watched and ended."""

    architecture: str
    modality: str
    fold: int | Literal["all", "none"]
    seed: int
    store: Path
    split: str
    runs: Path
    weights: Path | None = None
    sweep: str
    warm_start: str | dict[Literal["image", "video"], str] | None = None
    finetune: Literal["full", "lp-ft", "probe"]
    selection: Literal["last", "ema", "inner_bce", "refit"]
    freeze_epochs: int
    ema_decay: float | None = None
    matmul_precision: Literal["highest", "high", "medium"]
    patience: int
    last_every: int
    stall_minutes: float | None = None
    wandb: bool
    repeat: int = 0

    @property
    def fold_name(self) -> str:
        """The fold with its partition, as runs and tables name it."""
        return fold_name(self.fold, self.repeat)


def study_of(settings: Mapping[str, Any]) -> Study:
    """Check the keys under `study:` of a resolved configuration.

    Raises:
        ConfigError: For a key that is unknown or missing, or a value that is not allowed.
    """
    for name, (fits, rule) in _RULES.items():
        if name in settings and not fits(settings[name]):
            raise ConfigError(
                f"study.{name} must be {rule}, got {settings[name]!r}. Set {name}=..."
            )
    fold, seed = settings.get("fold"), settings.get("seed")
    if type(fold) is int and type(seed) is int:
        # They are as they should be, and with others the rest is the same: checked once.
        text = json.dumps({**settings, "fold": 0, "seed": 0}, default=str)
        return replace(_checked(text), fold=fold, seed=seed)
    return _check(settings)


@lru_cache(maxsize=256)
def _checked(text: str) -> Study:
    return _check(json.loads(text))


def _check(settings: Mapping[str, Any]) -> Study:
    for key in settings:
        if key not in study_keys():
            raise ConfigError(
                f"keys of study: must be those of {HERE / 'base.yaml'}, got {key!r}.{_hint(key)}"
            )
    read = {field.name for field in fields(Study)}
    try:
        parsed = _parser().parse_object(
            {"study": {k: copy.deepcopy(v) for k, v in settings.items() if k in read}}
        )
    except ArgumentError as error:
        raise ConfigError(explain(error)) from error
    shares = settings.get("start_shares", {})
    for name, value in shares.items() if isinstance(shares, Mapping) else [("all", shares)]:
        in_range = type(value) in (int, float) and 0 <= value < 1
        if name not in ("image", "video") or not in_range:
            raise ConfigError(
                "study.start_shares must give image and video a number in [0, 1) each, "
                f"got {name}: {value!r}. Set start_shares.image=..., or start_share=... for all."
            )
    study = Study(**parsed.study.as_dict())
    check_name("study.sweep", study.sweep)
    check_name("study.modality", study.modality)
    base, _, axes = study.architecture.partition("+")
    check_name("study.architecture", base if _AXES.fullmatch(axes) else study.architecture)
    if study.stall_minutes is not None and study.stall_minutes <= 0:
        raise ConfigError(
            f"study.stall_minutes must be above 0 or null, got {study.stall_minutes!r}. "
            "Set stall_minutes=..."
        )
    return study


def check_name(key: str, name: str) -> None:
    """Refuse a name that could lead out of its folder, or into a script or a page.

    Raises:
        ConfigError: Naming the key.
    """
    if not is_name(name):
        raise ConfigError(f"{key} must be {RULE}, got {name[:80]!r}. Rename it.")


def study_keys() -> list[str]:
    """Every key that may stand under `study:`."""
    return list(load_yaml(HERE / "base.yaml")["study"])


def full_key(key: str) -> str:
    """The dotted path of an override's key; those of `study:` may go without `study.`.

    Raises:
        ConfigError: If its first part is none that there is.
    """
    first = key.partition(".")[0]
    if first in ROOMS:
        return key
    if first in study_keys():
        return f"study.{key}"
    raise ConfigError(
        f"override key must start with one of {', '.join((*GROUPS, *ROOMS))} or be a key of "
        f"study:, got {key!r} (command line).{_hint(first) or ' See ' + str(HERE / 'base.yaml')}"
    )


def explain(error: Exception) -> str:
    """What jsonargparse says of a configuration: of its nested complaints the innermost."""
    text = " ".join(str(error).split())
    named = re.findall(r'Parser key "([^"]+)": ((?:(?!Parser key ").)*)', text)
    if not named:
        return f"configuration must fit the constructors it names: {text}"
    key, complaint = named[-1]
    complaint = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", complaint).replace("typing.", "")
    value = re.search(r"Given value: (.{1,60})", complaint)
    if problem := re.search(r"Problem with given class_path '[^']+': .*", complaint):
        complaint = problem[0]
    elif union := re.search(r"Union subtypes Subtypes: \[(.*?)\] Errors", complaint):
        complaint = f"Expected one of {union[1]}" + (f". Got value: {value[1]}" if value else "")
    complaint = re.split(r" - Expected a | Given value type: | Given value: ", complaint)[0]
    return f"{key} must fit the constructor that takes it: {complaint.strip(' :.')}. Correct it."


def _hint(key: str) -> str:
    close = difflib.get_close_matches(key, [*study_keys(), *GROUPS, *ROOMS], n=3)
    return f" Did you mean {' or '.join(close)}?" if close else ""


@cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Study, "study")
    return parser
